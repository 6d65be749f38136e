"""SLIM against the conditions of optimality, and closed forms where there are any."""

from __future__ import annotations

import sys
import unittest.mock
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines import slim
from jaxrec.baselines.slim import slim_weights
from tests.baselines import small
from tests.baselines.test_matrix_knn import ROWS, indicators


def interactions(users: int, items: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((users, items)) < 0.4).astype(np.float32)


def solved(x: np.ndarray, **settings: Any) -> np.ndarray:
    return np.asarray(slim_weights(scipy.sparse.csr_matrix(x), **settings).toarray(), np.float64)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([0.003, 0.05, 0.3]),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.booleans(),
    st.booleans(),
)
def test_the_conditions_of_optimality(
    seed: int, alpha: float, l1_ratio: float, positive: bool, few: bool
) -> None:
    """g + N α ρ sign(w) = 0 where w ≠ 0; where w = 0: |g| ≤ N α ρ, or -g ≤ N α ρ if w may not be negative."""
    x = interactions(12, 7, seed)
    with unittest.mock.patch.object(sys.modules[slim_weights.__module__], "DENSE", 7 if few else 6):
        w = solved(x, alpha=alpha, l1_ratio=l1_ratio, positive=positive, tolerance=1e-5)
    l1, l2 = (12 * alpha * part for part in (l1_ratio, 1 - l1_ratio))
    gradient = x.T.astype(np.float64) @ (x @ w - x) + l2 * w
    others = ~np.eye(7, dtype=bool)
    assert not w[~others].any()
    assert not positive or (w >= 0).all()
    np.testing.assert_allclose((gradient + l1 * np.sign(w))[(w != 0) & others], 0, atol=2e-3)
    at_zero = gradient[(w == 0) & others]
    assert ((-at_zero if positive else np.abs(at_zero)) <= l1 + 2e-3).all()


def test_without_l1_and_signs_a_column_is_a_ridge_regression() -> None:
    """Which is EASE's column for the regularisation N α."""
    x = interactions(20, 6, 1)
    found = solved(x, alpha=0.1, l1_ratio=0.0, positive=False, tolerance=1e-6)
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(6))
    expected = -inverse / np.diagonal(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("positive", "few"), [(False, True), (False, False), (True, True), (True, False)])
def test_an_item_that_may_weigh_itself(positive: bool, few: bool) -> None:
    """Then the conditions of optimality hold for its own weight too."""
    x = interactions(12, 7, 4)
    with unittest.mock.patch.object(sys.modules[slim_weights.__module__], "DENSE", 7 if few else 6):
        w = solved(x, alpha=0.05, l1_ratio=0.1, positive=positive, own=True, tolerance=1e-6)
    assert (np.diagonal(w) > 0.2).all()
    l1, l2 = 12 * 0.05 * 0.1, 12 * 0.05 * 0.9
    gradient = x.T.astype(np.float64) @ (x @ w - x) + l2 * w
    np.testing.assert_allclose((gradient + l1 * np.sign(w))[w != 0], 0, atol=2e-3)
    assert ((-gradient if positive else np.abs(gradient))[w == 0] <= l1 + 2e-3).all()


def test_two_items_by_hand() -> None:
    """w = max(0, Σ x_1 x_2 - N α ρ) / (Σ x_1² + N α (1 - ρ))."""
    x = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    found = solved(x, alpha=0.5, l1_ratio=0.25, tolerance=1e-6)
    np.testing.assert_allclose(found, [[0, 1.5 / 4.5], [1.5 / 3.5, 0]], rtol=1e-5)


@pytest.mark.parametrize("dense", [0, 9])
@pytest.mark.parametrize("positive", [True, False])
def test_items_solved_together_or_apart(monkeypatch: pytest.MonkeyPatch, positive: bool, dense: int) -> None:
    """By coordinate descent over a few at a time, and by steps from sparse interactions."""
    x = interactions(15, 9, 2)
    x[:, 4] = 0
    whole = solved(x, alpha=0.01, l1_ratio=0.1, positive=positive, tolerance=1e-6)
    monkeypatch.setattr(sys.modules[slim_weights.__module__], "ENTRIES", 1)
    monkeypatch.setattr(sys.modules[slim_weights.__module__], "DENSE", dense)
    monkeypatch.setattr(sys.modules[slim_weights.__module__], "BLOCK", 20)
    monkeypatch.setattr(sys.modules[slim_weights.__module__], "COORDINATES", 4)
    apart = solved(x, alpha=0.01, l1_ratio=0.1, positive=positive, tolerance=1e-6)
    np.testing.assert_allclose(apart, whole, atol=1e-5)
    assert not whole[4].any()
    assert not whole[:, 4].any()


def test_a_strong_penalty_leaves_nothing() -> None:
    assert not solved(interactions(15, 9, 2), alpha=1.0, l1_ratio=1.0).any()


def test_items_that_nobody_shares_have_no_weights() -> None:
    assert not solved(np.eye(4, dtype=np.float32), alpha=0.1, l1_ratio=0.1).any()


def test_the_largest_weights_of_each_scored_item_are_kept() -> None:
    x = interactions(15, 9, 3)
    whole = solved(x, alpha=0.01, l1_ratio=0.1, tolerance=1e-6)
    kept = solved(x, alpha=0.01, l1_ratio=0.1, tolerance=1e-6, neighbours=2)
    least = np.sort(whole, axis=0)[-2]
    np.testing.assert_array_equal(kept, np.where(whole >= least, whole, 0))


def test_scores_are_sums_over_the_history() -> None:
    weights = solved(indicators(ROWS).astype(np.float32), alpha=0.01, l1_ratio=0.1)
    histories = [[1, 4], [5], [], [2, 2, 7]]
    found = small.scores_after(slim(small.events_of(ROWS), alpha=0.01, l1_ratio=0.1), histories)
    for history, row in zip(histories, found, strict=True):
        expected = sum((weights[i - 1] for i in history), np.zeros(len(row)))
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    assert not found[:, 6].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0: must be a positive number"),
        ({"alpha": float("nan")}, "alpha=nan: must be a positive number"),
        ({"l1_ratio": -0.1}, "l1_ratio=-0.1: must lie in 0..1"),
        ({"l1_ratio": float("nan")}, "l1_ratio=nan: must lie in 0..1"),
        ({"tolerance": 0.0}, "tolerance=0.0: must be a positive number"),
        ({"neighbours": 0}, "neighbours=0: must be at least 1"),
        ({"neighbours": 3, "positive": False}, "neighbours=3: only of positive weights"),
        ({"max_steps": 0}, "max_steps=0: must be at least 1"),
        ({"max_steps": 1, "tolerance": 1e-6}, "max_steps=1: the tolerance of 1e-06 isn't reached"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slim(small.events_of(ROWS), **settings)
