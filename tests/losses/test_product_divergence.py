"""The divergence between the probability of an order and that of a click and an order after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from jaxrec import losses

RNG = np.random.default_rng(0)
CLICK, CONVERSION, ORDER = (RNG.normal(0, 2, 7).astype(np.float32) for _ in range(3))


def bernoulli_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_it_is_the_sum_of_both_divergences() -> None:
    p, q = expit(CLICK.astype(float)) * expit(CONVERSION.astype(float)), expit(ORDER.astype(float))
    expected = (bernoulli_kl(p, q) + bernoulli_kl(q, p)).mean()
    np.testing.assert_allclose(losses.product_divergence(CLICK, CONVERSION, ORDER), expected, rtol=1e-5)


def test_it_is_zero_where_the_product_is_met_and_positive_elsewhere() -> None:
    p = expit(CLICK.astype(float)) * expit(CONVERSION.astype(float))
    met = logit(p).astype(np.float32)
    assert abs(losses.product_divergence(CLICK, CONVERSION, met)) < 1e-10
    for shift in (-1.0, 1.0):
        each = jax.vmap(losses.product_divergence)(CLICK[:, None], CONVERSION[:, None], met[:, None] + shift)
        assert (each > 0).all()


def test_product_and_order_may_change_places() -> None:
    p = logit(expit(CLICK.astype(float)) * expit(CONVERSION.astype(float))).astype(np.float32)
    sure = np.full(7, 40.0, np.float32)  # P(order | click) = 1, so that the product is the click
    forth = losses.product_divergence(CLICK, CONVERSION, ORDER)
    back = losses.product_divergence(ORDER, sure, p)
    np.testing.assert_allclose(forth, back, rtol=1e-4)


@pytest.mark.parametrize("scale", [30.0, 3000.0])
def test_extreme_logits_are_finite(scale: float) -> None:
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).astype(np.float32) * scale
    value, slopes = jax.value_and_grad(losses.product_divergence, argnums=(0, 1, 2))(*signs)
    assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)


def test_only_the_order_follows_if_asked() -> None:
    slopes = jax.grad(losses.product_divergence, argnums=(0, 1, 2))
    for only_order in (False, True):
        found = jax.grad(
            lambda c, v, o, only=only_order: losses.product_divergence(c, v, o, only_order=only),
            argnums=(0, 1, 2),
        )(CLICK, CONVERSION, ORDER)
        assert bool((found[0] == 0).all()) == bool((found[1] == 0).all()) == only_order
        np.testing.assert_allclose(found[2], slopes(CLICK, CONVERSION, ORDER)[2], rtol=1e-6)


def test_a_free_conversion_only_forces_orders_below_clicks() -> None:
    """Minimised over the conversion it is 0 where q < P(click), and positive where q is above."""
    grid = jnp.linspace(-20.0, 20.0, 4001)[:, None]
    for order, click, free in ((-1.0, 0.5, True), (1.0, 0.5, False)):
        each = jax.vmap(
            lambda v, o=order, c=click: losses.product_divergence(jnp.full(1, c), v, jnp.full(1, o))
        )
        assert (each(grid).min() < 1e-4) == free


def test_masked_examples_are_not_read() -> None:
    real = np.arange(7) < 4
    bad = [np.where(real, a, np.nan) for a in (CLICK, CONVERSION, ORDER)]
    value, slope = jax.value_and_grad(lambda c: losses.product_divergence(c, bad[1], bad[2], where=real))(
        jnp.asarray(bad[0])
    )
    np.testing.assert_allclose(
        value, losses.product_divergence(CLICK[:4], CONVERSION[:4], ORDER[:4]), rtol=1e-6
    )
    assert np.isfinite(slope).all()
    assert losses.product_divergence(CLICK, CONVERSION, ORDER, where=np.zeros(7, bool)) == 0


def test_devices_add_up() -> None:
    parts = [a[:6].reshape(2, 3) for a in (CLICK, CONVERSION, ORDER)]
    shares = jax.vmap(lambda *a: losses.product_divergence(*a, axis_name="d"), axis_name="d")(*parts)
    whole = losses.product_divergence(CLICK[:6], CONVERSION[:6], ORDER[:6])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-6)
