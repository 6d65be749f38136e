"""Products and mixtures of probabilities as logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.probability import mixture_logit, product_logit


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


GRID = np.array([-30.0, -9.0, -1.5, 0.0, 0.5, 4.0, 30.0], np.float32)
A, B, C = (axis.ravel() for axis in np.meshgrid(GRID, GRID, GRID))


def log_sigmoid(x: Any) -> Any:
    return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def test_a_product_of_two_is_exact_on_either_side() -> None:
    ours = product_logit(A, B)
    np.testing.assert_allclose(log_sigmoid(ours), log_sigmoid(A) + log_sigmoid(B), rtol=1e-5, atol=1e-6)
    none = np.logaddexp(log_sigmoid(-A), log_sigmoid(A) + log_sigmoid(-B))  # not a, or a and not b
    np.testing.assert_allclose(log_sigmoid(-np.asarray(ours, np.float64)), none, rtol=1e-5, atol=1e-6)


def test_a_product_is_never_above_a_factor() -> None:
    assert (np.asarray(product_logit(A, B)) <= np.minimum(A, B)).all()


def test_a_product_of_three_and_of_one() -> None:
    three = (jnp.float32(x) for x in (0.3, -1.0, 2.0))
    close(product_logit(*three), logit(sigmoid(0.3) * sigmoid(-1.0) * sigmoid(2.0)))
    assert product_logit(jnp.float32(0.3)) == np.float32(0.3)


def test_a_sure_factor_leaves_the_other_alone() -> None:
    close(product_logit(np.full_like(GRID, 200.0), GRID), GRID)


def test_a_mixture_by_its_formula() -> None:
    inside = (np.abs(A) < 20) & (np.abs(B) < 20) & (np.abs(C) < 20)
    gate, a, b = A[inside], B[inside], C[inside]
    expected = sigmoid(gate) * sigmoid(a) + (1 - sigmoid(gate)) * sigmoid(b)
    np.testing.assert_allclose(mixture_logit(gate, a, b), logit(expected), rtol=1e-4, atol=1e-5)


def test_a_mixture_lies_between_its_parts() -> None:
    ours = np.asarray(mixture_logit(A, B, C))
    assert (ours >= np.minimum(B, C) - 1e-5).all()
    assert (ours <= np.maximum(B, C) + 1e-5).all()
    np.testing.assert_allclose(mixture_logit(A, B, B), B, rtol=1e-6, atol=1e-6)  # whatever the gate
    close(mixture_logit(np.full_like(B, -100.0), B, B[::-1]), B[::-1])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_products_and_mixtures_are_finite_with_finite_gradients(scale: float) -> None:
    a, b, c = scale * A, scale * B, scale * C
    for values, grads in (
        jax.vmap(jax.value_and_grad(product_logit, argnums=(0, 1)))(a, b),
        jax.vmap(jax.value_and_grad(mixture_logit, argnums=(0, 1, 2)))(a, b, c),
    ):
        assert np.isfinite(values).all()
        assert np.isfinite(grads).all()
        assert (np.abs(grads) <= 2.0).all()
