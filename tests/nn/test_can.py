"""CAN: the co-action unit against slow NumPy, its limits, its tables, and padding that adds nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.co_action import CoAction
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.can import CAN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from tests.nn.drawn import applied, drawn

B, L, D = 4, 5, 3
DIMS = (4, 2)
rng = np.random.default_rng(0)
INPUTS = 0.5 * rng.normal(size=(B, L, D)).astype(np.float32)
MASK = np.arange(L) < np.array([[5], [3], [1], [0]])  # whole, padded, one event, none
OFFICIAL: Any = {"num_orders": 3, "use_bias": False, "activate_last": False, "concatenate": True}
UNITS = {
    "paper": CoAction(D, DIMS),
    "official": CoAction(D, DIMS, **OFFICIAL),
    "order-independent": CoAction(D, DIMS, num_orders=3, order_independent=True),
    "official order-independent": CoAction(D, DIMS, **OFFICIAL, order_independent=True),
    "one bias": CoAction(D, DIMS, use_bias=(False, True), concatenate=True),
}


def weights_for(unit: CoAction) -> np.ndarray:
    return rng.normal(size=(B, unit.num_weights)).astype(np.float32)


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def by_hand(unit: CoAction, weights: np.ndarray, inputs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One behaviour, one order, one layer after the other, the weights consumed from the front."""
    widths, rows = (unit.dim, *unit.dims), []
    for b in range(len(weights)):
        of_orders = []
        flat = list(weights[b])
        for order in range(1, unit.num_orders + 1):
            left = flat if unit.order_independent else list(weights[b])
            layers: list[Any] = []
            for rows_, columns in pairwise(widths):
                kernel = np.array([left.pop(0) for _ in range(rows_ * columns)]).reshape(rows_, columns)
                has_bias = unit.use_bias if isinstance(unit.use_bias, bool) else unit.use_bias[len(layers)]
                bias = np.array([left.pop(0) for _ in range(columns)]) if has_bias else np.zeros(columns)
                layers.append((kernel, bias))
            total = np.zeros(sum(unit.dims) if unit.concatenate else unit.dims[-1])
            for t in np.flatnonzero(mask[b]):
                h, outputs = inputs[b, t] ** order, []
                for i, (kernel, bias) in enumerate(layers):
                    h = h @ kernel + bias
                    if i + 1 < len(layers) or unit.activate_last:
                        h = np.tanh(h)
                    outputs.append(h)
                total = total + (np.concatenate(outputs) if unit.concatenate else h)
            of_orders.append(total)
        rows.append(np.concatenate(of_orders) if unit.concatenate else np.sum(of_orders, axis=0))
    return np.stack(rows)


# --- the unit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_equals_slow_numpy(name: str) -> None:
    unit = UNITS[name]
    weights = weights_for(unit)
    found = applied(unit, {}, weights, INPUTS, MASK)
    close(found, by_hand(unit, weights, INPUTS, MASK))
    assert (np.asarray(found)[3] == 0.0).all()  # without any behaviour
    assert np.abs(found[:3]).min() > 0.0


def test_numbers_of_weights() -> None:
    assert CoAction(**OFFICIAL).num_weights == 16 * 8 + 8 * 4  # the public code: 160
    assert CoAction(4, (4,) * 8).num_weights == (4 * 4 + 4) * 8  # 160 again
    assert UNITS["order-independent"].num_weights == 3 * ((3 + 1) * 4 + (4 + 1) * 2)


def test_weights_of_zero_give_zero() -> None:
    for unit in UNITS.values():
        assert (np.asarray(applied(unit, {}, np.zeros((B, unit.num_weights)), INPUTS, MASK)) == 0.0).all()


def test_one_linear_layer_of_order_one_is_a_bilinear_form() -> None:
    """Flat weights are the kernel row by row: Σ_i p_i w[i · 2 + j]."""
    unit = CoAction(D, (2,), num_orders=1, use_bias=False, activate_last=False)
    weights = weights_for(unit)
    expected = np.einsum("bti,bij,bt->bj", INPUTS, weights.reshape(B, D, 2), MASK)
    close(applied(unit, {}, weights, INPUTS, MASK), expected)


