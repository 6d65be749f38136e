"""Degrees and nearest items against dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.co_occurrence import constraint_columns
from jaxrec.data.events.training_events import TrainingEvents

USERS, ITEMS, NEAR = 7, 8, 3
rng = np.random.default_rng(0)
MATRIX = rng.random((USERS, ITEMS + 1)) < 0.4
MATRIX[3] = False  # a user without an item
MATRIX[:, [0, 6]] = False  # padding, and an item without a user
MATRIX[:, 8] = False
MATRIX[5], MATRIX[5, 8] = False, True  # an item that is its user's only one


def events() -> TrainingEvents:
    """The matrix, with one event twice."""
    user, item = np.nonzero(MATRIX)
    return TrainingEvents(np.r_[user[:1], user], np.r_[item[:1], item], ITEMS)


def found(**options: Any) -> dict[str, np.ndarray]:
    return constraint_columns(events(), num_users=USERS, neighbours=NEAR, **options)


def test_factors_multiply_to_the_weight_of_a_pair() -> None:
    columns = found()
    degree_u, degree_i = MATRIX.sum(axis=1), MATRIX.sum(axis=0)
    for user, item in zip(*np.nonzero(MATRIX), strict=True):
        expected = np.sqrt((degree_u[user] + 1) / (degree_i[item] + 1)) / degree_u[user]
        beta = columns["user_factor"][user + 1] * columns["item_factor"][item]
        np.testing.assert_allclose(beta, expected, rtol=1e-6)
    assert columns["user_factor"][[0, 4]].tolist() == [0.0, 0.0]
    assert columns["item_factor"][0] == 0.0


@pytest.mark.parametrize("as_code", [False, True])
@pytest.mark.parametrize("block", [2, 100])
def test_the_nearest_items_are_those_of_the_dense_matrix(as_code: bool, block: int) -> None:
    columns = found(as_code=as_code, block=block)
    shared = MATRIX.T.astype(float) @ MATRIX
    total = shared.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if as_code:
            weight = (np.sqrt(total + 1) / total)[:, None] * shared / np.sqrt(total + 1)
        else:
            weight = shared / (total - np.diag(shared))[:, None] * np.sqrt(total[:, None] / total)
            np.fill_diagonal(weight, 0.0)
    weight = np.nan_to_num(weight)
    assert columns["near_item"].shape == (ITEMS + 1, NEAR)
    for item in range(ITEMS + 1):
        order = [j for j in np.argsort(-weight[item], kind="stable")[:NEAR] if weight[item, j] > 0]
        filled = [*order, *[0] * (NEAR - len(order))]
        assert columns["near_item"][item].tolist() == filled
        np.testing.assert_allclose(columns["near_weight"][item], weight[item, filled], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_users": 3}, r"num_users=3 allows 0\.\.2"),
        ({"neighbours": 0}, "neighbours=0"),
        ({"block": 0}, "block=0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        constraint_columns(events(), **{"num_users": USERS, **options})
