"""Methods that read content: cosines to the history, and a linear map to vectors of a factor model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.baselines import content_knn, content_ridge
from tests.baselines.small import histories

RNG = np.random.default_rng(0)


def test_content_knn_sums_cosines_over_the_history() -> None:
    vectors = RNG.normal(size=(8, 3))
    vectors[[0, 4]] = 0
    made = content_knn(vectors)
    rows = [[1, 2, 2, 7], [], [4], [3, 4]]
    queries, context = histories(rows)
    model: Any = made.model
    scores = model.query(made.variables, queries, context) @ model.items(made.variables).T
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    expected = [sum((unit[i] @ unit.T for i in row), np.zeros(8)) for row in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 2.0])
def test_the_ridge_map_is_the_least_squares_solution(damping: float) -> None:
    warm, count = np.arange(1, 21), RNG.integers(1, 9, 26).astype(np.float32)
    count[[0, *range(21, 26)]] = 0
    content, items = RNG.normal(size=(26, 4)), RNG.normal(size=(26, 3))
    items[count == 0] = 0
    factors: Any = {
        "item_content": content.astype(np.float32), "item_teacher": items.astype(np.float32),
        "user_teacher": np.ones((3, 3), np.float32), "warm_items": warm, "item_count": count,
    }  # fmt: skip
    found: Any = content_ridge(factors, regularisation=2.0, damping=damping).variables["items"]
    weight = np.sqrt(count[warm] / (count[warm] + damping))[:, None]
    rows = np.concatenate([content[warm], np.ones((20, 1))], axis=1)
    ridge = np.sqrt(2.0) * np.eye(5)[:4]  # none on the constant
    stacked = np.concatenate([weight * rows, ridge]), np.concatenate([weight * items[warm], np.zeros((4, 3))])
    solution = np.linalg.lstsq(*stacked, rcond=None)[0]
    expected = np.concatenate([content, np.ones((26, 1))], axis=1) @ solution
    np.testing.assert_allclose(found[21:], expected[21:], atol=1e-5)
    np.testing.assert_array_equal(found[warm], factors["item_teacher"][warm])
    assert not np.asarray(found)[0].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: content_knn(np.ones(3)), r"vectors: shape \(3,\)"),
        (lambda: content_knn(np.ones((3, 2))), "row 0 is padding"),
        (lambda: content_knn(np.array([[0.0], [1.0], [np.nan]])), "that of item 2 is not finite"),
        (lambda: content_ridge({}), "item_content: there is none"),
        (lambda: content_ridge({"item_content": np.ones((2, 1))}, regularisation=0.0), "regularisation=0.0"),
        (lambda: content_ridge({"item_content": np.ones((2, 1))}, damping=-1.0), "damping=-1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
