"""GRU4Rec an event a call, and in the authors' form: one table, no projection, a bias of each item."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.types import Array, Variables

NUM_ITEMS, DIM = 9, 4
MODEL = GRU4Rec(
    NUM_ITEMS, dim=DIM, hidden_dim=DIM, num_layers=2, dropout=0.0, use_bias=True, projection=False,
    item_bias=True, embedding_init=nn.initializers.glorot_uniform(),
)  # fmt: skip
ITEMS = np.array([[3, 1, 9, 4], [2, 2, 5, 1], [7, 8, 1, 1]], np.int32)


def drawn(model: GRU4Rec) -> Variables:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ITEMS, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.7 * rng.normal(size=leaf.shape).astype(np.float32), shapes)


VARIABLES = drawn(MODEL)


def read(model: GRU4Rec, variables: Variables, items: Array, start: Array) -> tuple[Array, Array]:
    """Outputs [B, L, D] and states [B, L, layers, H] of one step after the other from a state."""

    def step(state: Array, column: Array) -> tuple[Array, tuple[Array, Array]]:
        apply: Any = model.apply
        out, state = apply(variables, column, state, train=False, method="step")
        return state, (out, state)

    _, (outs, states) = jax.lax.scan(step, start, items.T)
    return outs.swapaxes(0, 1), states.swapaxes(0, 1)


RUN = jax.jit(lambda variables, items, start: read(MODEL, variables, items, start))


@pytest.mark.parametrize("projection", [True, False])
def test_steps_give_the_outputs_of_the_whole_sequence(projection: bool) -> None:
    model = MODEL if not projection else GRU4Rec(NUM_ITEMS, dim=DIM, hidden_dim=6, dropout=0.0)
    variables = VARIABLES if not projection else drawn(model)
    whole, stepped = jax.jit(
        lambda v: (model.apply(v, ITEMS, train=False), read(model, v, jnp.asarray(ITEMS), model.start(3))[0])
    )(variables)
    np.testing.assert_allclose(stepped, whole, rtol=1e-5, atol=1e-6)


OTHERS = {
    "own table": MODEL.clone(inputs="own", input_dim=3, hidden_dims=(6, DIM)),
    "one-hot": MODEL.clone(inputs="one_hot", hidden_dims=(3, 5, DIM)),
    "reset before": MODEL.clone(inputs="one_hot", reset_after=False),
}


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_steps_give_the_outputs_of_the_whole_sequence_with_layers_of_several_widths(model: GRU4Rec) -> None:
    items = np.concatenate([ITEMS, [[0, 4, 0, 5]]])
    whole, (stepped, states) = jax.jit(
        lambda v: (model.apply(v, items, train=False), read(model, v, jnp.asarray(items), model.start(4)))
    )(drawn(model))
    np.testing.assert_allclose(stepped, whole, rtol=1e-5, atol=1e-6)
    assert states.shape == (4, 4, len(model.widths), max(model.widths))
    for i, width in enumerate(model.widths):
        assert (np.asarray(states)[:, :, i, width:] == 0).all()
        assert (np.asarray(states)[:3, :, i, :width] != 0).all()


def test_one_hot_inputs_are_those_of_a_table_that_is_the_identity() -> None:
    rows = NUM_ITEMS + 1
    one_hot, own = MODEL.clone(inputs="one_hot"), MODEL.clone(inputs="own", input_dim=rows)
    variables = drawn(one_hot)
    table = np.eye(rows, dtype=np.float32)
    same = {"params": variables["params"] | {"input_embedding": table}}
    left, right = jax.jit(
        lambda a, b: (one_hot.apply(a, ITEMS, train=False), own.apply(b, ITEMS, train=False))
    )(variables, same)
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    shapes = jax.eval_shape(lambda: one_hot.init(jax.random.key(0), ITEMS, train=False))["params"]
    assert shapes["layer_0"]["input_kernel"].shape == (rows, 3 * DIM)
    assert "input_embedding" not in shapes


def test_the_state_is_reset_before_the_product_as_in_the_paper() -> None:
    """h' = (1 - u) tanh(W x + U (r h)) + u h; with r after the product, another state."""
    model = MODEL.clone(num_layers=1, reset_after=False)
    variables = drawn(model)
    layer = variables["params"]["layer_0"]
    before = np.random.default_rng(1).normal(size=(3, 1, DIM)).astype(np.float32)
    x, h = variables["params"]["item_embedding"][ITEMS[:, 0]], before[:, 0]
    r, u, n = np.split(x @ layer["input_kernel"] + layer["input_bias"] + layer["hidden_bias"], 3, axis=1)
    kernel = np.split(layer["hidden_kernel"], 3, axis=1)
    r, u = (1 / (1 + np.exp(-(a + h @ k))) for a, k in zip((r, u), kernel[:2], strict=True))
    expected = (1 - u) * np.tanh(n + (r * h) @ kernel[2]) + u * h

    def run(model: Any) -> Array:
        state = jax.jit(lambda v: model.apply(v, ITEMS[:, 0], before, train=False, method="step"))(variables)[
            1
        ]
        return state[:, 0]

    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(run(model.clone(reset_after=True)) - expected).max() > 0.05


