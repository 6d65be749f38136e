"""Serving retrieval by clusters (Zhang et al., arXiv:2302.02657): quotas, the merged list and its recall.

Of the M items of a list cluster k gives its M_k best, where M_k = M p_k^a / sum_j p_j^a follows from how
probable the cluster is to hold the next item: a = 0 gives equal shares, a = inf all to the most probable one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics, packing
from jaxrec.data.events.clusters import Clusters
from jaxrec.index import chunked
from jaxrec.index.chunked import Block
from jaxrec.packing import Packing
from jaxrec.tasks.cluster_retrieval import at_slots, encode, intent_logits
from jaxrec.tasks.next_item import Encoder, item_table, last_hidden, query_batch
from jaxrec.types import Array, Context, Retriever, Variables


class ClusterRetriever(NamedTuple):
    """A model as serving sees it: a score is the product of an item's vector with one of query and cluster.

    query(variables, queries, context, cluster [B]) -> [B, D]; items(variables) -> [V, D];
    intent(variables, queries, context) -> logits of the clusters [B, K].
    """

    query: Callable[[Variables, Mapping[str, Array], Context, Array], Array]
    items: Callable[[Variables], Array]
    intent: Callable[[Variables, Mapping[str, Array], Context], Array]


def cluster_retriever(
    model: Encoder, packed: Packing | None = None, *, prompted: bool = True
) -> ClusterRetriever:
    """The model of `cluster_retrieval`: a query is read up to its last event, under its cluster's prompt."""

    def query(variables: Variables, queries: Mapping[str, Array], context: Context, cluster: Array) -> Array:
        batch = query_batch(queries, context, packed, model.max_len)
        if prompted:
            batch = {**batch, "clusters": at_slots(cluster, batch["segments"])}
        return last_hidden(encode(model, variables, batch, None), queries, packed, model.max_len)

    def intent(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        batch = query_batch(queries, context, packed, model.max_len)
        return last_hidden(intent_logits(model, variables, batch, None), queries, packed, model.max_len)

    return ClusterRetriever(query, functools.partial(item_table, model), intent)


def over_all_items(retriever: Retriever) -> ClusterRetriever:
    """Any retriever with all items in one cluster: the list is the M items of highest score."""

    def query(variables: Variables, queries: Mapping[str, Array], context: Context, cluster: Array) -> Array:
        return retriever.query(variables, queries, context)

    def intent(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        return jnp.zeros((queries["user"].shape[0], 1))

    return ClusterRetriever(query, retriever.items, intent)


def quotas(intent: Array, total: int | Array, *, alpha: float, capacity: Array | None = None) -> Array:
    """Items that each cluster gives to a list of `total`: logits [..., K] → int32 [..., K].

    Shares are rounded down, and the clusters of largest remainder give one more, of equal remainders the more
    probable cluster first, then the first: a quota is less than 1 away from its share, and all add up to
    `total`. A cluster whose share is more than it holds gives all it has, and the others share the rest by
    the same rule; the sum falls short only where all clusters together hold fewer.

    Args:
      intent: log-probabilities of the clusters, up to a constant.
      total: length of the list, below 2^20.
      alpha: the exponent, 0 or more; inf serves clusters one after the other, the most probable first.
      capacity: items that each cluster can give, int [..., K]; None for no limit.

    Raises:
      ValueError: alpha is negative or not a number.

    >>> quotas(jnp.log(jnp.array([0.5, 0.3, 0.2])), 7, alpha=1.0)
    Array([4, 2, 1], dtype=int32)
    """
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha}: must be 0 or more")
    total = jnp.asarray(total, jnp.int32)
    most = jnp.broadcast_to(total if capacity is None else jnp.asarray(capacity, jnp.int32), intent.shape)

    def shares(open_: Array) -> tuple[Array, Array]:
        """What is left to the open clusters, and its division among them."""
        left = jnp.maximum(total - jnp.where(open_, 0, most).sum(axis=-1, keepdims=True), 0)
        below = intent - jnp.where(open_, intent, -jnp.inf).max(axis=-1, keepdims=True)
        exponent = jnp.where(below == 0, 0.0, alpha * jnp.where(below == 0, -1.0, jnp.maximum(below, -1e30)))
        weight = jnp.where(open_, jnp.exp(exponent), 0.0)
        return left, left * weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1.0)

    def close(_: int, open_: Array) -> Array:
        """Closes the clusters that their share would empty; those left over may then be next."""
        return open_ & (shares(open_)[1] < most)

    open_ = jax.lax.fori_loop(0, intent.shape[-1], close, jnp.ones(intent.shape, bool))
    left, share = shares(open_)
    whole = jnp.floor(share).astype(jnp.int32)
    missing = left - whole.sum(axis=-1, keepdims=True)
    remainder = jnp.where(open_, share - whole, -1.0)
    order = jnp.lexsort((-intent, -remainder))
    place = jnp.argsort(order, axis=-1)
    return jnp.where(open_, whole + (place < missing), most)


