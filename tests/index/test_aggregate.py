"""Controllable aggregation against a twin that follows the words of the paper."""

from __future__ import annotations

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import metrics
from jaxrec.index.aggregate import aggregate, value
from jaxrec.index.several import merge

NUM_ITEMS, CANDIDATES, K = 30, 9, 5
RNG = np.random.default_rng(0)
CATEGORIES = RNG.integers(0, 4, NUM_ITEMS + 1).astype(np.int32)
run = jax.jit(aggregate, static_argnames="k")


def candidates(queries: int = 4, *, whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Scores, of which many tie, and ids; the last query has three candidates alone."""
    ids = np.stack([RNG.permutation(NUM_ITEMS)[:CANDIDATES] + 1 for _ in range(queries)]).astype(np.int32)
    scores = RNG.integers(0, 5, ids.shape).astype(np.float32)
    ids[-1, 3:] = 0
    return scores if whole else scores + RNG.normal(size=ids.shape).astype(np.float32), ids


def twin(scores: np.ndarray, ids: np.ndarray, categories: np.ndarray, k: int, balance: float) -> list[int]:
    """One list by equation 11: again and again the item of largest f + λ Σ g with the chosen ones."""
    left = {int(i): float(s) for i, s in zip(ids, scores, strict=True) if i > 0}
    chosen: list[int] = []
    while left and len(chosen) < k:
        gain = {i: f + balance * sum(categories[i] != categories[j] for j in chosen) for i, f in left.items()}
        best = min(left, key=lambda i: (-gain[i], -left[i], i))
        chosen.append(best)
        del left[best]
    return chosen + [0] * (k - len(chosen))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0, 8.0])
def test_lists_are_those_of_the_papers_greedy_rule(balance: float) -> None:
    """Whole scores and balances, so that sums are exact and ties are ties."""
    scores, ids = candidates()
    found = run(scores, ids, CATEGORIES, K, balance=balance)
    for row, chosen in enumerate(np.asarray(found.ids)):
        assert chosen.tolist() == twin(scores[row], ids[row], CATEGORIES, K, balance)
        own = [scores[row][ids[row] == i][0] if i else -np.inf for i in chosen]
        assert found.scores[row].tolist() == own
    assert found.finite.all()


@pytest.mark.parametrize("k", [1, K, CANDIDATES + 2])
def test_without_a_balance_the_list_is_sorted(k: int) -> None:
    scores, ids = candidates()
    found = run(scores, ids, CATEGORIES, k, balance=0.0)
    best = merge(scores[:, None], ids[:, None], k)
    np.testing.assert_array_equal(found.ids, best.ids)
    np.testing.assert_array_equal(found.scores, best.scores)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=6, max_size=6)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sampled_from([0.0, 0.25, 1.0, 3.0, 100.0]))
def test_properties_of_a_list(rows: list[tuple[int, int]], balance: float) -> None:
    """Each candidate at most once, whatever the order they come in; a large λ covers all categories first."""
    scores = np.array([[score for score, _ in rows]], np.float32)
    ids, categories = np.arange(1, 7, dtype=np.int32)[None], np.array([0, *(c for _, c in rows)], np.int32)
    found = run(scores, ids, categories, 4, balance=balance)
    turned = run(scores[:, ::-1], ids[:, ::-1], categories, 4, balance=balance)
    np.testing.assert_array_equal(found.ids, turned.ids)
    chosen = found.ids[0].tolist()
    assert len(set(chosen)) == 4 and 0 not in chosen
    if balance == 100.0:
        assert len(set(categories[chosen])) == min(4, len(set(categories[1:].tolist())))


def test_diversity_does_not_fall_and_the_sum_of_scores_does_not_rise_with_the_balance() -> None:
    """On a toy set: 6 items of one category score highest, 6 of others less."""
    scores = np.array([[12.0, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]], np.float32)
    ids = np.arange(1, 13, dtype=np.int32)[None]
    categories = np.array([0, *[1] * 6, 2, 3, 4, 5, 6, 7], np.int32)
    distance = metrics.distance_of_features(jnp.asarray(categories)[:, None], metrics.hamming_distance)
    diversity, total = [], []
    for balance in (0.0, 0.5, 1.0, 2.0, 4.0, 16.0):
        found = run(scores, ids, categories, 6, balance=balance)
        diversity.append(float(metrics.list_diversity(found.ids, distance, k=6)[0]))
        total.append(float(found.scores.sum()))
    assert (np.diff(diversity) >= 0).all() and diversity[0] == 0.0 and diversity[-1] == 1.0
    assert (np.diff(total) <= 0).all() and total[-1] < total[0]


def test_diversity_is_the_share_of_pairs_of_different_categories() -> None:
    """Diversity@N of the paper, equation 13."""
    ids = np.array([4, 9, 2, 7, 1])
    pairs = [CATEGORIES[a] != CATEGORIES[b] for a, b in itertools.combinations(ids, 2)]
    distance = metrics.distance_of_features(jnp.asarray(CATEGORIES)[:, None], metrics.hamming_distance)
    assert float(metrics.list_diversity(jnp.asarray(ids), distance, k=5)) == pytest.approx(np.mean(pairs))


def test_the_value_of_a_list_is_the_sum_over_its_items_and_pairs() -> None:
    """Equation 9, over ordered pairs; places without an item count for nothing."""
    scores, ids = candidates(whole=False)
    for balance in (0.0, 0.7):
        for row in range(4):
            real = [(float(s), int(i)) for s, i in zip(scores[row], ids[row], strict=True) if i]
            pairs = itertools.product([i for _, i in real], repeat=2)
            expected = sum(s for s, _ in real) + balance * sum(
                CATEGORIES[i] != CATEGORIES[j] for i, j in pairs
            )
            found = value(jnp.asarray(scores[row]), jnp.asarray(ids[row]), CATEGORIES, balance=balance)
            assert float(found) == pytest.approx(expected, rel=1e-5)


def test_queries_are_independent_and_the_balance_is_no_constant() -> None:
    scores, ids = candidates()
    together = run(scores, ids, CATEGORIES, K, balance=0.5)
    for row in range(len(ids)):
        alone = run(scores[row : row + 1], ids[row : row + 1], CATEGORIES, K, balance=0.5)
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])
    each = jax.vmap(lambda b: aggregate(scores, ids, CATEGORIES, K, balance=b))(jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(each.ids[1], together.ids)


@pytest.mark.parametrize(("bad", "finite"), [(np.nan, False), (np.inf, False), (-np.inf, True)])
def test_scores_that_are_no_numbers_are_marked_and_those_taken_out_are_in_no_list(
    bad: float, finite: bool
) -> None:
    scores, ids = candidates()
    scores[1, 2] = bad
    found = run(scores, ids, CATEGORIES, CANDIDATES, balance=0.5)
    assert found.finite.tolist() == [True, finite, True, True]
    if finite:
        assert ids[1, 2] not in found.ids[1] and found.ids[1, -1] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k=0: must be at least 1"),
        ({"balance": -0.1}, "balance=-0.1: must be a number of 0 or more"),
        ({"balance": np.nan}, "balance=nan"),
        ({"ids": np.ones((4, 2), np.int32)}, "must be [Q, C] twice and [V]"),
        ({"categories": CATEGORIES[:, None]}, "must be [Q, C] twice and [V]"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    scores, ids = candidates()
    given_ = {"scores": scores, "ids": ids, "categories": CATEGORIES, "k": 3, "balance": 0.5} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        aggregate(**given_)
