"""The activation unit, DIN, its base model and DIEN: their formulas and limits, and their losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.layers.activation_unit import ActivationUnit, Pairs, pool
from jaxrec.nn.layers.dice import Dice
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from tests.nn.drawn import applied, drawn

B, L, D, F = 4, 5, 3, 6
rng = np.random.default_rng(0)
X, TARGET, HISTORY, OTHER = (
    rng.normal(size=shape).astype(np.float32) for shape in ((B, F), (B, D), (B, L, D), (B, L, D))
)
MASK = np.arange(L) < np.array([[5], [3], [1], [0]])  # whole, padded, one event, none
SMALL: Any = {"dims": (4,), "attention": ActivationUnit((3,))}
RELU = Factory(MLP, activation=jax.nn.relu)


# --- the activation unit --------------------------------------------------------------------------------


def test_pairs_are_a_linear_layer_of_the_four_parts() -> None:
    variables = drawn(Pairs(7), TARGET, HISTORY)
    a = np.broadcast_to(TARGET[:, None], HISTORY.shape)
    parts = np.concatenate([a, HISTORY, a - HISTORY, a * HISTORY], axis=-1)
    expected = parts @ variables["params"]["kernel"] + variables["params"]["bias"]
    np.testing.assert_allclose(applied(Pairs(7), variables, TARGET, HISTORY), expected, atol=1e-5)


UNIT = drawn(ActivationUnit((3,)), TARGET, HISTORY, MASK)


def interest(history: Any, mask: Any, **fields: Any) -> np.ndarray:
    weights: Any = applied(ActivationUnit((3,), **fields), UNIT, TARGET, history, mask)
    return np.asarray(pool(weights, history))


def test_twice_the_history_is_twice_the_interest_unless_weights_are_a_distribution() -> None:
    twice = np.concatenate([HISTORY, HISTORY], 1), np.concatenate([MASK, MASK], 1)
    np.testing.assert_allclose(interest(*twice), 2.0 * interest(HISTORY, MASK), atol=1e-5)
    np.testing.assert_allclose(
        interest(*twice, softmax=True), interest(HISTORY, MASK, softmax=True), atol=1e-5
    )


def test_a_distribution_over_equal_events_gives_the_event_and_over_none_zero() -> None:
    equal = np.broadcast_to(HISTORY[:, :1], HISTORY.shape)
    found = interest(equal, MASK, softmax=True)
    np.testing.assert_allclose(found[:3], HISTORY[:3, 0], atol=1e-6)
    assert (found[3] == 0.0).all()
    assert (interest(HISTORY, MASK)[3] == 0.0).all()


def test_a_high_temperature_makes_the_distribution_even() -> None:
    found = interest(HISTORY, MASK, softmax=True, temperature=1e6)
    np.testing.assert_allclose(found[0], HISTORY[0].mean(axis=0), atol=1e-4)
    with pytest.raises(ValueError, match="temperature=0"):
        interest(HISTORY, MASK, softmax=True, temperature=0)


def test_an_activation_of_the_scores_comes_before_the_distribution() -> None:
    """As FuxiCTR has it: softmax(σ(s)), padding hidden; and σ(s) without a softmax, padding 0."""
    unit = ActivationUnit((3,), output_activation=jax.nn.sigmoid)
    scores = np.asarray(applied(ActivationUnit((3,)), UNIT, TARGET, HISTORY, MASK))
    for softmax in (False, True):
        ours = applied(unit.clone(softmax=softmax), UNIT, TARGET, HISTORY, MASK)
        shown = np.where(MASK, np.exp(1 / (1 + np.exp(-scores))), 0.0)
        plain = np.where(MASK, 1 / (1 + np.exp(-scores)), 0.0)
        total = np.maximum(shown.sum(axis=1, keepdims=True), 1e-30)
        np.testing.assert_allclose(ours, shown / total if softmax else plain, rtol=1e-5, atol=1e-6)


def test_other_widths_of_target_and_events_are_an_error() -> None:
    with pytest.raises(ValueError, match="widths 3 and 2"):
        ActivationUnit().init(jax.random.key(0), TARGET, HISTORY[..., :2], MASK)


# --- models of interest ---------------------------------------------------------------------------------


def placed(values: np.ndarray, first: int, filler: float) -> np.ndarray:
    """Histories from slot `first` on, with two slots more than they need."""
    widths = [(0, 0), (first, 2 - first)] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths, constant_values=filler)


def test_padded_statistics_are_those_of_all_slots() -> None:
    """FuxiCTR's: then padding moves what is learned, and only then."""
    target, zeros = TARGET[:2], np.zeros((2, 2, D), np.float32)
    moved = {}
    for padded in (False, True):
        unit = ActivationUnit((3,), padded_statistics=padded)
        apply = functools.partial(applied, unit, UNIT, target, train=True, mutable=["batch_stats"])
        short = apply(HISTORY[:2, :3], np.ones((2, 3), bool))[0]
        mask = np.pad(np.ones((2, 3), bool), ((0, 0), (0, 2)))
        long = apply(np.concatenate([HISTORY[:2, :3], zeros], axis=1), mask)[0]
        moved[padded] = np.abs(long[:, :3] - short).max()
    assert moved[False] < 1e-5 < 1e-3 < moved[True]


