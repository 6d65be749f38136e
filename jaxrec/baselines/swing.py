"""Swing: two items are alike if pairs of users have both and little else in common.

Yang et al., 2020, arXiv:2010.05525, section 4. The paper counts a pair of users once and weights no user; the
weights are those of later implementations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import (
    BLOCK,
    check_neighbours,
    interactions,
    largest,
    multiply,
    rows_of,
    scale_rows,
    users_with_items,
)
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def swing(
    data: EventData | TrainingEvents,
    *,
    alpha: float = 1.0,
    power: float = 0.5,
    offset: float = 0.0,
    neighbours: int | None = 100,
    min_items: int = 1,
    max_items: int | None = None,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of s(i, j).

    s(i, j) = Σ w_u w_v / (α + |I_u ∩ I_v|) over the pairs of two users u and v, each pair once, that both
    have i and j; 0 if fewer than two users have both. w_u = (offset + |I_u|)^-power, 1 if power = 0. Of each
    i the `neighbours` largest are kept (None: all), of equal ones those of the smaller ids.

    min_items, max_items: users with fewer or more different training items are left out. The work grows with
    Σ |I_u ∩ I_v|² over the pairs of users that share two items.

    Raises:
      ValueError: alpha, the offset or the power is negative or not a number, neighbours or min_items is below
        1, max_items is below min_items, or no user is left.
    """
    users = users_with_items(interactions(training_events(data)), min_items, max_items)
    return score_by_history(
        "swing", swing_weights(users, alpha=alpha, power=power, offset=offset, neighbours=neighbours)
    )


def swing_weights(
    users: csr_matrix, *, alpha: float, power: float, offset: float = 0.0, neighbours: int | None = None
) -> csr_matrix:
    """s of `swing`, float32 [M, M], for interactions of 0 and 1, float32 [N, M]."""
    for name, value in (("alpha", alpha), ("power", power), ("offset", offset)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value}: must be 0 or more")
    weight = (offset + np.maximum(np.diff(users.indptr), 1)) ** -float(power)
    check_neighbours(neighbours)
    total = csr_matrix((users.shape[1], users.shape[1]), dtype=np.float32)
    waiting = [(empty := csr_matrix((0, users.shape[1]), dtype=np.float32), empty)]
    for first, second in pairs(users):
        both = users[first].multiply(users[second]).tocsr()
        factor = weight[first] * weight[second] / (alpha + np.diff(both.indptr))
        waiting.append((both, scale_rows(both, factor)))
        if sum(items.nnz for items, _ in waiting) > BLOCK:
            total, waiting = total + _products(waiting), [(empty, empty)]
    total = total + _products(waiting)
    total.data[rows_of(total) == total.indices] = 0
    total.eliminate_zeros()
    return largest(total, neighbours)


def _products(of_pairs: list[tuple[csr_matrix, csr_matrix]]) -> csr_matrix:
    """Σ over pairs of users of the products of what both have, [M, M], and the same weighted."""
    items, weighted = (scipy.sparse.vstack(part, format="csr") for part in zip(*of_pairs, strict=True))
    return weighted.T.tocsr() @ items


def pairs(users: csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs u < v of users that share two items or more, in portions."""
    number = np.diff(users.indptr)
    for start, product in multiply(users, users.T.tocsr()):
        first, second = rows_of(product) + start, product.indices
        chosen = (first < second) & (product.data >= 2)
        first, second = first[chosen], second[chosen]
        portion = np.cumsum(number[first] + number[second], dtype=np.int64) // BLOCK
        for of_portion in np.split(np.arange(len(first)), np.flatnonzero(np.diff(portion)) + 1):
            if len(of_portion):
                yield first[of_portion], second[of_portion]
