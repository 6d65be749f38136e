"""Log-uniform, in-batch and mixed samplers, expected counts, and windows of ranks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec import losses, sampling
from tests.programs import run

DRAWS = 20_000
COUNTS = np.array([9, 3, 50, 3, 0, 20])  # entry 0 is padding


def p_value(ids: np.ndarray, probs: np.ndarray) -> float:
    """Chance of counts at least as far from `probs` (by id, entry 0 is padding) if drawn from it."""
    counts = np.bincount(ids.ravel(), minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    return float(stats.chisquare(counts[probs > 0], ids.size * probs[probs > 0]).pvalue)


def test_log_uniform_follows_the_rank_of_frequency() -> None:
    rank = np.array([np.inf, 3, 1, 4, 5, 2])  # equal counts by id, no count last
    probs = np.log1p(1 / rank) / np.log(6)
    np.testing.assert_allclose(probs.sum(), 1.0)
    table = sampling.log_uniform_table(COUNTS)
    ids, log_prob = map(np.asarray, sampling.popularity(jax.random.key(0), (DRAWS,), table))
    assert p_value(ids, probs) > 1e-4
    np.testing.assert_allclose(log_prob, np.log(probs[ids]), rtol=1e-5)


def test_counts_that_fall_with_the_id_make_ids_ranks() -> None:
    table = sampling.log_uniform_table(np.arange(6, 0, -1))
    ids = np.arange(1, 6)
    np.testing.assert_allclose(
        np.asarray(table.log_prob)[1:], np.log(np.log((ids + 1) / ids) / np.log(6)), rtol=1e-5
    )


@pytest.mark.parametrize("counts", [np.array([0, -1, 2]), np.array([0, np.nan]), np.array([7])])
def test_counts_without_an_order_are_refused(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="counts"):
        sampling.log_uniform_table(counts)


# --- expected counts -------------------------------------------------------------------------------


@pytest.mark.parametrize("unique", [False, True])
def test_expected_counts_are_those_of_many_samples(unique: bool) -> None:
    probs, number = np.array([0.5, 0.3, 0.15, 0.05]), 4
    drawn = np.random.default_rng(0).choice(4, size=(DRAWS, number), p=probs)
    counts = (drawn[:, :, None] == np.arange(4)).sum(axis=1)
    mean = np.minimum(counts, 1).mean(axis=0) if unique else counts.mean(axis=0)
    found = run(sampling.log_expected_count, np.log(probs).astype(np.float32), number=number, unique=unique)
    np.testing.assert_allclose(np.exp(found), mean, atol=0.02)


def test_expected_counts_at_the_ends() -> None:
    log_prob = np.array([0.0, -np.inf, np.log(1e-9)], np.float32)
    unique = run(sampling.log_expected_count, log_prob, number=100, unique=True)
    np.testing.assert_allclose(unique, [0.0, -np.inf, np.log(100 * 1e-9)], rtol=1e-5)
    with pytest.raises(ValueError, match="number=0: must be at least 1"):
        sampling.log_expected_count(log_prob, 0)


def test_repeats_are_what_occurred_before() -> None:
    ids = np.array([[3, 1, 3, 3, 2], [1, 1, 1, 1, 1]])
    expected = [[True, True, False, False, True], [True, False, False, False, False]]
    np.testing.assert_array_equal(run(sampling.first_occurrences, ids), expected)


def test_a_sample_of_every_item_is_the_full_softmax() -> None:
    """Draws that cover all items, repeats ignored, with the same expected count for all."""
    scores = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    ids, targets = np.array([2, 0, 1, 0, 4, 3, 2]), np.array([1, 3])
    ignored = ~np.asarray(sampling.first_occurrences(jnp.asarray(ids))) | (ids == targets[:, None])
    found = losses.sampled_softmax(
        scores[np.arange(2), targets],
        scores[:, ids],
        pos_log_prob=jnp.zeros(2),
        neg_log_prob=jnp.zeros(7),
        accidental=ignored,
    )
    full = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(2), targets]
    np.testing.assert_allclose(found, full.mean(), rtol=1e-5)


# --- the batch, and the batch with uniform items ---------------------------------------------------

TABLE = sampling.popularity_table(COUNTS, alpha=1.0)
FREQUENCY = np.where(np.arange(6) > 0, COUNTS, 0) / COUNTS[1:].sum()


def test_items_of_a_batch_have_their_frequency() -> None:
    ids = np.array([2, 2, 5], np.int32)
    found, log_prob = sampling.in_batch(jnp.asarray(ids), TABLE)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_allclose(log_prob, np.log(FREQUENCY[ids]), rtol=1e-5)


def mix(key: Any, ids: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    draw = functools.partial(sampling.mixed, number=number, num_items=5)
    found = jax.jit(lambda k, i: draw(k, i, table=TABLE))(key, ids)
    return np.asarray(found[0]), np.asarray(found[1])


def test_the_mixture_adds_up_to_one_and_its_draws_follow_it() -> None:
    batch = np.random.default_rng(0).choice(6, size=DRAWS, p=FREQUENCY).astype(np.int32)
    ids, log_prob = mix(jax.random.key(1), batch, DRAWS // 2)
    expected = (2 * FREQUENCY + np.where(np.arange(6) > 0, 1 / 5, 0)) / 3
    np.testing.assert_allclose(expected.sum(), 1.0)
    assert p_value(ids, expected) > 1e-4
    np.testing.assert_allclose(log_prob, np.log(expected[ids]), rtol=1e-5)
    assert set(ids[DRAWS:]) == {1, 2, 3, 4, 5}  # item 4 has no feedback
    np.testing.assert_array_equal(ids[:DRAWS], batch)


def test_the_mixture_without_uniform_items_is_the_batch() -> None:
    ids, log_prob = mix(jax.random.key(0), np.array([1, 5], np.int32), 0)
    np.testing.assert_array_equal(ids, [1, 5])
    np.testing.assert_allclose(log_prob, np.log(FREQUENCY[[1, 5]]), rtol=1e-5)


def test_padding_of_a_batch_does_not_count_in_the_mixture() -> None:
    _, plain = mix(jax.random.key(0), np.array([1, 5], np.int32), 4)
    ids, padded = mix(jax.random.key(0), np.array([1, 0, 5, 0], np.int32), 4)
    np.testing.assert_allclose(padded[[0, 2]], plain[:2], rtol=1e-6)
    np.testing.assert_array_equal(padded[[1, 3]], 0.0)
    assert np.isfinite(padded).all() and (ids[4:] > 0).all()


def test_uniform_frequencies_make_the_mixture_uniform() -> None:
    table = sampling.popularity_table(np.full(6, 7), alpha=1.0)
    _, log_prob = sampling.mixed(jax.random.key(0), jnp.array([1, 2]), 3, table, num_items=5)
    np.testing.assert_allclose(log_prob, -np.log(5), rtol=1e-5)


def test_a_negative_number_of_uniform_items_is_refused() -> None:
    with pytest.raises(ValueError, match="number=-1"):
        sampling.mixed(jax.random.key(0), jnp.array([1]), -1, TABLE, num_items=5)


# --- windows of ranks ------------------------------------------------------------------------------

LISTS = np.stack([np.arange(1, 9), np.arange(8, 0, -1)]).astype(np.int32)


def window(key: int, positives: np.ndarray, number: int, lists: np.ndarray = LISTS) -> Any:
    return run(sampling.rank_window, jax.random.key(key), lists, positives, number=number, first=3, last=6)


def test_a_window_of_ranks_returns_ranks_within_it_and_no_positive() -> None:
    positives = np.array([[4, 1], [0, 0]], np.int32)
    for key in range(20):
        ids, ranks = window(key, positives, 3)
        for row in range(2):
            assert (ids[row] > 0).all() and ((ranks[row] >= 3) & (ranks[row] <= 6)).all()
            np.testing.assert_array_equal(ids[row], LISTS[row][ranks[row] - 1])
            assert len(set(ids[row])) == 3 and not set(ids[row]) & set(positives[row])


def test_draws_from_a_window_are_uniform() -> None:
    draw = functools.partial(sampling.rank_window, number=1, first=3, last=6)
    keys = jax.random.split(jax.random.key(0), 4000)
    ids, _ = jax.jit(jax.vmap(draw, in_axes=(0, None, None)))(keys, LISTS[0], jnp.array([4]))
    assert p_value(np.asarray(ids), np.array([0, 0, 0, 1, 0, 1, 1]) / 3) > 1e-4


def test_a_window_with_too_few_items_is_filled_with_none() -> None:
    lists = np.where(LISTS == 6, 0, LISTS).astype(np.int32)  # the list of the first query ends early
    ids, ranks = window(0, np.array([[3, 4], [3, 4]], np.int32), 4, lists)
    assert sorted(ids[0]) == [0, 0, 0, 5] and sorted(ids[1]) == [0, 0, 0, 5]
    np.testing.assert_array_equal(ids > 0, ranks > 0)


def test_a_window_of_positives_only_is_empty() -> None:
    ids, ranks = window(0, np.tile(np.arange(3, 7, dtype=np.int32), (2, 1)), 2)
    assert not ids.any() and not ranks.any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"first": 0, "last": 4}, "first=0, last=4"),
        ({"first": 5, "last": 4}, "first=5, last=4"),
        ({"first": 101, "last": 500}, "the length of the lists; search for more items"),
        ({"first": 3, "last": 4, "number": 3}, r"number=3: must be in 1\.\.2"),
    ],
)
def test_windows_that_cannot_be_are_refused(options: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sampling.rank_window(jax.random.key(0), LISTS, LISTS[:, :1], **{"number": 1, **options})
