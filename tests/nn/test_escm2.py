"""ESCM²'s third tower, and the forms that its public codes have of propensities and of the imputed error."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.multitask.escm2 import ESCM2
from tests.nn.drawn import drawn

X = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
ERRORS = np.array([0.3, 1.7, 0.8], np.float32)
IMPUTED = np.array([1.0, 0.1, 0.6], np.float32)
PROPENSITY = np.array([0.2, 0.9, 0.5], np.float32)
OBSERVED = np.array([True, False, True])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x)))


@pytest.mark.parametrize("function", [nn.softplus, nn.sigmoid])
def test_the_third_tower_ends_with_the_activation_it_is_given(function: Any) -> None:
    plain = ESCM2(impute=True, num_experts=2, expert_dims=(4,), tower_dims=(3,), error_activation=lambda x: x)
    variables = drawn(plain, X)
    tower = jax.jit(plain.apply)(variables, X)
    found = jax.jit(plain.clone(error_activation=function).apply)(variables, X)
    np.testing.assert_allclose(found["imputed_error"], function(tower["imputed_error"]), rtol=1e-6)
    for name in ("ctr", "cvr", "ctcvr"):
        np.testing.assert_allclose(found[name], tower[name], rtol=1e-6)


def test_a_propensity_is_scaled_before_it_is_cut_off() -> None:
    logits = jnp.array([-5.0, 0.0, 3.0])
    found = losses.clipped_propensity(logits, minimum=0.25, scale=0.4)
    np.testing.assert_allclose(found, [0.25, 0.25, 0.4 * sigmoid(3.0)], rtol=1e-6)
    assert jax.grad(lambda s: losses.clipped_propensity(logits, scale=s).sum())(0.9) == 0.0


def test_the_share_of_clicks_as_scale_divides_the_risk_by_it() -> None:
    logits = jnp.array([0.5, 0.2, 1.0])
    share = OBSERVED.mean()
    plain, scaled = (losses.clipped_propensity(logits, minimum=1e-3, scale=s) for s in (1.0, share))
    risk = losses.inverse_propensity_risk(ERRORS, OBSERVED, plain)
    np.testing.assert_allclose(
        losses.inverse_propensity_risk(ERRORS, OBSERVED, scaled), risk / share, rtol=1e-6
    )


@pytest.mark.parametrize("train_errors", [True, False])
def test_the_imputation_risk_trains_the_errors_only_if_told_to(train_errors: bool) -> None:
    def risk(errors: Any, imputed: Any) -> Any:
        return losses.imputation_risk(errors, imputed, OBSERVED, PROPENSITY, train_errors=train_errors)

    value, (of_errors, of_imputed) = jax.value_and_grad(risk, argnums=(0, 1))(ERRORS, IMPUTED)
    weights = OBSERVED / PROPENSITY / 3
    slope = 2 * weights * (ERRORS - IMPUTED)
    np.testing.assert_allclose(value, (weights * (ERRORS - IMPUTED) ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(of_imputed, -slope, rtol=1e-6)
    np.testing.assert_allclose(of_errors, slope if train_errors else np.zeros(3), rtol=1e-6)
