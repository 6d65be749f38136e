"""The structure model of Deep Retrieval: probabilities of paths, the classifier it is without layers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index.paths import codes_of
from jaxrec.index.paths_learning import draw_paths
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.retrieval.deep_retrieval import DeepRetrieval, GRUOfHistory, MeanOfHistory

SIZES: dict[str, Any] = {"num_items": 20, "draw": draw_paths, "dim": 6, "max_len": 5}
SMALL: Any = DeepRetrieval(**SIZES, num_codes=3, depth=3, paths_per_item=2, hidden_dims=(7,))
HISTORIES = jnp.array([[0, 0, 4, 1, 2], [9, 8, 7, 6, 5], [0, 0, 0, 0, 0]])
EVERY = codes_of(jnp.arange(27), num_codes=3, depth=3)


@functools.cache
def variables(model: Any = SMALL) -> Any:
    found = jax.jit(model.init)(jax.random.key(0), HISTORIES)
    params = jax.tree.map(lambda leaf: leaf + 0.3, found["params"])  # no bias is 0
    return {**found, "params": params}


def users(model: Any = SMALL, histories: Any = HISTORIES) -> jax.Array:
    found: jax.Array = model.apply(variables(model), histories)
    return found


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_probabilities_of_all_paths_sum_to_one(depth: int) -> None:
    model = SMALL.clone(depth=depth)
    every = jnp.broadcast_to(codes_of(jnp.arange(3**depth), num_codes=3, depth=depth), (3, 3**depth, depth))
    found = model.apply(variables(model), users(model), every, method="path_log_prob")
    np.testing.assert_allclose(jnp.exp(found).sum(axis=1), 1.0, rtol=1e-5)
    assert len(np.unique(np.round(np.asarray(found), 6))) > 1


def test_a_path_is_as_probable_as_its_codes_one_after_the_other() -> None:
    x = users()
    path = jnp.array([2, 0, 1])
    steps = [
        SMALL.apply(variables(), x, jnp.broadcast_to(path[:d], (3, 1, d)), method="next_code")[:, 0, path[d]]
        for d in range(3)
    ]
    found = SMALL.apply(variables(), x, jnp.broadcast_to(path, (3, 1, 3)), method="path_log_prob")
    np.testing.assert_allclose(found[:, 0], sum(steps), rtol=1e-5)


def test_a_layer_reads_the_user_and_the_codes_so_far() -> None:
    params = variables()["params"]
    x = np.asarray(users(), np.float64)
    tables = np.asarray(params["code_embedding"], np.float64).reshape(2, 3, 6)
    inputs = np.concatenate([x, *(np.broadcast_to(v, x.shape) for v in (tables[0, 1], tables[1, 2]))], axis=1)
    layer, out = params["layers_2"]["layer_0"], params["outputs_2"]
    hidden = np.maximum(inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    logits = hidden @ np.asarray(out["kernel"]) + np.asarray(out["bias"])
    by_hand = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    begun = jnp.broadcast_to(jnp.array([1, 2]), (3, 1, 2))
    found = SMALL.apply(variables(), users(), begun, method="next_code")[:, 0]
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-5)


def test_one_layer_with_a_node_for_each_item_is_a_softmax_classifier() -> None:
    def own(key: Any, *, num_items: int, paths_per_item: int, num_paths: int) -> jax.Array:
        return jnp.arange(-1, num_items)[:, None]

    model: Any = DeepRetrieval(20, own, 6, 5, num_codes=20, depth=1, paths_per_item=1, hidden_dims=())
    held, x = variables(model), users(model)
    of_items = model.apply(held, jnp.arange(1, 21), method="paths_of")
    paths = jnp.broadcast_to(of_items, (3, 20, 1))
    found = model.apply(held, x, paths, method="path_log_prob")
    out = held["params"]["outputs_0"]
    np.testing.assert_allclose(found, jax.nn.log_softmax(x @ out["kernel"] + out["bias"]), rtol=1e-5)


@pytest.mark.parametrize("reader", [Factory(MeanOfHistory, dims=(8,)), Factory(GRUOfHistory)])
def test_padding_and_other_users_change_nothing(reader: Any) -> None:
    model = SMALL.clone(reader=reader)
    found = users(model)
    np.testing.assert_allclose(users(model, HISTORIES[:1]), found[:1], rtol=1e-5)
    np.testing.assert_allclose(users(model, HISTORIES[:1, 1:]), found[:1], rtol=1e-5)
    assert jnp.isfinite(found).all()
    turned = users(model, HISTORIES[:, ::-1])[1]
    same = np.allclose(turned, found[1], rtol=1e-5)
    assert same == (reader.func is MeanOfHistory)


def test_items_are_on_distinct_paths_that_no_gradient_reaches() -> None:
    held = variables()
    numbers = np.asarray(held["paths"]["of_items"])
    assert numbers.shape == (21, 2) and numbers.dtype == np.int32
    assert all(len(set(row)) == 2 for row in numbers[1:].tolist())
    assert SMALL.apply(held, jnp.array([[1, 0]]), method="paths_of").tolist() == [numbers[:2][::-1].tolist()]
    assert SMALL.apply(held, jnp.array([-1, 21]), method="paths_of").tolist() == [[-2, -2], [-2, -2]]
    assert set(held) == {"params", "paths"}


def test_tables_of_events_and_classes_are_one_or_two() -> None:
    assert "class_embedding" in variables()["params"]
    model = SMALL.clone(shared=True)
    assert "class_embedding" not in variables(model)["params"]
    table = model.apply(variables(model), method="item_table")
    np.testing.assert_array_equal(table, variables(model)["params"]["item_embedding"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codes": 0}, "num_codes=0: must be at least 1"),
        ({"depth": 0}, "depth=0"),
        ({"num_codes": 3000, "depth": 3}, "num_codes=3000, depth=3: num_codes"),
        ({"paths_per_item": 30}, "paths_per_item=30: must lie in 1..27"),
        ({"max_len": 4}, "sequences of length 5: max_len=4"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.clone(**change).init(jax.random.key(0), HISTORIES)


def test_prefixes_of_whole_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="prefixes of 3 codes: must have 0..2"):
        SMALL.apply(variables(), users(), EVERY[None, :1].repeat(3, axis=0), method="next_code")
