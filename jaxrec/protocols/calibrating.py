"""Calibration of a trained task: fitted to the logits of validation, a collection of its variables after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrec import calibration
from jaxrec.protocols.impressions import Data, evaluation, protocol
from jaxrec.tasks.multitask import Target
from jaxrec.train.evaluate import measure_queries
from jaxrec.types import Task, Variables

Fit = Callable[..., calibration.Calibrator]  # (logits, labels) -> a calibrator, such as `fit_platt`
FITS: Mapping[str, Fit] = {
    "platt": calibration.fit_platt,
    "histogram": calibration.fit_histogram,
    "isotonic": calibration.fit_isotonic,
}


def calibrated(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    variables: Variables,
    fit: Fit,
    *,
    num_devices: int = 1,
) -> dict[str, Any]:
    """The variables with a collection of calibrators, by which `impressions.test` and serving correct logits.

    Each label's is fitted to all validation examples of its space, for each seed; regressions have none.

    variables: with a leading seeds axis; calibrators among them are replaced. fit: of `jaxrec.calibration`.

    Raises:
      ValueError: there is nothing to calibrate; validation has one class alone.
    """
    variables, _ = calibration.split(variables)
    logits = validation_logits(data, task, evaluated, variables, num_devices=num_devices)
    found = {}
    for name, (of_seeds, labels) in logits.items():
        try:
            each = [fit(of_seed, labels) for of_seed in of_seeds]
        except ValueError as error:
            raise ValueError(f"{name}, validation: {error}") from None
        found[name] = jax.tree.map(np.asarray, calibration.as_tree(calibration.stack(each)))
    if not found:
        raise ValueError(f"{data.name}: no label is 0 or 1, so there is no probability to calibrate")
    return {**variables, calibration.COLLECTION: found}


def validation_logits(
    data: Data, task: Task, evaluated: Sequence[Target], variables: Variables, *, num_devices: int = 1
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits [S, N] and labels [N] of the validation examples of each label that is no regression."""
    measured = evaluation(data, task, evaluated, "validation", measured=protocol(data, ""))
    context = {} if data.expand is None else data.columns
    values = measure_queries(measured, variables, context, num_devices=num_devices)
    found = {}
    for t, target in enumerate(evaluated):
        if target.name in data.regression:
            continue
        real = data.validation["mask"]
        real = real & data.validation[target.space] if target.space else real
        found[target.name] = values[..., t][:, real], np.asarray(data.validation[target.label])[real]
    return found


def of_option(
    name: str | None, data: Data, task: Task, evaluated: Sequence[Target], num_devices: int
) -> Callable[[Variables], dict[str, Any]] | None:
    """(variables) -> variables with calibrators of a kind of FITS; None: none are asked for.

    Raises:
      ValueError: there is no such kind.
    """
    if name is None:
        return None
    if name not in FITS:
        raise ValueError(f"calibrate={name!r}: must be one of {', '.join(FITS)}")
    fit = FITS[name]
    return lambda variables: calibrated(data, task, evaluated, variables, fit, num_devices=num_devices)
