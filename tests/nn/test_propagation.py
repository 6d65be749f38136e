"""Propagation over a bipartite graph: the matrix products of the papers, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.graph import Graph, bipartite, split_rows
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.layers import propagation
from jaxrec.nn.layers.propagation import Messages
from jaxrec.nn.retrieval.lightgcn import combine_layers
from jaxrec.train import parallel
from jaxrec.types import Array
from tests.lowering import repeated_float_adds

NUM_USERS, NUM_ITEMS, DIM = 7, 10, 3
rng = np.random.default_rng(0)
# User 3 and items 2 and 9 have no edge.
MATRIX = (rng.random((NUM_USERS + 1, NUM_ITEMS + 1)) < 0.4).astype(np.float32)
MATRIX[[0, 3]] = 0
MATRIX[:, [0, 2, 9]] = 0
USERS, ITEMS = (rng.normal(size=(n + 1, DIM)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS))


@functools.cache
def graph() -> Graph:
    user, item = np.nonzero(MATRIX)
    return bipartite(TrainingEvents(user - 1, item, NUM_ITEMS), num_users=NUM_USERS)


def divided(matrix: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(matrix, by, out=np.zeros_like(matrix), where=matrix > 0)


def expected(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of the messages to users and to items."""
    users, items = MATRIX.sum(axis=1, keepdims=True), MATRIX.sum(axis=0, keepdims=True)
    if kind == "symmetric":
        both = divided(MATRIX, np.sqrt(users * items))
        return both, both.T
    return divided(MATRIX, np.broadcast_to(users, MATRIX.shape)), divided(MATRIX.T, items.T + 0 * MATRIX.T)


def messages(kind: str) -> Messages:
    return propagation.symmetric(graph()) if kind == "symmetric" else propagation.row_normalised(graph())


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["symmetric", "row"])
def test_a_layer_and_its_gradient_are_matrix_products(kind: str) -> None:
    to_users, to_items = expected(kind)
    weight = (
        np.sin(np.arange(USERS.size)).reshape(USERS.shape),
        np.cos(np.arange(ITEMS.size)).reshape(ITEMS.shape),
    )

    def run(users: Array, items: Array) -> Any:
        found, back = jax.vjp(functools.partial(propagation.propagate, graph(), messages(kind)), users, items)
        return found, back(tuple(jnp.asarray(w, jnp.float32) for w in weight))

    (users, items), (user_gradient, item_gradient) = jax.jit(run)(USERS, ITEMS)
    close(users, to_users @ ITEMS)
    close(items, to_items @ USERS)
    close(item_gradient, to_users.T @ weight[0])
    close(user_gradient, to_items.T @ weight[1])
    assert not np.asarray(users)[[0, 3]].any() and not np.asarray(items)[[0, 2, 9]].any()


def test_roots_of_degrees_stay_as_they_are() -> None:
    """They are an eigenvector of D^-1/2 A D^-1/2 with eigenvalue 1, the largest."""
    roots = [np.sqrt(degree)[:, None] for degree in (graph().user_degree, graph().item_degree)]
    for found, wanted in zip(
        propagation.propagate(graph(), messages("symmetric"), *roots), roots, strict=True
    ):
        close(found, wanted)
    assert np.linalg.norm(expected("symmetric")[0], 2) <= 1 + 1e-6


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("kind", ["symmetric", "row"])
def test_any_number_of_devices_computes_the_same(num_devices: int, kind: str) -> None:
    """Three layers with dropped edges and nodes, and their gradient."""
    weights, axis = (0.5, 0.25, 0.125, 0.125), parallel.AXIS

    def layers(users: Array, items: Array, graph: Graph, axis: str | None) -> Any:
        found = (
            propagation.symmetric(graph) if kind == "symmetric" else propagation.row_normalised(graph, axis)
        )
        found = propagation.drop_edges(jax.random.key(1), graph, found, 0.25)
        items = propagation.drop_nodes(jax.random.key(2), items, 0.2, axis)
        return combine_layers(graph, found, weights, users, items, axis)

    def run(users: Array, items: Array, graph: Graph, axis: str | None) -> Any:
        found, back = jax.vjp(lambda u, i: layers(u, i, graph, axis), users, items)
        return found, back(jax.tree.map(jnp.sin, found))

    whole = jax.jit(functools.partial(run, axis=None))(USERS, ITEMS, graph())
    split = jax.tree.map(
        functools.partial(parallel.shard_rows, num_devices=num_devices),
        (USERS, ITEMS, split_rows(graph(), num_devices)),
    )
    found = parallel.over_shards(functools.partial(run, axis=axis), num_devices, (True,) * 3)(*split)
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        close(ours[: len(wanted)], wanted)
        assert not np.asarray(ours)[len(wanted) :].any()


def test_dropped_edges_are_the_same_in_both_orders() -> None:
    rate, full = 0.3, messages("symmetric")
    found = propagation.drop_edges(jax.random.key(0), graph(), full, rate)
    for (by_user, by_item), weights in zip(found, full, strict=True):
        kept = np.asarray(by_user) > 0
        assert 0 < kept.sum() < len(kept)
        np.testing.assert_allclose(by_user, np.where(kept, weights.by_user / (1 - rate), 0), rtol=1e-6)
        np.testing.assert_array_equal(by_item, np.asarray(by_user)[graph().by_item.number])
    assert (np.asarray(found.to_users.by_user) != np.asarray(found.to_items.by_user)).any()


def test_shares_that_are_dropped_are_the_rate() -> None:
    rows = propagation.drop_nodes(jax.random.key(0), jnp.ones((4000, 2)), 0.25)
    kept = np.asarray(rows)[:, 0] > 0
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_allclose(rows, np.where(kept, 1 / 0.75, 0)[:, None] * np.ones(2), rtol=1e-6)
    close(propagation.drop_nodes(jax.random.key(0), jnp.ones((5, 2)), 0.0), np.ones((5, 2)))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_outside_0_to_1_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate={rate}: must be at least 0 and below 1"):
        propagation.drop_nodes(jax.random.key(0), USERS, rate)
    with pytest.raises(ValueError, match=f"rate={rate}"):
        propagation.drop_edges(jax.random.key(0), graph(), messages("symmetric"), rate)


def test_no_float_is_added_by_repeated_ids_on_cuda() -> None:
    def total(users: Array, items: Array, graph: Graph) -> Array:
        found = combine_layers(graph, propagation.symmetric(graph), (0.5, 0.5), users, items)
        return jnp.sum(found[0] ** 2) + jnp.sum(found[1] ** 2)

    traced = jax.jit(jax.grad(total, argnums=(0, 1))).trace(USERS, ITEMS, graph())
    assert repeated_float_adds(traced, "cuda") == []


def test_memory_on_cpu_is_that_of_tables_and_edges() -> None:
    """No row for each edge: the program holds no array of E times D numbers, forward or backward."""
    edges = int(MATRIX.sum())

    def total(users: Array, items: Array, graph: Graph) -> Array:
        found = propagation.propagate(graph, propagation.symmetric(graph), users, items)
        return jnp.sum(found[0] ** 2) + jnp.sum(found[1] ** 2)

    text = jax.jit(jax.grad(total, argnums=(0, 1))).lower(USERS, ITEMS, graph()).as_text()
    assert f"tensor<{edges}xf32>" in text and f"tensor<{edges}x{DIM}xf32>" not in text
    assert "scatter" not in text
