"""A method without gradient descent as a training run: fitted, and measured on validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jaxrec import provenance
from jaxrec.recipes.trainable import CountingModel, RatingModel, SuccessorModel
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted
from jaxrec.tuning.reads import Measured
from jaxrec.types import Context, Evaluation, Retriever, Scorer, Variables

T = TypeVar("T")
UNTRAINED = (CountingModel, SuccessorModel, RatingModel)
OF_STEPS = {"accumulate_steps": 1, "profile": ""}  # options of what is trained by steps, and their defaults
Fit = Callable[[Sequence[int]], tuple[Retriever | Scorer, Variables]]


def check_untrained(name: str, entry: Any, options: Any) -> None:
    """Raises ValueError for options of training by steps, of a method that has none."""
    for option, default in OF_STEPS.items():
        value = getattr(options, option)
        if isinstance(entry, UNTRAINED) and value != default:
            raise ValueError(
                f"{option}={value!r}: is of training by steps, and {name} is counted or solved; leave it out"
            )


def count_once(name: str, seeds: Sequence[int]) -> None:
    """Raises ValueError for several seeds of a method that draws no random numbers."""
    if len(seeds) > 1:
        raise ValueError(
            f"seeds={tuple(seeds)}: {name} draws no random numbers, so all seeds would be equal; give one"
        )


def fitted(
    fit: Fit,
    measure: Callable[[Retriever | Scorer], Evaluation],
    context: Context,
    metric: str,
    made: list[Retriever | Scorer],
    **given: Any,
) -> Fitted | Measured:
    """Fits a method for each seed and measures it on the validation part; `made` receives what was fitted.

    given: the arguments of `train.fit.fit`, of which seeds are read, and a trial of a search, which asks for
    the measure alone.
    """
    (model, variables), seconds = timed(fit, given["seeds"])
    made.append(model)
    found = evaluate(measure(model), variables, context)
    if given.get("trial") is not None:
        return Measured(metric, [of[metric] for of in found])
    return as_fitted(variables, found, metric, seconds)


def timed(fit: Callable[[Sequence[int]], T], seeds: Sequence[int]) -> tuple[T, float]:
    """What a fit gives, and the seconds it took."""
    start = time.perf_counter()
    found = fit(seeds)
    return found, time.perf_counter() - start


def as_fitted(
    variables: Variables, found: Sequence[Mapping[str, float]], metric: str, seconds: float
) -> Fitted:
    """A fit in one go as a run of one epoch. found: metrics of validation of each seed."""
    row: dict[str, Any] = {"epoch": 0, "phase": "fit", "seconds": seconds, "train_seconds": seconds}
    row |= {f"valid/{name}": [of[name] for of in found] for name in found[0]}
    return Fitted(
        variables,
        [row],
        best_epoch=[0] * len(found),
        best_value=[of[metric] for of in found],
        steps=0,
        seconds=seconds,
        compile_seconds=0.0,
        made_by=({**provenance.manifest(), "first_epoch": 0},),
    )
