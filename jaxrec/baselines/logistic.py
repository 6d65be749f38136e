"""Logistic regression on labelled rows: a weight for each value of each column, solved to its optimum.

    logit = b + Σ over columns of w[column, value] + v · numbers

(the linear model that He et al., ADKDD 2014, doi:10.1145/2648584.2648589, compare boosted trees with, there
trained by stochastic steps). The problem is convex and small, so it is solved on the host in float64 by
L-BFGS, where every example counts at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack
from scipy.special import expit

from jaxrec.baselines.labelled_rows import Rows


class Logistic(NamedTuple):
    """weights: of the columns of a matrix, float64 [C]; bias: what is added."""

    weights: np.ndarray
    bias: float

    def logits(self, matrix: csr_matrix) -> np.ndarray:
        """The logits of rows: [N, C] → float64 [N]."""
        found: np.ndarray = matrix @ self.weights + self.bias
        return found


class Scale(NamedTuple):
    """Mean and deviation of columns of numbers in training, [D] each; a constant column has deviation 1."""

    mean: np.ndarray
    deviation: np.ndarray


def fit_scale(rows: Rows) -> Scale:
    """Of the columns of numbers, from training rows."""
    numbers = [column.astype(np.float64) for column in rows.numbers.values()]
    deviation = np.array([column.std() for column in numbers])
    return Scale(np.array([column.mean() for column in numbers]), np.where(deviation > 0, deviation, 1.0))


def sparse_matrix(rows: Rows, scale: Scale) -> csr_matrix:
    """One-hot columns of all ids, and numbers with mean 0 and deviation 1: float64 [N, C].

    A row with several values of a column has 1 / (number of values) in each of theirs; padding has none.
    """
    blocks = [_one_hot(ids, rows.sizes[name]) for name, ids in rows.ids.items()]
    for number, mean, deviation in zip(rows.numbers.values(), *scale, strict=True):
        blocks.append(csr_matrix(((number.astype(np.float64) - mean) / deviation)[:, None]))
    return csr_matrix(hstack(blocks, format="csr"))


def _one_hot(ids: np.ndarray, size: int) -> csr_matrix:
    several = ids if ids.ndim == 2 else ids[:, None]
    real = several != 0
    counts = real.sum(axis=1)
    value = np.repeat(1.0 / np.maximum(counts, 1), counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    return csr_matrix((value, several[real], ends), shape=(len(ids), size))


def fit_logistic(
    matrix: csr_matrix,
    labels: np.ndarray,
    *,
    l2: float,
    start: Logistic | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 2000,
) -> Logistic:
    """Minimises Σ over rows of the cross-entropy + l2 / 2 · |w|²; the bias is not penalised.

    So scikit-learn's C is 1 / l2. start: where the search begins, such as the solution for another l2. The
    search ends where a step lowers the loss, divided by the number of rows, by less than the tolerance.

    Args:
      matrix: [N, C]. labels: 0 or 1, [N].

    Raises:
      ValueError: l2 is not above 0, the labels have a single class, or max_steps do not reach the tolerance.
    """
    if not 0 < l2 < np.inf:
        raise ValueError(f"l2={l2}: must be above 0 and finite; without it rare values have no finite weight")
    positive = np.asarray(labels, np.float64)
    share = positive.mean() if len(positive) else 0.0
    if not 0 < share < 1:
        raise ValueError(f"labels: {len(positive):,} of a single class; there is nothing to tell apart")
    count, width = matrix.shape
    transposed = csr_matrix(matrix.T)

    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = point[:-1], point[-1]
        logits = matrix @ weights + bias
        error = expit(logits) - positive
        loss = (np.logaddexp(0.0, logits) - positive * logits).sum() + 0.5 * l2 * weights @ weights
        gradient = np.append(transposed @ error + l2 * weights, error.sum())
        return loss / count, gradient / count

    first = np.zeros(width + 1)
    first[-1] = np.log(share / (1.0 - share))
    if start is not None:
        first = np.append(start.weights, start.bias)
    options = {"maxiter": max_steps, "maxfun": 4 * max_steps, "gtol": 0.0, "ftol": tolerance, "maxcor": 20}
    found = minimize(value, first, jac=True, method="L-BFGS-B", options=options)
    if found.status == 1:  # steps or evaluations are used up
        raise ValueError(
            f"logistic regression, l2={l2}: {max_steps} steps do not reach the tolerance {tolerance:g}; take "
            "a larger l2 or more max_steps"
        )
    point = found.x
    return Logistic(point[:-1], float(point[-1]))


def fit_path(
    matrix: csr_matrix,
    labels: np.ndarray,
    penalties: Sequence[float],
    *,
    score: Callable[[Logistic], float] | None = None,
) -> dict[float, tuple[Logistic, float]]:
    """A model for each penalty, from the strongest on, each from the one before: {l2: (model, score)}.

    score: of a model on validation, the higher the better. Penalties weaker than the first that lowers it are
    not tried, as these take most of the steps. Without it all are, with score 0.
    """
    found: dict[float, tuple[Logistic, float]] = {}
    last: Logistic | None = None
    before = -np.inf
    for l2 in sorted(penalties, reverse=True):
        last = fit_logistic(matrix, labels, l2=l2, start=last)
        reached = 0.0 if score is None else score(last)
        found[l2] = last, reached
        if reached < before:
            break
        before = reached
    return found
