"""Ranking metrics: by hand, against slow Python, ties, NaN, padding, and what must hold for any input."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from tests.programs import run

rng = np.random.default_rng(1)
RANKED = np.stack([rng.permutation(30)[:10] + 1 for _ in range(100)])
RANKED[::7, 6:] = 0  # shorter lists
ANSWERS = rng.integers(0, 30, size=(100, 4))  # repeated ids, and users without answers
ANSWERS[::9] = 0
LISTS = (metrics.list_recall, metrics.list_precision, metrics.list_ndcg, metrics.list_map)


# --- one answer ---


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.hit, [1, 1, 1, 0]),
        (metrics.recall, [1, 1, 1, 0]),
        (metrics.ndcg, [1, 1 / np.log2(3), 1 / np.log2(6), 0]),
        (metrics.mrr, [1, 1 / 2, 1 / 5, 0]),
    ],
)
def test_metrics_of_a_rank_by_hand(metric, expected: list[float]) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_allclose(run(metric, np.array([1, 2, 5, 6]), k=5), expected, rtol=1e-6)


def test_mrr_without_a_cut() -> None:
    np.testing.assert_allclose(run(metrics.mrr, np.array([1, 50])), [1.0, 1 / 50], rtol=1e-6)


@pytest.mark.parametrize("metric", [metrics.hit, metrics.ndcg, metrics.mrr])
def test_a_cut_of_zero_is_refused(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="k=0"):
        run(metric, np.array([1]), k=0)


# --- ranks ---


def slow_rank(scores: np.ndarray, target: int, where: np.ndarray, ties: str) -> int:
    worse = (lambda s, t: s >= t) if ties == "pessimistic" else (lambda s, t: s > t)
    others = (j for j in range(len(scores)) if j != target and where[j])
    return 1 + sum(bool(worse(scores[j], scores[target])) for j in others)


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_rank_of_target_equals_slow_python(ties: str) -> None:
    scores = rng.integers(-3, 4, size=(50, 20)).astype(np.float32)  # many ties
    target, where = rng.integers(0, 20, size=50), rng.random((50, 20)) < 0.7
    expected = [slow_rank(*row, ties) for row in zip(scores, target, where, strict=True)]
    ours = run(metrics.rank_of_target, scores, target, where=where, ties=ties)
    np.testing.assert_array_equal(ours, expected)


def test_constant_scores_rank_the_target_last_or_first() -> None:
    scores, target = np.zeros((1, 7)), np.array([3])
    assert run(metrics.rank_of_target, scores, target)[0] == 7
    assert run(metrics.rank_of_target, scores, target, ties="optimistic")[0] == 1


def test_counts_of_blocks_add_up_to_the_rank() -> None:
    scores = rng.integers(0, 5, size=(6, 12)).astype(np.float32)
    target = np.arange(6)
    others = np.arange(12) != np.asarray(target)[:, None]
    target_score = scores[np.arange(6), target]
    counts = [
        run(metrics.count_above, scores[:, a : a + 5], target_score, where=others[:, a : a + 5])
        for a in (0, 5, 10)
    ]
    np.testing.assert_array_equal(1 + sum(counts), run(metrics.rank_of_target, scores, target))


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("column", [0, 2], ids=["target", "candidate"])
def test_nan_never_helps(ties: str, column: int) -> None:
    scores = np.array([[3.0, 2.0, 1.0]], np.float32)
    scores[0, column] = np.nan
    rank = run(metrics.rank_of_target, scores, np.array([0]), ties=ties)[0]
    assert rank == (3 if column == 0 else 2)


def test_an_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="average"):
        run(metrics.rank_of_target, np.zeros((1, 2)), np.array([0]), ties="average")


# --- seen items ---


@pytest.mark.parametrize("first", [0, 4, 8])
def test_seen_mask_marks_the_ids_of_its_block(first: int) -> None:
    seen = np.array([[0, 0, 5], [4, 7, 9], [0, 0, 0], [8, 8, 1]])
    expected = [[c + first in set(row) - {0} for c in range(4)] for row in seen.tolist()]
    np.testing.assert_array_equal(run(metrics.seen_mask, seen, size=4, first=first), expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("keep", [1.0, -2.0, 3.0]), ("zero", [0.0, -2.0, 0.0]), ("exclude", [-np.inf, -2.0, -np.inf])],
)
def test_seen_rules(rule: str, expected: list[float]) -> None:
    seen = np.array([[True, False, True]])
    np.testing.assert_array_equal(
        run(metrics.apply_seen, np.array([[1.0, -2.0, 3.0]]), seen, rule=rule)[0], expected
    )


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_a_target_that_exclude_takes_out_is_a_miss(ties: str) -> None:
    seen = np.array([[True, False, True], [True, True, True], [False, False, True]])
    scores = run(metrics.apply_seen, np.array([[9.0, 1.0, 2.0]] * 3), seen, rule="exclude")
    ranks = run(metrics.rank_of_target, scores, np.array([0, 0, 0]), ties=ties)
    assert ranks.tolist() == [metrics.MISS, metrics.MISS, 1]


@pytest.mark.parametrize("target", [-1, 3, 99])
def test_a_target_that_is_no_column_has_no_rank(target: int) -> None:
    assert run(metrics.rank_of_target, np.array([[3.0, 1.0, 2.0]]), np.array([target])).tolist() == [
        metrics.MISS
    ]


def test_a_miss_is_0_in_every_metric() -> None:
    rank = np.array([metrics.MISS, 1])
    for k in (1, 10, 10**6, metrics.MISS):
        for metric in (metrics.hit, metrics.recall, metrics.ndcg, metrics.mrr):
            assert run(metric, rank, k=k).tolist() == [0.0, 1.0]
    assert run(metrics.mrr, rank).tolist() == [0.0, 1.0]


def test_an_unknown_seen_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        run(metrics.apply_seen, np.zeros((1, 2)), np.zeros((1, 2), bool), rule="drop")


# --- several answers ---


def slow_lists(ranked: list[int], answers: set[int], k: int) -> tuple[float, ...]:
    """recall, precision, NDCG and average precision of one user."""
    if not answers:
        return 0.0, 0.0, 0.0, 0.0
    hits = [i for i, item in enumerate(ranked[:k]) if item in answers and item not in ranked[:i]]
    ideal = sum(1 / np.log2(i + 2) for i in range(min(k, len(answers))))
    precisions = [(n + 1) / (i + 1) for n, i in enumerate(hits)]
    return (
        len(hits) / len(answers),
        len(hits) / k,
        sum(1 / np.log2(i + 2) for i in hits) / ideal,
        sum(precisions) / min(k, len(answers)),
    )


@pytest.mark.parametrize("k", [1, 5, 10, 20])
@pytest.mark.parametrize("padding", [0, -1])
def test_list_metrics_equal_slow_python(k: int, padding: int) -> None:
    ranked, answers = (np.where(ids == 0, padding, ids) for ids in (RANKED, ANSWERS))
    pairs = zip(ranked.tolist(), answers.tolist(), strict=True)
    expected = [slow_lists(r, set(a) - {padding}, k) for r, a in pairs]
    every = jax.jit(lambda r, a: jnp.stack([metric(r, a, k=k, padding=padding) for metric in LISTS], axis=1))
    np.testing.assert_allclose(every(ranked, answers), expected, rtol=1e-5)


def test_ndcg_divides_by_the_ideal_over_all_answers() -> None:
    value = run(metrics.list_ndcg, np.array([1, 9]), np.array([1, 2]), k=2)
    np.testing.assert_allclose(
        value, 1 / (1 + 1 / np.log2(3)), rtol=1e-6
    )  # over retrieved hits it would be 1


@pytest.mark.parametrize("metric", LISTS)
def test_repeated_ids_count_once(metric) -> None:  # type: ignore[no-untyped-def]
    once = run(metric, np.array([3, 8, 5]), np.array([3, 4, 0]), k=3)
    assert run(metric, np.array([3, 3, 5]), np.array([3, 4, 3]), k=3) == once


def test_with_one_answer_the_list_metrics_are_those_of_its_rank() -> None:
    ranked = np.asarray(rng.permutation(20) + 1)
    for rank in (1, 4, 20):
        answer = ranked[rank - 1][None]
        position = np.array(rank)
        for ours, other in (
            (metrics.list_recall, metrics.hit),
            (metrics.list_ndcg, metrics.ndcg),
            (metrics.list_map, metrics.mrr),
        ):
            np.testing.assert_allclose(run(ours, ranked, answer, k=5), run(other, position, k=5), rtol=1e-6)


@pytest.mark.parametrize("metric", LISTS)
def test_vmap_and_jit_change_nothing(metric) -> None:  # type: ignore[no-untyped-def]
    ours = jax.jit(jax.vmap(lambda r, a: metric(r, a, k=5)))(RANKED, ANSWERS)
    np.testing.assert_allclose(ours, metric(jnp.asarray(RANKED), jnp.asarray(ANSWERS), k=5), rtol=1e-6)


# --- graded answers ---

GRADES = np.array([[3, 0, 1, 2, 9], [0, 2, 2, 1, 9], [0, 0, 0, 0, 9]])
SCORES = np.array(
    [[1.0, 2.0, 2.0, 2.0, 5.0], [0.0, 0.5, 0.5, -1.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]], np.float32
)
CANDIDATES = np.arange(5) < 4  # the last column is none


def all_orders(scores: np.ndarray, gains: np.ndarray, k: int) -> list[float]:
    """NDCG of every order of the candidates in which no score comes after a lower one."""
    discount = np.where(np.arange(len(scores)) < k, 1.0 / np.log2(2.0 + np.arange(len(scores))), 0.0)
    best = float(np.sort(gains)[::-1] @ discount)
    orders = [np.array(order) for order in itertools.permutations(range(len(scores)))]
    sums = [float(gains[order] @ discount) for order in orders if (np.diff(scores[order]) <= 0).all()]
    return [total / best if best else 0.0 for total in sums]


@pytest.mark.parametrize(("ties", "of"), [("pessimistic", min), ("optimistic", max), ("average", np.mean)])
def test_graded_ndcg_of_ties_against_all_their_orders(ties: Any, of: Any) -> None:
    for k, gain in ((2, metrics.exponential_gain), (4, jnp.asarray)):
        ours = run(metrics.graded_ndcg, SCORES, GRADES, k=k, gain=gain, ties=ties, where=CANDIDATES)
        gains = np.asarray(gain(GRADES[:, :4].astype(np.float32)))
        expected = [of(all_orders(s, g, k)) for s, g in zip(SCORES[:, :4], gains, strict=True)]
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_graded_ndcg_with_one_answer_is_ndcg_of_its_rank() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0], np.float32)
    ours = run(metrics.graded_ndcg, np.stack([scores] * 4), np.eye(4), k=3)
    np.testing.assert_allclose(ours, metrics.ndcg(np.arange(1, 5), k=3), rtol=1e-6)


def test_constant_scores_earn_the_least_and_nan_no_number() -> None:
    flat, grades = np.zeros((1, 3), np.float32), np.array([[0, 0, 1]])
    np.testing.assert_allclose(run(metrics.graded_ndcg, flat, grades), 1.0 / np.log2(4.0), rtol=1e-6)
    assert run(metrics.graded_ndcg, flat, grades, k=2) == 0.0
    broken = np.array([[np.nan, 0.0, 0.0]], np.float32)
    assert np.isnan(run(metrics.graded_ndcg, broken, grades))
    assert not np.isnan(run(metrics.graded_ndcg, broken, grades, where=np.array([False, True, True])))


def test_an_unknown_tie_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="ties='first'"):
        run(metrics.graded_ndcg, SCORES, GRADES, ties="first")  # type: ignore[arg-type]