def test_gradients_of_pooled_events_are_finite_and_zero_on_padding() -> None:
    def pooled(history: Any) -> Any:
        weights: Any = ActivationUnit((3,)).apply(UNIT, TARGET, history, MASK)
        return jnp.sum(pool(weights, history) ** 2)

    gradient = np.abs(jax.jit(jax.grad(pooled))(HISTORY)).sum(axis=-1)
    assert np.isfinite(gradient).all()
    assert ((gradient > 0) == MASK).all()


def sown(module: Any, *inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    variables = drawn(module, *inputs)
    collections: Any = applied(module, variables, *inputs, mutable=["intermediates"], **options)[1]
    return {name: np.asarray(value[0]) for name, value in collections["intermediates"].items()}


def test_a_unit_that_always_says_one_makes_din_the_base_model_with_sums() -> None:
    module, base = DIN(**SMALL), DINBase((4,), average=False, mlp=Factory(MLP, activation=Dice))
    variables = drawn(module, X, TARGET, HISTORY, MASK)
    score = variables["params"]["attention"]["score"]
    score["kernel"], score["bias"] = np.zeros_like(score["kernel"]), np.ones_like(score["bias"])
    rest = {kind: {"tower": tree["tower"]} for kind, tree in variables.items()}
    expected = applied(base, rest, X, TARGET, HISTORY, MASK)
    np.testing.assert_allclose(applied(module, variables, X, TARGET, HISTORY, MASK), expected, atol=1e-5)


def linear_base(history: np.ndarray, mask: np.ndarray, *, average: bool) -> np.ndarray:
    """What the base model pools: its logit where it is one linear layer that adds up the pooled vector."""
    kernel = np.zeros((F + D, 1), np.float32)
    kernel[F:] = 1.0
    variables = {"params": {"tower": {"logit": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}}
    return np.asarray(applied(DINBase((), average=average), variables, X, TARGET, history, mask))


def test_the_base_model_takes_means_or_sums() -> None:
    equal = np.broadcast_to(HISTORY[:, :1], HISTORY.shape)
    of_one = HISTORY[:, 0].sum(axis=-1) * MASK[:, 0]
    np.testing.assert_allclose(linear_base(equal, MASK, average=True), of_one, atol=1e-5)
    times = MASK.sum(axis=1)
    np.testing.assert_allclose(linear_base(equal, MASK, average=False), times * of_one, atol=1e-5)


# --- DIEN -----------------------------------------------------------------------------------------------


def test_attention_of_dien_is_a_distribution_over_real_states() -> None:
    for module in (DIEN((4,)), DIEN((4,), evolution="gru"), DIEN((4,), hidden_dim=2)):
        found = sown(module, X, TARGET, HISTORY, MASK)
        np.testing.assert_allclose(found["weights"].sum(axis=1), [1.0, 1.0, 1.0, 0.0], atol=1e-6)
        assert (found["weights"][~MASK] == 0.0).all()
        assert (found["interest"][3] == 0.0).all()
        assert np.abs(found["interest"][:3]).min() > 0.0


def test_two_layers_without_attention_take_the_last_state() -> None:
    found = sown(DIEN((4,), evolution="gru", attention=None), X, TARGET, HISTORY, MASK)
    assert set(found) == {"states", "interest"}


AUX = DIEN((4,), mlp=RELU)
AUX_VARIABLES = drawn(AUX, X, TARGET, HISTORY, MASK)


@jax.jit
def auxiliary(history: Any, mask: Any, negatives: Any) -> tuple[Any, Any]:
    outputs: Any = AUX.apply(AUX_VARIABLES, X, TARGET, history, mask, negatives=negatives)
    return outputs, losses.next_behaviour(outputs["next"], outputs["negative"], where=outputs["steps"])


def test_auxiliary_scores_are_products_of_a_state_and_the_next_event() -> None:
    history, negatives = (placed(values, 0, 9.0) for values in (HISTORY, OTHER))
    outputs, loss = auxiliary(history, placed(MASK, 0, False), negatives)
    outputs = {name: np.asarray(value)[..., : L - 1] for name, value in outputs.items()}
    states = sown(AUX, X, TARGET, HISTORY, MASK)["states"]
    np.testing.assert_allclose(outputs["next"], (states[:, :-1] * HISTORY[:, 1:]).sum(axis=-1), atol=1e-5)
    np.testing.assert_allclose(outputs["negative"], (states[:, :-1] * OTHER[:, 1:]).sum(axis=-1), atol=1e-5)
    assert outputs["steps"].sum(axis=1).tolist() == [4, 2, 0, 0]
    terms = np.log1p(np.exp(-outputs["next"])) + np.log1p(np.exp(outputs["negative"]))
    np.testing.assert_allclose(loss, (terms * outputs["steps"]).sum() / B, rtol=1e-5)


def test_padding_on_either_side_leaves_click_and_auxiliary_loss_alone() -> None:
    found = []
    for first, filler in ((0, 0.0), (0, 7.0), (2, 7.0)):
        history, negatives = (placed(values, first, filler) for values in (HISTORY, OTHER))
        outputs, loss = auxiliary(history, placed(MASK, first, False), negatives)
        found.append(np.append(outputs["click"], loss))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


def test_a_single_event_has_no_auxiliary_loss_and_negatives_say_nothing_about_clicks() -> None:
    one = placed(MASK & (np.arange(L) == 0), 0, False)
    history = placed(HISTORY, 0, 0.0)
    (first, loss), (second, _) = (auxiliary(history, one, negatives) for negatives in (history, -history))
    assert loss == 0.0
    assert (np.asarray(first["click"]) == np.asarray(second["click"])).all()
    assert not first["steps"].any()


def test_auxiliary_network() -> None:
    module = DIEN((4,), aux_dims=(3,), mlp=RELU, hidden_dim=2)
    variables = drawn(module, X, TARGET, HISTORY, MASK, negatives=OTHER)
    outputs: Any = applied(module, variables, X, TARGET, HISTORY, MASK, negatives=HISTORY)
    np.testing.assert_allclose(outputs["next"], outputs["negative"])  # one network for both
    assert np.std(outputs["next"]) > 0.0
    with pytest.raises(ValueError, match="widths 2 and 3 must agree"):
        drawn(DIEN((4,), hidden_dim=2), X, TARGET, HISTORY, MASK, negatives=OTHER)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evolution": "lstm"}, "evolution='lstm'"),
        ({"attention": "cosine"}, "attention='cosine'"),
        ({"attention": None}, 'only "gru"'),
    ],
)
def test_what_dien_does_not_know_is_an_error(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DIEN(**fields)


def test_dien_learns_which_event_comes_next() -> None:
    """Clicks follow the last event, and each event is followed by its neighbour on a circle."""
    draw = np.random.default_rng(1)
    last = draw.integers(0, 6, 32)
    history = 1 + (last[:, None] + np.arange(-3, 1)) % 6
    target = 1 + draw.integers(0, 6, 32)
    batch = {"item": target, "seen": history, "not_seen": 1 + draw.integers(0, 6, history.shape)}
    label = (target == 1 + (last + 1) % 6).astype(np.float32)
    module = with_history(DIEN((8,), mlp=RELU), negatives=("not_seen",), dim=6)
    start = drawn(module, batch)["params"]

    def loss(params: Any) -> Any:
        outputs: Any = module.apply({"params": params}, batch, train=True)
        steps = losses.next_behaviour(
            outputs["next"], outputs["negative"], where=outputs["steps"], per_step=True
        )
        return losses.binary_cross_entropy(outputs["click"], label) + steps, steps

    @jax.jit
    def train(params: Any) -> Any:
        def step(params: Any, _: None) -> Any:
            (total, steps), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), (total, steps)

        return jax.lax.scan(step, params, None, length=200)[1]

    total, steps = train(start)
    assert total[-1] < 0.7 * total[0]
    assert steps[-1] < 1.2 < 2.0 * np.log(2.0)  # what knowing nothing costs


