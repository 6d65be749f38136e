"""Weighted logistic regression: what its odds are, its gradient, masks and extremes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.types import Array

WATCHED = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], np.float32)
TIME = np.array([3.0, 9.0, 0.0, 0.5, 2.0, 0.0], np.float32)  # read where watched; one is watched for 0
LOGIT = np.array([0.3, -1.2, 2.0, 0.0, 0.7, -0.4], np.float32)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("exact", [False, True])
def test_the_loss_and_its_gradient_are_the_formulas(exact: bool) -> None:
    terms = TIME * WATCHED * softplus(-LOGIT) + (1 - WATCHED) * softplus(LOGIT)
    weights = np.where(WATCHED > 0, TIME, 1.0)
    if exact:
        terms, weights = terms + WATCHED * softplus(LOGIT), weights + WATCHED
    found = losses.watch_time(jnp.asarray(LOGIT), jnp.asarray(WATCHED), jnp.asarray(TIME), exact=exact)
    np.testing.assert_allclose(found, terms.mean(), rtol=1e-6)
    by_weight = losses.watch_time(
        jnp.asarray(LOGIT), jnp.asarray(WATCHED), jnp.asarray(TIME), exact=exact, by_weight=True
    )
    np.testing.assert_allclose(by_weight, terms.sum() / weights.sum(), rtol=1e-6)
    if not exact:
        probability = 1 / (1 + np.exp(-LOGIT))
        slope = (1 - WATCHED) * probability - TIME * WATCHED * (1 - probability)
        ours = jax.grad(lambda z: losses.watch_time(z, jnp.asarray(WATCHED), jnp.asarray(TIME)))(LOGIT)
        np.testing.assert_allclose(ours, slope / 6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_best_constant_is_the_mean_watch_time(exact: bool, scale: float) -> None:
    """Newton's method: exp(z) is Σ T over those not watched or, in the exact form, over all."""

    def loss(z: Array) -> Array:
        return losses.watch_time(jnp.full(6, z), jnp.asarray(WATCHED), jnp.asarray(scale * TIME), exact=exact)

    z, slope, bend = jnp.float32(0.0), jax.jit(jax.grad(loss)), jax.jit(jax.grad(jax.grad(loss)))
    for _ in range(12):
        z = z - slope(z) / bend(z)
    np.testing.assert_allclose(jnp.exp(z), scale * 3.5 / (6 if exact else 3), rtol=1e-4)


def test_weights_of_one_are_logistic_regression() -> None:
    found = losses.watch_time(jnp.asarray(LOGIT), jnp.asarray(WATCHED), jnp.ones(6))
    expected = losses.binary_cross_entropy(jnp.asarray(LOGIT), jnp.asarray(WATCHED))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masked_examples_and_shares_of_devices() -> None:
    where = np.array([True, True, False, True, False, False])
    wrong = np.where(where, LOGIT, np.nan)

    def value(z: Array, y: Array, t: Array, w: Array, axis: str | None = None) -> Array:
        return losses.watch_time(z, y, t, where=w, axis_name=axis)

    found = value(jnp.asarray(wrong), jnp.asarray(WATCHED), jnp.asarray(TIME), jnp.asarray(where))
    kept = losses.watch_time(*(jnp.asarray(x[where]) for x in (LOGIT, WATCHED, TIME)))
    np.testing.assert_allclose(found, kept, rtol=1e-6)
    halves = [jnp.asarray(x).reshape(2, 3) for x in (wrong, WATCHED, TIME, where)]
    shares = jax.vmap(lambda z, y, t, w: value(z, y, t, w, "d"), axis_name="d")(*halves)
    np.testing.assert_allclose(shares.sum(), found, rtol=1e-6)
    none = np.zeros(6, bool)
    assert value(jnp.asarray(LOGIT), jnp.asarray(WATCHED), jnp.asarray(TIME), jnp.asarray(none)) == 0


def test_what_is_unknown_of_examples_that_are_not_real_reaches_no_gradient() -> None:
    """Such as the watch time of a label that another space has: NaN times 0 would be NaN."""
    where = np.array([True, True, False, True, False, False])
    logit, watched, time = (
        jnp.asarray(np.where(where, x, np.nan), jnp.float32) for x in (LOGIT, np.ones(6), TIME)
    )
    quantile = jnp.where(where, 0.25, jnp.nan)
    for loss in (
        lambda z: losses.watch_time(z, jnp.ones(6), time, where=where),
        lambda z: losses.watch_time(z, watched, time, where=where, exact=True, by_weight=True),
        lambda z: losses.quantile_error(z, quantile, where=where),
    ):
        gradient = jax.grad(loss)(logit)
        assert np.isfinite(gradient).all()
        assert (gradient[~where] == 0).all() and (gradient[where] != 0).any()


def test_extreme_logits_are_finite() -> None:
    z = jnp.array([1e4, -1e4])
    for watched in (jnp.ones(2), jnp.zeros(2)):
        value, slope = jax.value_and_grad(lambda z, y=watched: losses.watch_time(z, y, jnp.ones(2)))(z)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