def merged_list(
    vectors: Array,
    table: Array,
    clusters: Clusters,
    quota: Array,
    intent: Array,
    seen: Array | None = None,
    *,
    total: int,
) -> Array:
    """The list that is served: ids int32 [B, total], no item twice, 0 where clusters have no more to give.

    The most probable cluster comes first, and within a cluster the item of highest score. Holds a score for
    each user, cluster and place in the largest cluster: give it users in blocks.

    Args:
      vectors: of each user for each cluster, [B, K, D]. table: of the items, [V, D].
      quota: items of each cluster, int [B, K], see `quotas`. intent: logits of the clusters, [B, K].
      seen: ids that are no candidates, filled up with 0, [B, S].
    """
    count, widest = clusters.num_clusters, int(clusters.sizes.max())
    slot = clusters.start[:-1, None] + np.arange(widest)
    real = slot < clusters.start[1:, None]
    ids = np.where(real, clusters.members[np.where(real, slot, 0)], 0)  # [K, W]
    out = jnp.broadcast_to(~real, (vectors.shape[0], count, widest))
    if seen is not None:
        out = out | metrics.seen_mask(seen, table.shape[0])[:, ids]
    scores = jnp.where(out, -jnp.inf, jnp.einsum("bkd,kwd->bkw", vectors, table[ids]))
    best, place = jax.lax.top_k(scores, min(widest, total))
    chosen = jnp.asarray(ids)[jnp.arange(count)[:, None], place]  # [B, K, min(W, total)]
    rank = jnp.arange(best.shape[-1])
    kept = (rank < quota[..., None]) & (best > -jnp.inf)
    given = kept.sum(axis=-1)
    order = jnp.argsort(-intent, axis=-1)
    before = jnp.cumsum(jnp.take_along_axis(given, order, axis=-1), axis=-1)
    before = jnp.take_along_axis(before, jnp.argsort(order, axis=-1), axis=-1) - given
    to = jnp.where(kept, before[..., None] + rank, total)
    rows = jnp.arange(vectors.shape[0])[:, None, None]
    return jnp.zeros((vectors.shape[0], total), jnp.int32).at[rows, to].set(chosen, mode="drop")


def make_recall(
    retriever: ClusterRetriever,
    clusters: Clusters,
    ks: Sequence[int],
    *,
    alpha: float,
    history: int,
    block: int = chunked.BLOCK,
) -> Callable[[Variables, Mapping[str, Array], Context], tuple[Array, Array]]:
    """A measure: whether the target is in the list, for lists of each length: float [batches, B, len(ks)].

    No list is made: a target is in it where it ranks, among the items of its own cluster, within the quota of
    that cluster. Ranks are counted a block of items at a time; ties rank the target last. Items of the input
    are no candidates, so their clusters have fewer to give, and a target among them is in no list.

    queries, context: see `index.rank.make_rank`, also for the second output. history: longest input.

    Raises:
      ValueError (while tracing): the item table has fewer rows than the clusters have items.
    """
    num_items, count = len(clusters.members), clusters.num_clusters
    cluster_of, sizes = jnp.asarray(clusters.of), jnp.asarray(clusters.sizes)
    lengths = jnp.asarray(ks, jnp.int32)

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        table = retriever.items(variables)
        if table.shape[0] <= num_items:
            raise ValueError(
                f"clusters: of {num_items} items, but the model's item table has {table.shape[0]} rows, with "
                "padding; build the model with as many items as were divided"
            )
        items = chunked.cut(table, count=num_items, block=block)

        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            known = (queries["target"] >= 1) & (queries["target"] <= num_items)
            target = jnp.where(known, queries["target"], 1)  # 0 in the padded tail
            own = cluster_of[target]
            scores = chunked.products(retriever.query(variables, queries, context, own), items)
            target_score = chunked.target_scores(scores, target)
            intent = retriever.intent(variables, queries, context)
            length = queries["length"]
            end = context["start"][queries["user"]] + length
            seen = packing.window(context["items"], end, length, history)
            there = packing.has_events(queries, context) & (length <= history)
            repeated = (seen == target[:, None]).any(axis=1)

            def count_rivals(found: tuple[Array, Array, Array], block: Block) -> tuple[Array, Array, Array]:
                """Rivals in the target's cluster that score as high; seen items of each cluster; finite."""
                above, gone, finite = found
                of = jnp.where(block.real, cluster_of[block.ids], count)  # no cluster past the last item
                marks = metrics.seen_mask(seen, len(block.ids), first=block.ids[0])
                rivals = (block.ids != target[:, None]) & ~marks & (of == own[:, None])
                per_cluster = (marks.astype(jnp.float32) @ jax.nn.one_hot(of, count)).astype(jnp.int32)
                higher = metrics.count_above(block.scores, target_score, where=rivals)
                return above + higher, gone + per_cluster, finite & block.finite

            users = len(target)
            above, gone, finite = scores.fold(
                count_rivals,
                (jnp.zeros(users, jnp.int32), jnp.zeros((users, count), jnp.int32), jnp.ones(users, bool)),
            )
            share = jax.vmap(lambda total: quotas(intent, total, alpha=alpha, capacity=sizes - gone))(lengths)
            allowed = jnp.take_along_axis(share, own[None, :, None], axis=-1)[..., 0]  # [len(ks), B]
            found = ((1 + above <= allowed) & ~repeated).T.astype(jnp.float32)
            bad = ~(finite & jnp.isfinite(intent).all(axis=1) & known & there)
            return found, jnp.sum(bad & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    return measure


def recall_metrics(ks: Sequence[int]) -> Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, float]]:
    """Means over real queries of what `make_recall` measured: recall@M, for each length M of a list."""

    def mean_recall(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        means = np.asarray(values, np.float64)[np.asarray(queries["mask"])].mean(axis=0)
        return {f"recall@{k}": float(mean) for k, mean in zip(ks, means, strict=True)}

    return mean_recall
