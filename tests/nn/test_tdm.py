"""TDM's network against loops over nodes, windows and levels; padding, order, and statistics of batches."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.retrieval.tdm import TDM, NodeNetwork, WindowAttention, of_level
from jaxrec.types import Array
from tests.nn.drawn import drawn

WINDOWS = (3, 1, 2)
SMALL: dict[str, Any] = {"num_ids": 20, "dim": 4, "windows": WINDOWS, "dims": (5, 3)}
MODELS = {
    "attention": TDM(**SMALL, attention=(6,)),
    "two layers, one output": TDM(**SMALL, attention=(6, 3), outputs=1, batch_norm=False),
    "means": TDM(**SMALL, attention=None),
}
RNG = np.random.default_rng(0)
HISTORY = RNG.integers(1, 21, (3, 6))
HISTORY[0, :2], HISTORY[2] = 0, 0  # a short one, and one of no events
NODES = RNG.integers(1, 21, (3, 4))


@functools.cache
def variables(name: str) -> Any:
    return drawn(MODELS[name], HISTORY, NODES)


def apply(name: str, history: Any, nodes: Any, *level: Any) -> np.ndarray:
    return np.asarray(jax.jit(MODELS[name].apply)(variables(name), history, nodes, *level))


def slow_attention(params: Any, node: np.ndarray, events: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[W · D] of one node and one history."""
    weights = []
    for event in events:
        x = np.concatenate([event, node * event, node]) @ params["kernel"] + params["bias"]
        i = 1
        while f"layer_{i}" in params:
            slope = params[f"activation_{i - 1}"]["alpha"]
            x = np.where(x > 0, x, slope * x) @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
            i += 1
        weights.append(float(x[0]))
    parts, first = [], 0
    for size in WINDOWS:
        real = [t for t in range(first, first + size) if mask[t]]
        total = sum((weights[t] * events[t] for t in real), np.zeros(events.shape[1]))
        parts.append(total / max(1, len(real)))
        first += size
    return np.concatenate(parts)


def test_the_attention_is_that_of_a_loop() -> None:
    module = WindowAttention(WINDOWS, (6, 3))
    node, events = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 6, 4))
    mask = np.array([[False, False, True, True, True, True], [True] * 6])
    weights = drawn(module, node, events, mask)
    found = jax.jit(module.apply)(weights, jnp.float32(node), jnp.float32(events), mask)
    for row in range(2):
        for place in range(3):
            expected = slow_attention(weights["params"], node[row, place], events[row], mask[row])
            np.testing.assert_allclose(found[row, place], expected, rtol=2e-5, atol=2e-5)


def slow_network(params: Any, stats: Any, x: np.ndarray) -> np.ndarray:
    """The layers behind the windows, on [windows, node]; batch norm by running statistics."""
    x = x @ params["kernel"] + params["bias"]
    for i in range(2):
        norm, slope = params[f"norm_{i}"], params[f"activation_{i}"]["alpha"]
        moments = stats[f"norm_{i}"]
        x = (x - moments["mean"]) / np.sqrt(moments["var"] + 1e-5) * norm["scale"] + norm["bias"]
        x = np.where(x > 0, x, slope * x)
        last = params["logit" if i == 1 else f"layer_{i + 1}"]
        x = x @ last["kernel"] + last["bias"]
    return x


