"""STAMP's printed objective against NumPy, in blocks, masked, at extreme scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.types import Array

rng = np.random.default_rng(0)
NUM_ITEMS, DIM = 7, 4
HIDDEN = rng.normal(size=(2, 3, DIM)).astype(np.float32)
TABLE = 2 * rng.normal(size=(NUM_ITEMS + 1, DIM)).astype(np.float32)
TARGETS = np.array([[3, 1, 7], [2, 7, 0]], np.int32)
WHERE = TARGETS > 0


def slow(hidden: np.ndarray, table: np.ndarray, target: int) -> float:
    """Equations 5 and 6 as they stand, in float64."""
    z = table[1:].astype(np.float64) @ hidden.astype(np.float64)
    bounded = np.exp(1 / (1 + np.exp(-z)))
    y = bounded / bounded.sum()
    return float(-np.log(y[target - 1]) - np.log(1 - np.delete(y, target - 1)).sum())


def loss(hidden: Array, table: Array, block: int) -> Array:
    return losses.sigmoid_softmax(hidden, table, TARGETS, where=WHERE, block=block)


both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)


@pytest.mark.parametrize("block", [3, NUM_ITEMS, 100])
def test_values_and_gradients_in_blocks_of_any_size(block: int) -> None:
    found, gradients = both(HIDDEN, TABLE, block)
    want = np.mean([slow(h, TABLE, t) for h, t in zip(HIDDEN[WHERE], TARGETS[WHERE], strict=True)])
    np.testing.assert_allclose(found, want, rtol=1e-6)
    for place, gradient in enumerate(gradients):
        arguments = [HIDDEN.astype(np.float64), TABLE.astype(np.float64)]
        direction = rng.normal(size=gradient.shape)
        ends = []
        for step in (1e-4, -1e-4):
            moved = list(arguments)
            moved[place] = moved[place] + step * direction
            ends.append(
                np.mean([slow(h, moved[1], t) for h, t in zip(moved[0][WHERE], TARGETS[WHERE], strict=True)])
            )
        np.testing.assert_allclose(
            (gradient * direction).sum(), (ends[0] - ends[1]) / 2e-4, rtol=2e-3, atol=1e-6
        )
    assert not gradients[0][~WHERE].any() and not gradients[1][0].any()


def test_scores_of_zero_give_a_uniform_softmax() -> None:
    """h_t = 0 in STAMP: log V - (V - 1) log(1 - 1 / V)."""
    found, _ = both(np.zeros_like(HIDDEN), TABLE, 3)
    want = np.log(NUM_ITEMS) - (NUM_ITEMS - 1) * np.log1p(-1 / NUM_ITEMS)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_no_score_beats_the_bound_and_gradients_stay_finite() -> None:
    """The best there is: the target's sigmoid 1, all others 0."""
    table = np.full((NUM_ITEMS + 1, 1), -1e4, np.float32)
    table[3] = 1e4
    hidden, targets = jnp.ones((1, 1)), np.array([3])

    def value(hidden: Array) -> Array:
        return losses.sigmoid_softmax(hidden, table, targets, block=3)

    found, gradient = jax.jit(jax.value_and_grad(value))(hidden)
    others = np.e + NUM_ITEMS - 1
    want = -np.log(np.e / others) - (NUM_ITEMS - 1) * np.log1p(-1 / others)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_nothing_real_is_zero() -> None:
    found = jax.jit(losses.sigmoid_softmax)(HIDDEN, TABLE, jnp.asarray(TARGETS), where=np.zeros_like(WHERE))
    assert found == 0.0


def test_shares_of_devices_add_up() -> None:
    def share(hidden: Array, targets: Array, where: Array) -> Array:
        table = jnp.asarray(TABLE)
        return losses.sigmoid_softmax(hidden, table, targets, where=where, block=3, axis_name="devices")

    shares = jax.jit(jax.vmap(share, axis_name="devices"))(HIDDEN, TARGETS, WHERE)
    np.testing.assert_allclose(shares.sum(), both(HIDDEN, TABLE, 3)[0], rtol=1e-6)


def test_one_item_has_no_alternative() -> None:
    with pytest.raises(ValueError, match="table: 1 items besides padding: at least 2"):
        losses.sigmoid_softmax(HIDDEN, TABLE[:2], TARGETS)
