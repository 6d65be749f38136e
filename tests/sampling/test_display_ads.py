"""Four strategies for the examples of an advertising model."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import sampling
from tests.sampling.test_by_frequency import DRAWS, p_value

NONE = np.zeros(0, int), np.zeros(0, int)
COUNTS = np.array([9, 100, 2, 0, 30, 1])  # entry 0 is padding


def test_rare_items_share_the_draws_of_their_part() -> None:
    weights = COUNTS[1:] ** 0.75
    rare = COUNTS[1:] <= 2
    weights[rare] = weights[rare].sum() / rare.sum()
    probs = np.concatenate([[0], weights / weights.sum()])
    table = sampling.split_popularity_table(COUNTS, threshold=2)
    ids, log_prob = map(np.asarray, sampling.popularity(jax.random.key(0), (DRAWS,), table))
    assert p_value(ids, probs) > 1e-4
    np.testing.assert_allclose(log_prob, np.log(probs[ids]), rtol=1e-4)


def test_without_rare_items_it_is_popularity() -> None:
    split = sampling.split_popularity_table(COUNTS, threshold=-1)
    plain = sampling.popularity_table(COUNTS, alpha=0.75)
    np.testing.assert_array_equal(split.log_prob, plain.log_prob)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.85])
def test_examples_of_frequent_items_are_kept_less(exponent: float) -> None:
    kept = sampling.keep_probability(COUNTS, threshold=0.1, exponent=exponent)
    share = COUNTS / COUNTS[1:].sum()
    expected = np.where(share > 0.1, (0.1 / np.maximum(share, 0.1)) ** exponent, 1.0)
    expected[0] = 1.0
    np.testing.assert_allclose(kept, expected, rtol=1e-6)
    order = np.argsort(COUNTS[1:])
    assert ((kept > 0) & (kept <= 1)).all() and (np.diff(kept[1:][order]) <= 0).all()


def test_a_part_of_the_negatives_stays_and_every_positive() -> None:
    ids = np.tile(np.array([1, 2], np.int32), 10_000)
    negative = np.arange(len(ids)) < 15_000
    keep = np.array([1.0, 0.2, 1.0], np.float32)
    stays = np.asarray(jax.jit(sampling.subsample)(jax.random.key(0), ids, keep, where=negative))
    assert stays[~negative].all() and stays[ids == 2].all()
    assert stays[negative & (ids == 1)].mean() == pytest.approx(0.2, abs=0.02)


def test_spies_are_a_share_of_the_positives() -> None:
    positive = np.arange(50) < 20
    spies = sampling.choose_spies(positive, 0.15, seed=3)
    assert spies.sum() == 3 and positive[spies].all()
    np.testing.assert_array_equal(spies, sampling.choose_spies(positive, 0.15, seed=3))
    assert sampling.choose_spies(positive, 1e-6).sum() == 1


def test_reliable_negatives_score_below_the_spies() -> None:
    scores = np.array([0.9, 0.4, 0.1, 0.5, 0.3, 0.8])
    unlabelled = np.array([0, 1, 1, 1, 1, 0], bool)
    spies = np.array([1, 0, 0, 1, 0, 0], bool)  # of scores 0.9 and 0.5
    found = sampling.reliable_negatives(scores, unlabelled, spies, noise=0.0)
    np.testing.assert_array_equal(found, [False, True, True, False, True, False])
    half = sampling.reliable_negatives(scores, unlabelled, spies, noise=0.99)
    np.testing.assert_array_equal(half, found)  # the lower of two spies is always below
    all_high = sampling.reliable_negatives(np.ones(6), unlabelled, spies)
    assert not all_high.any()


def test_fuzzy_positives_are_similar_and_never_shown() -> None:
    similar = np.array([[0, 0], [2, 3], [1, 4], [4, 0], [3, 1]])
    similarity = np.array([[0, 0], [0.9, 0.5], [0.9, 0.8], [0.4, 0.0], [0.4, 0.2]])
    clicks = np.array([0, 0, 1]), np.array([1, 2, 3])
    shown = np.array([0, 0, 1]), np.array([1, 3, 3])
    pairs = sampling.fuzzy_positives(clicks, shown, similar, similarity, weight=0.5)
    # user 0: 2 and 1 are clicked, 3 was shown, 4 is left; user 1: 4
    np.testing.assert_array_equal(pairs.user, [0, 1])
    np.testing.assert_array_equal(pairs.item, [4, 4])
    np.testing.assert_allclose(pairs.weight, [0.5 * 0.8, 0.5 * 0.4])


def test_a_fuzzy_positive_of_two_clicks_has_the_larger_similarity() -> None:
    similar, similarity = np.array([[0], [3], [3], [0]]), np.array([[0.0], [0.2], [0.7], [0.0]])
    clicks = np.array([5, 5]), np.array([1, 2])
    pairs = sampling.fuzzy_positives(clicks, clicks, similar, similarity, weight=1.0)
    assert pairs.user.tolist() == [5] and pairs.item.tolist() == [3]
    np.testing.assert_allclose(pairs.weight, [0.7])
    assert fuzzy().item.tolist() == [2, 1]


def fuzzy(clicks: Any = ([0, 1], [1, 2]), shown: Any = ([0], [1]), **first: float) -> Any:
    """Fuzzy positives of two items that are each other's most similar, with one entry of a table changed."""
    tables = {"similar": np.array([[0], [2], [1]]), "similarity": np.ones((3, 1))}
    for name, value in first.items():
        tables[name][1] = value
    pairs = [(np.array(users), np.array(items)) for users, items in (clicks, shown)]
    return sampling.fuzzy_positives(*pairs, **tables)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sampling.keep_probability(COUNTS, threshold=0.0), r"threshold=0\.0: must be positive"),
        (lambda: sampling.keep_probability(COUNTS, threshold=0.1, exponent=-1.0), r"alpha=-1\.0"),
        (lambda: sampling.split_popularity_table(-COUNTS, threshold=1), "counts"),
        (lambda: sampling.choose_spies(np.array([True]), 0.1), "1 positives"),
        (lambda: sampling.choose_spies(np.ones(9, bool), 1.0), r"share=1\.0"),
        (
            lambda: sampling.reliable_negatives(np.zeros(2), np.ones(2, bool), np.zeros(2, bool)),
            "at least one spy",
        ),
        (
            lambda: sampling.reliable_negatives(np.full(2, np.nan), np.ones(2, bool), np.ones(2, bool)),
            "NaN or infinite",
        ),
        (
            lambda: sampling.fuzzy_positives(
                *2 * ((np.zeros(1, int),) * 2,), *2 * (np.zeros((1, 1)),), weight=0
            ),
            "weight=0",
        ),
        # 0 * 3 + 4 = 1 * 3 + 1, item 1 of user 1
        (lambda: fuzzy(shown=([0], [4])), r"shown: .*items 4\.\.4: must be .*1\.\.2"),
        (lambda: fuzzy(clicks=([0, 1], [1, -1])), r"clicks: .*items -1\.\.1"),
        (lambda: fuzzy(clicks=([0, 1], [1])), "clicks: 2 users for 1 items"),
        (lambda: fuzzy(similar=5), r"similar: items 0\.\.5: must be in 0\.\.2"),
        (lambda: fuzzy(similarity=np.nan), "similarity: one is outside"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