@pytest.mark.parametrize("name", ["attention", "means"])
def test_logits_are_those_of_a_loop(name: str) -> None:
    given = variables(name)
    table = np.asarray(given["params"]["embedding"])
    params, stats = given["params"]["network"], given["batch_stats"]["network"]
    found = apply(name, HISTORY, NODES)
    for row in range(3):
        events, mask = table[HISTORY[row]], HISTORY[row] != 0
        for place, node in enumerate(NODES[row]):
            if name == "attention":
                windows = slow_attention(params["attention"], table[node], events, mask)
            else:
                parts = np.split(np.arange(6), np.cumsum(WINDOWS)[:-1])
                sums = [(events * mask[:, None])[part].sum(axis=0) for part in parts]
                counts = [max(1, mask[part].sum()) for part in parts]
                windows = np.concatenate([a / b for a, b in zip(sums, counts, strict=True)])
            two = slow_network(params, stats, np.concatenate([windows, table[node]]))
            np.testing.assert_allclose(found[row, place], two[1] - two[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_score_depends_on_its_own_row_and_node(name: str) -> None:
    whole = apply(name, HISTORY, NODES)
    np.testing.assert_allclose(apply(name, HISTORY[1:2], NODES[1:2, 2:3]), whole[1:2, 2:3], rtol=1e-5)
    shuffled = apply(name, HISTORY[::-1], NODES[::-1])
    np.testing.assert_allclose(shuffled[::-1], whole, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_within_a_window_the_order_says_nothing(name: str) -> None:
    """So a single window is for histories without order; across windows it matters."""
    inside, across = HISTORY.copy(), HISTORY.copy()
    inside[:, :3], inside[:, 4:] = HISTORY[:, [2, 0, 1]], HISTORY[:, [5, 4]]
    across[:, [0, 5]] = HISTORY[:, [5, 0]]
    whole = apply(name, HISTORY, NODES)
    np.testing.assert_allclose(apply(name, inside, NODES), whole, rtol=1e-4, atol=1e-6)
    assert np.abs(apply(name, across, NODES)[1] - whole[1]).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_no_event_and_has_no_gradient(name: str) -> None:
    model = MODELS[name]

    def total(given: Any) -> Array:
        logits: Any = model.apply(given, HISTORY, NODES)
        return jnp.sum(logits**2)

    gradient = jax.jit(jax.grad(total))(variables(name))
    assert not np.any(gradient["params"]["embedding"][0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    other = jax.tree.map(np.array, variables(name))
    other["params"]["embedding"][0] = 7.0
    found = jax.jit(model.apply)(other, HISTORY, NODES)
    np.testing.assert_allclose(found, apply(name, HISTORY, NODES), rtol=1e-5)


def test_a_node_reads_the_history_of_its_level() -> None:
    several = RNG.integers(0, 21, (3, 2, 6))
    level = np.array([0, 1, 1, 0])
    found = apply("means", several, NODES, level)
    alone = [apply("means", several[:, j], NODES) for j in range(2)]
    np.testing.assert_allclose(found, np.where(level == 0, *alone), rtol=1e-5)
    of_rows = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]])
    mixed = apply("means", several, NODES, of_rows)
    np.testing.assert_allclose(mixed, np.where(of_rows == 0, *alone), rtol=1e-5)
    same = apply("means", np.broadcast_to(HISTORY[:, None], (3, 2, 6)), NODES, level)
    np.testing.assert_allclose(same, apply("means", HISTORY, NODES), rtol=1e-5)


def test_values_of_levels_are_picked_exactly() -> None:
    values = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
    level = np.array([2, 0, 2])
    for given in (level, np.broadcast_to(level, (2, 3))):
        np.testing.assert_array_equal(of_level(values, jnp.asarray(given)), values[:, level])


def test_training_moves_running_statistics_and_no_score_of_evaluation() -> None:
    model, given = MODELS["attention"], variables("attention")
    _, updated = jax.jit(lambda v: model.apply(v, HISTORY, NODES, train=True, mutable=["batch_stats"]))(given)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, updated["batch_stats"], given["batch_stats"])
    assert all(jax.tree.leaves(moved))
    assert "batch_stats" not in variables("two layers, one output")


def test_padded_nodes_do_not_enter_the_statistics_of_a_batch() -> None:
    model, given = MODELS["attention"], variables("attention")

    def trained(history: Any, nodes: Any) -> Any:
        return model.apply(given, history, nodes, train=True, mutable=["batch_stats"])

    logits, updated = jax.jit(trained)(HISTORY, NODES)
    empty = np.zeros((2, 6), np.int64)
    filled = np.pad(NODES, ((0, 2), (0, 3)))
    more, same = jax.jit(trained)(np.concatenate([HISTORY, empty]), filled)
    np.testing.assert_allclose(more[:3, :4], logits, rtol=1e-4, atol=1e-5)
    for found, expected in zip(jax.tree.leaves(same), jax.tree.leaves(updated), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_devices_share_the_statistics_of_the_attention_unit_too() -> None:
    """Scores and running statistics of halves of a batch are those of the whole, in Dice of all layers."""
    alone: Any = TDM(**SMALL, attention=(6,), activation=Dice)
    given = drawn(alone, HISTORY, NODES)
    history, nodes = np.concatenate([HISTORY, HISTORY[:1]]), np.concatenate([NODES, NODES[1:2]])

    def run(model: Any, history: Any, nodes: Any) -> Any:
        return model.apply(given, history, nodes, train=True, mutable=["batch_stats"])

    whole, after = jax.jit(functools.partial(run, alone))(history, nodes)
    shared = functools.partial(run, alone.clone(axis_name="devices"))
    parts, synchronised = jax.jit(jax.vmap(shared, axis_name="devices"))(
        history.reshape(2, 2, -1), nodes.reshape(2, 2, -1)
    )
    np.testing.assert_allclose(parts.reshape(4, -1), whole, rtol=1e-4, atol=1e-4)
    for found, expected in zip(jax.tree.leaves(synchronised), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(found, np.stack([expected] * 2), rtol=1e-4, atol=1e-5)


def test_narrow_nodes_and_further_features() -> None:
    network = NodeNetwork(WINDOWS, WindowAttention(WINDOWS, (3,), nn.relu, PReLU), (4,), batch_norm=False)
    node, events = jnp.ones((2, 3, 2)), jnp.asarray(RNG.normal(size=(2, 6, 4)), jnp.float32)
    mask, other = jnp.ones((2, 6), bool), jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32)
    given = drawn(network, node, events, mask, other=other)
    run = jax.jit(network.apply)
    assert given["params"]["kernel"].shape == (3 * 4 + 4 + 5, 4)
    wide = jnp.pad(node, ((0, 0), (0, 0), (0, 2)))
    found = run(given, node, events, mask, other=other)
    np.testing.assert_array_equal(found, run(given, wide, events, mask, other=other))
    assert np.abs(found - run(given, node, events, mask, other=other + 1)).max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_ids": 0}, "num_ids=0"),
        ({"windows": ()}, "windows of at least 1 slot"),
        ({"windows": (3, 0)}, "windows of at least 1 slot"),
        ({"dims": ()}, "at least one layer"),
        ({"outputs": 3}, "1 output or 2"),
        ({"windows": (3, 2)}, r"windows=\(3, 2\): must add up to 6"),
    ],
)
def test_bad_fields_are_refused(fields: Any, message: str) -> None:
    model = TDM(**{**SMALL, "attention": None, **fields})
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), HISTORY, NODES)


def test_several_histories_need_levels_and_no_attention() -> None:
    several = np.broadcast_to(HISTORY[:, None], (3, 2, 6))
    for name, level in (("attention", np.zeros(4, np.int32)), ("means", None)):
        with pytest.raises(ValueError, match="give the level of each node"):
            MODELS[name].apply(variables(name), several, NODES, level)
