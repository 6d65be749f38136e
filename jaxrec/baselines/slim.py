"""SLIM: sparse linear methods (Ning and Karypis, ICDM 2011, doi:10.1109/ICDM.2011.134, sections III and IV).

Departs from the paper in the solver alone: accelerated proximal steps for many items at once (FISTA of Beck
and Teboulle, SIAM J. Imaging Sciences 2009, section 4, which restarts as in O'Donoghue and Candès, 2015,
section 3.2) in place of coordinate descent for one. The problem of an item is strictly convex for an
l1_ratio below 1, so both end in the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import check_neighbours, interactions, largest, multiply, rows_of
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline

ENTRIES = 8_000_000  # of the interactions that the items solved together read


def slim(
    data: EventData | TrainingEvents,
    *,
    alpha: float = 0.005,
    l1_ratio: float = 0.01,
    positive: bool = True,
    neighbours: int | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of w_ij.

    The weights w of each item j minimise 1/(2N) |x_j - X w|² + α ρ |w|₁ + α (1 - ρ) / 2 |w|², w_j = 0: α and
    ρ = l1_ratio are those of scikit-learn's ElasticNet and of the libraries built on it, which divide the
    squared error by 2N; the paper's λ and β are N α ρ and N α (1 - ρ). X holds interactions of 0 and 1, N is
    the number of users that have any.

    positive: w ≥ 0, as in the paper. neighbours: only that many of the largest weights of each item j are
    kept afterwards (None: all). tolerance: largest violation of the conditions of optimality, relative to
    the largest |Σ_u x_ui x_uj|. max_steps: for each item.

    Raises:
      ValueError: alpha or the tolerance is not a positive number, l1_ratio isn't in 0..1, neighbours or
        max_steps is below 1, neighbours are given for weights that may be negative, or the tolerance isn't
        reached.
    """
    weights = slim_weights(
        interactions(training_events(data)),
        alpha=alpha,
        l1_ratio=l1_ratio,
        positive=positive,
        neighbours=neighbours,
        tolerance=tolerance,
        max_steps=max_steps,
    )
    return score_by_history("slim", weights)


def slim_weights(
    users: csr_matrix,
    *,
    alpha: float,
    l1_ratio: float,
    positive: bool = True,
    neighbours: int | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> csr_matrix:
    """Weights of `slim`, float32 [M, M], of a matrix [N, M] of non-negative float32; row i, column j."""
    check_neighbours(neighbours)
    for name, value in (("alpha", alpha), ("tolerance", tolerance)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name}={value}: must be a positive number")
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio={l1_ratio}: must lie in 0..1")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: must be at least 1")
    if neighbours is not None and not positive:
        raise ValueError(
            f"neighbours={neighbours}: only of positive weights; leave it out, or set positive=True"
        )
    l1, l2 = (np.float32(users.shape[0] * alpha * ratio) for ratio in (l1_ratio, 1 - l1_ratio))
    columns = users.T.tocsr()
    found = []
    for problem in problems(columns, users, positive=positive):
        solution = problem.copy()
        solution.data = solve(
            columns,
            problem,
            l1=l1,
            l2=l2,
            positive=positive,
            tolerance=tolerance,
            max_steps=max_steps,
        )
        solution.eliminate_zeros()
        found.append(largest(solution, neighbours))
    return scipy.sparse.vstack(found, format="csr").T.tocsr()


def problems(columns: csr_matrix, users: csr_matrix, *, positive: bool) -> Iterator[csr_matrix]:
    """Σ_u x_ui x_uj for items j, in order, and the items i whose weight isn't 0 from the start, [J, M] each.

    Those i other than j share a user with it; without one a weight could only be negative, since no other
    positive weight lowers its gradient. So all items that have users are there if weights may be negative.
    """
    number = np.diff(columns.indptr)
    everything = csr_matrix((number > 0).astype(np.float32))
    for start, product in multiply(columns, users):
        if not positive:
            product = product + scipy.sparse.vstack([everything] * product.shape[0], format="csr")
            product.data -= 1.0
        row = rows_of(product)
        others = row + start != product.indices
        entries = product.data[others], (row[others], product.indices[others])
        candidates = csr_matrix(entries, shape=product.shape)
        done = np.concatenate([[0], np.cumsum(number[candidates.indices], dtype=np.int64)])[candidates.indptr]
        first = 0
        while first < product.shape[0]:
            end = int(np.searchsorted(done, done[first] + ENTRIES, side="right")) - 1
            end = min(max(end, first + 1), first + (2**31 - 1) // users.shape[0])
            yield candidates[first:end]
            first = end


def solve(
    columns: csr_matrix,
    problem: csr_matrix,
    *,
    l1: np.float32,
    l2: np.float32,
    positive: bool,
    tolerance: float,
    max_steps: int,
) -> np.ndarray:
    """Weights of the entries of a problem [J, M], float32 [P]: all its items at once.

    The interactions of each item's candidates are its block of one sparse matrix A [P, J U]. Steps are those
    of the metric D + l2, where D_i = Σ_k (A Aᵀ)_ik v_k / v_i: D - A Aᵀ has no negative eigenvalue for any
    v > 0, because A has no negative entry, and v² = the number of users makes few steps.
    """
    counts, target = np.diff(problem.indptr), problem.data.astype(np.float32)
    if not len(target):
        return target
    (full,) = np.nonzero(counts)  # items without candidates have no weights
    starts, item = problem.indptr[full], np.repeat(np.arange(len(full)), counts[full])
    inputs = columns[problem.indices]
    inputs.indices += np.repeat(item * columns.shape[1], np.diff(inputs.indptr)).astype(inputs.indices.dtype)
    inputs = csr_matrix(
        (inputs.data, inputs.indices, inputs.indptr), (len(target), len(full) * columns.shape[1])
    )
    outputs = inputs.T

    root = np.sqrt(np.diff(inputs.indptr)).astype(np.float32)
    step = 1 / (inputs @ (outputs @ root) / root + l2)
    weights = moved = np.zeros_like(target)
    momentum = np.ones(len(full), np.float32)
    scale = np.maximum.reduceat(np.abs(target), starts)
    for _ in range(max_steps):
        gradient = inputs @ (outputs @ moved) - target + l2 * moved
        new = moved - step * (gradient + l1) if positive else moved - step * gradient
        new = np.maximum(new, 0) if positive else np.sign(new) * np.maximum(np.abs(new) - step * l1, 0)
        error = np.maximum.reduceat(np.abs(new - moved) / step, starts)
        if (error <= tolerance * scale).all():
            return new
        back = np.add.reduceat((moved - new) * (new - weights) / step, starts) > 0
        following = np.where(back, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2).astype(np.float32)
        factor = np.where(back, 0, (momentum - 1) / following)[item]
        moved, weights, momentum = new + factor * (new - weights), new, following
    raise ValueError(
        f"max_steps={max_steps}: the tolerance of {tolerance} isn't reached; raise either, or alpha"
    )