def test_a_table_of_its_own_alone_feeds_the_recurrence() -> None:
    """The gradient of the state reaches the table of inputs and not that of scores."""
    model = OTHERS["own table"]

    def total(variables: Variables) -> Array:
        apply: Any = model.apply
        return jnp.sum(apply(variables, ITEMS, train=False)[..., :-1] ** 2)

    gradient = jax.jit(jax.grad(total))(drawn(model))["params"]
    assert (gradient["item_embedding"] == 0).all()
    assert (np.abs(gradient["input_embedding"]).max(axis=1) > 0)[[1, 2, 3, 4, 5, 7, 8, 9]].all()


def test_the_weights_of_one_hot_items_start_as_wide_as_the_gates_are_with_none_for_padding() -> None:
    """±√(6 / (rows + width)) for each of the three gates."""
    wide = GRU4Rec(400, dim=20, hidden_dim=20, inputs="one_hot", projection=False)
    params = jax.jit(lambda key: wide.init(key, ITEMS, train=False))(jax.random.key(0))["params"]
    kernel, limit = np.asarray(params["layer_0"]["input_kernel"]), np.sqrt(6 / (401 + 20))
    assert (kernel[0] == 0).all()
    assert 0.98 * limit < np.abs(kernel).max() <= limit


def test_the_dropout_of_one_hot_inputs_is_that_of_the_first_layers_output() -> None:
    """The rate of item vectors, in place of that of hidden states, as the authors' code has it."""
    model = MODEL.clone(inputs="one_hot", dropout=0.5, hidden_dropout=0.0)
    noise: Any = {"rngs": {"dropout": jax.random.key(1)}}

    def run(variables: Variables, train: bool) -> Any:
        options = noise if train else {}
        return model.apply(variables, ITEMS[:, 0], model.start(3), train=train, method="step", **options)[1]

    dropped, whole = jax.jit(lambda v: (run(v, True), run(v, False)))(drawn(model))
    ratio = np.asarray(dropped)[:, 0] / np.asarray(whole)[:, 0]
    assert set(np.round(ratio, 4).ravel().tolist()) == {0.0, 2.0}
    assert (np.asarray(dropped)[:, 1] != 0).all()


def test_a_lane_alone_has_the_state_it_has_among_others() -> None:
    _, together = RUN(VARIABLES, ITEMS, MODEL.start(3))
    for lane in range(3):
        items = np.tile(ITEMS[lane], (3, 1))
        _, alone = RUN(VARIABLES, items, MODEL.start(3))
        np.testing.assert_allclose(alone[0], together[lane], rtol=1e-6)


def test_a_reset_lane_changes_alone() -> None:
    _, states = RUN(VARIABLES, ITEMS, MODEL.start(3))
    carried = np.asarray(states[:, -1])
    reset = carried * np.array([1.0, 0.0, 1.0], np.float32)[:, None, None]
    outs, after = RUN(VARIABLES, ITEMS, carried)
    fresh, after_reset = RUN(VARIABLES, ITEMS, reset)
    np.testing.assert_array_equal(np.asarray(after)[[0, 2]], np.asarray(after_reset)[[0, 2]])
    assert not np.allclose(outs[1], fresh[1], atol=1e-3)
    np.testing.assert_array_equal(after_reset[1], states[1])


