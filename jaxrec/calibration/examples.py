"""Checks of what calibration is fitted to, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def logits_of(probabilities: Any) -> np.ndarray:
    """Logits of probabilities, on the host: float64 […]; 0 and 1 are read as 1e-12 and 1 - 1e-12.

    Raises:
      ValueError: one is NaN or outside 0..1.
    """
    given = np.asarray(probabilities, np.float64)
    wrong = ~((given >= 0) & (given <= 1))
    if wrong.any():
        raise ValueError(
            f"probabilities: {given[wrong][0]} is outside 0..1 ({wrong.sum():,} of {given.size:,} are); "
            "logits are given as they are"
        )
    inside = np.clip(given, 1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


def check_examples(logits: Any, labels: Any, weight: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and weights of examples as float64 [N], without those of weight 0.

    Raises:
      ValueError: lengths differ, there is no example, a logit is NaN or infinite, a label is not 0 or 1, all
        are of one class, or a weight is negative or not finite.
    """
    score, label, mass = check_numbers({"logits": logits, "labels": labels}, weight)
    wrong = (label != 0) & (label != 1)
    if wrong.any():
        raise ValueError(f"labels: {label[wrong][0]} is neither 0 nor 1, as every label must be")
    if (label == label[0]).all():
        raise ValueError(
            f"labels: all {label.size:,} are {label[0]:g}: calibration needs examples of both classes; "
            "fit it to more examples"
        )
    return score, label, mass


def check_numbers(columns: Mapping[str, Any], weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    (name, first), (other, second) = ((n, np.asarray(c, np.float64)) for n, c in columns.items())
    mass = np.ones(first.shape) if weight is None else np.asarray(weight, np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.shape != mass.shape:
        shapes = f"{list(first.shape)}, {list(second.shape)} and weights {list(mass.shape)}"
        raise ValueError(f"{name}, {other}: shapes {shapes}; must be one number an example, [N] each")
    for of, values in ((name, first), (other, second), ("weight", mass)):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"{of}: {values[bad[0]]} of example {bad[0]} ({bad.size:,} such): must be finite; leave "
                "these examples out, or train a model that does not diverge"
            )
    if (mass < 0).any():
        raise ValueError(f"weight: {mass.min()}: must be at least 0")
    if not (mass > 0).any():
        raise ValueError(f"{name}: no example (of positive weight); fit calibration to held-out examples")
    return first[mass > 0], second[mass > 0], mass[mass > 0]
