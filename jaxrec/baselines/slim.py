"""SLIM: sparse linear methods (Ning and Karypis, ICDM 2011, doi:10.1109/ICDM.2011.134, sections III and IV).

Weights of few items are found by coordinate descent, as in the paper, for all items at once. Of many, whose
matrix of products is sparse, accelerated proximal steps find them (FISTA of Beck and Teboulle, SIAM J.
Imaging Sciences 2009, section 4, which restarts as in O'Donoghue and Candès, 2015, section 3.2). The problem
of an item is strictly convex for an l1_ratio below 1, so both end in the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import BLOCK, check_neighbours, interactions, largest, multiply, rows_of
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline

DENSE = 4096  # items up to which XᵀX is held as a dense matrix
ENTRIES = 8_000_000  # interactions that the items solved together read, where it is not
COORDINATES = 32  # items whose weights are changed before the gradients of all follow


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
    the largest |Σ_u x_ui x_uj|. max_steps: sweeps over all items, or steps of each.

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
    own: bool = False,
) -> csr_matrix:
    """Weights of `slim`, [M, M], row i, column j, of non-negative entries [N, M], in their precision.

    own: whether an item may weigh itself, as in RecBole with `hide_item` off; the paper has w_jj = 0.
    """
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
    columns, options = users.T.tocsr(), {"l1": l1, "l2": l2, "positive": positive, "tolerance": tolerance}
    if users.shape[1] <= DENSE:
        dense = descend((columns @ users).toarray(), max_sweeps=max_steps, own=own, **options)
        return largest(csr_matrix(dense.T), neighbours).T.tocsr()
    found = []
    for problem in problems(columns, users, positive=positive, own=own):
        solution, number = problem.copy(), np.diff(columns.indptr)[problem.indices]
        solution.data = solve(problem, gram_product(columns, problem), number, max_steps=max_steps, **options)
        solution.eliminate_zeros()
        found.append(largest(solution, neighbours))
    return scipy.sparse.vstack(found, format="csr").T.tocsr()


def descend(
    gram: np.ndarray,
    *,
    l1: np.floating[Any],
    l2: np.floating[Any],
    positive: bool,
    tolerance: float,
    max_sweeps: int,
    own: bool = False,
) -> np.ndarray:
    """Weights [M, M] of all items, row i, column j, by cyclic coordinate descent; gram: XᵀX [M, M].

    A coordinate is the weights of an item i for all j at once.
    """
    size = len(gram)
    weights, gradient = np.zeros_like(gram), -gram
    scale = np.abs(gram if own else gram - np.diag(np.diagonal(gram))).max(axis=0, initial=0)
    for _ in range(max_sweeps):
        error = np.zeros(size, gram.dtype)
        for start in range(0, size, COORDINATES):
            here = slice(start, min(start + COORDINATES, size))
            near, within, before = gradient[here].copy(), gram[here, here], weights[here].copy()
            for place, item in enumerate(range(here.start, here.stop)):
                curvature = max(within[place, place] + l2, np.finfo(gram.dtype).tiny)
                found = within[place, place] * weights[item] - near[place]
                new = shrink(found, l1, positive=positive) / curvature
                if not own:
                    new[item] = 0
                change = new - weights[item]
                near += within[:, place, None] * change
                weights[item] = new
                error = np.maximum(error, np.abs(change) * curvature)
            gradient += gram[:, here] @ (weights[here] - before)
        if (error <= tolerance * scale).all():
            return weights
    raise ValueError(_unfinished(max_sweeps, tolerance))


def shrink(values: np.ndarray, amount: np.ndarray | np.floating[Any], *, positive: bool) -> np.ndarray:
    """Nearer to 0 by an amount, as far as 0; negative values become 0 if positive."""
    return np.maximum(values - amount, 0) if positive else values - np.clip(values, -amount, amount)


def _unfinished(steps: int, tolerance: float) -> str:
    return f"max_steps={steps}: the tolerance of {tolerance} isn't reached; raise either, or alpha"


def problems(
    columns: csr_matrix, users: csr_matrix, *, positive: bool, own: bool = False
) -> Iterator[csr_matrix]:
    """Σ_u x_ui x_uj for items j, in order, and the items i whose weight isn't 0 from the start, [J, M] each.

    Those i, other than j unless `own`, share a user with it; without one a weight could only be negative,
    since no other positive weight lowers its gradient. So all items that have users are there if weights may
    be negative.
    """
    number = np.diff(columns.indptr)
    everything = csr_matrix((number > 0).astype(users.dtype))
    for start, product in multiply(columns, users):
        rows = product.shape[0] if positive else max(BLOCK // product.shape[1], 1)
        for first in range(0, product.shape[0], rows):
            part = product[first : first + rows]
            if not positive:
                part = part + scipy.sparse.vstack([everything] * part.shape[0], format="csr")
                part.data -= 1.0
            row = rows_of(part)
            others = own | (row + start + first != part.indices)
            entries = part.data[others], (row[others], part.indices[others])
            candidates = csr_matrix(entries, shape=part.shape)
            yield from _cut(candidates, number[candidates.indices], (2**31 - 1) // users.shape[0])


def _cut(problem: csr_matrix, work: np.ndarray, rows: int) -> Iterator[csr_matrix]:
    """Portions of rows with at most `ENTRIES` of the entries' work, unless a row alone has more."""
    done = np.concatenate([[0], np.cumsum(work, dtype=np.int64)])[problem.indptr]
    first = 0
    while first < problem.shape[0]:
        end = int(np.searchsorted(done, done[first] + ENTRIES, side="right")) - 1
        end = min(max(end, first + 1), first + rows)
        yield problem[first:end]
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
        new = shrink(moved - step * gradient, step * l1, positive=positive)
        error = np.maximum.reduceat(np.abs(new - moved) / step, starts)
        if (error <= tolerance * scale).all():
            return new
        back = np.add.reduceat((moved - new) * (new - weights) / step, starts) > 0
        following = np.where(back, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2).astype(target.dtype)
        factor = np.where(back, 0, (momentum - 1) / following)[item]
        moved, weights, momentum = new + factor * (new - weights), new, following
    raise ValueError(_unfinished(max_steps, tolerance))
