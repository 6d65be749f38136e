"""How much of the exact result another search finds, and what that costs in recall of what is relevant.

Of a search by a scorer both are told: the model's own recall, of an exhaustive search by it, and what the
search loses of that. Recall of the search alone mixes the two.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index import exact as exact_search
from jaxrec.index.exact import Exact
from jaxrec.index.measure import prepare_queries, score_rows
from jaxrec.index.several import Search
from jaxrec.types import Array


def recall_against_exact(
    search: Search, queries: Any, k: int, *, exact: Exact, seen: Any = None, batch: int = 1024
) -> float:
    """The share of the exact best k items that a search of the same items finds, a mean over queries in 0..1.

    An item that is not in the exact list but has the score of its last one counts too: which of them is
    listed says nothing. An item that is found twice counts once, a seen one not at all. Where fewer than k
    items are left, the share is of those; a query without any is left out of the mean.

    search: such as `functools.partial(clusters.search, index, probes=8)` or the `best` of an exported index.
    exact: an index of the same items. seen: items that are in no list, ids [Q, S] padded with 0.

    Raises:
      ValueError: scores of a query may not be finite, no query has an item left, or a search refuses.
    """
    queries = jnp.asarray(queries, jnp.float32)
    true = exact_search.search(exact, queries, k, seen=seen, batch=batch)
    if not bool(true.finite.all()):
        bad = int(np.argmin(np.asarray(true.finite)))
        raise ValueError(f"query {bad}: its scores are not finite, or a seen id is none of the items")
    found = jnp.sort(jnp.asarray(search(queries, k, seen=seen).ids), axis=1)
    again = jnp.pad(found[:, 1:] == found[:, :-1], ((0, 0), (1, 0)))
    found = jnp.where(again, 0, found)
    if seen is not None:
        found = jnp.where((found[:, :, None] == jnp.asarray(seen)[:, None]).any(axis=2), 0, found)
    there = jnp.sum(true.ids > 0, axis=1)
    if not bool((there > 0).any()):
        raise ValueError("no query has an item left: all have seen all items")
    last = jnp.take_along_axis(true.scores, jnp.maximum(there - 1, 0)[:, None], axis=1)[:, 0]
    hits = _count_hits(exact, queries, found, true.ids, last)
    return float(jnp.mean(hits / jnp.maximum(there, 1), where=there > 0))


def coverage(found: Array, best: Array) -> Array:
    """The share of the exhaustive best k that a search finds, a mean over queries in 0..1: [Q, k] twice → [].

    0 is no item; a query whose best has none is left out of the mean. With none left, NaN.
    """
    return recall_of_found(found, best)


def recall_of_found(found: Array, relevant: Array) -> Array:
    """The share of relevant items that lists hold, a mean over queries in 0..1: [Q, k], [Q, R] → [].

    Ids are padded with 0 and different in a row of `relevant`. A query without a relevant item is left out;
    with none left, NaN. Of an exhaustive search it is recall-all, of another one recall-retrieval.
    """
    found, relevant = jnp.asarray(found), jnp.asarray(relevant)
    real = relevant > 0
    hits = (real & (relevant[:, :, None] == found[:, None]).any(axis=2)).sum(axis=1)
    number = real.sum(axis=1)
    return jnp.mean(hits / jnp.maximum(number, 1), where=number > 0)


def recall_delta(recall_all: Array | float, recall_retrieval: Array | float) -> Array:
    """The share of the model's own recall that a search loses: (R_a - R_r) / R_a, NaN where R_a is 0.

    Below 0 where the search finds relevant items that all items' scores put lower, which is no error.
    (NANN: Chen et al., CIKM 2022, arXiv:2202.10226.)
    """
    whole = jnp.asarray(recall_all)
    return jnp.where(whole > 0, (whole - recall_retrieval) / jnp.where(whole > 0, whole, 1.0), jnp.nan)


@jax.jit
def _count_hits(exact: Exact, queries: Array, found: Array, true: Array, last: Array) -> Array:
    """Found items, [Q, k], that are in the true lists or as good as their last: [Q]."""
    table = exact.vectors.reshape(-1, exact.vectors.shape[2])
    prepared = prepare_queries(queries, exact.centre, exact.metric)

    def count(part: tuple[Array, Array, Array, Array]) -> Array:
        query, ids, right, least = part
        scores = score_rows(query, table[jnp.maximum(ids - 1, 0)], exact.metric)
        return jnp.sum((ids > 0) & ((ids[:, None] == right).any(axis=1) | (scores >= least)))

    return jax.lax.map(count, (prepared, found, true, last), batch_size=min(16, len(queries)))
