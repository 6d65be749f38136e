"""Losses of entire-space models: the calibrator of AITM, and the counterfactual risks of ESCM²."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

ERRORS = np.array([0.3, 1.7, 0.8], np.float32)
PROPENSITY = np.array([0.2, 0.9, 0.5], np.float32)
IMPUTED = np.array([1.0, 0.1, 0.6], np.float32)
OBSERVED = np.array([True, False, True])
RISKS: dict[str, Callable[..., Any]] = {
    "ips": lambda errors, observed, **k: losses.inverse_propensity_risk(errors, observed, PROPENSITY, **k),
    "dr": lambda errors, observed, **k: losses.doubly_robust_risk(errors, IMPUTED, observed, PROPENSITY, **k),
    "imputation": lambda errors, observed, **k: losses.imputation_risk(
        errors, IMPUTED, observed, PROPENSITY, **k
    ),
}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# --- the calibrator --------------------------------------------------------------------------------

LOGITS = np.array([[0.5, 1.5, -1.0, 0.2], [2.0, 1.0, 1.0, -3.0], [-1.0, 0.0, 1.0, 2.0]], np.float32)


def test_order_violation_by_hand() -> None:
    p = sigmoid(LOGITS)
    expected = [(p[0, 1] - p[0, 0]) + (p[0, 3] - p[0, 2]), 0.0, p[2, 3] - p[2, 0]]
    np.testing.assert_allclose(losses.order_violation(LOGITS), np.mean(expected), rtol=1e-6)
    where = np.array([True, True, False])
    np.testing.assert_allclose(losses.order_violation(LOGITS, where=where), expected[0] / 2, rtol=1e-6)


def test_order_violation_is_zero_exactly_where_no_probability_rises() -> None:
    assert losses.order_violation(LOGITS[1]) == 0.0
    assert losses.order_violation(LOGITS[:, :1]) == 0.0  # one step has none before it
    assert losses.order_violation(LOGITS[1] + np.float32([0, 0, 1e-3, 0])) > 0.0


def test_order_violation_pulls_the_later_down_and_the_earlier_up() -> None:
    slope = sigmoid(LOGITS) * (1 - sigmoid(LOGITS)) / 3  # of a mean over three rows
    expected = slope * np.array([[-1, 1, -1, 1], [0, 0, 0, 0], [-1, 0, 0, 1]])
    np.testing.assert_allclose(jax.grad(losses.order_violation)(LOGITS), expected, atol=1e-7)


# --- propensities ----------------------------------------------------------------------------------


def test_a_propensity_is_clipped_from_below_and_has_no_gradient() -> None:
    logits = jnp.array([-5.0, 0.0, 3.0])
    np.testing.assert_allclose(losses.clipped_propensity(logits), [0.1, 0.5, sigmoid(3.0)], rtol=1e-6)
    assert losses.clipped_propensity(logits, minimum=0.6)[1] == np.float32(0.6)
    assert (jax.grad(lambda x: losses.clipped_propensity(x).sum())(logits) == 0.0).all()


@pytest.mark.parametrize("minimum", [0.0, -0.1, 1.5])
def test_a_minimum_that_bounds_nothing_is_refused(minimum: float) -> None:
    with pytest.raises(ValueError, match=f"minimum={minimum}"):
        losses.clipped_propensity(jnp.zeros(2), minimum=minimum)


# --- risks -----------------------------------------------------------------------------------------


def expectation(risk: Callable[[np.ndarray], Any], probability: np.ndarray) -> float:
    """Over all eight patterns of what is observed, each as probable as its three coins make it."""
    patterns = [np.array(bits) for bits in itertools.product([False, True], repeat=3)]
    return sum(float(risk(o)) * np.where(o, probability, 1 - probability).prod() for o in patterns)


def test_inverse_propensities_are_unbiased() -> None:
    found = expectation(lambda o: losses.inverse_propensity_risk(ERRORS, o, PROPENSITY), PROPENSITY)
    np.testing.assert_allclose(found, ERRORS.mean(), rtol=1e-6)
    naive = expectation(lambda o: losses.inverse_propensity_risk(ERRORS, o, np.ones(3)), PROPENSITY)
    np.testing.assert_allclose(naive, (PROPENSITY * ERRORS).mean(), rtol=1e-6)  # what clicks alone would say


@pytest.mark.parametrize("right", ["propensity", "imputed error", "neither"])
def test_the_doubly_robust_risk_needs_one_of_its_two_models_to_be_right(right: str) -> None:
    propensity = PROPENSITY if right == "propensity" else np.float32([0.5, 0.5, 0.9])
    imputed = ERRORS if right == "imputed error" else IMPUTED
    found = expectation(lambda o: losses.doubly_robust_risk(ERRORS, imputed, o, propensity), PROPENSITY)
    assert np.isclose(found, ERRORS.mean(), rtol=1e-6) == (right != "neither")


def test_right_imputed_errors_leave_no_variance_and_nothing_to_learn() -> None:
    for observed in ([False] * 3, OBSERVED):
        parts = ERRORS, ERRORS, np.array(observed), PROPENSITY
        np.testing.assert_allclose(losses.doubly_robust_risk(*parts), ERRORS.mean(), rtol=1e-6)
        assert losses.imputation_risk(*parts) == 0.0


def test_imputation_risk_by_hand_trains_imputed_errors_only() -> None:
    value, grads = jax.value_and_grad(losses.imputation_risk, argnums=(0, 1))(
        ERRORS, IMPUTED, OBSERVED, PROPENSITY
    )
    weights = OBSERVED / PROPENSITY / 3
    np.testing.assert_allclose(value, (weights * (ERRORS - IMPUTED) ** 2).sum(), rtol=1e-6)
    assert (grads[0] == 0.0).all()
    np.testing.assert_allclose(grads[1], 2 * weights * (IMPUTED - ERRORS), rtol=1e-6)


@pytest.mark.parametrize("name", RISKS)
def test_what_was_not_observed_is_not_read(name: str) -> None:
    unknown = np.where(OBSERVED, ERRORS, np.nan)
    risk = functools.partial(RISKS[name], observed=OBSERVED)
    value, grad = jax.value_and_grad(risk)(unknown)
    np.testing.assert_allclose(value, risk(ERRORS), rtol=1e-6)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", RISKS)
def test_padded_rows_count_for_nothing(name: str) -> None:
    where = np.array([True, True, False])
    shorter = jax.tree.map(lambda leaf: leaf[:2], (ERRORS, IMPUTED, OBSERVED, PROPENSITY))
    errors, _, observed, propensity = shorter
    expected = {
        "ips": lambda: losses.inverse_propensity_risk(errors, observed, propensity),
        "dr": lambda: losses.doubly_robust_risk(*shorter),
        "imputation": lambda: losses.imputation_risk(*shorter),
    }[name]()
    np.testing.assert_allclose(RISKS[name](ERRORS, OBSERVED, where=where), expected, rtol=1e-6)
    assert RISKS[name](ERRORS, OBSERVED, where=np.zeros(3, bool)) == 0.0


def test_shares_of_devices_add_up() -> None:
    rng = np.random.default_rng(0)
    errors, imputed, propensity = rng.uniform(0.1, 1.0, (3, 2, 4)).astype(np.float32)
    observed, where = rng.integers(0, 2, (2, 2, 4)).astype(bool)
    logits = rng.normal(size=(2, 4, 3)).astype(np.float32)
    for loss, parts in (
        (losses.inverse_propensity_risk, (errors, observed, propensity)),
        (losses.doubly_robust_risk, (errors, imputed, observed, propensity)),
        (losses.imputation_risk, (errors, imputed, observed, propensity)),
        (losses.order_violation, (logits,)),
    ):
        one_device = functools.partial(loss, axis_name="d")
        shares = jax.jit(jax.vmap(lambda where, *p, f=one_device: f(*p, where=where), axis_name="d"))(
            where, *parts
        )
        whole = loss(*(part.reshape(8, *part.shape[2:]) for part in parts), where=where.reshape(8))
        np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)


def test_a_propensity_of_one_gives_the_error_of_the_observed_times_their_share() -> None:
    own = np.random.default_rng(7)
    errors, observed = own.exponential(size=50).astype(np.float32), own.random(50) < 0.3
    found = losses.inverse_propensity_risk(errors, observed, jnp.ones(50))
    np.testing.assert_allclose(found, errors[observed].mean() * observed.mean(), rtol=1e-6)
