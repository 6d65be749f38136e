"""One order of all items whose every beginning divides a list among clusters as their intents ask for it.

Retrieval by clusters (Zhang et al., arXiv:2302.02657) merges a list of M items from M_k of each cluster k;
the quotas of `tasks.cluster_serving` round M p_k^a / sum_j p_j^a by largest remainders. Lists of two lengths
are then not one inside the other, which a ranking needs, whose first k items are its list of k. So quotas are
rounded here as Webster and Sainte-Laguë do for seats: the item that is r-th best of its cluster has the
priority p_k^a / (r - 1/2), and items are ranked by it. For a = 0 and a = inf both rules give the same lists.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.tasks.cluster_serving import cluster_retriever
from jaxrec.tasks.next_item import Encoder
from jaxrec.types import Array, Context, Scorer, Variables


def cluster_scorer(model: Encoder, *, alpha: float, exclude: bool = True, prompted: bool = True) -> Scorer:
    """A model of `tasks.cluster_retrieval` as ranking sees it: an item's score is the log of its priority.

    For alpha 0 and inf it is the item's place in the order, negative. Variables are those of
    `tasks.pairs.with_columns` with the column `cluster` [V + 1] of the cluster 0..K - 1 of each id; the model
    has K as `num_clusters`. Each query is read once a cluster, or once if the model has no prompts.

    Args:
      alpha: the exponent of intents: 0 takes an item of each cluster in turn, inf cluster after cluster.
      exclude: items of the history stand behind all others of their cluster, so that they take no place where
        they are no candidates. Items that only a request takes out do take a place.
      prompted: whether a cluster's prompt adapts the user's vector to it.

    Raises:
      ValueError: alpha is negative or not a number.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha}: must be 0 or more")
    return Scorer(functools.partial(_scores, model=model, alpha=alpha, exclude=exclude, prompted=prompted))


def _scores(
    variables: Variables,
    queries: Mapping[str, Array],
    context: Context,
    *,
    model: Encoder,
    alpha: float,
    exclude: bool,
    prompted: bool,
) -> Array:
    of, params = jnp.asarray(variables["columns"]["cluster"]), variables["model"]
    retriever = cluster_retriever(model, prompted=prompted)
    intent = retriever.intent(params, queries, context)
    table = retriever.items(params)[: of.shape[0]]

    def product(cluster: Array) -> Array:
        asked = queries["user"] * 0 + cluster
        return retriever.query(params, queries, context, asked) @ table.T

    def of_cluster(found: Array, cluster: Array) -> tuple[Array, None]:
        return jnp.where(of == cluster, product(cluster), found), None

    first = product(jnp.int32(0))
    clusters = jnp.arange(1, intent.shape[-1], dtype=jnp.int32)
    products = jax.lax.scan(of_cluster, first, clusters)[0] if prompted else first
    finite = jnp.isfinite(products) & jnp.isfinite(intent).all(axis=-1, keepdims=True)
    if exclude:
        products = jnp.where(seen_items(queries, context, of.shape[0]), -jnp.inf, products)
    return jnp.where(finite, by_priority(place_in_cluster(products, of), of, intent, alpha=alpha), jnp.nan)


def by_priority(place: Array, of: Array, intent: Array, *, alpha: float) -> Array:
    """Scores by which items are ranked, [B, V]: the log of p_k^alpha / (r - 1/2), see `cluster_scorer`.

    place: r, from 1, [B, V]. of: cluster of each item, [V]. intent: log-probabilities of clusters up to a
    constant, [B, K].
    """
    count = intent.shape[-1]
    of = jnp.minimum(of, count - 1)  # that of padding, which is none
    if 0 < alpha < math.inf:
        return alpha * jax.nn.log_softmax(intent)[:, of] - jnp.log(place - 0.5)
    order = jnp.argsort(-intent, axis=-1)
    number = jnp.argsort(order, axis=-1)  # of each cluster, the most probable first
    if alpha == 0:
        return -((place - 1) * count + number[:, of]).astype(intent.dtype)
    sizes = (of[:, None] == jnp.arange(count)).sum(axis=0)
    before = jnp.cumsum(sizes[order], axis=-1) - sizes[order]
    return -(jnp.take_along_axis(before, number, axis=-1)[:, of] + place).astype(intent.dtype)


def place_in_cluster(scores: Array, of: Array) -> Array:
    """How many items of an item's cluster score at least as high, itself among them: [B, V] → int32 [B, V].

    of: cluster of each item, [V].
    """
    item = jnp.broadcast_to(jnp.arange(of.shape[0], dtype=jnp.int32), scores.shape)
    cluster, falling, item = jax.lax.sort((jnp.broadcast_to(of, scores.shape), -scores, item), num_keys=2)
    position = jnp.arange(of.shape[0], dtype=jnp.int32)
    begins = jnp.searchsorted(jnp.sort(of), of).astype(jnp.int32)  # of each item's cluster, in sorted order

    def changes(column: Array) -> Array:
        """Whether the next entry is another one; True at the end."""
        return jnp.pad(column[:, 1:] != column[:, :-1], ((0, 0), (0, 1)), constant_values=True)

    last = jnp.where(changes(cluster) | changes(falling), position, of.shape[0])
    last = jax.lax.cummin(last, axis=1, reverse=True)  # position of the last item that ties with this one
    rows = jnp.arange(scores.shape[0])[:, None]
    return jnp.zeros(scores.shape, jnp.int32).at[rows, item].set(last + 1) - begins


def seen_items(queries: Mapping[str, Array], context: Context, size: int) -> Array:
    """Which of the ids 0..size - 1 are in the histories of queries, of any length: bool [B, size]."""
    items = jnp.asarray(context["items"])
    start, length = jnp.asarray(context["start"])[queries["user"]], queries["length"]
    rows = jnp.arange(start.shape[0])

    def add_event(place: Array, seen: Array) -> Array:
        real = place < length
        return seen.at[rows, jnp.where(real, items[jnp.where(real, start + place, 0)], 0)].set(True)

    longest = jnp.minimum(length.max(), items.shape[0])
    return jax.lax.fori_loop(0, longest, add_event, jnp.zeros((start.shape[0], size), bool))
