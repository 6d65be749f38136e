"""Propagation over the bipartite graph of users and items (`data.events.graph`).

A layer sums, for every user, weighted rows of its items, and for every item rows of its users: A X, in time
and memory linear in the edges. The gradient is the same sum over the edges in the other direction. With
`axis_name` tables, edges and degrees are a device's rows (`data.events.graph.split_rows`): it gathers the
table that it reads from, and sums into its own rows, forward and backward, in the order of a single device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.data.events.graph import Edges, Graph
from jaxrec.nn.layers.dropout import numbered_bits
from jaxrec.segments import sparse_product
from jaxrec.types import Array, Key


class Weights(NamedTuple):
    """The weight of each message of one direction, listed by user and by item, both float32 [E]."""

    by_user: Array
    by_item: Array


class Messages(NamedTuple):
    """Weights of the messages from items to users and from users to items. No gradient reaches them."""

    to_users: Weights
    to_items: Weights


def symmetric(graph: Graph) -> Messages:
    """Weights of D^-1/2 A D^-1/2 (Kipf and Welling, ICLR 2017)."""
    weights = Weights(jnp.asarray(graph.by_user.weight), jnp.asarray(graph.by_item.weight))
    return Messages(weights, weights)


def row_normalised(graph: Graph, axis_name: str | None = None) -> Messages:
    """Weights of D^-1 A: each node receives the mean of its neighbours."""
    shares = [1 / jnp.maximum(degree, 1) for degree in (graph.user_degree, graph.item_degree)]
    whole = [_whole(share, axis_name) for share in shares]

    def weights(ends: tuple[Edges, Array], begins: tuple[Edges, Array]) -> list[Array]:
        real = [edges.weight > 0 for edges in (ends[0], begins[0])]
        found = [ends[1].at[ends[0].row].get(mode="clip"), begins[1][begins[0].column]]
        return [jnp.where(mask, values, 0) for mask, values in zip(real, found, strict=True)]

    by_user, by_item = weights((graph.by_user, shares[0]), (graph.by_item, whole[0]))
    from_item, from_user = weights((graph.by_item, shares[1]), (graph.by_user, whole[1]))
    return Messages(Weights(by_user, by_item), Weights(from_user, from_item))


def drop_edges(key: Key, graph: Graph, messages: Messages, rate: float) -> Messages:
    """Drops each message with probability `rate` and scales the others by 1 / (1 - rate).

    The two directions of an edge are drawn apart, as LightGCN-PyTorch draws entries of the matrix. A message
    is told by the number of its edge: the draw is the same on any number of devices.
    """
    _check(rate)

    def drop(key: Key, weights: Weights) -> Weights:
        sides = (graph.by_user, weights.by_user), (graph.by_item, weights.by_item)
        return Weights(*(_kept(key, edges.number, values, rate) for edges, values in sides))

    to_users, to_items = jax.random.split(key)
    return Messages(drop(to_users, messages.to_users), drop(to_items, messages.to_items))


def drop_nodes(key: Key, rows: Array, rate: float, axis_name: str | None = None) -> Array:
    """Drops all messages that rows [N, D] send, a row with probability `rate`, and scales the others.

    The node dropout of NGCF (Wang et al., SIGIR 2019, section 2.4.2): apply it to what a layer sends.
    """
    _check(rate)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows.shape[0]
    number = first + jnp.arange(rows.shape[0], dtype=jnp.int32)
    return rows * _kept(key, number, jnp.ones(rows.shape[0], rows.dtype), rate)[:, None]


def propagate(
    graph: Graph, messages: Messages, users: Array, items: Array, axis_name: str | None = None
) -> tuple[Array, Array]:
    """What users receive from items [I + 1, D] and items from users [U + 1, D]: [U + 1, D], [I + 1, D].

    Nodes without edges receive zeros. With an axis name, all are a device's rows.
    """
    to_users, to_items = messages
    by_user, by_item = (jax.tree.map(jnp.asarray, edges) for edges in (graph.by_user, graph.by_item))
    return (
        _received(by_user, by_item, to_users.by_user, to_users.by_item, items, axis_name),
        _received(by_item, by_user, to_items.by_item, to_items.by_user, users, axis_name),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _received(
    edges: Edges, reverse: Edges, weight: Array, reverse_weight: Array, table: Array, axis_name: str | None
) -> Array:
    whole = _whole(table, axis_name)
    return sparse_product(edges.start, edges.row, edges.column, weight.astype(whole.dtype), whole)


def _received_forward(
    edges: Edges, reverse: Edges, weight: Array, reverse_weight: Array, table: Array, axis_name: str | None
) -> tuple[Array, tuple[Edges, Edges, Array, Array]]:
    found = _received(edges, reverse, weight, reverse_weight, table, axis_name)
    return found, (edges, reverse, weight, reverse_weight)


def _received_backward(
    axis_name: str | None, kept: tuple[Edges, Edges, Array, Array], gradient: Array
) -> tuple[None, None, None, None, Array]:
    edges, reverse, weight, reverse_weight = kept
    table = _received(reverse, edges, reverse_weight, weight, gradient, axis_name)
    return None, None, None, None, table


_received.defvjp(_received_forward, _received_backward)


def _whole(rows: Array, axis_name: str | None) -> Array:
    return rows if axis_name is None else jax.lax.all_gather(rows, axis_name, tiled=True)


def _kept(key: Key, number: Array, values: Array, rate: float) -> Array:
    """Values [N], zero where the random word of its number is below the rate, else over 1 - rate."""
    kept = numbered_bits(key, number) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(kept, values / (1 - rate), 0)


def _check(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate}: must be at least 0 and below 1")
