"""Dice, the activation unit, DIN, its base model and DIEN: their limits, and padding that changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.layers import dice as dice_layer
from jaxrec.nn.layers.activation_unit import ActivationUnit, Pairs, pool
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from tests.nn.drawn import drawn

B, L, D, F = 4, 5, 3, 6
rng = np.random.default_rng(0)
X, TARGET, HISTORY, OTHER = (
    rng.normal(size=shape).astype(np.float32) for shape in ((B, F), (B, D), (B, L, D), (B, L, D))
)
MASK = np.arange(L) < np.array([[5], [3], [1], [0]])  # whole, padded, one event, none
SMALL: Any = {"dims": (4,), "attention_dims": (3,)}


# --- Dice and PReLU -----------------------------------------------------------------------------------


def dice(x: Any, alpha: float = 0.0, mean: float = 0.0, var: float = 1.0, **fields: Any) -> np.ndarray:
    channels = (x.shape[-1],)
    variables = {
        "params": {"alpha": np.full(channels, alpha, np.float32)},
        "batch_stats": {
            "mean": np.full(channels, mean, np.float32),
            "var": np.full(channels, var, np.float32),
        },
    }
    return np.asarray(Dice(**fields).apply(variables, x))


def test_dice_with_slope_one_is_the_identity_and_with_zero_a_gate() -> None:
    np.testing.assert_allclose(dice(X, 1.0, 0.3, 2.0), X, atol=1e-6)
    gate = 1.0 / (1.0 + np.exp(-(X - 0.3) / np.sqrt(2.0 + 0.5)))
    np.testing.assert_allclose(dice(X, 0.0, 0.3, 2.0, epsilon=0.5), X * gate, atol=1e-6)


def test_dice_at_the_mean_is_half_way_between_its_slopes() -> None:
    np.testing.assert_allclose(dice(np.full((1, 2), 3.0), 0.2, mean=3.0), (0.5 + 0.5 * 0.2) * 3.0, rtol=1e-6)


def test_dice_without_variance_around_zero_is_prelu() -> None:
    variables = {"params": {"alpha": np.full(F, 0.3, np.float32)}}
    np.testing.assert_allclose(dice(X, 0.3, var=0.0), PReLU().apply(variables, X), atol=1e-6)


def test_dice_has_slope_one_far_above_and_alpha_far_below_the_mean() -> None:
    far = np.array([[50.0], [-50.0]], np.float32)
    np.testing.assert_allclose(dice(far, 0.3, mean=1.0), far * [[1.0], [0.3]], rtol=1e-6)


def test_prelu_learns_a_slope_for_each_channel() -> None:
    slopes = np.array([0.5, -1.0], np.float32)
    y = PReLU().apply({"params": {"alpha": slopes}}, np.array([[-2.0, -2.0], [3.0, 3.0]], np.float32))
    np.testing.assert_allclose(y, [[-1.0, 2.0], [3.0, 3.0]])
    assert (drawn(PReLU(), X)["params"]["alpha"].shape) == (F,)
    assert (PReLU(0.1).init(jax.random.key(0), X)["params"]["alpha"] == np.float32(0.1)).all()


def test_dice_trains_on_what_counts_and_moves_its_running_statistics() -> None:
    module = Dice(momentum=0.9)
    variables = drawn(module, HISTORY)
    y, updated = module.apply(variables, HISTORY, train=True, where=MASK, mutable=["batch_stats"])
    real = HISTORY[MASK]
    before, after = variables["batch_stats"], updated["batch_stats"]
    mean, var, alpha = real.mean(axis=0), real.var(axis=0), variables["params"]["alpha"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, atol=1e-6)
    p = 1.0 / (1.0 + np.exp(-(HISTORY - mean) / np.sqrt(var + 1e-8)))
    np.testing.assert_allclose(y, p * HISTORY + (1.0 - p) * alpha * HISTORY, atol=1e-5)
    _, kept = module.apply(variables, HISTORY, train=True, where=MASK & False, mutable=["batch_stats"])
    assert all((kept["batch_stats"][name] == before[name]).all() for name in before)


def test_dice_shares_its_statistics_between_devices() -> None:
    variables = drawn(Dice(), X)

    def one(x: Any, where: Any, axis_name: str | None = "devices") -> Any:
        return Dice(axis_name=axis_name).apply(variables, x, train=True, where=where, mutable=["batch_stats"])

    where = np.array([True, True, True, False])
    whole, stats = one(X, where, None)
    parts, synchronised = jax.jit(jax.vmap(one, axis_name="devices"))(X.reshape(2, 2, F), where.reshape(2, 2))
    np.testing.assert_allclose(parts.reshape(B, F), whole, atol=1e-5)
    for name, value in stats["batch_stats"].items():
        np.testing.assert_allclose(synchronised["batch_stats"][name], np.stack([value] * 2), atol=1e-6)


def derived_dice(x: Any, slope: Any, where: Any) -> Any:
    """Dice in training, left to JAX to differentiate: [N, C], [C], bool [N] → [N, C]."""
    real = jnp.asarray(where, x.dtype)[:, None]
    size = jnp.maximum(real.sum(), 1.0)
    mean = (real * x).sum(0) / size
    var = (real * (x - mean) ** 2).sum(0) / size
    p = jax.nn.sigmoid((x - mean) / jnp.sqrt(var + 1e-8))
    return p * x + (1.0 - p) * slope * x


@pytest.mark.parametrize("block", [1, 4, 5 * F, 1 << 18], ids="{} numbers a block".format)
@pytest.mark.parametrize("real", ["all", "some", "two", "none"])
def test_gradients_of_dice_are_those_that_jax_derives(
    block: int, real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dice_layer, "BLOCK", block)
    where = {"all": np.full(20, True), "some": rng.random(20) < 0.6, "two": np.arange(20) < 2}.get(
        real, np.full(20, False)
    )
    x, g = (rng.normal(size=(20, F)).astype(np.float32) for _ in range(2))
    slope = rng.normal(size=F).astype(np.float32)

    def own(x: Any, slope: Any) -> Any:
        variables = {"params": {"alpha": slope}, "batch_stats": {"mean": np.zeros(F), "var": np.ones(F)}}
        return Dice().apply(variables, x, train=True, where=where, mutable=["batch_stats"])[0]

    found, pull = jax.vjp(own, x, slope)
    expected, pull_expected = jax.vjp(lambda x, slope: derived_dice(x, slope, where), x, slope)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(pull(g), pull_expected(g), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_gradients_of_dice_have_the_types_of_what_they_belong_to(dtype: Any) -> None:
    x, variables = jnp.asarray(HISTORY, dtype), drawn(Dice(), HISTORY)

    def total(params: Any, x: Any) -> Any:
        out, updated = Dice().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return out.astype(jnp.float32).sum(), updated["batch_stats"]

    (of_params, of_x), statistics = jax.grad(total, argnums=(0, 1), has_aux=True)(variables["params"], x)
    assert of_x.dtype == dtype and of_params["alpha"].dtype == jnp.float32
    mean = np.asarray(x, np.float32).reshape(-1, D).mean(axis=0)
    expected = 0.99 * variables["batch_stats"]["mean"] + 0.01 * mean
    np.testing.assert_allclose(statistics["mean"], expected, atol=1e-5)


def test_dice_of_no_rows_gives_none() -> None:
    def total(x: Any) -> Any:
        return Dice().apply(drawn(Dice(), X), x, train=True, mutable=["batch_stats"])[0].sum()

    assert jax.grad(total)(jnp.zeros((0, F))).shape == (0, F)


def test_gradients_of_dice_flow_through_the_statistics_of_all_devices() -> None:
    x, g = (rng.normal(size=(2, 4, F)).astype(np.float32) for _ in range(2))
    variables = drawn(Dice(), X)

    def one(x: Any, g: Any, axis_name: str | None = "devices") -> Any:
        def out(x: Any) -> Any:
            return Dice(axis_name=axis_name).apply(variables, x, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(out, x)[1](g)[0]

    whole = one(x.reshape(8, F), g.reshape(8, F), None)
    parts = jax.pmap(one, axis_name="devices", devices=jax.devices()[:2])(x, g)
    np.testing.assert_allclose(parts.reshape(8, F), whole, atol=1e-5)


def test_every_layer_of_an_mlp_has_its_own_dice() -> None:
    variables = drawn(MLP((4, 2), Dice), X)
    shapes = {name: layer["alpha"].shape for name, layer in variables["params"].items() if "act" in name}
    assert shapes == {"activation_0": (4,), "activation_1": (2,)}
    assert (Dice(0.7).init(jax.random.key(0), X)["params"]["alpha"] == np.float32(0.7)).all()


# --- the activation unit --------------------------------------------------------------------------------


def test_pairs_are_a_linear_layer_of_the_four_parts() -> None:
    variables = drawn(Pairs(7), TARGET, HISTORY)
    a = np.broadcast_to(TARGET[:, None], HISTORY.shape)
    parts = np.concatenate([a, HISTORY, a - HISTORY, a * HISTORY], axis=-1)
    expected = parts @ variables["params"]["kernel"] + variables["params"]["bias"]
    np.testing.assert_allclose(Pairs(7).apply(variables, TARGET, HISTORY), expected, atol=1e-5)


UNIT = drawn(ActivationUnit((3,)), TARGET, HISTORY, MASK)


def interest(history: Any, mask: Any, **fields: Any) -> np.ndarray:
    weights: Any = ActivationUnit((3,), **fields).apply(UNIT, TARGET, history, mask)
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


def test_other_widths_of_target_and_events_are_an_error() -> None:
    with pytest.raises(ValueError, match="widths 3 and 2"):
        ActivationUnit().init(jax.random.key(0), TARGET, HISTORY[..., :2], MASK)


# --- models of interest ---------------------------------------------------------------------------------

MODELS: dict[str, Any] = {
    "base": DINBase((4,)),
    "din": DIN(**SMALL, product=True),
    "din-softmax": DIN(**SMALL, softmax=True),
    "dien": DIEN(**SMALL, attention="unit", sum_pooling=True),
    "dien-reversed": DIEN((4,), evolution="augru_reversed", attention="dot", activation=jax.nn.relu),
}


@pytest.fixture(params=list(MODELS), scope="module")
def model(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model with its variables."""
    module = MODELS[request.param]
    return module, drawn(module, X, TARGET, HISTORY, MASK)


