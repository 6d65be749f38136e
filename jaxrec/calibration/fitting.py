"""Fits of calibrators to the labels of held-out examples, on the host, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.calibration.calibrators import Curve, GroupCurves, Line, Steps, stack
from jaxrec.calibration.examples import check_examples, logits_of
from jaxrec.calibration.isotonic import isotonic_regression

NEAREST = 1e-6  # probabilities that a calibrator gives are no nearer to 1


# --- lines -------------------------------------------------------------------------------------------


def fit_platt(logits: Any, labels: Any, weight: Any = None) -> Line:
    """The line of logits with the least log loss (Platt, 1999), by Newton steps in a trust region.

    Its targets are Platt's, (N₊ + 1) / (N₊ + 2) for positives and 1 / (N₋ + 2) for negatives, N being sums of
    weights, so that classes which a threshold separates have a finite line too. The slope is negative where
    the scores order examples the wrong way round.

    logits, labels: [N]. weight: of how many examples each stands, [N], at least 0; None: all 1. Weights that
    add up to 1 are those of one example, whose targets are near 1/2: scale them to the number of examples.

    Raises:
      ValueError: see `check_examples`.
    """
    slope, intercept = _fit_line(*check_examples(logits, labels, weight), intercept=True)
    return Line(np.float32(slope), np.float32(intercept))


def fit_temperature(logits: Any, labels: Any, weight: Any = None) -> Line:
    """`fit_platt` without an intercept: logits divided by one temperature (Guo et al., ICML 2017)."""
    (slope,) = _fit_line(*check_examples(logits, labels, weight), intercept=False)
    return Line(np.float32(slope), np.float32(0.0))


def _fit_line(score: np.ndarray, label: np.ndarray, weight: np.ndarray, *, intercept: bool) -> np.ndarray:
    from scipy.optimize import minimize

    positives, negatives = weight @ label, weight @ (1 - label)
    target = np.where(label > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.stack([score, np.ones_like(score)][: 1 + intercept], axis=1)
    share = weight / weight.sum()

    def prob(line: np.ndarray) -> np.ndarray:
        return np.exp(-np.logaddexp(0.0, -inputs @ line))

    def loss(line: np.ndarray) -> float:
        return float(share @ (np.logaddexp(0.0, inputs @ line) - target * (inputs @ line)))

    def gradient(line: np.ndarray) -> np.ndarray:
        return inputs.T @ (share * (prob(line) - target))

    def hessian(line: np.ndarray) -> np.ndarray:
        p = prob(line)
        return (inputs.T * (share * p * (1 - p))) @ inputs

    start = np.array([1.0, 0.0][: 1 + intercept])
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9})
    return np.asarray(found.x)


# --- bins --------------------------------------------------------------------------------------------


def fit_histogram(logits: Any, labels: Any, weight: Any = None, *, num_bins: int = 20) -> Steps:
    """The share of positives in bins of as many examples each (Zadrozny and Elkan, ICML 2001).

    Equal logits share a bin, so bins may be larger and fewer. To the examples of a bin one more is added,
    with the share of positives of all, so that no probability is 0 or 1.

    Raises:
      ValueError: num_bins < 1; see `check_examples`.
    """
    score, label, weight = check_examples(logits, labels, weight)
    bins = _equal_mass(score, num_bins)
    total, positive = np.bincount(bins, weight), np.bincount(bins, weight * label)
    base = weight @ label / weight.sum()
    share = (positive + base) / (total + 1)
    first = np.full(len(total), np.inf)
    np.minimum.at(first, bins, score)
    return Steps(first[1:].astype(np.float32), logits_of(share).astype(np.float32))


def _equal_mass(score: np.ndarray, num_bins: int) -> np.ndarray:
    """Bins 0..K - 1 by rank, [N]: equal scores share that of the first of them; K <= num_bins, none empty."""
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}: must be at least 1")
    rank = np.searchsorted(np.sort(score), score, side="left")
    bins = rank * num_bins // len(score)
    return np.unique(bins, return_inverse=True)[1].reshape(-1)


# --- isotonic ----------------------------------------------------------------------------------------


def fit_isotonic(logits: Any, labels: Any, weight: Any = None) -> Curve:
    """Isotonic regression of labels on probabilities (Zadrozny and Elkan, KDD 2002), of straight lines.

    A block of one class would be certain, and one error of it infinitely wrong: probabilities are kept
    between r / (N + 1) and 1 - (1 - r) / (N + 1), r being the share of positives and N the sum of weights,
    which are numbers of examples as in `fit_platt`.

    Raises:
      ValueError: see `check_examples`.
    """
    score, label, weight = check_examples(logits, labels, weight)
    found = isotonic_regression(_sigmoid(score), label, weight)
    return _as_curve(found.x, found.y, label, weight)


def fit_smooth_isotonic(logits: Any, labels: Any, weight: Any = None, *, num_bins: int = 20) -> Curve:
    """Isotonic regression of the means of bins, whose blocks are joined by straight lines.

    Bins of as many examples each, then pooled where the shares of positives fall, then a knot for each block
    at its mean probability: in between nothing is constant, so examples keep their order (smoothed isotonic
    regression: Deng et al., "Calibrating user response predictions in online advertising", ECML PKDD 2020).
    Probabilities are kept from 0 and 1 as in `fit_isotonic`.

    Raises:
      ValueError: num_bins < 1; see `check_examples`.
    """
    score, label, weight = check_examples(logits, labels, weight)
    x, y = _smooth_knots(score, label, weight, num_bins)
    return _as_curve(x, y, label, weight)


def fit_by_group(
    logits: Any, labels: Any, group: Any, weight: Any = None, *, num_bins: int = 20, bin_size: int = 100
) -> GroupCurves:
    """`fit_smooth_isotonic` for each value of a field, such as an advertiser.

    A group of n examples has at most n / bin_size bins, and its curve the share n / (n + bin_size) beside
    that of all examples; groups with fewer than bin_size examples have that of all alone.

    group: int32 [N], from 0. weight, num_bins: as of `fit_smooth_isotonic`.

    Raises:
      ValueError: bin_size < 1, the field is empty or has a negative number; see `fit_smooth_isotonic`.
    """
    if bin_size < 1:
        raise ValueError(f"bin_size={bin_size}: must be at least 1")
    of_all = fit_smooth_isotonic(logits, labels, weight, num_bins=num_bins)
    given = np.asarray(group)
    if given.shape != np.shape(logits) or given.dtype.kind not in "iu" or given.min(initial=0) < 0:
        raise ValueError(
            f"group: {given.dtype}{list(given.shape)}, least {given.min(initial=0)}: must be a number from 0 "
            f"for each of {np.size(logits):,} examples; number the field's values first"
        )
    kept = slice(None) if weight is None else np.asarray(weight) > 0
    score, label, weight = check_examples(logits, labels, weight)
    order = np.argsort(given[kept], kind="stable")
    count = np.bincount(given[kept])
    curves = [of_all] * len(count)
    for number, rows in enumerate(np.split(order, np.cumsum(count)[:-1])):
        if len(rows) >= bin_size:
            bins = min(num_bins, len(rows) // bin_size)
            knots = _smooth_knots(score[rows], label[rows], weight[rows], bins)
            curves[number] = _as_curve(*knots, label, weight)
    x, y = stack(curves)
    share = np.where(count >= bin_size, count / (count + bin_size), 0.0)
    return GroupCurves(x, y, share.astype(np.float32), of_all)


def _smooth_knots(
    score: np.ndarray, label: np.ndarray, weight: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability before and after of each block of bins."""
    from scipy import optimize

    bins = _equal_mass(score, num_bins)
    total = np.bincount(bins, weight)
    before, after = (np.bincount(bins, weight * of) / total for of in (_sigmoid(score), label))
    fitted = optimize.isotonic_regression(after, weights=total).x
    block = np.cumsum(np.concatenate([[0], (np.diff(fitted) != 0).astype(int)]))
    mass = np.bincount(block, total)
    return np.bincount(block, total * before) / mass, np.bincount(block, total * fitted) / mass


def _as_curve(x: np.ndarray, y: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Curve:
    size = weight.sum()
    base = weight @ label / size
    low, high = base / (size + 1), min(1 - (1 - base) / (size + 1), 1 - NEAREST)
    return Curve(x.astype(np.float32), np.clip(y, low, high).astype(np.float32))


def _sigmoid(score: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -score))
