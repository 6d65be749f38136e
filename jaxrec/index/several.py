"""Search by several vectors of one query, such as a user's interests: an item counts by its best.

Each vector retrieves its own k best, and these are merged without repeats. So the merged list is exact where
the search is: an item among the best k of all has fewer than k items before it in the list of its best
vector (ComiRec's aggregation with λ = 0: Cen et al., KDD 2020, section 3.4; MIND serves the same way).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrec.index.chunked import Best
from jaxrec.types import Array


class Search(Protocol):
    """How an index is searched, such as `functools.partial(exact.search, index)`."""

    def __call__(self, queries: Array, k: int, *, seen: Array | None = None) -> Best: ...


def search_several(
    search: Search, queries: Array, k: int, *, seen: Array | None = None, mask: Array | None = None
) -> Best:
    """The k items with the best score by any vector of a query: [Q, H, D] → scores, ids [Q, k].

    seen: items that are in no list of the query, ids [Q, S] padded with 0. mask: True where a vector is
    real, [Q, H]; None: everywhere. A query without a real vector has an empty list. `finite` is that of all
    real vectors.

    Raises:
      ValueError: the queries have another rank than 3, or the mask does not fit; what `search` raises.
    """
    if queries.ndim != 3:
        raise ValueError(f"queries of shape {queries.shape}: must be [Q, H, D]")
    number, vectors, dim = queries.shape
    if mask is not None and mask.shape != (number, vectors):
        raise ValueError(f"mask of shape {mask.shape}: must be [{number}, {vectors}]")
    mask = jnp.ones((number, vectors), bool) if mask is None else jnp.asarray(mask)
    flat = jnp.where(mask[..., None], queries, 0).reshape(-1, dim)
    repeated = None if seen is None else jnp.repeat(jnp.asarray(seen), vectors, axis=0)
    found = search(flat, k, seen=repeated)
    scores, ids = (a.reshape(number, vectors, k) for a in (found.scores, found.ids))
    finite = (found.finite.reshape(number, vectors) | ~mask).all(axis=1)
    merged = merge(jnp.where(mask[..., None], scores, -jnp.inf), ids, k)
    return merged._replace(finite=merged.finite & finite)


def search_rescored(
    search: Search,
    queries: Array,
    k: int,
    rescore: Callable[[Array], Array],
    *,
    candidates: int,
    seen: Array | None = None,
    mask: Array | None = None,
) -> Best:
    """The k best by another score, of the candidates that are best by any vector of a query, [Q, k].

    For scores that no index knows, such as a poly-encoder's, whose vectors find the candidates. rescore: ids
    [Q, C] → scores [Q, C]; ids may be 0, whose score is not read. seen, mask: as of `search_several`.

    Raises:
      ValueError: there are fewer candidates than k; as `search_several`.
    """
    if candidates < k:
        raise ValueError(f"candidates={candidates}: must be at least k={k}")
    found = search_several(search, queries, candidates, seen=seen, mask=mask)
    scores = jnp.where(found.ids > 0, rescore(found.ids), -jnp.inf)
    best = merge(scores[:, None], found.ids[:, None], k)
    return best._replace(finite=best.finite & found.finite)


def merge(scores: Array, ids: Array, k: int) -> Best:
    """The k best of several lists, [Q, H, N] twice, in which an item may be more than once, id 0 for none.

    An item has its best score; of equal scores the smaller id comes first. `finite`: no score is NaN.

    >>> best = merge(jnp.array([[[3.0, 1.0], [2.0, 2.0]]]), jnp.array([[[7, 5], [7, 4]]]), 3)
    >>> best.ids.tolist(), best.scores.tolist()
    ([[7, 4, 5]], [[3.0, 2.0, 1.0]])
    """
    scores, ids = scores.reshape(len(scores), -1), ids.reshape(len(ids), -1)
    finite = ~jnp.isnan(scores).any(axis=1)
    lowered = jnp.where(ids > 0, -scores, jnp.inf)
    ids, lowered = jax.lax.sort((ids, lowered), dimension=1, num_keys=2)
    again = jnp.pad(ids[:, 1:] == ids[:, :-1], ((0, 0), (1, 0)))
    lowered, ids = jax.lax.sort((jnp.where(again, jnp.inf, lowered), ids), dimension=1, num_keys=2)
    missing = ((0, 0), (0, max(k - ids.shape[1], 0)))
    lowered = jnp.pad(lowered, missing, constant_values=jnp.inf)[:, :k]
    return Best(-lowered, jnp.where(lowered < jnp.inf, jnp.pad(ids, missing)[:, :k], 0), finite)
