"""Weighted random walks over a graph of items, and their pairs of skip-gram (DeepWalk, arXiv:1403.6652)."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Key


class Graph(Protocol):
    """`data.events.item_graph.ItemGraph`."""

    @property
    def target(self) -> Array: ...
    @property
    def upto(self) -> Array: ...
    @property
    def before(self) -> Array: ...
    @property
    def total(self) -> Array: ...


class Edges(Protocol):
    """`data.events.graph.Edges`."""

    @property
    def start(self) -> Array: ...
    @property
    def column(self) -> Array: ...


class UserItemGraph(Protocol):
    """`data.events.graph.Graph`."""

    @property
    def by_user(self) -> Edges: ...
    @property
    def by_item(self) -> Edges: ...


def random_walks(key: Key, graph: Graph, start: Array, *, length: int) -> Array:
    """Walks from items: int32 [B] → int32 [B, length], the start first, 0 after an item that nothing follows.

    The next item is j with probability count(i → j) / total(i), drawn exactly: a whole number below the total
    is looked up among the running sums of the counts by a binary search.

    Raises:
      ValueError: length is below 2.
    """
    if length < 2:
        raise ValueError(f"length={length}: must be at least 2, the start and one item after it")

    graph = jax.tree.map(jnp.asarray, graph)  # of the host outside a program

    def step(item: Array, key: Key) -> tuple[Array, Array]:
        total = graph.total[item]
        drawn = graph.before[item] + jax.random.randint(key, item.shape, 0, jnp.maximum(total, 1))
        edge = jnp.searchsorted(graph.upto, drawn, side="right")
        following = jnp.where(total > 0, graph.target.at[edge].get(mode="clip"), 0)
        return following, following

    _, rest = jax.lax.scan(step, start, jax.random.split(key, length - 1))
    return jnp.concatenate([start[None], rest]).T


def walks_through_users(key: Key, graph: UserItemGraph, start: Array, *, length: int) -> Array:
    """Walks item → user → item …, each step along a uniform edge: int32 [B] → the items, int32 [B, length].

    For data whose events have no order. A walk may come back to an item; one from an item that no user has
    is 0 after it.

    Raises:
      ValueError: length is below 2.
    """
    if length < 2:
        raise ValueError(f"length={length}: must be at least 2, the start and one item after it")
    graph = jax.tree.map(jnp.asarray, graph)  # of the host outside a program

    def along(key: Key, edges: Edges, row: Array) -> Array:
        first = edges.start[row]
        number = edges.start[row + 1] - first
        edge = first + jax.random.randint(key, row.shape, 0, jnp.maximum(number, 1))
        return jnp.where(number > 0, edges.column.at[edge].get(mode="clip"), 0)

    def step(item: Array, key: Key) -> tuple[Array, Array]:
        to_user, to_item = jax.random.split(key)
        following = along(to_item, graph.by_user, along(to_user, graph.by_item, item))
        return following, following

    _, rest = jax.lax.scan(step, start, jax.random.split(key, length - 1))
    return jnp.concatenate([start[None], rest]).T


def skip_grams(walks: Array, *, window: int) -> tuple[Array, Array]:
    """Each item of a walk with the others at most `window` steps away: [B, T] → (centre, context), [B, P].

    Both are 0 for pairs past the end of a walk. P is 2 Σ_d (T - d) over the distances d.

    Raises:
      ValueError: the window is below 1.
    """
    if window < 1:
        raise ValueError(f"window={window}: must be at least 1")
    place = np.arange(walks.shape[1])
    distance = np.abs(place[:, None] - place)
    centre, context = np.nonzero((distance > 0) & (distance <= window))
    found, beside = walks[:, centre], walks[:, context]
    real = (found > 0) & (beside > 0)
    return jnp.where(real, found, 0), jnp.where(real, beside, 0)