def placed(values: np.ndarray, first: int, filler: float) -> np.ndarray:
    """Histories from slot `first` on, in rows of two slots more."""
    widths = [(0, 0), (first, 2 - first)] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, widths, constant_values=filler)


@pytest.mark.parametrize("train", [False, True])
def test_padding_on_either_side_changes_nothing(model: tuple[Any, Any], train: bool) -> None:
    """Neither outputs nor, in training, statistics; the vectors on padding are whatever they are."""
    module, variables = model
    apply = functools.partial(module.apply, variables, X, TARGET, train=train, mutable=["batch_stats"])
    logit, stats = apply(placed(HISTORY, 0, 0.0), placed(MASK, 0, False))
    assert logit.shape == (B,)
    assert np.isfinite(logit).all()
    for first in (1, 2):
        other, moved = apply(placed(HISTORY, first, 9.0), placed(MASK, first, False))
        np.testing.assert_allclose(other, logit, rtol=1e-5, atol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), moved, stats)


def test_padded_statistics_are_those_of_all_slots() -> None:
    """FuxiCTR's: then padding moves what is learned, and only then."""
    target, zeros = TARGET[:2], np.zeros((2, 2, D), np.float32)
    moved = {}
    for padded in (False, True):
        unit = ActivationUnit((3,), padded_statistics=padded)
        apply = functools.partial(unit.apply, UNIT, target, train=True, mutable=["batch_stats"])
        short = apply(HISTORY[:2, :3], np.ones((2, 3), bool))[0]
        mask = np.pad(np.ones((2, 3), bool), ((0, 0), (0, 2)))
        long = apply(np.concatenate([HISTORY[:2, :3], zeros], axis=1), mask)[0]
        moved[padded] = np.abs(long[:, :3] - short).max()
    assert moved[False] < 1e-5 < 1e-3 < moved[True]


