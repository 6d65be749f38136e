"""Weights against popularity, and the losses that take popularity apart."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weights_are_inverse_propensities_of_mean_1(power: float) -> None:
    counts = np.array([0.0, 8.0, 2.0, 0.0, 1.0])
    found = np.asarray(losses.inverse_popularity(jnp.asarray(counts), power=power), np.float64)
    assert math.isclose((found * counts).sum() / counts.sum(), 1.0, rel_tol=1e-6)
    assert found[0] == found[3] == 0
    np.testing.assert_allclose(found[[2, 4]] / found[1], [4.0**power, 8.0**power], rtol=1e-6)


def test_weights_are_cut_off_before_they_are_scaled() -> None:
    found = losses.inverse_popularity(jnp.array([0.0, 100.0, 1.0]), power=1.0, maximum=5.0)
    np.testing.assert_allclose(found[2] / found[1], 5.0, rtol=1e-6)
    for options in ({"power": -1.0}, {"power": math.nan}, {"maximum": 0.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            losses.inverse_popularity(jnp.ones(3), **options)


def test_the_weighted_clicks_estimate_relevance_without_bias() -> None:
    """With the true propensity as weight the expected weighted clicks of an item are its relevance."""
    propensity, relevance = np.array([1.0, 0.25, 0.04]), np.array([0.2, 0.6, 0.9])
    expected = 1000 * propensity * relevance
    np.testing.assert_allclose(expected / propensity / 1000, relevance)


def test_squared_cosines_are_0_for_orthogonal_pairs_alone_and_do_not_read_lengths() -> None:
    a, b = jnp.array([[1.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 2.0], [-4.0, 3.0]])
    assert float(losses.squared_cosine(a, b)) == 0.0
    want = np.mean([(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) ** 2 for x, y in zip(X, Y, strict=True)])
    np.testing.assert_allclose(losses.squared_cosine(X, Y), want, rtol=1e-5)
    np.testing.assert_allclose(losses.squared_cosine(7.0 * X, 0.1 * Y), want, rtol=1e-5)


def test_distances_of_directions_are_their_formula() -> None:
    cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(losses.direction_distance(X, Y), np.mean(2 - 2 * np.array(cosine)), rtol=1e-5)
    np.testing.assert_allclose(losses.direction_distance(X, 5.0 * X), 0.0, atol=1e-6)
    where = jnp.arange(12) < 4
    np.testing.assert_allclose(
        losses.direction_distance(X, Y, where=where), losses.direction_distance(X[:4], Y[:4]), rtol=1e-6
    )


def slow_discrepancy(x: np.ndarray, y: np.ndarray, *, unbiased: bool) -> float:
    """Pair by pair, with the median distance of all pairs of different members."""
    both = np.concatenate([x, y]).astype(np.float64)
    squares = ((both[:, None] - both) ** 2).sum(axis=-1)
    width = np.median(squares[~np.eye(len(both), dtype=bool)])

    def mean(of_a: range, of_b: range) -> float:
        values = [
            sum(math.exp(-squares[i, j] / (2 * width * scale**2)) for scale in (0.25, 0.5, 1, 2, 4))
            for i in of_a
            for j in of_b
            if not (unbiased and i == j)
        ]
        return float(np.mean(values))

    first, second = range(len(x)), range(len(x), len(both))
    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_discrepancy_is_that_of_all_pairs(unbiased: bool) -> None:
    x, y = np.asarray(X), np.asarray(Y[:7]) + 1.0
    want = slow_discrepancy(x, y, unbiased=unbiased)
    found = jax.jit(losses.mean_discrepancy, static_argnames="unbiased")(x, y, unbiased=unbiased)
    np.testing.assert_allclose(found, want, rtol=1e-4)
    padded = jnp.concatenate([jnp.asarray(y), jnp.full((5, 3), 99.0)])
    masked = losses.mean_discrepancy(X, padded, where_y=jnp.arange(12) < 7, unbiased=unbiased)
    np.testing.assert_allclose(masked, want, rtol=1e-4)


def test_equal_samples_have_none_and_a_shift_has_one() -> None:
    assert abs(float(losses.mean_discrepancy(X, X))) < 1e-5
    shifts = [float(losses.mean_discrepancy(X, X + by)) for by in (0.5, 1.0, 2.0)]
    assert 0 < shifts[0] < shifts[1] < shifts[2]
    drawn = np.random.default_rng(1).normal(size=(200, 2, 40, 2))
    unbiased = jax.jit(jax.vmap(lambda pair: losses.mean_discrepancy(pair[0], pair[1], unbiased=True)))(drawn)
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / math.sqrt(200)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("most", [None, 7])
def test_the_discrepancy_of_all_devices_is_that_of_one(devices: int, most: int | None) -> None:
    real = jnp.arange(12) % 3 != 1

    def total(x: Any, y: Any) -> Any:
        parts = (array.reshape(devices, -1, *array.shape[1:]) for array in (x, y, real))
        share = functools.partial(losses.mean_discrepancy, most=most, axis_name="devices")
        return jax.vmap(lambda x, y, w: share(x, y, where_x=w), axis_name="devices")(*parts).sum()

    def alone(x: Any, y: Any) -> Any:
        x, y, where = (array[:most] for array in (x, y, real))
        return losses.mean_discrepancy(x, y, where_x=where)

    found = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(X, Y + 1.0)
    want = jax.jit(jax.value_and_grad(alone, argnums=(0, 1)))(X, Y + 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, want)


def test_a_sample_without_members_is_no_discrepancy_and_gradients_are_finite() -> None:
    none = jnp.zeros(12, bool)
    value, gradient = jax.value_and_grad(lambda x: losses.mean_discrepancy(x, Y, where_x=none))(X)
    assert float(value) == 0.0 and not np.asarray(gradient).any()
    for x in (X, jnp.zeros_like(X), 1e4 * X):
        gradient = jax.grad(lambda x: losses.mean_discrepancy(x, x + 1.0))(x)
        assert np.isfinite(gradient).all()


def test_a_stopped_side_gets_no_gradient() -> None:
    def value(x: Any, y: Any) -> Any:
        return losses.mean_discrepancy(jax.lax.stop_gradient(x), y)

    of_x, of_y = jax.grad(value, argnums=(0, 1))(X, Y + 1.0)
    assert not np.asarray(of_x).any() and np.asarray(of_y).any()