def test_orders_with_equal_weights_are_not_independent() -> None:
    shared, own = UNITS["official"], UNITS["official order-independent"]
    weights = weights_for(shared)
    expected = applied(shared, {}, weights, INPUTS, MASK)
    close(applied(own, {}, np.tile(weights, 3), INPUTS, MASK), expected)


def test_copies_of_a_behaviour_count_as_often_as_they_stand() -> None:
    unit = UNITS["paper"]
    weights = weights_for(unit)
    equal = np.broadcast_to(INPUTS[:, :1], INPUTS.shape)
    one = applied(unit, {}, weights, INPUTS[:, :1], np.ones((B, 1), bool))
    close(applied(unit, {}, weights, equal, MASK), MASK.sum(axis=1)[:, None] * np.asarray(one))


def test_padding_may_hold_anything_and_gets_no_gradient() -> None:
    unit = UNITS["paper"]
    weights = weights_for(unit)
    filled = np.where(MASK[..., None], INPUTS, 7.0).astype(np.float32)
    moved = np.roll(filled, 2, axis=1), np.roll(MASK, 2, axis=1)
    found: Any = applied(unit, {}, weights, INPUTS, MASK)
    close(applied(unit, {}, weights, filled, MASK), found)
    close(applied(unit, {}, weights, *moved), found)
    total = lambda w, p: jnp.sum(applied(unit, {}, w, p, MASK) ** 2)  # type: ignore[operator] # noqa: E731
    of_weights, of_inputs = jax.jit(jax.grad(total, (0, 1)))(weights, filled)
    assert ((np.abs(of_inputs).sum(axis=-1) > 0) == MASK).all()
    assert (np.abs(of_weights).sum(axis=-1) > 0).tolist() == [True, True, True, False]


def test_the_gradient_at_inputs_of_zero_is_that_of_the_first_order() -> None:
    unit = CoAction(D, (1,), num_orders=3, use_bias=False)
    weights = weights_for(unit)
    total = lambda p: jnp.sum(applied(unit, {}, weights, p, MASK))  # type: ignore[arg-type] # noqa: E731
    gradient = jax.jit(jax.grad(total))(np.zeros_like(INPUTS))
    close(gradient, weights[:, None] * MASK[..., None])


@pytest.mark.parametrize("change", [{"dims": ()}, {"dims": (4, 0)}, {"dim": 0}, {"num_orders": 0}])
def test_sizes_that_mean_nothing_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        CoAction(**change)


def test_biases_are_there_for_each_layer_or_for_all() -> None:
    with pytest.raises(ValueError, match=r"use_bias=\(True,\), dims=\(4, 2\): one for each layer"):
        CoAction(D, DIMS, use_bias=(True,))


def test_other_widths_than_the_unit_reads_are_refused() -> None:
    unit = UNITS["official"]
    with pytest.raises(ValueError, match=rf"expected widths {unit.num_weights} and 3"):
        unit.apply({}, np.zeros((B, 7)), INPUTS, MASK)


# --- tables and pairs -----------------------------------------------------------------------------------

ITEM, PAST = Categorical("item", 8, D), Categorical("history_item", 8, D, "item")
GENRE, PAST_GENRE = Categorical("genre", 4, D), Categorical("history_genre", 4, D, "genre")
AGE = Categorical("age", 5, D)
UNIT = UNITS["paper"]
PAIRS = ((ITEM, PAST), (ITEM, AGE), (ITEM, PAST_GENRE), (GENRE, PAST_GENRE))
BATCH = {
    "item": np.array([3, 5, 7, 1], np.int32),
    "genre": np.array([1, 2, 0, 3], np.int32),
    "age": np.array([2, 0, 4, 1], np.int32),
    "history_item": np.array([[2, 4, 1], [0, 3, 6], [0, 0, 7], [0, 0, 0]], np.int32),
    "history_genre": np.array([[1, 2, 3], [0, 3, 1], [0, 0, 2], [0, 0, 0]], np.int32),
}
CAN_SMALL = CAN(PAIRS, UNIT)
serve = jax.jit(CAN_SMALL.apply)
CAN_PAIRS = CAN(PAIRS, UNIT, pair_tables=True)


@pytest.fixture(scope="module")
def variables() -> Any:
    return drawn(CAN_SMALL, BATCH)


