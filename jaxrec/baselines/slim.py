"""SLIM: sparse linear methods (Ning and Karypis, ICDM 2011, doi:10.1109/ICDM.2011.134, sections III and IV).

Departs from the paper in the solver alone: accelerated proximal steps for many items at once (FISTA of Beck
and Teboulle, SIAM J. Imaging Sciences 2009, section 4, which restarts as in O'Donoghue and Candès, 2015,
section 3.2) in place of coordinate descent for one. The problem of an item is strictly convex for an
l1_ratio below 1, so both end in the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import check_neighbours, interactions, largest, multiply, rows_of
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline

ENTRIES = 8_000_000  # interactions that the items solved together read (weights, where XᵀX is dense)
DENSE = 4096  # columns up to which XᵀX is held as a dense matrix


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
    """Weights of `slim`, [M, M], row i, column j, of non-negative entries [N, M], in their precision."""
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
    l1, l2 = (users.dtype.type(users.shape[0] * alpha * ratio) for ratio in (l1_ratio, 1 - l1_ratio))
    columns = users.T.tocsr()
    gram = (columns @ users).toarray() if users.shape[1] <= DENSE else None
    found = []
    for problem in problems(columns, users, positive=positive, dense=gram is not None):
        solution = problem.copy()
        solution.data = solve(
            problem,
            gram_product(columns, problem) if gram is None else dense_product(gram, problem),
            np.diff(columns.indptr)[problem.indices],
            l1=l1,
            l2=l2,
            positive=positive,
            tolerance=tolerance,
            max_steps=max_steps,
        )
        solution.eliminate_zeros()
        found.append(largest(solution, neighbours))
    return scipy.sparse.vstack(found, format="csr").T.tocsr()


def problems(
    columns: csr_matrix, users: csr_matrix, *, positive: bool, dense: bool = False
) -> Iterator[csr_matrix]:
    """Σ_u x_ui x_uj for items j, in order, and the items i whose weight isn't 0 from the start, [J, M] each.

    Those i other than j share a user with it; without one a weight could only be negative, since no other
    positive weight lowers its gradient. So all items that have users are there if weights may be negative.
    """
    number = np.diff(columns.indptr)
    everything = csr_matrix((number > 0).astype(users.dtype))
    for start, product in multiply(columns, users):
        if not positive:
            product = product + scipy.sparse.vstack([everything] * product.shape[0], format="csr")
            product.data -= 1.0
        row = rows_of(product)
        others = row + start != product.indices
        entries = product.data[others], (row[others], product.indices[others])
        candidates = csr_matrix(entries, shape=product.shape)
        work = np.ones(candidates.nnz) if dense else number[candidates.indices]
        done = np.concatenate([[0], np.cumsum(work, dtype=np.int64)])[candidates.indptr]
        first = 0
        while first < product.shape[0]:
            end = int(np.searchsorted(done, done[first] + ENTRIES, side="right")) - 1
            end = min(max(end, first + 1), first + (2**31 - 1) // users.shape[0])
            yield candidates[first:end]
            first = end


Product = Callable[[np.ndarray], np.ndarray]


def gram_product(columns: csr_matrix, problem: csr_matrix) -> Product:
    """(XᵀX w)_i at the candidates i of each item j, for weights w of the same, [P] → [P].

    The interactions of each item's candidates are its block of one sparse matrix A [P, J U], for A Aᵀ w.
    """
    inputs = columns[problem.indices]
    users = columns.shape[1]
    block = np.repeat(rows_of(problem) * users, np.diff(inputs.indptr))
    indices = (inputs.indices + block).astype(np.int32)
    inputs = csr_matrix((inputs.data, indices, inputs.indptr), (problem.nnz, problem.shape[0] * users))
    outputs = inputs.T
    return lambda weights: inputs @ (outputs @ weights)


def dense_product(gram: np.ndarray, problem: csr_matrix) -> Product:
    """`gram_product` by XᵀX itself, [M, M]."""
    row, col = rows_of(problem), problem.indices
    dense = np.zeros(problem.shape, gram.dtype)

    def product(weights: np.ndarray) -> np.ndarray:
        dense[row, col] = weights
        return (dense @ gram)[row, col]

    return product


def solve(
    problem: csr_matrix,
    product: Product,
    users: np.ndarray,
    *,
    l1: np.floating[Any],
    l2: np.floating[Any],
    positive: bool,
    tolerance: float,
    max_steps: int,
) -> np.ndarray:
    """Weights of the entries of a problem [J, M], [P]: all its items at once.

    product: of `gram_product`. users: of each entry's item, [P]. Steps are those of the metric D + l2, D_i =
    Σ_k (XᵀX)_ik v_k / v_i over the candidates: D - XᵀX has no negative eigenvalue for any v > 0, because X
    has no negative entry, and v² = the number of users makes few steps.
    """
    counts, target = np.diff(problem.indptr), problem.data
    if not len(target):
        return target
    (full,) = np.nonzero(counts)  # items without candidates have no weights
    starts, item = problem.indptr[full], np.repeat(np.arange(len(full)), counts[full])
    root = np.sqrt(users).astype(target.dtype)
    step = 1 / (product(root) / root + l2)
    weights = moved = np.zeros_like(target)
    momentum = np.ones(len(full), target.dtype)
    scale = np.maximum.reduceat(np.abs(target), starts)
    for _ in range(max_steps):
        gradient = product(moved) - target + l2 * moved
        new = moved - step * (gradient + l1) if positive else moved - step * gradient
        new = np.maximum(new, 0) if positive else np.sign(new) * np.maximum(np.abs(new) - step * l1, 0)
        error = np.maximum.reduceat(np.abs(new - moved) / step, starts)
        if (error <= tolerance * scale).all():
            return new
        back = np.add.reduceat((moved - new) * (new - weights) / step, starts) > 0
        following = np.where(back, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2).astype(target.dtype)
        factor = np.where(back, 0, (momentum - 1) / following)[item]
        moved, weights, momentum = new + factor * (new - weights), new, following
    raise ValueError(
        f"max_steps={max_steps}: the tolerance of {tolerance} isn't reached; raise either, or alpha"
    )