def test_padding_leaves_the_state_alone() -> None:
    _, states = RUN(VARIABLES, ITEMS, MODEL.start(3))
    _, padded = RUN(VARIABLES, np.where(np.arange(4) == 1, 0, ITEMS), MODEL.start(3))
    np.testing.assert_array_equal(padded[:, 1], padded[:, 0])
    np.testing.assert_array_equal(padded[:, 0], states[:, 0])


def test_the_state_is_carried_on_as_it_was_dropped() -> None:
    """Each unit is 0 or 1 / (1 - rate) times what it is without dropout, in the output and in the state."""
    model = MODEL.clone(num_layers=1, hidden_dropout=0.5)
    variables = drawn(model)

    def run(train: bool) -> Any:
        noise: dict[str, Any] = {"rngs": {"dropout": jax.random.key(1)}} if train else {}
        start = jnp.full((3, 1, DIM), 0.3)
        return model.apply(
            variables, ITEMS[:, 0], start, rows=jnp.arange(3), train=train, method="step", **noise
        )

    (dropped, state), (whole, _) = jax.jit(lambda: (run(True), run(False)))()
    np.testing.assert_array_equal(state[:, 0], dropped[:, :-1])
    ratio = np.asarray(state[:, 0]) / np.asarray(whole)[:, :-1]
    assert set(np.round(ratio, 4).ravel().tolist()) == {0.0, 2.0}


def test_scores_are_products_with_the_input_table_and_a_bias() -> None:
    params = VARIABLES["params"]
    assert set(params) == {"item_embedding", "output_bias", "layer_0", "layer_1"}
    table = np.asarray(MODEL.apply(VARIABLES, method="item_table"))
    np.testing.assert_array_equal(table[:, :-1], params["item_embedding"])
    np.testing.assert_array_equal(table[:, -1], params["output_bias"])
    outs, states = RUN(VARIABLES, ITEMS, MODEL.start(3))
    scores = np.asarray(outs) @ table.T
    expected = np.asarray(states)[:, :, -1] @ params["item_embedding"].T + params["output_bias"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_the_item_table_starts_uniform_as_the_authors_have_it() -> None:
    """±√(6 / (rows + width)), 0 for padding; no bias."""
    wide = GRU4Rec(400, dim=20, hidden_dim=20, projection=False, item_bias=True,
                   embedding_init=nn.initializers.glorot_uniform())  # fmt: skip
    params = jax.jit(lambda key: wide.init(key, ITEMS, train=False))(jax.random.key(0))["params"]
    table, limit = np.asarray(params["item_embedding"]), np.sqrt(6 / (401 + 20))
    assert (table[0] == 0).all() and (params["output_bias"] == 0).all()
    assert 0.98 * limit < np.abs(table).max() <= limit
    np.testing.assert_allclose(table[1:].std(), limit / np.sqrt(3), rtol=0.03)


def test_a_state_of_another_width_needs_a_projection() -> None:
    with pytest.raises(ValueError, match="hidden_dim=6: without a projection it has to be dim=4"):
        jax.eval_shape(lambda: MODEL.clone(hidden_dim=6).init(jax.random.key(0), ITEMS, train=False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_dims": (DIM, 6)}, r"hidden_dims=\(4, 6\): without a projection it has to be dim=4"),
        ({"hidden_dims": ()}, r"hidden_dims=\(\): must be at least one"),
        ({"hidden_dims": (0, DIM)}, r"hidden_dims=\(0, 4\): must be at least one"),
        ({"inputs": "onehot"}, "inputs='onehot': must be"),
        ({"input_dim": 3}, 'input_dim=3: is the width of a table with inputs="own"'),
        ({"input_dim": 0, "inputs": "own"}, "input_dim=0: must be at least 1"),
    ],
)
def test_layers_and_inputs_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: MODEL.clone(**fields).init(jax.random.key(0), ITEMS, train=False))
