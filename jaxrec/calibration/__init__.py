"""Calibration: functions fitted to held-out labels that make a model's logits those of true probabilities.

    found = fit_isotonic(logits, labels)     on the host, of validation examples
    better = found.apply(logits)             anywhere, also inside jit

A calibrator takes logits and gives logits, both finite.
"""

from jaxrec.calibration.calibrators import (
    COLLECTION,
    Calibrator,
    Curve,
    GroupCurves,
    Line,
    Steps,
    as_tree,
    from_tree,
    sampling_correction,
    split,
    stack,
)
from jaxrec.calibration.examples import check_examples, logits_of
from jaxrec.calibration.fitting import (
    fit_by_group,
    fit_histogram,
    fit_isotonic,
    fit_platt,
    fit_smooth_isotonic,
    fit_temperature,
)
from jaxrec.calibration.isotonic import Isotonic, isotonic_regression

__all__ = [
    "COLLECTION",
    "Calibrator",
    "Curve",
    "GroupCurves",
    "Isotonic",
    "Line",
    "Steps",
    "as_tree",
    "check_examples",
    "fit_by_group",
    "fit_histogram",
    "fit_isotonic",
    "fit_platt",
    "fit_smooth_isotonic",
    "fit_temperature",
    "from_tree",
    "isotonic_regression",
    "logits_of",
    "sampling_correction",
    "split",
    "stack",
]
