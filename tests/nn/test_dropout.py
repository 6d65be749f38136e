"""Dropout: rates, scaling, keys, and the statistics of both kinds of random bits."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.dropout import Bits, Dropout, counter_bits, threefry_bits
from jaxrec.types import Array, Key

both_bits = pytest.mark.parametrize("bits", [threefry_bits, counter_bits])
KEYS = jax.random.split(jax.random.key(7), 64)


def drop(rate: float, bits: Bits, x: Array, seed: int = 0, train: bool = True) -> Array:
    return _drop(rate, bits, x, jax.random.key(seed), train)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _drop(rate: float, bits: Bits, x: Array, key: Key, train: bool) -> Array:
    layer: Any = Dropout(rate, bits)
    return layer.apply({}, x, train=train, rngs={"dropout": key})


@both_bits
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_met_and_kept_units_are_scaled(bits: Bits, rate: float) -> None:
    y = np.asarray(drop(rate, bits, np.ones(100_000, np.float32)))
    assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate, train", [(0.0, True), (0.5, False), (1.0, False)])
def test_it_is_the_identity_without_a_key(rate: float, train: bool) -> None:
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=train), x)


def test_rate_one_gives_zeros_and_no_gradient() -> None:
    total = jax.value_and_grad(lambda x: drop(1.0, threefry_bits, x).sum())
    value, grad = jax.jit(total)(np.ones(5, np.float32))
    assert value == 0.0
    assert (grad == 0.0).all()


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_other_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate="):
        Dropout(rate)


def test_the_gradient_is_the_mask() -> None:
    x = np.linspace(1.0, 2.0, 100, dtype=np.float32)
    grad = jax.jit(jax.grad(lambda x: drop(0.5, counter_bits, x).sum()))(x)
    np.testing.assert_allclose(grad * x, drop(0.5, counter_bits, x), rtol=1e-6)


@both_bits
def test_vmap_over_keys_gives_every_row_the_mask_of_its_key(bits: Bits) -> None:
    def one(key: Key) -> Array:
        return bits(key, (3, 5))

    every = jax.jit(jax.vmap(one))
    rows = np.asarray(every(KEYS))
    np.testing.assert_array_equal(rows[9], jax.jit(one)(KEYS[9]))
    np.testing.assert_array_equal(rows[:10], every(KEYS[:10]))


def test_the_dtype_of_the_input_is_kept() -> None:
    assert drop(0.5, counter_bits, jnp.ones(4, jnp.bfloat16)).dtype == jnp.bfloat16


# --- statistics of the bits, 64 keys × 4096 positions ---


@pytest.fixture(scope="module", params=[threefry_bits, counter_bits])
def words(request: pytest.FixtureRequest) -> np.ndarray:
    """Random words of neighbouring keys, uint32 [64, 4096]: keys 0..63 folded as rows of a batch are."""

    def one(row: Array) -> Array:
        return request.param(jax.random.fold_in(jax.random.key(3), row), (4096,))

    return np.asarray(jax.jit(jax.vmap(one))(np.arange(64)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_words_are_uniform(words: np.ndarray) -> None:
    unit = words / 2.0**32
    deviation = 1 / np.sqrt(12 * unit.size)
    assert abs(unit.mean() - 1 / 2) < 5 * deviation
    assert abs(unit.var() - 1 / 12) < 5 / np.sqrt(180 * unit.size)
    assert np.abs(unit.mean(axis=0) - 1 / 2).max() < 5.5 / np.sqrt(12 * 64)  # every position
    assert np.abs(unit.mean(axis=1) - 1 / 2).max() < 5 / np.sqrt(12 * 4096)  # every row


def test_every_bit_is_fair(words: np.ndarray) -> None:
    shares = [((words >> bit) & 1).mean() for bit in range(32)]
    assert np.abs(np.array(shares) - 0.5).max() < 5 * 0.5 / np.sqrt(words.size)


@pytest.mark.parametrize("lag", [1, 2, 32, 64])
def test_neighbouring_positions_do_not_correlate(words: np.ndarray, lag: int) -> None:
    assert abs(correlation(words[:, lag:], words[:, :-lag])) < 5 / np.sqrt(words.size)


@pytest.mark.parametrize("lag", [1, 2, 8])
def test_neighbouring_rows_do_not_correlate(words: np.ndarray, lag: int) -> None:
    assert abs(correlation(words[lag:], words[:-lag])) < 5 / np.sqrt(words.size)


def test_flipping_one_bit_of_a_counter_key_flips_half_of_every_word() -> None:
    draw = jax.jit(lambda data: counter_bits(jax.random.wrap_key_data(data), (512,)))
    data = np.array([123, 456], np.uint32)
    words = np.asarray(draw(data))
    for word in range(2):
        for bit in (0, 13, 31):
            other = data.copy()
            other[word] ^= np.uint32(1 << bit)
            flipped = words ^ np.asarray(draw(other))
            share = np.unpackbits(flipped.view(np.uint8)).mean()
            assert abs(share - 0.5) < 0.02
