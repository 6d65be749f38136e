"""Measures of calibration against slow NumPy and known answers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import metrics

N = 500


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, ...]:
    """Logits with ties, labels, values of a field, and which rows are real."""
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(-1, 2, N), 1).astype(np.float32)
    labels = (rng.random(N) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return logits, labels, rng.integers(-3, 4, N).astype(np.int32), rng.random(N) < 0.8


def run(metric: Any, *args: Any, where: Any = None, **options: Any) -> Any:
    return jax.jit(lambda *a, where: metric(*a, where=where, **options))(*args, where=where)


def probabilities(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("masked", [False, True])
def test_bins_of_equal_mass_have_equal_logits_together(rows: Any, masked: bool) -> None:
    logits, labels, _, where = rows
    real = where if masked else np.ones(N, bool)
    x, y = logits[real], labels[real]
    size = -(-len(x) // 7)
    bins = np.array([(x < value).sum() // size for value in x])
    p = probabilities(x)
    curve = run(metrics.reliability, logits, labels, where=real, num_bins=7, equal_mass=True)
    for b in range(7):
        inside = bins == b
        assert curve.num_examples[b] == inside.sum()
        if inside.any():
            assert np.isclose(curve.predicted[b], p[inside].mean(), atol=1e-5)
            assert np.isclose(curve.observed[b], y[inside].mean(), atol=1e-5)
    expected = sum(abs((p - y)[bins == b].sum()) for b in range(7)) / len(x)
    found = run(metrics.expected_calibration_error, logits, labels, where=real, num_bins=7, equal_mass=True)
    assert np.isclose(found, expected, atol=1e-5)


def test_constant_logits_fill_one_bin() -> None:
    curve = run(metrics.reliability, np.zeros(10, np.float32), np.ones(10), num_bins=4, equal_mass=True)
    assert sorted(curve.num_examples.tolist()) == [0, 0, 0, 10]


def test_error_by_field_is_of_the_sums_of_each_value(rows: Any) -> None:
    logits, labels, field, where = rows
    gap = np.where(where, probabilities(logits) - labels, 0.0)
    expected = sum(abs(gap[field == value].sum()) for value in np.unique(field)) / where.sum()
    found = run(metrics.field_calibration_error, logits, labels, field, where=where)
    assert np.isclose(found, expected, atol=1e-5)
    one = run(metrics.field_calibration_error, logits, labels, np.zeros(N, np.int32), where=where)
    ratio = run(metrics.calibration_ratio, logits, labels, where=where)
    assert np.isclose(one, abs(ratio - 1) * labels[where].mean(), atol=1e-5)  # of one value it is the bias


def test_a_row_that_is_left_out_is_not_read(rows: Any) -> None:
    logits, labels, field, where = rows
    broken = np.where(where, logits, np.nan).astype(np.float32)
    for metric, args in (
        (metrics.field_calibration_error, (field,)),
        (metrics.expected_calibration_error, ()),
    ):
        options: Any = {} if args else {"equal_mass": True}
        found = [run(metric, x, labels, *args, where=where, **options) for x in (logits, broken)]
        assert found[0] == found[1]


def test_nothing_is_no_perfect_prediction() -> None:
    logits, labels, none = np.zeros(4, np.float32), np.ones(4, np.float32), np.zeros(4, bool)
    for metric in (metrics.log_loss, metrics.expected_calibration_error, metrics.calibration_ratio):
        assert np.isnan(metric(logits, labels, where=none))
    assert np.isnan(metrics.field_calibration_error(logits, labels, np.zeros(4, np.int32), where=none))


def test_parts_of_the_log_loss_add_up(rows: Any) -> None:
    logits, labels, _, where = rows
    parts = run(metrics.log_loss_parts, logits, labels, where=where)
    total = parts.uncertainty - parts.resolution + parts.miscalibration + parts.within
    assert np.isclose(total, run(metrics.log_loss, logits, labels, where=where), atol=1e-6)
    share = labels[where].mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert np.isclose(parts.uncertainty, entropy, atol=1e-6)
    assert 0 < parts.resolution < parts.uncertainty and parts.miscalibration >= 0


def test_a_constant_prediction_of_the_rate_has_uncertainty_alone() -> None:
    labels = np.array([1, 0, 0, 0], np.float32)
    parts = run(metrics.log_loss_parts, np.full(4, -np.log(3.0), np.float32), labels)
    np.testing.assert_allclose(parts[1:], 0.0, atol=1e-6)
    wrong = run(metrics.log_loss_parts, np.zeros(4, np.float32), labels)
    kl = np.log(2) - parts.uncertainty
    np.testing.assert_allclose(wrong[1:], [0, kl, 0], atol=1e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("count", [7, 30, 33, 100])
def test_parts_of_one_class_are_finite(label: float, count: int) -> None:
    """Shares of bins add up to 1 but for rounding, and to no entropy."""
    logits = np.random.default_rng(0).normal(size=count).astype(np.float32)
    parts = run(metrics.log_loss_parts, logits, np.full(count, label, np.float32))
    assert np.isfinite(parts).all()
    np.testing.assert_allclose([parts.uncertainty, parts.resolution], 0.0, atol=1e-5)