# --- columns --------------------------------------------------------------------------------------------


def with_history(model: Any, negatives: tuple[str, ...] = (), dim: int = D) -> WithHistory:
    fields = (
        Categorical("item", 8, dim),
        Categorical("seen", 8, dim, vocabulary="item"),
        *(Categorical(name, 8, dim, vocabulary="item") for name in negatives),
    )
    return WithHistory(FeatureEmbedding(fields), model, ("item",), ("seen",), negatives)


BATCH = {"item": np.array([3, 5]), "seen": np.array([[1, 2, 0], [0, 0, 0]])}


def echo(*inputs: Any, **options: Any) -> tuple[Any, Any]:
    return inputs, options


def parts_of(module: WithHistory, batch: Any) -> Callable[[], Any]:
    table = np.arange(24, dtype=np.float32).reshape(8, 3)
    variables = {"params": {"embedding": {"item_embedding": table}}}
    return lambda: applied(module, variables, batch)


def test_target_and_history_share_a_table() -> None:
    (x, target, history, mask), options = parts_of(with_history(echo), BATCH)()
    assert x.tolist() == target.tolist() == [[9, 10, 11], [15, 16, 17]]
    assert history[0].tolist() == [[3, 4, 5], [6, 7, 8], [0, 1, 2]]
    assert mask.tolist() == [[True, True, False], [False] * 3]
    assert options == {"train": False}


