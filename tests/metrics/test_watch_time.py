"""XAUC and XGAUC against all pairs, one by one; ties, masks, extremes, jit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from jaxrec import metrics
from jaxrec.metrics.classification import auc


def slow_xauc(predicted: Any, watched: Any) -> float:
    """By the definition: every pair of different watch times."""
    won, pairs = 0.0, 0
    for (p, w), (q, v) in itertools.combinations(zip(predicted, watched, strict=True), 2):
        if w != v:
            pairs += 1
            won += 0.5 if p == q else float((p < q) == (w < v))
    return won / pairs if pairs else math.nan


def slow_xgauc(predicted: Any, watched: Any, group: Any) -> tuple[float, int]:
    values, sizes = [], []
    for g in np.unique(group):
        value = slow_xauc(predicted[group == g], watched[group == g])
        if not math.isnan(value):
            values.append(value)
            sizes.append((group == g).sum())
    return (float(np.average(values, weights=sizes)), len(values)) if values else (math.nan, 0)


jitted, by_user = jax.jit(metrics.xauc), jax.jit(metrics.xgauc)
N = 17  # one shape, so that programs are compiled once
values = st.lists(st.integers(-3, 3), min_size=N, max_size=N)


@settings(max_examples=60, deadline=None)
@given(values, values, values, st.lists(st.booleans(), min_size=N, max_size=N))
def test_they_are_shares_of_pairs(p: list[int], w: list[int], g: list[int], mask: list[bool]) -> None:
    predicted, watched, group, where = np.array(p, float), np.array(w, float), np.array(g), np.array(mask)
    want = slow_xauc(predicted[where], watched[where])
    found = jitted(jnp.asarray(predicted), jnp.asarray(watched), where=jnp.asarray(where))
    np.testing.assert_allclose(found, want, rtol=1e-6)
    wanted, number = slow_xgauc(predicted[where], watched[where], group[where])
    of_users = by_user(*map(jnp.asarray, (predicted, watched, group)), where=jnp.asarray(where))
    np.testing.assert_allclose(of_users.xgauc, wanted, rtol=1e-6)
    assert int(of_users.num_groups) == number


@pytest.mark.parametrize("n", [1, 2, 64, 65])
def test_sizes_around_powers_of_two(n: int) -> None:
    rng = np.random.default_rng(n)
    predicted, watched = rng.integers(0, max(n // 2, 2), n) / 7.0, rng.normal(size=n)
    group = rng.integers(0, 4, n)
    found = jitted(jnp.asarray(predicted), jnp.asarray(watched))
    np.testing.assert_allclose(found, slow_xauc(predicted, watched), rtol=1e-6)
    of_users = by_user(jnp.asarray(predicted), jnp.asarray(watched), group.astype(np.int32))
    np.testing.assert_allclose(of_users.xgauc, slow_xgauc(predicted, watched, group)[0], rtol=1e-6)


def test_the_right_order_is_1_the_wrong_one_0_and_a_constant_half() -> None:
    watched = jnp.array([0.0, 3.0, 3.0, 8.0, 1.0])
    assert float(jitted(watched, watched)) == 1.0
    assert float(jitted(-watched, watched)) == 0.0
    assert float(jitted(jnp.zeros(5), watched)) == 0.5
    assert math.isnan(float(jitted(watched, jnp.ones(5))))
    assert math.isnan(float(jitted(watched, watched, where=jnp.zeros(5, bool))))


def test_a_monotone_transform_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    predicted, watched = jnp.asarray(rng.normal(size=40)), jnp.asarray(rng.exponential(size=40))
    want = jitted(predicted, watched)
    assert float(jitted(jnp.exp(predicted), jnp.log(watched))) == float(want)
    assert float(jitted(1e30 * predicted, watched)) == float(want)


def test_of_two_watch_times_it_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    scores, labels = jnp.asarray(rng.integers(0, 9, 60) / 3), jnp.asarray(rng.integers(0, 2, 60))
    np.testing.assert_allclose(jitted(scores, 5.0 * labels), auc(scores, labels), rtol=1e-6)


def test_a_marked_nan_is_one_and_a_masked_one_is_not_read() -> None:
    predicted, watched = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 2.0, 3.0])
    assert math.isnan(float(jitted(predicted, watched)))
    assert float(jitted(predicted, watched, where=jnp.array([True, False, True]))) == 1.0
    assert math.isnan(float(jitted(watched, predicted)))


def test_many_pairs_are_counted_exactly() -> None:
    """5e9 pairs do not fit 32 bits; the last digits are those of float32."""
    n = 100_000
    order = np.random.default_rng(0).permutation(n).astype(np.float32)
    watched = np.arange(n, dtype=np.float32)
    pieces = np.sort(order.reshape(-1, 1000), axis=1).reshape(-1)  # mostly sorted runs
    want = (kendalltau(pieces, watched).statistic + 1) / 2
    np.testing.assert_allclose(jitted(pieces, watched), want, rtol=2e-7)


def test_mae_is_the_mean_of_distances() -> None:
    predicted, watched = jnp.array([1.0, 5.0, 9.0]), jnp.array([2.0, 2.0, 9.0])
    np.testing.assert_allclose(metrics.mae(predicted, watched), 4 / 3, rtol=1e-6)
    assert float(metrics.mae(predicted, watched, where=jnp.array([True, False, True]))) == 0.5
    assert math.isnan(float(metrics.mae(predicted, watched, where=jnp.zeros(3, bool))))


def test_ids_that_32_bits_do_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 32 bits"):
        metrics.xgauc(jnp.zeros(2), jnp.arange(2.0), np.array([0, 2**40]))
