"""The multinomial likelihood of a row of items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(4, 7)).astype(np.float32)
X = np.array([[0, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0] * 7, [0, 2, 0, 0, 1, 0, 0]], np.float32)


def slow(scores: np.ndarray, x: np.ndarray, first: int) -> np.ndarray:
    """-Σ_i x_i log(exp s_i / Σ_j exp s_j) of each row, item by item."""
    found = []
    for s, row in zip(scores.astype(np.float64), x, strict=True):
        mass = sum(np.exp(s[j]) for j in range(first, len(s)))
        found.append(-sum(row[i] * np.log(np.exp(s[i]) / mass) for i in range(first, len(s))))
    return np.array(found)


@pytest.mark.parametrize("include_padding", [False, True])
def test_equals_the_formula(include_padding: bool) -> None:
    expected = slow(SCORES, X, 0 if include_padding else 1)
    ours = losses.multinomial(SCORES, X, include_padding=include_padding)
    np.testing.assert_allclose(ours, expected.mean(), rtol=1e-6)
    where = np.array([True, False, True, False])
    masked = losses.multinomial(SCORES, X, include_padding=include_padding, where=where)
    np.testing.assert_allclose(masked, expected[where].mean(), rtol=1e-6)


def test_the_gradient_is_the_expected_row_minus_the_row() -> None:
    """∂/∂s_i = (n softmax(s)_i - x_i) / B for a row of n items; padding has none."""
    gradient = jax.jit(jax.grad(losses.multinomial))(jnp.asarray(SCORES), X)
    probs = np.exp(SCORES[:, 1:]) / np.exp(SCORES[:, 1:]).sum(-1, keepdims=True)
    expected = (X[:, 1:].sum(-1, keepdims=True) * probs - X[:, 1:]) / 4
    np.testing.assert_allclose(gradient[:, 1:], expected, atol=1e-6)
    assert not np.asarray(gradient[:, 0]).any()


def test_extreme_scores_and_rows_without_items_are_finite() -> None:
    scores = jnp.array([[0.0, 1e4, -1e4], [0.0, 0.0, 0.0]])
    x = jnp.array([[0, 0, 1], [0, 0, 0]])
    loss, gradient = jax.value_and_grad(losses.multinomial)(scores, x)
    assert loss == 2e4 / 2 and np.isfinite(gradient).all()
    assert losses.multinomial(scores, x, where=jnp.zeros(2, bool)) == 0.0


def test_maps_over_a_leading_axis() -> None:
    each = jax.vmap(losses.multinomial)(jnp.stack([SCORES, -SCORES]), jnp.stack([X, X]))
    np.testing.assert_allclose(each, [losses.multinomial(SCORES, X), losses.multinomial(-SCORES, X)])


def test_shares_of_devices_add_up() -> None:
    where = np.array([True, True, True, False])
    halves = [a.reshape(2, 2, *a.shape[1:]) for a in (SCORES, X, where)]
    share = jax.vmap(lambda s, x, w: losses.multinomial(s, x, where=w, axis_name="d"), axis_name="d")
    np.testing.assert_allclose(share(*halves).sum(), losses.multinomial(SCORES, X, where=where), rtol=1e-6)
