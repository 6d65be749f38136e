"""Estimates of a policy's value: unbiased by enumeration, invariances, errors, masks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.data.synthetic.logged_policy import logged_policy

LOGGING, TARGET = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
CHANCE = np.array([0.2, 0.5, 0.9])  # of a reward, by action
VALUE = float(TARGET @ CHANCE)
RNG = np.random.default_rng(0)
REWARD = jnp.asarray(RNG.integers(0, 2, 12), jnp.float32)
WEIGHT = jnp.asarray(RNG.exponential(1.0, 12), jnp.float32)
MODEL, EXPECTED = (jnp.asarray(RNG.random(12), jnp.float32) for _ in range(2))


def expectation(estimate: Any, *, rows: int = 2) -> float:
    """The mean of estimate(action, reward) over all logs of so many rows, each by its probability."""
    total = 0.0
    for actions in itertools.product(range(3), repeat=rows):
        for rewards in itertools.product((0, 1), repeat=rows):
            action, reward = np.array(actions), np.array(rewards)
            chance = np.where(reward == 1, CHANCE[action], 1 - CHANCE[action])
            total += np.prod(LOGGING[action] * chance) * float(estimate(action, reward.astype(np.float32)))
    return total


def test_inverse_propensities_are_unbiased() -> None:
    def estimate(action: np.ndarray, reward: np.ndarray) -> Any:
        weight = metrics.importance_weights(TARGET[action], LOGGING[action])
        return metrics.ips(jnp.asarray(reward), weight).value

    assert math.isclose(expectation(estimate), VALUE, rel_tol=1e-5)


@pytest.mark.parametrize("model", [np.zeros(3), np.array([0.9, 0.1, 0.4]), CHANCE])
def test_doubly_robust_is_unbiased_whatever_the_model(model: np.ndarray) -> None:
    def estimate(action: np.ndarray, reward: np.ndarray) -> Any:
        weight = metrics.importance_weights(TARGET[action], LOGGING[action])
        expected = jnp.full(len(action), float(TARGET @ model))
        return metrics.doubly_robust(jnp.asarray(reward), weight, jnp.asarray(model[action]), expected).value

    assert math.isclose(expectation(estimate), VALUE, rel_tol=1e-5)


def test_doubly_robust_with_the_true_model_needs_no_propensities() -> None:
    wrong = np.array([0.2, 0.2, 0.6])

    def estimate(action: np.ndarray, reward: np.ndarray) -> Any:
        weight = metrics.importance_weights(TARGET[action], wrong[action])
        expected = jnp.full(len(action), VALUE)
        return metrics.doubly_robust(jnp.asarray(reward), weight, jnp.asarray(CHANCE[action]), expected).value

    assert math.isclose(expectation(estimate), VALUE, rel_tol=1e-5)


def test_a_model_of_zeros_gives_inverse_propensities() -> None:
    zeros = jnp.zeros(12)
    ours, want = metrics.doubly_robust(REWARD, WEIGHT, zeros, zeros), metrics.ips(REWARD, WEIGHT)
    np.testing.assert_array_equal(ours.value, want.value)
    np.testing.assert_array_equal(ours.error, want.error)


def test_equal_policies_give_the_mean_reward() -> None:
    one = metrics.importance_weights(jnp.full(12, 0.25), jnp.full(12, 0.25))
    for found in (metrics.ips(REWARD, one), metrics.snips(REWARD, one)):
        np.testing.assert_allclose(found.value, REWARD.mean(), rtol=1e-6)
        np.testing.assert_allclose(found.error, np.std(REWARD, ddof=1) / np.sqrt(12), rtol=1e-5)
    assert float(metrics.effective_size(one)) == 12.0


def test_snips_moves_with_the_rewards_and_ips_with_the_weights() -> None:
    before, after = metrics.snips(REWARD, WEIGHT), metrics.snips(REWARD + 3.0, WEIGHT)
    np.testing.assert_allclose(after.value, before.value + 3.0, rtol=1e-5)
    np.testing.assert_allclose(after.error, before.error, rtol=1e-4)
    moved = metrics.ips(REWARD + 3.0, WEIGHT).value - metrics.ips(REWARD, WEIGHT).value
    np.testing.assert_allclose(moved, 3.0 * WEIGHT.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.snips(REWARD, 7.0 * WEIGHT).value, before.value, rtol=1e-6)
    assert REWARD.min() <= before.value <= REWARD.max()


def test_estimates_are_their_formulas() -> None:
    reward, weight, model, expected = (np.asarray(x, np.float64) for x in (REWARD, WEIGHT, MODEL, EXPECTED))
    of_rows = {"ips": weight * reward, "dr": expected + weight * (reward - model), "direct": expected}
    found = {
        "ips": metrics.ips(REWARD, WEIGHT),
        "dr": metrics.doubly_robust(REWARD, WEIGHT, MODEL, EXPECTED),
        "direct": metrics.direct(EXPECTED),
    }
    for name, values in of_rows.items():
        np.testing.assert_allclose(found[name].value, values.mean(), rtol=1e-5)
        np.testing.assert_allclose(found[name].error, values.std(ddof=1) / np.sqrt(12), rtol=1e-4)
    value = (weight * reward).sum() / weight.sum()
    error = np.sqrt(12 / 11 * (weight**2 * (reward - value) ** 2).sum()) / weight.sum()
    np.testing.assert_allclose(metrics.snips(REWARD, WEIGHT), (value, error), rtol=1e-4)
    size = weight.sum() ** 2 / (weight**2).sum()
    np.testing.assert_allclose(metrics.effective_size(WEIGHT), size, rtol=1e-5)


def test_masked_rows_and_leading_axes_change_nothing() -> None:
    where = jnp.arange(12) < 7
    hidden = jnp.where(where, REWARD, jnp.nan)
    for estimate in (metrics.ips, metrics.snips):
        want = estimate(REWARD[:7], WEIGHT[:7])
        np.testing.assert_allclose(jax.jit(estimate)(hidden, WEIGHT, where=where), want, rtol=1e-5)
        both = estimate(jnp.stack([REWARD, 1 - REWARD]), WEIGHT)
        np.testing.assert_allclose(both.value[0], estimate(REWARD, WEIGHT).value, rtol=1e-6)
    want = metrics.doubly_robust(REWARD[:7], WEIGHT[:7], MODEL[:7], EXPECTED[:7])
    found = metrics.doubly_robust(hidden, WEIGHT, MODEL, EXPECTED, where=where)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    none = metrics.ips(REWARD, WEIGHT, where=jnp.zeros(12, bool))
    assert math.isnan(float(none.value)) and math.isnan(float(none.error))
    assert math.isnan(float(metrics.ips(REWARD[:1], WEIGHT[:1]).error))


def test_weights_are_cut_off_and_impossible_ones_are_nan() -> None:
    found = metrics.importance_weights(
        jnp.array([0.5, 0.5, 0.0, 0.5, 1.5]), jnp.array([0.5, 0.1, 0.3, 0.0, 0.5]), maximum=2.0
    )
    np.testing.assert_allclose(found, [1.0, 2.0, 0.0, np.nan, np.nan])
    for maximum in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="maximum="):
            metrics.importance_weights(jnp.ones(1), jnp.ones(1), maximum=maximum)
    with pytest.raises(ValueError, match="level=95"):
        metrics.ips(REWARD, WEIGHT).interval(95)


def test_intervals_hold_the_truth_as_often_as_they_say_and_the_logs_mean_does_not() -> None:
    """Of 200 logs of 1,000 rows, 95 % within four standard deviations of a binomial."""
    held = dict.fromkeys(("ips", "snips", "dr", "logged"), 0)
    errors: dict[str, list[float]] = {name: [] for name in held}
    estimate = jax.jit(
        lambda reward, weight, model, expected: {
            "ips": metrics.ips(reward, weight),
            "snips": metrics.snips(reward, weight),
            "dr": metrics.doubly_robust(reward, weight, model, expected),
            "logged": metrics.direct(reward),
        }
    )
    for seed in range(200):
        made = logged_policy(1_000, num_contexts=4, num_actions=5, seed=1000)
        rng = np.random.default_rng(seed)
        context = rng.integers(0, 4, 1_000)
        action = (rng.random((1_000, 1)) > np.cumsum(made.logging, axis=1)[context][:, :-1]).sum(axis=1)
        reward = rng.random(1_000) < made.rewards[context, action]
        weight = made.target[context, action] / made.logging[context, action]
        model = 0.8 * made.rewards + 0.05
        expected = (made.target * model).sum(axis=1)[context]
        found = estimate(reward.astype(np.float32), weight, model[context, action], expected)
        for name, of in found.items():
            low, high = of.interval()
            held[name] += int(low <= made.value <= high)
            errors[name].append(float(of.value) - made.value)
    for name in ("ips", "snips", "dr"):
        assert abs(held[name] - 190) <= 4 * math.sqrt(200 * 0.95 * 0.05)
        assert abs(np.mean(errors[name])) < 4 * np.std(errors[name]) / math.sqrt(200) + 1e-3
    assert held["logged"] == 0
    assert np.std(errors["dr"]) < np.std(errors["ips"])
