"""Samplers: what they may return, with which frequency, and the log-probability they report."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxrec import sampling

NUM_ITEMS, DRAWS = 12, 20_000
ROWS = [[], [1], [12], [1, 2, 3], [5, 6, 12], [1, 3, 5, 7, 9, 11], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]


def table_of(rows: list[list[int]], num_items: int = NUM_ITEMS) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, rows)])
    items = np.array([item for row in rows for item in row], np.int32)
    return sampling.exclusion_table(items, offsets, num_items=num_items)


def p_value(ids: np.ndarray, probs: np.ndarray) -> float:
    """Chance of counts at least as far from `probs` (by id, entry 0 is padding) if drawn from it."""
    counts = np.bincount(ids.ravel(), minlength=len(probs))
    assert len(counts) == len(probs)
    assert counts[probs == 0].sum() == 0
    if (probs > 0).sum() == 1:
        return 1.0
    return float(stats.chisquare(counts[probs > 0], ids.size * probs[probs > 0]).pvalue)


def allowed(row: list[int]) -> np.ndarray:
    mask = ~np.isin(np.arange(NUM_ITEMS + 1), [0, *row])
    return mask / mask.sum()


@pytest.mark.parametrize("width", [None, 200], ids=["compare", "search"])
def test_uniform_excluding_is_uniform_over_what_is_left(width: int | None) -> None:
    table = table_of(ROWS)
    if width is not None:
        table = np.pad(
            table, ((0, 0), (0, width - table.shape[1])), constant_values=sampling.EXCLUSION_PADDING
        )
    draw = jax.jit(lambda k, e: sampling.uniform_excluding(k, (DRAWS,), num_items=NUM_ITEMS, excluded=e))
    ids, log_prob = map(np.asarray, draw(jax.random.key(0), table))
    for row, drawn, log in zip(ROWS, ids, log_prob, strict=True):
        assert p_value(drawn, allowed(row)) > 1e-4
        np.testing.assert_allclose(log, -np.log(NUM_ITEMS - len(row)), rtol=1e-6)


def test_flat_rows_give_the_same_draws_as_a_table() -> None:
    table = table_of(ROWS)
    flat = jnp.asarray(np.concatenate([np.array(row, np.int32) for row in ROWS]))
    count = np.array([len(row) for row in ROWS], np.int32)
    start, width = np.cumsum(count, dtype=np.int32) - count, int(count.max())

    @jax.jit
    def draws(key: jax.Array) -> Any:
        expected = sampling.uniform_excluding(key, (), num_items=NUM_ITEMS, excluded=table)
        return expected, sampling.uniform_excluding_flat(
            key, num_items=NUM_ITEMS, excluded=flat, start=start, count=count, width=width
        )

    for seed in range(50):
        expected, ours = draws(jax.random.key(seed))
        np.testing.assert_array_equal(ours[0], expected[0])
        np.testing.assert_allclose(ours[1], expected[1], rtol=1e-6)


@jax.jit
def draw_nine(key: jax.Array, table: jax.Array) -> jax.Array:
    return sampling.uniform_excluding(key, (2, 5), num_items=9, excluded=table)[0]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sets(st.integers(1, 9), max_size=8), min_size=3, max_size=3), st.integers(0, 2**31 - 1))
def test_uniform_excluding_never_returns_an_excluded_id(rows: list[set[int]], seed: int) -> None:
    table = np.full((3, 8), sampling.EXCLUSION_PADDING, np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = sorted(row)
    ids = draw_nine(jax.random.key(seed), table)
    assert ids.shape == (3, 2, 5)
    for drawn, row in zip(np.asarray(ids), rows, strict=True):
        assert set(drawn.ravel().tolist()) <= set(range(1, 10)) - row


def test_uniform_excluding_under_vmap_equals_a_loop() -> None:
    keys, table = jax.random.split(jax.random.key(1), len(ROWS)), table_of(ROWS)

    def draw(key: jax.Array, row: jax.Array) -> jax.Array:
        return sampling.uniform_excluding(key, (4,), num_items=NUM_ITEMS, excluded=row)[0]

    one = jax.jit(draw)
    looped = [one(key, row) for key, row in zip(keys, table, strict=True)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(draw))(keys, table), np.stack(looped))


def test_exclusion_table_sorts_and_drops_repeats_and_padding() -> None:
    table = table_of([[5, 2, 5, 0], [], [7]])
    never = sampling.EXCLUSION_PADDING
    np.testing.assert_array_equal(table, [[2, 5], [never, never], [7, never]])


def test_a_user_with_every_item_is_refused() -> None:
    with pytest.raises(ValueError, match=r"user 1 has all 3 items"):
        table_of([[1], [3, 1, 2]], num_items=3)


@pytest.mark.parametrize("item", [-1, 4])
def test_ids_out_of_range_are_refused(item: int) -> None:
    with pytest.raises(ValueError, match="num_items=3"):
        table_of([[item]], num_items=3)


def test_ids_with_fractions_are_refused() -> None:
    with pytest.raises(ValueError, match="items: of type float64"):
        sampling.exclusion_table(np.array([1.5, 2.5]), np.array([0, 1, 2]), num_items=4)


def test_uniform_is_uniform() -> None:
    ids, log_prob = sampling.uniform(jax.random.key(0), (DRAWS,), num_items=NUM_ITEMS)
    assert p_value(np.asarray(ids), allowed([])) > 1e-4
    np.testing.assert_allclose(log_prob, -np.log(NUM_ITEMS), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_popularity_follows_count_to_the_power_alpha(alpha: float) -> None:
    counts = np.array([9, 0, 50, 1, 0, 7, 20, 0])  # entry 0 is padding and does not count
    weights = counts**alpha  # 0⁰ = 1
    weights[0] = 0.0
    table = sampling.popularity_table(counts, alpha=alpha)
    ids, log_prob = map(np.asarray, sampling.popularity(jax.random.key(2), (DRAWS,), table))
    probs = weights / weights.sum()
    assert p_value(ids, probs) > 1e-4
    np.testing.assert_allclose(log_prob, np.log(probs[ids]), rtol=1e-5)


@pytest.mark.parametrize("counts", [[0, 1, 1, 1], [0, 10**12, 1, 1], [0, 0, 3, 0]])
def test_probabilities_of_a_popularity_table_add_up_to_one(counts: list[int]) -> None:
    table = sampling.popularity_table(np.array(counts), alpha=1.0)
    np.testing.assert_allclose(np.exp(np.asarray(table.log_prob, np.float64)).sum(), 1.0, rtol=1e-6)
    assert np.isfinite(np.asarray(table.log_prob)[1:]).tolist() == [c > 0 for c in counts[1:]]


@pytest.mark.parametrize(
    ("counts", "alpha"),
    [
        ([0, -1, 2], 1.0),
        ([5, 0, 0], 1.0),
        ([0, 1, 1], -1.0),
        ([0, 1, np.inf], 1.0),
        ([0, 10, 1000], 200.0),
        ([0, 1e308, 1e308], 1.0),
    ],
)
def test_counts_that_are_no_distribution_are_refused(counts: list[float], alpha: float) -> None:
    with pytest.raises(ValueError, match=r"counts"):
        sampling.popularity_table(np.array(counts), alpha=alpha)


def test_the_same_key_gives_the_same_ids() -> None:
    table = sampling.popularity_table(np.arange(9), alpha=0.75)
    first, second, other = (sampling.popularity(jax.random.key(k), (50,), table)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