def test_negatives_are_read_where_the_batch_has_them() -> None:
    module = with_history(echo, ("not_seen",))
    assert parts_of(module, BATCH)()[1]["negatives"] is None
    (x, *_), options = parts_of(module, {**BATCH, "not_seen": 1 + BATCH["seen"]})()
    assert options["negatives"][0].tolist() == [[6, 7, 8], [9, 10, 11], [3, 4, 5]]
    assert x.shape == (2, 3)


def test_an_event_of_several_ids_has_their_mean() -> None:
    """The last axis is pooled over real ids; an event without ids, such as padding, is zero."""
    fields = tuple(
        Categorical(name, 8, 3, vocabulary)
        for name, vocabulary in (("item", None), ("tags", None), ("seen", "item"), ("seen_tags", "tags"))
    )
    module = WithHistory(FeatureEmbedding(fields), echo, ("item", "tags"), ("seen", "seen_tags"))
    table = np.arange(24, dtype=np.float32).reshape(8, 3)
    tags = np.array([[[1, 3], [2, 0], [0, 0]], [[0, 0]] * 3])
    batch = {**BATCH, "tags": np.array([[1, 2], [7, 0]]), "seen_tags": tags}
    variables = {"params": {"embedding": {"item_embedding": table, "tags_embedding": 10 * table}}}
    (x, target, history, mask), _ = applied(module, variables, batch)
    mean = 10 * np.stack([(table[1] + table[3]) / 2, table[2], 0 * table[0]])
    np.testing.assert_allclose(history[0, :, 3:], mean)
    np.testing.assert_allclose(target[:, 3:], 10 * np.stack([(table[1] + table[2]) / 2, table[7]]))
    np.testing.assert_allclose(x, target)
    assert history.shape == (2, 3, 6) and mask.tolist() == [[True, True, False], [False] * 3]
    with pytest.raises(ValueError, match=r"seen_tags: \(2,\), expected ids of events \[B, L\] or"):
        module.apply(variables, {**batch, "seen_tags": BATCH["item"]})
    with pytest.raises(ValueError, match=r"seen: \(2, 3, 2\), expected ids of events \[B, L\]\n"):
        module.apply(variables, {**batch, "seen": tags})


