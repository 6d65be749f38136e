"""Search by a scorer that is any function of a query and an item: what all learned indexes share.

An index that chooses which items are worth scoring (a tree, paths, a graph) is searched by

    search(index, scorer, query, k, width) → Found

under jit with static shapes. `scorer` knows the model and its variables, the index only ids. `width` is how
much of the index a search keeps in view at a time: the beam of a tree or of paths, of a graph the nodes from
which it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.types import Array

Query = Any  # a tree of arrays, one row a query: leading axis B
# (query, ids int32 [B, M]) → scores [B, M]. Ids are those of items, 1..n, and of a tree's inner nodes, from
# n + 1 on; 0 is padding, whose score is not read.
ScoreItems = Callable[[Query, Array], Array]


class Found(NamedTuple):
    """What a search returns. B queries, the k best items of each.

    ids: best first, the smaller id of equal scores first, int32 [B, k]; 0 where no further item was found.
    scores: of the scorer, float32 [B, k]; -inf where ids is 0.
    scored: how many ids (items, or nodes of a tree) were scored for the query, int32 [B]. None is counted or
        scored twice.
    finite: False where a score of the query was NaN or +inf, so that its list means nothing, bool [B].
    """

    ids: Array
    scores: Array
    scored: Array
    finite: Array


def best_of(scores: Array, ids: Array, k: int) -> tuple[Array, Array]:
    """The k best of scored ids, [B, M] twice → scores, ids [B, k]; the smaller id of equal scores first.

    An id of 0 or a score of -inf is no item; where fewer than k are left, the list ends in -inf and 0.
    """
    scores = jnp.where(ids > 0, scores, -jnp.inf)
    order = jax.lax.sort((-scores, ids), dimension=-1, num_keys=2)
    value, place = -order[0][..., :k], order[1][..., :k]
    missing = ((0, 0),) * (scores.ndim - 1) + ((0, max(k - scores.shape[-1], 0)),)
    value = jnp.pad(value, missing, constant_values=-jnp.inf)
    return value, jnp.where(value > -jnp.inf, jnp.pad(place, missing), 0)
