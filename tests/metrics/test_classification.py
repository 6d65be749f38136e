"""Metrics of labelled impressions: against all pairs in NumPy, and at the edges."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxrec import metrics
from tests.programs import run

N = 60
jit_auc = jax.jit(metrics.auc)
jit_average_precision = jax.jit(metrics.average_precision)
jit_gauc = jax.jit(metrics.gauc, static_argnames="weighted")


def pairs_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of (positive, negative) pairs in order; a tie is half a pair."""
    difference = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, labels, users (user 7 has one class only), and which rows are real."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-4, 5, N).astype(np.float32) / 2
    labels = (rng.random(N) < 0.4).astype(np.float32)
    users = rng.integers(-2, 6, N).astype(np.int32)
    users[:4], labels[:4] = 7, 1.0
    return scores, labels, users, rng.random(N) < 0.8


def test_auc_counts_pairs_and_half_of_ties(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, _, where = rows
    assert np.isclose(jit_auc(scores, labels), pairs_auc(scores, labels), atol=1e-6)
    assert np.isclose(
        jit_auc(scores, labels, where=where), pairs_auc(scores[where], labels[where]), atol=1e-6
    )


def test_auc_turns_around_with_the_scores(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, *_ = rows
    assert np.isclose(jit_auc(-scores, labels), 1 - jit_auc(scores, labels), atol=1e-6)
    assert np.isclose(jit_auc(np.exp(scores), labels), jit_auc(scores, labels), atol=1e-6)


def test_auc_of_constant_scores_is_a_half(rows: tuple[np.ndarray, ...]) -> None:
    assert jit_auc(np.zeros(N, np.float32), rows[1]) == 0.5


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_auc_of_one_class_is_not_defined(rows: tuple[np.ndarray, ...], label: float) -> None:
    assert np.isnan(jit_auc(rows[0], np.full(N, label, np.float32)))
    assert np.isnan(jit_auc(rows[0], rows[1], where=np.zeros(N, bool)))


def test_auc_of_a_nan_score_is_not_defined_unless_masked(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, _, where = rows
    broken = np.where(where, scores, np.nan)
    assert np.isnan(jit_auc(broken, labels))
    assert jit_auc(broken, labels, where=where) == jit_auc(scores, labels, where=where)


def test_auc_of_many_pairs_does_not_overflow() -> None:
    labels = (np.arange(200_000) % 2).astype(np.float32)  # 10^10 pairs, one in two neighbours out of order
    found = float(jit_auc(np.arange(200_000, dtype=np.float32), labels))
    assert np.isclose(found, 0.5 + 0.5 / 100_000, atol=2e-7)


@pytest.mark.long
@pytest.mark.parametrize("decimals", [6, 2])
def test_auc_of_a_million_rows_is_exact(decimals: int) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(1_000_000) < 0.5).astype(np.float32)
    scores = np.round(labels * 0.3 + rng.standard_normal(labels.size), decimals).astype(np.float32)
    assert abs(float(jit_auc(scores, labels)) - roc_auc_score(labels, scores)) < 1e-6


def test_users_whose_ids_do_not_fit_32_bits_are_refused() -> None:
    scores, labels = np.arange(4.0, dtype=np.float32), np.array([0, 1, 1, 0], np.float32)
    with pytest.raises(ValueError, match="ids from 1 to 4294967297 do not fit 32 bits; number them first"):
        metrics.gauc(scores, labels, np.array([1, 1, 2**32 + 1, 2**32 + 1]))
    assert run(metrics.gauc, scores, labels, np.array([1, 1, 2, 2])).gauc == 0.5


def test_reliability_counts_many_rows_and_reads_no_row_that_is_left_out() -> None:
    logits = np.full(300_000, np.log(0.3 / 0.7), np.float32)
    curve = run(metrics.reliability, logits, np.zeros(300_000, np.float32), num_bins=2)
    np.testing.assert_allclose(curve.predicted, [0.3, 0.0], rtol=1e-6)
    assert curve.num_examples.tolist() == [300_000, 0]
    odd = run(
        metrics.expected_calibration_error,
        np.array([np.nan, 0.0], np.float32),
        np.array([0.0, 1.0], np.float32),
        where=np.array([False, True]),
    )
    assert odd == 0.5


@pytest.mark.parametrize("weighted", [True, False])
def test_gauc_is_the_mean_over_users_with_both_classes(rows: tuple[np.ndarray, ...], weighted: bool) -> None:
    scores, labels, users, where = rows
    total, weights, used = 0.0, 0, 0
    for user in np.unique(users):
        mine = (users == user) & where
        if len(set(labels[mine])) == 2:
            weight = int(mine.sum()) if weighted else 1
            total += weight * pairs_auc(scores[mine], labels[mine])
            weights, used = weights + weight, used + 1
    found = jit_gauc(scores, labels, users, where=where, weighted=weighted)
    assert np.isclose(found.gauc, total / weights, atol=1e-6)
    assert found.num_groups == used < len(np.unique(users))


def test_gauc_of_one_user_is_the_auc(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, _, where = rows
    found = jit_gauc(scores, labels, np.full(N, 3, np.int32), where=where)
    assert np.isclose(found.gauc, jit_auc(scores, labels, where=where), atol=1e-6)


def test_gauc_without_a_user_of_both_classes_is_not_defined(rows: tuple[np.ndarray, ...]) -> None:
    found = jit_gauc(rows[0], rows[1], np.arange(N, dtype=np.int32))
    assert np.isnan(found.gauc) and found.num_groups == 0


def test_log_loss_is_the_mean_negative_log_likelihood(rows: tuple[np.ndarray, ...]) -> None:
    logits, labels, _, where = rows
    prob = 1 / (1 + np.exp(-logits[where]))
    expected = -np.mean(np.where(labels[where] == 1, np.log(prob), np.log(1 - prob)))
    assert np.isclose(run(metrics.log_loss, logits, labels, where=where), expected, atol=1e-6)
    assert np.isfinite(run(metrics.log_loss, np.array([200.0, -200.0], np.float32), np.array([0.0, 1.0])))


def test_normalized_entropy_is_log_loss_over_that_of_the_share(rows: tuple[np.ndarray, ...]) -> None:
    logits, labels, _, where = rows
    share = labels[where].mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    found = run(metrics.normalized_entropy, logits, labels, where=where)
    assert np.isclose(found, run(metrics.log_loss, logits, labels, where=where) / entropy, rtol=1e-5)
    constant = np.full(N, np.log(share / (1 - share)), np.float32)
    assert np.isclose(run(metrics.normalized_entropy, constant, labels, where=where), 1.0, rtol=1e-5)
    assert np.isnan(run(metrics.normalized_entropy, logits, np.ones(N), where=where))
    assert np.isnan(run(metrics.normalized_entropy, logits, np.zeros(N), where=where))


def test_predictions_equal_to_the_rate_are_calibrated() -> None:
    labels = np.array([1, 0, 0, 0], np.float32)
    logits = np.full(4, np.log(0.25 / 0.75), np.float32)
    assert np.isclose(run(metrics.calibration_ratio, logits, labels), 1.0)
    assert np.isclose(run(metrics.expected_calibration_error, logits, labels), 0.0, atol=1e-6)


def test_calibration_error_by_hand() -> None:
    logits = np.log(np.array([0.1, 0.3, 0.9, 0.9]) / np.array([0.9, 0.7, 0.1, 0.1])).astype(np.float32)
    labels = np.array([0, 1, 1, 0], np.float32)  # bins of a half: means 0.2 and 0.9, rates 1/2 and 1/2
    found = run(metrics.expected_calibration_error, logits, labels, num_bins=2)
    assert np.isclose(found, (2 * 0.3 + 2 * 0.4) / 4, atol=1e-6)
    real = np.array([True, True, False, False])
    assert np.isclose(
        run(metrics.expected_calibration_error, logits, labels, num_bins=2, where=real), 0.3, atol=1e-6
    )
    curve = run(metrics.reliability, logits, labels, num_bins=2)
    np.testing.assert_allclose(curve.predicted, [0.2, 0.9], atol=1e-6)
    np.testing.assert_array_equal(curve.num_examples, [2, 2])


def test_bins_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_bins=0: must be at least 1"):
        run(metrics.reliability, np.zeros(2), np.zeros(2), num_bins=0)


def steps_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over positives of the share of positives among all rows that score at least as much."""
    return float(np.mean([labels[scores >= score].mean() for score in scores[labels == 1]]))


def test_average_precision_takes_ties_at_once(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, _, where = rows
    found = [jit_average_precision(scores, labels, where=mask) for mask in (where, np.ones(N, bool))]
    expected = [
        steps_average_precision(scores[where], labels[where]),
        steps_average_precision(scores, labels),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_average_precision_of_constant_scores_is_the_base_rate(rows: tuple[np.ndarray, ...]) -> None:
    everywhere = np.ones(N, bool)
    found = jit_average_precision(np.zeros(N, np.float32), rows[1], where=everywhere)
    np.testing.assert_allclose(found, rows[1].mean(), rtol=1e-6)


def test_average_precision_without_positives_or_of_nan_is_not_defined(rows: tuple[np.ndarray, ...]) -> None:
    scores, labels, _, where = rows
    broken = np.where(where, scores, np.nan).astype(np.float32)
    assert np.isnan(jit_average_precision(scores, 0 * labels, where=where))
    assert np.isnan(jit_average_precision(broken, labels, where=~where))
    assert jit_average_precision(broken, labels, where=where) == jit_average_precision(
        scores, labels, where=where
    )
