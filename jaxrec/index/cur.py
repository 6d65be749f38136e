"""Search by a scorer that is no product, through a CUR decomposition of its scores.

A cross-encoder or a ranking model that reads user and item together can't score all items for each query. Of
the scores M of some anchor queries for all items, and of a new query for some anchor items, the others follow
approximately: M ≈ C U R, with C the columns of the anchor items, R the rows of the anchor queries, and U the
pseudo-inverse of R's anchor columns. So a query has the vector C U and an item its column of R, and any index
for inner products finds the best (ANNCUR, Yadav et al., EMNLP 2022, arXiv:2210.12579, section 3). `adaptive`
chooses the anchor items of each query in rounds (ADACUR, Yadav et al., Findings of EMNLP 2023,
arXiv:2305.02996).

Departs from ADACUR: each round takes the best items by the approximate scores; the paper also samples them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index import exact
from jaxrec.index.chunked import BLOCK, Best
from jaxrec.index.exact import Exact
from jaxrec.types import Array

Score = Callable[[Array], Array]  # exact scores of items for each query, ids [B, A] → [B, A]


class Anchors(NamedTuple):
    """What is kept of the scores: made by `build`. K anchor queries, A anchor items, V ids.

    items: ids of the anchor items, int32 [A]. weights: U, [A, K]. columns: those of R, one vector [K] for
    each item, for inner products.
    """

    items: Array
    weights: Array
    columns: Exact

    def query(self, scores: Array) -> Array:
        """Queries as vectors from their scores for the anchor items, [B, A] → [B, K]."""
        return jnp.matmul(scores, self.weights, precision="highest")

    def approximate(self, scores: Array) -> Array:
        """Scores of all items from those for the anchor items, [B, A] → [B, V], column i for item id i.

        Those of the anchor items are approximated too. `search` holds no such matrix.
        """
        vectors = self.columns.vectors
        rows = vectors.reshape(-1, vectors.shape[2])[: self.columns.count].T
        found = jnp.matmul(self.query(scores), rows, precision="highest")
        return jnp.pad(found, ((0, 0), (1, 0)))


def build(rows: Any, items: Any, *, weights: Any = None, rcond: float = 1e-6, block: int = BLOCK) -> Anchors:
    """Anchors from the scores of anchor queries for all ids [K, V] and the ids of anchor items [A].

    weights: U where it is not the pseudo-inverse of the anchor columns, such as `whole_weights`.
    rcond: singular values below rcond times the largest count as 0. As many anchor queries as anchor items,
        or more, keep the inverse well-conditioned. It is computed in double precision.
    block: items that a search scores at a time.

    Raises:
      ValueError: the rows are no matrix of finite numbers, or an anchor is none of the ids 1 .. V - 1 or is
        given twice.
    """
    rows, items = np.asarray(rows, np.float32), np.asarray(items)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"rows of shape {rows.shape}: must be [anchor queries, ids]")
    if not np.isfinite(rows[:, 1:]).all():
        raise ValueError("rows: a score of an anchor query is not finite")
    if items.ndim != 1 or not items.size or items.dtype.kind not in "iu":
        raise ValueError(
            f"items of shape {items.shape} and type {items.dtype}: must be ids [A], whole numbers"
        )
    if items.min() < 1 or items.max() >= rows.shape[1]:
        raise ValueError(f"items: ids {items.min()}..{items.max()}, must lie in 1..{rows.shape[1] - 1}")
    if len(np.unique(items)) < len(items):
        raise ValueError("items: an anchor item is given twice")
    if weights is None:
        weights = np.linalg.pinv(rows[:, items].astype(np.float64), rcond=rcond)
    index = exact.build(rows.T, block=block)
    return Anchors(jnp.asarray(items, jnp.int32), jnp.asarray(weights, jnp.float32), index)


def whole_weights(scores: Any, queries: Any, items: Any, *, rcond: float = 1e-6) -> np.ndarray:
    """U = pinv(C) M pinv(R), the best for given anchors, which needs all scores: to analyse, not to search.

    scores: M of all queries, [Q, V], column i for item id i. queries: rows of the anchor queries, [K]. items:
    ids of the anchor items, [A]. Returns [A, K].
    """
    matrix = np.asarray(scores, np.float64)[:, 1:]
    left = np.linalg.pinv(matrix[:, np.asarray(items) - 1], rcond=rcond)
    return left @ matrix @ np.linalg.pinv(matrix[np.asarray(queries)], rcond=rcond)


def search(anchors: Anchors, score: Score, num_queries: int, k: int, *, rescored: int) -> Best:
    """The k best items of each query among its anchor items and the `rescored` best by approximate scores.

    score: exact scores of items for each query, ids [B, N] → [B, N]; called for the anchor items and for
        those that are rescored, A + rescored scores for each query. The list has the exact scores; where one
        of those is not finite, `finite` is False and the list means nothing.

    Raises:
      ValueError: k is below 1, rescored below 0, or k above the number of items that are scored exactly.
    """
    num_anchors = len(anchors.items)
    if rescored < 0 or not 1 <= k <= num_anchors + rescored:
        raise ValueError(
            f"k={k}, rescored={rescored}: k must lie in 1..{num_anchors + max(rescored, 0)}, the number of "
            "anchor items and of those that are rescored"
        )
    ids = jnp.broadcast_to(anchors.items, (num_queries, num_anchors))
    own = score(ids)
    if not rescored:
        return _best(own, ids, k)
    found = exact.search(anchors.columns, anchors.query(own), rescored, seen=ids, batch=num_queries)
    more = jnp.where(found.ids > 0, score(jnp.maximum(found.ids, 1)), -jnp.inf)  # fewer items may be left
    best = _best(jnp.concatenate([own, more], axis=1), jnp.concatenate([ids, found.ids], axis=1), k)
    return best._replace(finite=best.finite & found.finite)


def adaptive(
    rows: Array, score: Score, first: Array, k: int, *, rounds: int, per_round: int, rcond: float = 1e-6
) -> Best:
    """The k best of first + (rounds - 1) x per_round items that are scored exactly, chosen query by query.

    Each round approximates the scores of all items from those that are known and scores the `per_round` best
    of the others exactly. With one round it is `search` among the anchor items.

    rows: scores of anchor queries for all ids [K, V]. first: ids of the first round's items, [B, A], distinct
        in a row, such as random ones or those of a cheap retriever. rcond: of the pseudo-inverse.

    Raises:
      ValueError: rounds, per_round or k is below 1, or k or the number of scored items is too large.
    """
    for name, value in (("rounds", rounds), ("per_round", per_round), ("k", k)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    total = first.shape[1] + (rounds - 1) * per_round
    if k > total or total > rows.shape[1] - 1:
        raise ValueError(f"k={k} of {total} scored items of {rows.shape[1] - 1}: must be in this order, ≤")
    ids, own = jnp.asarray(first, jnp.int32), score(first)
    for _ in range(rounds - 1):  # shapes grow from round to round
        columns = jnp.take(rows, ids, axis=1).transpose(1, 0, 2)  # [B, K, A]
        inverse = jnp.linalg.pinv(columns, rtol=rcond)
        found = jnp.einsum("ba,bak,kv->bv", own, inverse, rows, precision="highest", optimize="optimal")
        more = jax.lax.top_k(_without(found, ids), per_round)[1].astype(jnp.int32)
        ids, own = jnp.concatenate([ids, more], axis=1), jnp.concatenate([own, score(more)], axis=1)
    return _best(own, ids, k)


def _without(scores: Array, ids: Array) -> Array:
    """Scores [B, V] with -inf for some ids [B, A] and for padding."""
    rows = jnp.arange(len(ids))[:, None]
    return scores.at[rows, ids].set(-jnp.inf).at[:, 0].set(-jnp.inf)


def _best(scores: Array, ids: Array, k: int) -> Best:
    """The k best of scored items; of equal scores the smaller id comes first. Id 0: none."""
    lowered, ordered = jax.lax.sort((-jnp.where(ids > 0, scores, -jnp.inf), ids), dimension=1, num_keys=2)
    finite = (jnp.isfinite(scores) | (ids == 0)).all(axis=1)
    return Best(-lowered[:, :k], jnp.where(lowered[:, :k] < jnp.inf, ordered[:, :k], 0), finite)
