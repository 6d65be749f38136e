"""Losses of late conversions: formulas, limits, and what they have as fixed points."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.types import Array

N = 40
RNG = np.random.default_rng(0)
LOGITS, LOG_RATE = RNG.normal(size=(2, N)).astype(np.float32)
CONVERTED = (RNG.random(N) < 0.5).astype(np.float32)
DELAY, ELAPSED = RNG.exponential(3.0, (2, N)).astype(np.float32)
SEEN = {"converted": CONVERTED, "delay": DELAY, "elapsed": ELAPSED}


def sigmoid(logits: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def test_likelihood_is_chapelles() -> None:
    p, rate = sigmoid(LOGITS), np.exp(LOG_RATE.astype(np.float64))
    each = -np.where(
        CONVERTED > 0, np.log(p) + np.log(rate) - rate * DELAY, np.log(1 - p + p * np.exp(-rate * ELAPSED))
    )
    where = np.arange(N) % 3 > 0
    np.testing.assert_allclose(
        losses.delayed_feedback_of_each(LOGITS, LOG_RATE, **SEEN), each, rtol=1e-4, atol=1e-6
    )
    found = jax.jit(losses.delayed_feedback)(LOGITS, LOG_RATE, **SEEN, where=where)
    assert np.isclose(found, each[where].mean(), rtol=1e-5)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def negative(logit: Any, log_rate: Any, elapsed: Any) -> Array:
    return losses.delayed_feedback(
        logit, log_rate, converted=jnp.zeros(()), delay=jnp.zeros(()), elapsed=elapsed
    )


def test_a_click_of_this_moment_teaches_nothing() -> None:
    value, gradient = negative(1.5, -0.3, 0.0)
    assert value == 0 and gradient[0] == gradient[1] == 0


@pytest.mark.parametrize(("log_rate", "elapsed"), [(0.0, 1e6), (40.0, 1.0)])
def test_a_click_that_would_have_converted_by_now_is_a_negative(log_rate: float, elapsed: float) -> None:
    value, gradient = negative(1.5, log_rate, elapsed)
    assert np.isclose(value, -np.log(1 - sigmoid(1.5)), rtol=1e-6)
    assert np.isclose(gradient[0], sigmoid(1.5), rtol=1e-6) and gradient[1] == 0


@pytest.mark.parametrize("log_rate", [89.0, 300.0])
@pytest.mark.parametrize("elapsed", [0.0, 1e-6, 1e6])
def test_a_rate_beyond_float32_is_a_delay_of_0(log_rate: float, elapsed: float) -> None:
    value, gradient = negative(1.5, log_rate, elapsed)
    expected = (np.logaddexp(0, 1.5), sigmoid(1.5)) if elapsed else (0.0, 0.0)
    np.testing.assert_allclose([value, *gradient], [*expected, 0.0], rtol=1e-6)
    at_once = {"converted": jnp.ones(()), "delay": jnp.zeros(()), "elapsed": jnp.ones(())}
    of = jax.jit(jax.grad(lambda r: losses.delayed_feedback(jnp.float32(0.0), r, **at_once)))
    assert of(jnp.float32(log_rate)) == -1.0


@pytest.mark.parametrize("logit", [-80.0, 80.0])
@pytest.mark.parametrize("converted", [0.0, 1.0])
def test_extreme_scores_have_finite_gradients(logit: float, converted: float) -> None:
    seen = {"converted": jnp.float32(converted), "delay": jnp.float32(2.0), "elapsed": jnp.float32(5.0)}
    gradient = jax.jit(jax.grad(lambda *p: losses.delayed_feedback(*p, **seen), (0, 1)))
    for log_rate in (-30.0, 20.0):
        found = gradient(logit, log_rate)
        assert np.isfinite(found).all()


def test_no_example_gives_zero() -> None:
    assert losses.delayed_feedback(LOGITS, LOG_RATE, **SEEN, where=jnp.zeros(N, bool)) == 0
    assert losses.fake_negative_weighted(LOGITS, CONVERTED, where=jnp.zeros(N, bool)) == 0


def test_what_is_unknown_of_examples_that_are_not_real_reaches_no_gradient() -> None:
    real, unknown = jnp.arange(N) % 2 == 0, jnp.where(jnp.arange(N) % 2 == 0, 1.0, jnp.nan)
    seen = {name: jnp.asarray(column) * unknown for name, column in SEEN.items()}
    for loss in (
        lambda z: losses.delayed_feedback(z, z, **seen, where=real),
        lambda z: losses.fake_negative_weighted(z, CONVERTED * unknown, where=real),
    ):
        gradient = jax.grad(loss)(LOGITS * unknown)
        assert np.isfinite(gradient).all() and (gradient[~real] == 0).all() and (gradient[real] != 0).all()


def minimum(loss: Callable[[Array], Array], *start: float) -> np.ndarray:
    """Where the gradient of a loss of a few numbers vanishes, by descent."""
    step = jax.jit(lambda x, i: (x - 2.0 * jax.grad(loss)(x), None))
    found, _ = jax.lax.scan(step, jnp.array(start), jnp.arange(2000))
    return np.asarray(found)


def test_simulated_delays_give_the_probability_and_the_rate_back() -> None:
    rng = np.random.default_rng(1)
    p, rate, count = 0.3, 0.5, 40_000
    elapsed = rng.uniform(0, 4, count)
    delay = np.where(rng.random(count) < p, rng.exponential(1 / rate, count), np.inf)
    seen = (delay < elapsed).astype(np.float32)
    assert seen.mean() < 0.2  # a third of the conversions is not seen
    columns = {
        "converted": seen,
        "delay": np.where(seen > 0, delay, 0).astype(np.float32),
        "elapsed": elapsed.astype(np.float32),
    }
    found = minimum(lambda x: losses.delayed_feedback(x[0], x[1], **columns), 0.0, 0.0)
    assert np.isclose(sigmoid(found[0]), p, atol=0.02) and np.isclose(np.exp(found[1]), rate, atol=0.05)


PROB = 0.3
STREAM = {"labels": jnp.array([1.0, 0.0]), "share": jnp.array([PROB, 1.0])}  # every click is a negative, too


def of_stream(loss: Callable[..., Array]) -> float:
    """The probability at which a loss of the stream of clicks of probability PROB is least."""

    def total(x: Array) -> Array:
        return jnp.sum(STREAM["share"] * jax.vmap(lambda label: loss(x[0], label))(STREAM["labels"]))

    return float(sigmoid(minimum(total, 0.0)[0]))


def test_fixed_points_of_a_stream() -> None:
    plain = of_stream(losses.binary_cross_entropy)
    assert np.isclose(plain, PROB / (1 + PROB), atol=1e-4)
    assert np.isclose(of_stream(losses.fake_negative_weighted), PROB, atol=1e-4)
    logit = jnp.log(plain / (1 - plain))
    assert np.isclose(sigmoid(losses.fake_negative_calibrated(logit)), PROB, atol=1e-4)
    assert np.isclose(
        sigmoid(losses.fake_negative_calibrated(jnp.array([0.0, 5.0]))), 1 - 1e-6, atol=1e-7
    ).all()


def test_weights_of_elapsed_time_without_a_wait_are_those_of_fake_negatives() -> None:
    """d = p and r = 1 - p: every conversion comes later than the wait."""
    weight = losses.elapsed_time_weights(CONVERTED, LOGITS, -LOGITS)
    weighted = losses.binary_cross_entropy(LOGITS, CONVERTED, weight=weight)
    assert np.isclose(weighted, losses.fake_negative_weighted(LOGITS, CONVERTED), rtol=1e-5)


def test_weights_of_observation_by_hand() -> None:
    found = losses.observation_weights(CONVERTED, LOGITS, LOG_RATE)
    np.testing.assert_allclose(
        found, np.where(CONVERTED > 0, 1 / sigmoid(LOGITS), sigmoid(LOG_RATE)), rtol=1e-5
    )


def test_no_weight_has_a_gradient() -> None:
    for weights in (losses.observation_weights, losses.elapsed_time_weights):
        found = jax.grad(lambda a, b, w=weights: w(CONVERTED, a, b).sum(), (0, 1))(LOGITS, LOG_RATE)
        assert not np.any(found)
    label = jnp.ones(())
    gradient = jax.grad(lambda x: losses.fake_negative_weighted(x, label))(jnp.float32(0.4))
    p = sigmoid(0.4)
    assert np.isclose(gradient, (1 + p) * (p - 1), rtol=1e-5)