def test_pairs_read_their_tables_and_stand_side_by_side(variables: Any) -> None:
    params, found = variables["params"], []
    for first, second in PAIRS:
        ids = BATCH[second.name].reshape(B, -1)
        weights = params[f"{first.name}_weights"][BATCH[first.name]]
        inputs = params[f"{second.vocabulary or second.name}_inputs"][ids]
        found.append(by_hand(UNIT, weights, inputs, ids != 0))
    co_actions = np.asarray(serve(variables, BATCH))
    close(co_actions, np.concatenate(found, axis=1))
    assert co_actions.shape == (B, len(PAIRS) * DIMS[-1])
    apart = np.split(co_actions, len(PAIRS), axis=1)
    assert (apart[0][3] == 0.0).all()  # no history
    assert (apart[1][1] == 0.0).all()  # no age


def test_pairs_share_tables_by_vocabulary_or_have_their_own() -> None:
    width = UNIT.num_weights
    assert CAN_SMALL.table_shapes() == {
        "item_weights": (8, width),
        "item_inputs": (8, D),
        "age_inputs": (5, D),
        "genre_inputs": (4, D),
        "genre_weights": (4, width),
    }
    own = CAN_PAIRS.table_shapes()
    assert len(own) == 2 * len(PAIRS)
    assert own["item_history_genre_weights"] == (8, width)
    assert own["item_history_genre_inputs"] == (4, D)


def test_equal_tables_of_pairs_are_shared_ones(variables: Any) -> None:
    shared = variables["params"]
    own = {}
    for first, second in PAIRS:
        own[f"{first.name}_{second.name}_weights"] = shared[f"{first.name}_weights"]
        own[f"{first.name}_{second.name}_inputs"] = shared[f"{second.vocabulary or second.name}_inputs"]
    close(jax.jit(CAN_PAIRS.apply)({"params": own}, BATCH), serve(variables, BATCH))


def test_padding_rows_start_at_zero_and_never_train() -> None:
    initial = jax.device_get(jax.jit(CAN_SMALL.init)(jax.random.key(0), BATCH))
    assert all((table[0] == 0.0).all() and np.ptp(table[1:]) > 0 for table in initial["params"].values())
    nothing = {name: np.zeros_like(ids) for name, ids in BATCH.items()}

    @jax.jit
    def gradient(params: Any, batch: Any) -> Any:
        return jax.grad(lambda p: jnp.sum((1 + CAN_SMALL.apply({"params": p}, batch)) ** 2))(params)  # type: ignore[operator]

    found = jax.device_get(gradient(drawn(CAN_SMALL, BATCH)["params"], BATCH))
    read = {"item_inputs": {2, 4, 1, 3, 6, 7}, "item_weights": {3, 5, 7}, "age_inputs": {2, 4, 1}}
    for name, ids in read.items():
        assert set(np.flatnonzero(np.abs(found[name]).sum(axis=1)).tolist()) == ids | (
            {1} if name == "item_weights" else set()
        )
    assert not any(map(np.any, jax.tree.leaves(jax.device_get(gradient(initial["params"], nothing)))))


def test_an_id_out_of_range_gives_nan(variables: Any) -> None:
    broken = BATCH | {"history_item": BATCH["history_item"] + np.array([[0], [0], [1], [0]], np.int32)}
    found = np.isnan(serve(variables, broken)).any(axis=1)
    assert found.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "at least one pair"),
        (((ITEM, PAST), (ITEM, PAST)), "none twice"),
        (((ITEM, PAST), (ITEM, PAST._replace(dim=9))), "none twice"),
        (((ITEM, PAST), (ITEM, PAST._replace(name="other", vocab_size=9))), "field other: vocab_size=9"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CAN(pairs, UNIT)


def test_pairs_of_their_own_tables_are_told_apart_by_name() -> None:
    """(a_b, c) and (a, b_c) would both have a_b_c_weights; without tables of their own they share nothing."""
    sizes = {"a_b": 3, "c": 4, "a": 3, "b_c": 4}
    a_b, c, a, b_c = (Categorical(name, size, D) for name, size in sizes.items())
    pairs = ((a_b, c), (a, b_c))
    with pytest.raises(ValueError, match=r"\('a_b', 'c'\) and \('a', 'b_c'\) would both .* rename a column"):
        CAN(pairs, UNIT, pair_tables=True)
    assert set(CAN(pairs, UNIT).table_shapes()) == {"a_b_weights", "c_inputs", "a_weights", "b_c_inputs"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": BATCH["history_item"]}, r"pair item, history_item: shapes \(4, 3\) and \(4, 3\)"),
        ({"history_item": np.ones((B, 3), np.float32)}, "column history_item: float32 values"),
    ],
)
def test_columns_that_do_not_fit_are_refused(variables: Any, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: CAN_SMALL.apply(variables, BATCH | change))
    without = {name: ids for name, ids in BATCH.items() if name != "age"}
    with pytest.raises(ValueError, match="column age: not there"):
        jax.eval_shape(lambda: CAN_SMALL.apply(variables, without))


