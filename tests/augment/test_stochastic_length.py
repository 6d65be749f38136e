"""Stochastic length."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest

from jaxrec.augment.stochastic_length import right_align, shortened_lengths, stochastic_length

SHORTENED = jax.jit(functools.partial(stochastic_length, max_len=16, alpha=1.5))


def test_stochastic_length() -> None:
    """N = 16, α = 1.5: N^(α/2) = 8, and 24 events are whole with probability N^α / 24² = 1/9."""
    lengths = np.array([0, 5, 8, *[24] * 2000])
    real = np.arange(24) >= 24 - lengths[:, None]
    kept = np.asarray(SHORTENED(jax.random.key(0), real))
    assert not (kept & ~real).any()
    np.testing.assert_array_equal(kept[:3], real[:3])  # short ones are never cut
    count = kept[3:].sum(axis=1)
    assert set(count) == {8, 24}
    assert (count == 24).mean() == pytest.approx(1 / 9, abs=4 * math.sqrt(1 / 9 * 8 / 9 / 2000))
    assert (count**2).mean() <= 2 * 16**1.5
    per_slot = kept[3:][count == 8].mean(axis=0)  # every event alike
    assert np.abs(per_slot - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 1700)


def test_stochastic_length_prefers_larger_weights() -> None:
    weights = np.where(np.arange(24) < 16, 0.0, 1.0) + np.zeros((50, 1))
    kept = np.asarray(SHORTENED(jax.random.key(1), weights >= 0, weights=weights))
    cut = kept[kept.sum(axis=1) == 8]
    assert len(cut) > 0
    np.testing.assert_array_equal(cut, weights[: len(cut)] > 0)


@pytest.mark.parametrize("count", [4, 9, 24])
def test_lengths_on_the_host_are_those_on_the_device(count: int) -> None:
    """Whole up to 8 events; of 9 and 24 whole with chances 64/81 and 64/576, else 8 remain."""
    users = 4_000
    device = np.asarray(SHORTENED(jax.random.key(0), np.arange(24) < np.full((users, 1), count))).sum(axis=1)
    host = shortened_lengths(np.random.default_rng(0), np.full(users, count), max_len=16, alpha=1.5)
    assert set(host.tolist()) == set(device.tolist()) == {count, min(count, 8)}
    deviation = 0.5 / np.sqrt(users)
    assert abs((host == count).mean() - (device == count).mean()) < 6 * deviation
    assert abs((host == count).mean() - min(1.0, 64 / count**2)) < 5 * deviation


@pytest.mark.parametrize(("max_len", "alpha"), [(0, 1.5), (8, 1.0), (8, 2.1)])
def test_stochastic_length_refuses(max_len: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"max_len={max_len}, alpha={alpha}"):
        stochastic_length(jax.random.key(0), np.ones((1, 2), bool), max_len=max_len, alpha=alpha)


@pytest.mark.parametrize("width", [2, 6])
def test_kept_events_move_to_the_right_in_their_order(width: int) -> None:
    items = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    kept = np.array([[True, False, True, True], [False, False, False, False]])
    index, mask = jax.jit(right_align, static_argnums=1)(kept, width)
    rows = np.where(mask, np.take_along_axis(items, np.asarray(index), axis=1), 0)
    np.testing.assert_array_equal(rows[0], [0, 0, 0, 5, 7, 8][-width:])
    assert not rows[1].any()
