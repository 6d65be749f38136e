"""Dice and PReLU: formulas, running statistics, devices, and derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers import dice as dice_layer
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.mlp import MLP
from tests.nn.drawn import applied, drawn

B, L, D, F = 4, 5, 3, 6
rng = np.random.default_rng(0)
X, HISTORY = (rng.normal(size=shape).astype(np.float32) for shape in ((B, F), (B, L, D)))
MASK = np.arange(L) < np.array([[5], [3], [1], [0]])  # whole, padded, one event, none


def dice(x: Any, alpha: float = 0.0, mean: float = 0.0, var: float = 1.0, **fields: Any) -> np.ndarray:
    channels = (x.shape[-1],)
    variables = {
        "params": {"alpha": np.full(channels, alpha, np.float32)},
        "batch_stats": {
            "mean": np.full(channels, mean, np.float32),
            "var": np.full(channels, var, np.float32),
        },
    }
    return np.asarray(applied(Dice(**fields), variables, x))


def test_dice_with_slope_one_is_the_identity_and_with_zero_a_gate() -> None:
    np.testing.assert_allclose(dice(X, 1.0, 0.3, 2.0), X, atol=1e-6)
    gate = 1.0 / (1.0 + np.exp(-(X - 0.3) / np.sqrt(2.0 + 0.5)))
    np.testing.assert_allclose(dice(X, 0.0, 0.3, 2.0, epsilon=0.5), X * gate, atol=1e-6)


def test_dice_at_the_mean_is_half_way_between_its_slopes() -> None:
    np.testing.assert_allclose(dice(np.full((1, 2), 3.0), 0.2, mean=3.0), (0.5 + 0.5 * 0.2) * 3.0, rtol=1e-6)


def test_dice_without_variance_around_zero_is_prelu() -> None:
    variables = {"params": {"alpha": np.full(F, 0.3, np.float32)}}
    np.testing.assert_allclose(dice(X, 0.3, var=0.0), applied(PReLU(), variables, X), atol=1e-6)


def test_dice_has_slope_one_far_above_and_alpha_far_below_the_mean() -> None:
    far = np.array([[50.0], [-50.0]], np.float32)
    np.testing.assert_allclose(dice(far, 0.3, mean=1.0), far * [[1.0], [0.3]], rtol=1e-6)


def test_prelu_learns_a_slope_for_each_channel() -> None:
    slopes = np.array([0.5, -1.0], np.float32)
    y = applied(PReLU(), {"params": {"alpha": slopes}}, np.array([[-2.0, -2.0], [3.0, 3.0]], np.float32))
    np.testing.assert_allclose(y, [[-1.0, 2.0], [3.0, 3.0]])
    assert (drawn(PReLU(), X)["params"]["alpha"].shape) == (F,)
    assert (PReLU(0.1).init(jax.random.key(0), X)["params"]["alpha"] == np.float32(0.1)).all()


def test_dice_trains_on_what_counts_and_moves_its_running_statistics() -> None:
    module = Dice(momentum=0.9)
    variables = drawn(module, HISTORY)
    y, updated = applied(module, variables, HISTORY, train=True, where=MASK, mutable=["batch_stats"])
    real = HISTORY[MASK]
    before, after = variables["batch_stats"], updated["batch_stats"]
    mean, var, alpha = real.mean(axis=0), real.var(axis=0), variables["params"]["alpha"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, atol=1e-6)
    p = 1.0 / (1.0 + np.exp(-(HISTORY - mean) / np.sqrt(var + 1e-8)))
    np.testing.assert_allclose(y, p * HISTORY + (1.0 - p) * alpha * HISTORY, atol=1e-5)
    _, kept = applied(module, variables, HISTORY, train=True, where=MASK & False, mutable=["batch_stats"])
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

    @jax.jit
    def with_gradients() -> Any:
        forms = (own, lambda x, slope: derived_dice(x, slope, where))
        return [(value, pull(g)) for value, pull in (jax.vjp(form, x, slope) for form in forms)]

    (found, gradients), (expected, derived) = with_gradients()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(gradients, derived, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_gradients_of_dice_have_the_types_of_what_they_belong_to(dtype: Any) -> None:
    x, variables = jnp.asarray(HISTORY, dtype), drawn(Dice(), HISTORY)

    def total(params: Any, x: Any) -> Any:
        out, updated = Dice().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return out.astype(jnp.float32).sum(), updated["batch_stats"]

    gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (of_params, of_x), statistics = gradient(variables["params"], x)
    assert of_x.dtype == dtype and of_params["alpha"].dtype == jnp.float32
    mean = np.asarray(x, np.float32).reshape(-1, D).mean(axis=0)
    expected = 0.99 * variables["batch_stats"]["mean"] + 0.01 * mean
    np.testing.assert_allclose(statistics["mean"], expected, atol=1e-5)


def test_dice_of_no_rows_gives_none() -> None:
    def total(x: Any) -> Any:
        return Dice().apply(drawn(Dice(), X), x, train=True, mutable=["batch_stats"])[0].sum()

    assert jax.jit(jax.grad(total))(np.zeros((0, F), np.float32)).shape == (0, F)


def test_gradients_of_dice_flow_through_the_statistics_of_all_devices() -> None:
    x, g = (rng.normal(size=(2, 4, F)).astype(np.float32) for _ in range(2))
    variables = drawn(Dice(), X)

    def one(x: Any, g: Any, axis_name: str | None = "devices") -> Any:
        def out(x: Any) -> Any:
            return Dice(axis_name=axis_name).apply(variables, x, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(out, x)[1](g)[0]

    whole = jax.jit(one, static_argnums=2)(x.reshape(8, F), g.reshape(8, F), None)
    parts = jax.pmap(one, axis_name="devices", devices=jax.devices()[:2])(x, g)
    np.testing.assert_allclose(parts.reshape(8, F), whole, atol=1e-5)


def test_every_layer_of_an_mlp_has_its_own_dice() -> None:
    variables = drawn(MLP((4, 2), Dice), X)
    shapes = {name: layer["alpha"].shape for name, layer in variables["params"].items() if "act" in name}
    assert shapes == {"activation_0": (4,), "activation_1": (2,)}
    assert (Dice(0.7).init(jax.random.key(0), X)["params"]["alpha"] == np.float32(0.7)).all()