@pytest.mark.parametrize("name", ["base", "din", "din-softmax"])
def test_the_order_of_events_changes_nothing(name: str) -> None:
    module, order = MODELS[name], rng.permutation(L)
    variables = drawn(module, X, TARGET, HISTORY, MASK)
    logit = module.apply(variables, X, TARGET, HISTORY, MASK)
    shuffled = module.apply(variables, X, TARGET, HISTORY[:, order], MASK[:, order])
    np.testing.assert_allclose(shuffled, logit, atol=1e-5)


def test_gradients_are_finite_and_zero_on_padding() -> None:
    module = MODELS["dien"]  # has an activation unit as DIN does
    variables = drawn(module, X, TARGET, HISTORY, MASK)

    def total(history: Any) -> Any:
        logit, _ = module.apply(variables, X, TARGET, history, MASK, train=True, mutable=["batch_stats"])
        return jnp.sum(logit**2)

    def pooled(history: Any) -> Any:
        weights: Any = ActivationUnit((3,)).apply(UNIT, TARGET, history, MASK)
        return jnp.sum(pool(weights, history) ** 2)

    for function in (total, pooled):
        gradient = np.abs(jax.jit(jax.grad(function))(HISTORY)).sum(axis=-1)
        assert np.isfinite(gradient).all()
        assert ((gradient > 0) == MASK).all()


