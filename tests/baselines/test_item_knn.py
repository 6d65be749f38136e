"""Item-KNN against the cosines of all pairs, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from jaxrec.baselines import item_knn
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS


def cosines(rows: list[list[int]], regularisation: float) -> np.ndarray:
    """n_ij / sqrt((n_i + λ)(n_j + λ)), where n counts the groups that hold both items or one; 0 for i = j."""
    found = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for i in range(1, NUM_ITEMS + 1):
        for j in range(1, NUM_ITEMS + 1):
            both = sum(i in row and j in row for row in rows)
            alone = [sum(item in row for row in rows) + regularisation for item in (i, j)]
            found[i - 1, j - 1] = 0 if i == j or not both else both / np.sqrt(alone[0] * alone[1])
    return found


def expected_after(history: list[int], cosine: np.ndarray, neighbours: int) -> np.ndarray:
    """The cosines with the last item, of the nearest ones (of equal ones the first); 0 for the others."""
    found = np.zeros(NUM_ITEMS)
    if history:
        want = cosine[history[-1] - 1]
        kept = np.argsort(-want.astype(np.float32), kind="stable")[:neighbours]
        found[kept] = want[kept]
    return found


@pytest.mark.parametrize("neighbours", [2, 100])
def test_neighbours_are_the_cosines_of_sessions(neighbours: int) -> None:
    data = small.session_data()
    cosine = cosines(small.training_rows(data.split.training_events()), 20.0)
    found = small.scores(item_knn(data, neighbours=neighbours), small.session_queries(data), data.columns)
    for (prefix, _), row in zip(small.TEST, found, strict=True):
        np.testing.assert_allclose(row, expected_after(prefix, cosine, neighbours), rtol=1e-6)


def test_neighbours_are_the_cosines_of_users() -> None:
    data = small.sequence_data()
    rows = small.training_rows(data.split.training_events())
    found = small.scores_after(item_knn(data, regularisation=0.0), [[1], [2, 3], [4]])
    for history, row in zip(([1], [2, 3], [4]), found, strict=True):
        np.testing.assert_allclose(row, expected_after(history, cosines(rows, 0.0), 100), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(small.GROUPS, small.HISTORIES)
def test_scores_equal_the_formula_on_any_events(rows: list[list[int]], histories: list[list[int]]) -> None:
    """Repeated items, groups of one event, histories of none and of one, items that training never saw."""
    found = small.scores_after(item_knn(small.events_of(rows), neighbours=3, regularisation=1.5), histories)
    cosine = cosines(rows, 1.5)
    for history, row in zip(histories, found, strict=True):
        np.testing.assert_allclose(row, expected_after(history, cosine, 3), rtol=1e-6)


def test_an_item_is_no_neighbour_of_itself() -> None:
    (found,) = small.scores_after(item_knn(small.events_of([[1, 1], [1, 2]])), [[1]])
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize("regularisation", [-1.0, float("nan")])
def test_a_regularisation_below_zero_is_refused(regularisation: float) -> None:
    with pytest.raises(ValueError, match="regularisation=.*: must be 0 or more"):
        item_knn(small.session_data(), regularisation=regularisation)


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbours=0: must be at least 1"):
        item_knn(small.session_data(), neighbours=0)