# --- with an interest model -------------------------------------------------------------------------------


def with_co_actions(model: Any, can: CAN | None) -> Any:
    embedding = FeatureEmbedding((ITEM, PAST, GENRE, AGE))
    return WithHistory(embedding, model, ("item",), ("history_item",), extra_features=can)


def test_co_actions_join_the_features_and_nothing_else() -> None:
    with_can = with_co_actions(lambda *inputs, **_: inputs, CAN_SMALL)
    variables = drawn(with_can, BATCH)
    x, *rest = applied(with_can, variables, BATCH)
    plain = {"params": {"embedding": variables["params"]["embedding"]}}
    expected, *same = applied(with_co_actions(lambda *inputs, **_: inputs, None), plain, BATCH)
    co_actions = serve({"params": variables["params"]["extra_features"]}, BATCH)
    close(x, np.concatenate([expected, co_actions], axis=1))
    for ours, theirs in zip(rest, same, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tables_of_co_actions_are_apart_and_their_absence_is_the_backbone() -> None:
    """With weights of zero in the tables, or in the tower, what is left is the model alone."""
    model = DIN((4,), ActivationUnit((3,), PReLU), mlp=Factory(MLP, activation=PReLU))
    module = with_co_actions(model, CAN(((ITEM, PAST),), UNIT))
    params = drawn(module, BATCH)["params"]
    run = jax.jit(lambda p: module.apply({"params": p}, BATCH))
    silent = params | {"extra_features": jax.tree.map(np.zeros_like, params["extra_features"])}
    kernel = params["model"]["tower"]["mlp"]["layer_0"]["kernel"]
    at = 3 * D  # item, genre, age; then the co-actions
    shorter = jax.tree.map(np.copy, params["model"])
    shorter["tower"]["mlp"]["layer_0"]["kernel"] = np.delete(kernel, [at, at + 1], axis=0)
    backbone = {"embedding": params["embedding"], "model": shorter}
    close(run(silent), applied(with_co_actions(model, None), {"params": backbone}, BATCH))
    assert not np.allclose(run(silent), run(params), atol=1e-3)
    kernel[at : at + 2] = 0.0
    gradient = jax.device_get(jax.jit(jax.grad(lambda p: jnp.sum(run(p) ** 2)))(params))
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient["extra_features"]))
    assert np.abs(gradient["embedding"]["item_embedding"]).max() > 0.0


def test_co_actions_learn_a_cross_that_sums_cannot() -> None:
    """A click is an item of the same parity as the user's only event: XOR, which no sum over both gives."""
    item, past = (ids.reshape(-1) for ids in np.meshgrid(np.arange(1, 8), np.arange(1, 8)))
    batch = {"item": item, "history_item": past[:, None], "genre": 0 * item, "age": 0 * item}
    label = ((item + past) % 2 == 0).astype(np.float32)
    module = with_co_actions(DINBase(()), CAN(((ITEM, PAST),), UNIT))
    start = drawn(module, batch)["params"]

    def loss(params: Any) -> Any:
        return losses.binary_cross_entropy(module.apply({"params": params}, batch), label)

    @jax.jit
    def train(params: Any) -> Any:
        def step(params: Any, _: None) -> Any:
            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 2.0 * g, params, gradient), value

        return jax.lax.scan(step, params, None, length=300)[1]

    found = train(start)
    assert found[-1] < 0.2 < 0.6 < found[0]