def sown(module: Any, *inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    variables = drawn(module, *inputs)
    collections: Any = module.apply(variables, *inputs, mutable=["intermediates"], **options)[1]
    return {name: np.asarray(value[0]) for name, value in collections["intermediates"].items()}


def test_a_unit_that_always_says_one_makes_din_the_base_model_with_sums() -> None:
    module, base = DIN(**SMALL), DINBase((4,), average=False, activation=Dice)
    variables = drawn(module, X, TARGET, HISTORY, MASK)
    score = variables["params"]["attention"]["score"]
    score["kernel"], score["bias"] = np.zeros_like(score["kernel"]), np.ones_like(score["bias"])
    rest = {kind: {"tower": tree["tower"]} for kind, tree in variables.items()}
    expected = base.apply(rest, X, TARGET, HISTORY, MASK)
    np.testing.assert_allclose(module.apply(variables, X, TARGET, HISTORY, MASK), expected, atol=1e-5)


def linear_base(history: np.ndarray, mask: np.ndarray, *, average: bool) -> np.ndarray:
    """What the base model pools: its logit where it is one linear layer that adds up the pooled vector."""
    kernel = np.zeros((F + D, 1), np.float32)
    kernel[F:] = 1.0
    variables = {"params": {"tower": {"logit": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}}
    return np.asarray(DINBase((), average=average).apply(variables, X, TARGET, history, mask))


def test_the_base_model_takes_means_or_sums() -> None:
    equal = np.broadcast_to(HISTORY[:, :1], HISTORY.shape)
    of_one = HISTORY[:, 0].sum(axis=-1) * MASK[:, 0]
    np.testing.assert_allclose(linear_base(equal, MASK, average=True), of_one, atol=1e-5)
    times = MASK.sum(axis=1)
    np.testing.assert_allclose(linear_base(equal, MASK, average=False), times * of_one, atol=1e-5)


# --- DIEN -----------------------------------------------------------------------------------------------


def test_attention_of_dien_is_a_distribution_over_real_states() -> None:
    for module in (DIEN(**SMALL), DIEN(**SMALL, evolution="gru"), DIEN((4,), hidden_dim=2)):
        found = sown(module, X, TARGET, HISTORY, MASK)
        np.testing.assert_allclose(found["weights"].sum(axis=1), [1.0, 1.0, 1.0, 0.0], atol=1e-6)
        assert (found["weights"][~MASK] == 0.0).all()
        assert (found["interest"][3] == 0.0).all()
        assert np.abs(found["interest"][:3]).min() > 0.0


def test_two_layers_without_attention_take_the_last_state() -> None:
    found = sown(DIEN((4,), evolution="gru", attention=None), X, TARGET, HISTORY, MASK)
    assert set(found) == {"states", "interest"}


AUX = DIEN(**SMALL, activation=jax.nn.relu)
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
    module = DIEN((4,), aux_dims=(3,), activation=jax.nn.relu, hidden_dim=2)
    variables = drawn(module, X, TARGET, HISTORY, MASK, negatives=OTHER)
    outputs: Any = module.apply(variables, X, TARGET, HISTORY, MASK, negatives=HISTORY)
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
    module = with_history(DIEN((8,), activation=jax.nn.relu), negatives=("not_seen",), dim=6)
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
    return lambda: module.apply(variables, batch)


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
    (x, target, history, mask), _ = module.apply(variables, batch)  # type: ignore[misc]
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
