"""EASE against the inverse in float64, and its optimality."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines import ease
from jaxrec.baselines.ease import check_inverse, ease_weights
from jaxrec.baselines.inverse import gram, inverse_gram, invert
from tests.baselines import small
from tests.baselines.test_matrix_knn import ROWS, indicators


def interactions(users: int, items: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((users, items)) < 0.3).astype(np.float32)


def exact(x: np.ndarray, regularisation: float) -> np.ndarray:
    """-P_ij / P_jj with a diagonal of 0, in float64."""
    inverse = np.linalg.inv(x.T.astype(np.float64) @ x + regularisation * np.eye(x.shape[1]))
    weights = inverse / -np.diagonal(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.floats(0.1, 1000))
def test_weights_are_those_of_the_inverse(users: int, items: int, seed: int, regularisation: float) -> None:
    x = interactions(users, items, seed)
    found = ease_weights(scipy.sparse.csr_matrix(x), regularisation)
    np.testing.assert_allclose(found, exact(x, regularisation), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_zero_but_for_the_diagonal() -> None:
    """(XᵀX + λ I) B = XᵀX + λ I up to a multiplier of each column, on the diagonal alone."""
    x = interactions(30, 8, 0).astype(np.float64)
    weights = ease_weights(scipy.sparse.csr_matrix(x.astype(np.float32)), 3.0).astype(np.float64)
    assert not np.diagonal(weights).any()
    gradient = x.T @ (x @ weights - x) + 3.0 * weights
    np.testing.assert_allclose(gradient - np.diag(np.diagonal(gradient)), 0, atol=1e-4)
    assert (np.diagonal(gradient) < 0).all()


def test_a_large_regularisation_ranks_by_co_occurrence() -> None:
    x = interactions(30, 8, 1)
    both = x.T @ x
    np.fill_diagonal(both, 0)
    np.testing.assert_allclose(1e5 * ease_weights(scipy.sparse.csr_matrix(x), 1e5), both, atol=0.01)


@pytest.mark.parametrize("panel", [1, 3, 4, 100])
def test_a_matrix_is_inverted_in_panels_where_it_lies(panel: int) -> None:
    matrix = gram(scipy.sparse.csr_matrix(interactions(30, 17, 3)), 2.0)
    expected, place = np.linalg.inv(matrix), matrix.ctypes.data
    assert invert(matrix, panel) is matrix
    np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert place % 64 == 0
    assert jax.device_put(matrix).unsafe_buffer_pointer() == place or jax.default_backend() != "cpu"


def test_few_users_are_inverted_instead_of_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    module = sys.modules[inverse_gram.__module__]

    def inverted(matrix: np.ndarray) -> np.ndarray:
        sizes.append(len(matrix))
        return invert(matrix)

    monkeypatch.setattr(module, "invert", inverted)
    monkeypatch.setattr(module, "PANEL", 5)
    for shape in ((9, 17), (17, 9)):
        x = interactions(*shape, 5)
        found = inverse_gram(scipy.sparse.csr_matrix(x), 2.0)
        np.testing.assert_allclose(found, np.linalg.inv(x.T @ x + 2 * np.eye(shape[1])), rtol=1e-4, atol=1e-6)
    assert sizes == [9, 9]


def test_scores_are_sums_over_the_history() -> None:
    """An item without users has weights of 0, so it neither scores nor is scored; repeats count again."""
    baseline = ease(small.events_of(ROWS), regularisation=2.0)
    weights = exact(indicators(ROWS).astype(np.float32), 2.0)
    histories = [[1, 4], [5], [], [2, 2, 7]]
    found = small.scores_after(baseline, histories)
    for history, row in zip(histories, found, strict=True):
        expected = sum((weights[i - 1] for i in history), np.zeros(len(row)))
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)
    assert not found[:, 6].any()


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("nan"), float("inf")])
def test_a_regularisation_that_is_not_positive_is_refused(regularisation: float) -> None:
    with pytest.raises(ValueError, match="regularisation=.*: must be a positive number"):
        ease(small.events_of(ROWS), regularisation=regularisation)


def test_more_memory_than_allowed_is_refused_before_it_is_taken() -> None:
    events = small.events_of(ROWS, num_items=2_000_000)
    with pytest.raises(
        ValueError, match=r"max_gib=8.0: EASE of 2,000,001 items is .* of 14,901.2 GiB; raise it"
    ):
        ease(events)


def test_a_matrix_that_float32_cannot_factorise_is_refused() -> None:
    x = scipy.sparse.csr_matrix(np.ones((1000, 6), np.float32))
    with pytest.raises(
        ValueError, match="not positive definite in float32; raise the regularisation|an error of"
    ):
        ease_weights(x, 1e-12)


def test_a_wrong_inverse_is_refused() -> None:
    users = scipy.sparse.csr_matrix(interactions(30, 80, 4))
    inverse = inverse_gram(users, 2.0)
    check_inverse(users, 2.0, inverse)
    inverse[:, int(np.asarray(users.sum(axis=0)).argmax())] *= 1.1
    with pytest.raises(
        ValueError, match="regularisation=2.0: the inverse in float32 has an error of 0.1; raise"
    ):
        check_inverse(users, 2.0, inverse)