def test_columns_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="same number"):
        WithHistory(FeatureEmbedding((Categorical("a", 2, 2),)), echo, ("a",), ())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="field seen: missing"):
        parts_of(with_history(echo), {"item": BATCH["item"]})()
    with pytest.raises(ValueError, match=r"field seen: \(2,\)"):
        parts_of(with_history(echo), {**BATCH, "seen": BATCH["item"]})()


# --- losses -----------------------------------------------------------------------------------------------


def test_next_behaviour_of_zero_scores_is_two_ln_two_a_step() -> None:
    zero, where = np.zeros((3, 4)), np.arange(4) < np.array([[4], [1], [0]])
    two = 2.0 * np.log(2.0)
    np.testing.assert_allclose(losses.next_behaviour(zero, zero, where=where), two * 5 / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.next_behaviour(zero, zero, where=where, per_step=True), two, rtol=1e-6)
    rows = np.array([True, False, True])
    found = losses.next_behaviour(zero, zero, where=where, examples=rows)
    np.testing.assert_allclose(found, two * 4 / 2, rtol=1e-6)
    assert losses.next_behaviour(zero, zero, where=where & False, per_step=True) == 0.0
    assert (
        losses.next_behaviour(zero[:, :0], zero[:, :0], where=where[:, :0]) == 0.0
    )  # histories of one event


@pytest.mark.parametrize("per_step", [False, True])
def test_shares_of_devices_add_up_to_the_next_behaviour_loss(per_step: bool) -> None:
    pos, neg = HISTORY[..., 0], HISTORY[..., 1]
    rows = np.array([True, False, True, True])
    one = functools.partial(losses.next_behaviour, per_step=per_step)
    whole = one(pos, neg, where=MASK, examples=rows)
    share = jax.vmap(
        lambda p, n, w, r: one(p, n, where=w, examples=r, axis_name="devices"), axis_name="devices"
    )
    shares = jax.jit(share)(*(a.reshape(2, 2, *a.shape[1:]) for a in (pos, neg, MASK, rows)))
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)


TABLE = rng.normal(size=(6, 2)).astype(np.float32)
COUNTS = np.array([9, 1, 4, 2, 3, 5])


regularise = jax.jit(jax.value_and_grad(losses.mini_batch_aware))


def test_regularisation_pulls_the_ids_of_the_batch_alone() -> None:
    value, gradient = regularise(TABLE, np.array([[3, 3, 0], [1, 3, 0]]), COUNTS)
    expected = np.zeros_like(TABLE)
    for j in (1, 3):
        expected[j] = TABLE[j] / COUNTS[j]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert (np.asarray(gradient)[[0, 2, 4, 5]] == 0.0).all()
    np.testing.assert_allclose(value, 0.5 * (expected * TABLE).sum(), rtol=1e-6)


def test_regularisation_of_a_frequent_id_does_not_overflow() -> None:
    ids, counts = jnp.ones(5000, jnp.int32), jnp.array([0, 1_689_188])
    of_table = jax.grad(lambda table: losses.mini_batch_aware(table, ids, counts))(jnp.ones((2, 1)))
    np.testing.assert_allclose(of_table[:, 0], [0.0, 1 / 1_689_188], rtol=1e-4)


def test_regularisation_of_an_epoch_is_the_vector_whatever_its_frequency() -> None:
    epoch = [np.array([[2, 2, i], [0, 0, i]]) for i in (0, 1, 0, 0)]  # 2 in all four batches, 1 in one
    total = np.sum([regularise(TABLE, ids, COUNTS)[1] for ids in epoch], axis=0)
    np.testing.assert_allclose(total[1:3], TABLE[1:3], rtol=1e-6)


def test_an_id_on_two_devices_is_regularised_once() -> None:
    ids = np.array([[3, 1, 0], [3, 4, 3]])
    share = functools.partial(losses.mini_batch_aware, counts=COUNTS, axis_name="devices")
    shares = jax.jit(jax.vmap(share, in_axes=(None, 0), axis_name="devices"))(TABLE, ids)
    np.testing.assert_allclose(shares.sum(), regularise(TABLE, ids, COUNTS)[0], rtol=1e-6)
