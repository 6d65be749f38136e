"""Item- and user-KNN on the interaction matrix against the dense formulas, written out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines import matrix_item_knn, matrix_user_knn
from jaxrec.baselines.matrix_knn import bm25, tf_idf
from jaxrec.baselines.similarity import (
    Similarity,
    asymmetric_cosine,
    cosine,
    dot,
    jaccard,
    nearest,
    pearson,
    tversky,
)
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS

SETS: dict[str, tuple[Similarity, Callable[[int, int, int], float]]] = {  # of |A ∩ B|, |A|, |B|
    "dot": (dot, lambda both, a, b: both),
    "cosine": (cosine, lambda both, a, b: both / np.sqrt(a * b)),
    "asymmetric": (
        functools.partial(asymmetric_cosine, alpha=0.3),
        lambda both, a, b: both / (a**0.3 * b**0.7),
    ),
    "jaccard": (jaccard, lambda both, a, b: both / (a + b - both)),
    "tversky": (
        functools.partial(tversky, alpha=0.2, beta=0.7),
        lambda both, a, b: both / (both + 0.2 * (a - both) + 0.7 * (b - both)),
    ),
}
ROWS = [[1, 2, 3, 1], [2, 3, 4], [6, 5], [1, 2, 4, 6], [3, 1, 2, 5], [5]]  # nobody has item 7


def indicators(rows: list[list[int]]) -> np.ndarray:
    """x_ui, [users, items]."""
    return np.array([[item in row for item in range(1, NUM_ITEMS + 1)] for row in rows], float)


def similarities(x: np.ndarray, formula: Callable[[int, int, int], float]) -> np.ndarray:
    """Of all pairs of columns, 0 where nothing is shared and on the diagonal."""
    both, alone = x.T @ x, x.sum(axis=0)
    found = np.zeros_like(both)
    for i, j in np.argwhere(both > 0):
        found[i, j] = formula(both[i, j], alone[i], alone[j]) * (i != j)
    return found


def keep(similarity: np.ndarray, neighbours: int) -> np.ndarray:
    """The largest of each row, of equal ones the first."""
    rounded = similarity.astype(np.float32)
    place = np.argsort(np.argsort(-rounded, axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(place < neighbours, similarity, 0)


@pytest.mark.parametrize("neighbours", [2, NUM_ITEMS, 1000])
@pytest.mark.parametrize("name", SETS)
def test_items_are_scored_by_their_neighbours_in_the_history(name: str, neighbours: int) -> None:
    """Also with more neighbours than items, where the scores are the dense product."""
    similarity, formula = SETS[name]
    near = keep(similarities(indicators(ROWS), formula), neighbours)
    baseline = matrix_item_knn(small.events_of(ROWS), similarity=similarity, neighbours=neighbours)
    histories = [[1, 4], [5], [], [2, 2, 7]]
    found = small.scores_after(baseline, histories)
    for history, row in zip(histories, found, strict=True):
        np.testing.assert_allclose(
            row, sum((near[:, i - 1] for i in history), np.zeros(NUM_ITEMS)), rtol=1e-5
        )


@pytest.mark.parametrize("neighbours", [2, 1000])
@pytest.mark.parametrize("name", SETS)
def test_users_are_scored_by_what_their_neighbours_have(name: str, neighbours: int) -> None:
    """The sixth user of the queries has no training events, the seventh isn't in the table."""
    similarity, formula = SETS[name]
    x = indicators(ROWS)
    near = keep(similarities(x.T, formula), neighbours)
    baseline = matrix_user_knn(small.events_of(ROWS), similarity=similarity, neighbours=neighbours)
    queries, context = small.histories([[1]] * 8)
    found = small.scores(baseline, queries, context)
    np.testing.assert_allclose(found[:6], near @ x, rtol=1e-5)
    assert not found[6:].any()


def test_users_without_events_between_others_have_no_neighbours() -> None:
    events = small.events_of([[1, 2], [1, 2, 3]])
    moved = type(events)(events.group * 2, events.item, events.num_items)
    queries, context = small.histories([[1]] * 3)
    found = small.scores(matrix_user_knn(moved), queries, context)
    assert not found[1].any()
    np.testing.assert_allclose(found[0, :3], np.full(3, 2 / np.sqrt(6)), rtol=1e-6)


def test_users_that_share_nothing_have_scores_of_zero() -> None:
    queries, context = small.histories([[1]] * 2)
    assert not small.scores(matrix_user_knn(small.events_of([[1], [2]])), queries, context).any()


def test_pearson_is_the_correlation_of_columns() -> None:
    x = indicators(ROWS)[:, :6]
    near = nearest(scipy.sparse.csr_matrix(x), pearson, neighbours=None).toarray()
    correlation = np.corrcoef(x.T)
    shared = (x.T @ x > 0) & ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(near, np.where(shared, np.maximum(correlation, 0), 0), atol=1e-6)


def test_pearson_of_what_everybody_has_is_zero() -> None:
    x = scipy.sparse.csr_matrix([[1.0, 1.0], [1.0, 0.0]])
    assert nearest(x, pearson, neighbours=None).nnz == 0


