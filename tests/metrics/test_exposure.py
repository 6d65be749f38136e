"""What lists show: slow twins, items never shown, short and empty lists, popularity and co-visits by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics

NUM_ITEMS, K = 9, 4
RNG = np.random.default_rng(1)
# Lists of 0 to 5 of the first seven items, so that two are never shown.
LISTS = np.stack([np.where(np.arange(5) < n % 6, RNG.permutation(7)[:5] + 1, 0) for n in range(12)])
VALUES = np.concatenate([[1e9], RNG.normal(size=NUM_ITEMS)]).astype(
    np.float32
)  # that of padding counts nowhere
FEATURES = RNG.integers(0, 2, (NUM_ITEMS + 1, 3)).astype(np.float32)  # some are all 0


def shown_items(ranked: np.ndarray) -> list[int]:
    return [int(i) for i in ranked[:K] if i]


def slow_gini(counts: np.ndarray) -> float:
    """Half the mean absolute difference of two items over the mean."""
    return float(np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean()))


# --- values per list ---


def test_mean_value_of_the_items_that_a_list_shows() -> None:
    expected = [np.mean([VALUES[i] for i in shown_items(row)] or [0.0]) for row in LISTS]
    ours = jax.jit(lambda lists: metrics.list_mean(lists, jnp.asarray(VALUES), k=K))(LISTS)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    by_row = jax.vmap(lambda row: metrics.list_mean(row, jnp.asarray(VALUES), k=K))(jnp.asarray(LISTS))
    np.testing.assert_allclose(by_row, ours)


def test_information_of_an_item_is_the_logarithm_of_its_share_and_finite_where_nobody_met_it() -> None:
    found = metrics.self_information(jnp.array([8, 4, 1, 0]), 8)
    np.testing.assert_allclose(found, [0.0, 1.0, 3.0, 3.0])


def slow_diversity(distance: Any) -> list[float]:
    pairs = [list(itertools.permutations(shown_items(row), 2)) for row in LISTS]
    return [float(np.mean([distance(i, j) for i, j in found])) if found else 0.0 for found in pairs]


def slow_cosine(i: int, j: int) -> float:
    norm = float(np.linalg.norm(FEATURES[i]) * np.linalg.norm(FEATURES[j]))
    return 1 - float(FEATURES[i] @ FEATURES[j]) / norm if norm else 1.0


@pytest.mark.parametrize(
    ("distance", "slow"),
    [
        (metrics.cosine_distance, slow_cosine),
        (metrics.hamming_distance, lambda i, j: float((FEATURES[i] != FEATURES[j]).sum())),
    ],
)
def test_diversity_is_the_mean_distance_of_different_places(distance: Any, slow: Any) -> None:
    of = metrics.distance_of_features(jnp.asarray(FEATURES), distance)
    ours = jax.jit(lambda lists: metrics.list_diversity(lists, of, k=K))(LISTS)
    np.testing.assert_allclose(ours, slow_diversity(slow), rtol=1e-5, atol=1e-6)


USER = np.array([0, 0, 0, 5, 5, 2, 2, 2, 7, 0])
ITEM = np.array(
    [1, 2, 3, 1, 2, 2, 3, 7, 6, 1]
)  # user 0 meets item 1 twice; items 4, 5, 8 and 9 are never met


def slow_of_users(i: int, j: int) -> float:
    users = {item: set(USER[item == ITEM].tolist()) for item in (i, j)}
    if i == j:
        return 0.0
    both = len(users[i] & users[j])
    return 1 - both / math.sqrt(len(users[i]) * len(users[j])) if both else 1.0


def test_distance_by_the_users_of_two_items_equals_sets_for_every_pair() -> None:
    similar = metrics.co_visits(USER, ITEM, num_items=NUM_ITEMS)
    ids = np.arange(1, NUM_ITEMS + 1)
    ours = jax.jit(metrics.distance_of_users(similar))(ids)
    np.testing.assert_allclose(ours, [[slow_of_users(i, j) for j in ids] for i in ids], atol=1e-6)
    of = metrics.distance_of_users(similar)
    np.testing.assert_allclose(
        metrics.list_diversity(jnp.asarray(LISTS), of, k=K), slow_diversity(slow_of_users), atol=1e-6
    )


def test_items_of_which_no_two_have_a_user_in_common_are_all_apart() -> None:
    similar = metrics.co_visits(np.arange(3), np.array([1, 2, 3]), num_items=3)
    np.testing.assert_array_equal(metrics.distance_of_users(similar)(jnp.arange(1, 4)), 1.0 - np.eye(3))


# --- values of all lists ---


def test_counts_coverage_gini_and_entropy_equal_slow_ones_with_items_never_shown() -> None:
    counted = Counter(itertools.chain.from_iterable(shown_items(row) for row in LISTS))
    counts = np.array([counted[i] for i in range(1, NUM_ITEMS + 1)])
    assert (counts == 0).sum() >= 2
    shown = metrics.times_shown(jnp.asarray(LISTS), k=K, num_items=NUM_ITEMS)
    np.testing.assert_array_equal(shown, counts)
    every = jax.jit(lambda n: (metrics.coverage(n), metrics.gini(n), metrics.entropy(n)))(shown)
    p = counts[counts > 0] / counts.sum()
    expected = [(counts > 0).mean(), slow_gini(counts), -(p * np.log(p)).sum()]
    np.testing.assert_allclose(every, expected, rtol=1e-6)
    stacked = jnp.stack([shown, shown[::-1]])
    for metric in (metrics.coverage, metrics.gini, metrics.entropy):
        np.testing.assert_allclose(metric(stacked), [metric(shown)] * 2, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_gini_is_0_where_all_are_shown_alike_and_largest_where_one_is_alone(size: int) -> None:
    assert float(metrics.gini(jnp.full(size, 3))) == pytest.approx(0.0, abs=1e-6)
    alone = jnp.zeros(size, jnp.int32).at[0].set(5)
    assert float(metrics.gini(alone)) == pytest.approx((size - 1) / size)
    assert float(metrics.entropy(jnp.full(size, 3))) == pytest.approx(math.log(size), abs=1e-6)


def test_gini_of_a_large_catalogue_is_as_exact_as_in_float64() -> None:
    counts = np.random.default_rng(2).zipf(1.3, 200_000).clip(max=10**6)
    ordered = np.sort(counts).astype(np.float64)
    size = len(counts)
    expected = ((2 * np.arange(1, size + 1) - size - 1) * ordered).sum() / (size * ordered.sum())
    assert float(metrics.gini(jnp.asarray(counts))) == pytest.approx(expected, rel=1e-5)


def test_what_is_never_shown_at_all_has_no_gini() -> None:
    nothing = metrics.times_shown(jnp.zeros((3, 2), jnp.int32), k=2, num_items=4)
    assert float(metrics.coverage(nothing)) == 0.0
    assert np.isnan(metrics.gini(nothing)) and np.isnan(metrics.entropy(nothing))


# --- popularity ---


def test_a_user_counts_once_for_an_item() -> None:
    np.testing.assert_array_equal(
        metrics.users_of_items(USER, ITEM, num_items=NUM_ITEMS), [0, 2, 3, 2, 0, 0, 1, 1, 0, 0]
    )


def test_items_of_equal_popularity_have_one_rank_without_gaps() -> None:
    assert metrics.popularity_rank(np.array([0, 5, 9, 5, 1]))[1:].tolist() == [2, 1, 2, 3]


def test_a_hit_that_nobody_met_counts_by_its_place_alone() -> None:
    """By popularity it is liked with probability (I + 1 - rank) / I = 0, however few ranks there are."""
    rank = metrics.popularity_rank(np.array([0, 5, 9, 5, 0]))
    found = metrics.serendipity_of_hits(
        jnp.array([0.0, 1.0]), jnp.array([2, 4]), jnp.asarray(rank), k=2, num_items=4
    )
    assert float(found) == pytest.approx((4 + 1 - 2) / 4 / 2)


def test_lift_is_the_relative_change_of_popularity() -> None:
    assert metrics.popularity_lift(0.6, 0.4) == pytest.approx(0.5)
    assert math.isnan(metrics.popularity_lift(0.6, 0.0))
