"""Search in the nearest clusters only: k-means, and a list of items for each centre.

A query is compared with all centres, and only the items of its `probes` nearest are scored: an inverted file.
For inner products and cosines the centres have length 1 and an item belongs to the centre of the largest
product (spherical k-means, Dhillon and Modha, Machine Learning 2001); for distances it is plain k-means.

Lists have one capacity, so that shapes are static. An item whose list is full goes to the overflow, whose
items are scored for every query: nothing is lost, but a large overflow (`Clusters.overflow`) costs time; then
build with a larger capacity. With as many probes as clusters the search is exact, but for which of several
items of equal score is at the last place of a list.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.chunked import Best
from jaxrec.index.exact import RESCORED, check_search
from jaxrec.index.k_means import assign, k_means
from jaxrec.index.measure import (
    Metric,
    centre_of,
    check_table,
    prepare_items,
    prepare_queries,
    score_rows,
)
from jaxrec.types import Array, Key

FULL = 2.0  # capacity of a list, in mean lists
ROUND = 256  # steps by which the overflow and the table of places grow
DATA = ["centres", "vectors", "ids", "places", "sizes", "origin", "count"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=DATA, meta_fields=["metric", "capacity"])
@dataclasses.dataclass(frozen=True)
class Clusters:
    """An index of items 1..count in C lists of L places and R places of overflow, made by `build`; a pytree.

    centres: float32 [C, D']. vectors: prepared for the metric (`index.measure`), list after list, then the
    overflow, [C L + R, D']. ids: of the items there, int32 [C L + R], 0 where a place is free. places: where
    item i lies, int32 [at least count + 1], place 0 for id 0. sizes: items of each list and of the overflow,
    int32 [C + 1]. origin: what was subtracted from all vectors, [D]. count: items, int32 []. capacity: L.
    """

    centres: Array
    vectors: Array
    ids: Array
    places: Array
    sizes: Array
    origin: Array
    count: Array
    metric: Metric
    capacity: int

    @property
    def overflow(self) -> int:
        """Items that did not fit into their list, which every search scores."""
        return int(self.sizes[-1])


def build(
    table: Any,
    *,
    num_clusters: int,
    key: Key,
    metric: Metric = "inner",
    capacity: int | None = None,
    rounds: int = 10,
    sample: int | None = None,
) -> Clusters:
    """An index of the items 1 .. V - 1 with the vectors of a table [V, D], whose row 0 is padding.

    num_clusters: such as the square root of the number of items. key: for the first centres and the sample.
    capacity: places in a list; None: twice the mean list, which leaves room to add as many items as there
        are. rounds: of k-means. sample: items that k-means reads; None: 256 for each cluster.

    Raises:
      ValueError: the table has no items or a number that is not finite, there are fewer items than clusters,
        or a size is below 1.
    """
    vectors = check_table(table, metric)[1:]
    number = len(vectors)
    if not 1 <= num_clusters <= number:
        raise ValueError(f"num_clusters={num_clusters}: must lie in 1..{number}, the number of items")
    capacity = -(-int(FULL * number) // num_clusters) if capacity is None else capacity
    sample = 256 * num_clusters if sample is None else sample
    for name, value in (("capacity", capacity), ("rounds", rounds), ("sample", sample)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    sample = min(max(sample, num_clusters), number)
    origin = jnp.asarray(centre_of(vectors, metric))
    prepared = prepare_items(jnp.asarray(vectors), origin, metric)
    order = jax.random.permutation(key, number)[:sample]
    points = prepared[:, :-1] if metric == "l2" else prepared
    centres = k_means(points[order], num_clusters=num_clusters, rounds=rounds, spherical=metric != "l2")
    num_places = num_clusters * capacity
    empty = Clusters(
        centres=prepare_items(centres, jnp.zeros(centres.shape[1]), "l2") if metric == "l2" else centres,
        vectors=jnp.zeros((num_places, prepared.shape[1])),
        ids=jnp.zeros(num_places, jnp.int32),
        places=jnp.zeros(1, jnp.int32),
        sizes=jnp.zeros(num_clusters + 1, jnp.int32),
        origin=origin,
        count=jnp.int32(0),
        metric=metric,
        capacity=capacity,
    )
    return _append(empty, prepared)


def add(index: Clusters, vectors: Any) -> Clusters:
    """The index with further items [A, D], whose ids are count + 1 .. count + A, in their nearest lists.

    Centres stay as they are: build anew when the items have become others. A search is compiled anew where
    the overflow or the number of items passes a multiple of 256.

    Raises:
      ValueError: the vectors have another width than those of the index, or a number that is not finite.
    """
    padded = np.pad(np.asarray(vectors, np.float32), ((1, 0), (0, 0)))
    new = check_table(padded, index.metric, dim=index.origin.shape[0])[1:]
    return _append(index, prepare_items(jnp.asarray(new), index.origin, index.metric))


def _append(index: Clusters, prepared: Array) -> Clusters:
    """Prepared items [A, D'] at the first free places of their lists, or else of the overflow."""
    num_clusters, capacity = len(index.centres), index.capacity
    points = prepared[:, :-1] if index.metric == "l2" else prepared
    cluster = np.asarray(assign(points, index.centres, l2=index.metric == "l2")[0])
    sizes = np.asarray(index.sizes).copy()
    order = np.argsort(cluster, kind="stable")
    wanted = np.bincount(cluster, minlength=num_clusters)
    first = np.cumsum(wanted) - wanted
    within = np.empty(len(cluster), np.int64)
    within[order] = np.arange(len(cluster)) - first[cluster[order]]
    column = sizes[cluster] + within
    fits = column < capacity
    over = sizes[-1] + np.cumsum(~fits) - 1
    place = np.where(fits, cluster * capacity + column, num_clusters * capacity + over)
    sizes[:-1] = np.minimum(sizes[:-1] + wanted, capacity)
    sizes[-1] += np.count_nonzero(~fits)
    count, total = int(index.count), num_clusters * capacity + _round_up(int(sizes[-1]))
    missing = max(total - len(index.ids), 0)
    known = _round_up(count + len(prepared) + 1)
    new_ids = jnp.arange(count + 1, count + 1 + len(prepared), dtype=jnp.int32)
    places = jnp.asarray(place, jnp.int32)
    return dataclasses.replace(
        index,
        vectors=jnp.pad(index.vectors, ((0, missing), (0, 0))).at[places].set(prepared, unique_indices=True),
        ids=jnp.pad(index.ids, (0, missing)).at[places].set(new_ids, unique_indices=True),
        places=jnp.pad(index.places, (0, max(known - len(index.places), 0))).at[new_ids].set(places),
        sizes=jnp.asarray(sizes),
        count=jnp.int32(count + len(prepared)),
    )


def search(
    index: Clusters,
    queries: Array,
    k: int,
    *,
    probes: int,
    seen: Array | None = None,
) -> Best:
    """The k best items of the `probes` nearest lists and of the overflow, as `exact.search`.

    Where these hold fewer than k items, a list ends in the score -inf and the id 0.

    Raises:
      ValueError: as `exact.search`; probes is not in 1 .. the number of clusters.
    """
    check_search(queries, k, dim=index.origin.shape[0], seen=seen)
    if not 1 <= probes <= len(index.centres):
        raise ValueError(f"probes={probes}: must lie in 1..{len(index.centres)}, the number of clusters")
    seen = jnp.zeros((len(queries), 1), jnp.int32) if seen is None else jnp.asarray(seen)
    queries = jnp.asarray(queries, jnp.float32)
    return _search(index, queries, seen, k=k, probes=probes)


@functools.partial(jax.jit, static_argnames=("k", "probes"))
def _search(index: Clusters, queries: Array, seen: Array, *, k: int, probes: int) -> Best:
    num_clusters, capacity = len(index.centres), index.capacity
    prepared = prepare_queries(queries, index.origin, index.metric)
    largest = jnp.sqrt(jnp.sum(index.vectors**2, axis=1).max())
    known = ((seen >= 0) & (seen <= index.count)).all(axis=1)
    finite = known & jnp.isfinite(jnp.linalg.norm(prepared, axis=1) * largest)
    lists = index.vectors[: num_clusters * capacity].reshape(num_clusters, capacity, -1)
    list_ids = index.ids[: num_clusters * capacity].reshape(num_clusters, capacity)
    rest, rest_ids = index.vectors[num_clusters * capacity :], index.ids[num_clusters * capacity :]

    def one(part: tuple[Array, Array]) -> tuple[Array, Array]:
        query, past = part
        near = jnp.matmul(index.centres, query, precision="highest")
        probed = jax.lax.top_k(near, probes)[1]
        inside = score_rows(query, lists[probed], index.metric).reshape(-1)
        outside = score_rows(query, rest, index.metric)
        ids = jnp.concatenate([list_ids[probed].reshape(-1), rest_ids])
        scores = jnp.where(ids > 0, jnp.concatenate([inside, outside]), -jnp.inf)
        place = index.places[jnp.clip(past, 0, len(index.places) - 1)]
        cluster = place // capacity
        rank = (probed[:, None] == cluster).argmax(axis=0)
        column = jnp.where(probed[rank] == cluster, rank * capacity + place % capacity, len(ids))
        over = cluster >= num_clusters
        column = jnp.where(over, probes * capacity + place - num_clusters * capacity, column)
        scores = scores.at[jnp.where(past > 0, column, len(ids))].set(-jnp.inf, mode="drop")
        value, best = jax.lax.top_k(scores, min(k, len(ids)))
        lowered, found = jax.lax.sort((-value, ids[best]), num_keys=2)
        return -lowered, jnp.where(lowered < jnp.inf, found, 0)

    gathered = (probes * capacity + len(rest)) * index.vectors.shape[1]
    at_a_time = min(max(1, RESCORED // gathered), len(queries))
    scores, ids = jax.lax.map(one, (prepared, seen), batch_size=at_a_time)
    missing = ((0, 0), (0, k - scores.shape[1]))
    return Best(jnp.pad(scores, missing, constant_values=-jnp.inf), jnp.pad(ids, missing), finite)


def _round_up(number: int) -> int:
    return -(-number // ROUND) * ROUND