@settings(max_examples=40, deadline=None)
@given(small.GROUPS, st.sampled_from(sorted(SETS)), st.floats(0, 20))
def test_shrinkage_is_added_to_the_denominator(rows: list[list[int]], name: str, shrinkage: float) -> None:
    x = indicators(rows)
    similarity, formula = SETS[name]
    found = nearest(scipy.sparse.csr_matrix(x), similarity, neighbours=None, shrinkage=shrinkage).toarray()
    plain = similarities(x, formula)
    both = np.where(plain > 0, x.T @ x, 1)
    expected = np.where(plain > 0, both / (both / np.where(plain > 0, plain, 1) + shrinkage), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(small.GROUPS)
def test_similarities_of_sets(rows: list[list[int]]) -> None:
    """Between 0 and 1; Jaccard at most the cosine; symmetric, if i and j also change α and 1 - α."""
    x = scipy.sparse.csr_matrix(indicators(rows))

    def all_of(similarity: Similarity) -> np.ndarray:
        return nearest(x, similarity, neighbours=None).toarray()

    cosines, jaccards = all_of(cosine), all_of(jaccard)
    assert (jaccards <= cosines + 1e-6).all()
    assert (cosines <= 1 + 1e-6).all()
    np.testing.assert_allclose(cosines, cosines.T, rtol=1e-6)
    np.testing.assert_allclose(all_of(asymmetric_cosine), cosines, rtol=1e-6)
    np.testing.assert_allclose(
        all_of(functools.partial(asymmetric_cosine, alpha=0.8)),
        all_of(functools.partial(asymmetric_cosine, alpha=0.2)).T,
        rtol=1e-6,
    )
    np.testing.assert_allclose(all_of(functools.partial(tversky)), jaccards, rtol=1e-6)


def test_a_user_of_one_item_changes_norms_alone() -> None:
    before, after = (
        nearest(scipy.sparse.csr_matrix(indicators(rows)), dot, neighbours=None).toarray()
        for rows in (ROWS, [*ROWS, [3]])
    )
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("normalise", [False, True])
def test_normalised_weights_and_the_bias_of_averages(normalise: bool) -> None:
    """As BARS has it: S (x - m) + m, the rows of S divided by their sums."""
    x = indicators(ROWS)
    near = keep(similarities(x, SETS["cosine"][1]), 2)
    if normalise:
        near = near / np.maximum(near.sum(axis=1, keepdims=True), 1e-9)
    mean = x.mean(axis=0)
    baseline = matrix_item_knn(small.events_of(ROWS), neighbours=2, normalise=normalise, average_bias=True)
    found = small.scores_after(baseline, [[1, 4], []])
    history = indicators([[1, 4], []])
    np.testing.assert_allclose(found, (history - mean) @ near.T + mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weighting", [bm25, tf_idf])
def test_interactions_weighted_before_they_are_compared(weighting: Any) -> None:
    """Factors of users, and by Okapi's formula of items; a history is without them."""
    x = indicators(ROWS)
    okapi = 2.2 / (1.2 * (0.25 + 0.75 * x.sum(axis=0) / x.sum(axis=0).mean()) + 1)
    of_items = okapi if weighting is bm25 else 1.0
    weighted = x * np.log(NUM_ITEMS / (1 + x.sum(axis=1, keepdims=True))) * of_items
    norm = np.sqrt((weighted**2).sum(axis=0))
    near = weighted.T @ weighted / (np.outer(norm, norm) + 3.0)
    np.fill_diagonal(near, 0)
    baseline = matrix_item_knn(small.events_of(ROWS), neighbours=3, shrinkage=3.0, weighting=weighting)
    found = small.scores_after(baseline, [[1, 4], []])
    np.testing.assert_allclose(found, indicators([[1, 4], []]) @ keep(near, 3).T, rtol=1e-5)


def test_users_are_scored_by_those_that_have_them_as_neighbours() -> None:
    x = indicators(ROWS)
    near = keep(similarities(x.T, SETS["cosine"][1]), 2).T
    queries, context = small.histories([[1]] * len(ROWS))
    found = small.scores(matrix_user_knn(small.events_of(ROWS), neighbours=2, reverse=True), queries, context)
    np.testing.assert_allclose(found, near @ x, rtol=1e-5)


@pytest.mark.parametrize("make", [matrix_item_knn, matrix_user_knn])
@pytest.mark.parametrize("shrinkage", [-1.0, float("nan")])
def test_a_shrinkage_below_zero_is_refused(make: Callable[..., object], shrinkage: float) -> None:
    with pytest.raises(ValueError, match="shrinkage=.*: must be 0 or more"):
        make(small.events_of(ROWS), shrinkage=shrinkage)


@pytest.mark.parametrize("make", [matrix_item_knn, matrix_user_knn])
def test_no_neighbours_are_refused(make: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="neighbours=0: must be at least 1"):
        make(small.events_of(ROWS), neighbours=0)
