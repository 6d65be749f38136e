"""Neighbourhoods by random walks: shares of visits, which tend to personalised PageRank."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.graph import Graph, bipartite
from jaxrec.data.events.neighbourhoods import consecutive_items, importance_neighbourhoods
from jaxrec.data.events.training_events import TrainingEvents

# Items 1 to 4 are one component, 5 has a user of its own, 6 has no event.
PAIRS = ((0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (2, 1), (2, 4), (3, 5))
NUM_ITEMS = 6


def small() -> Graph:
    user, item = np.array(PAIRS).T
    return bipartite(TrainingEvents(user, item, NUM_ITEMS), num_users=4)


def expected_visits(length: int, restart: float) -> np.ndarray:
    """How often a walk from each item is at another one, by powers of the matrix of steps."""
    matrix = np.zeros((4, NUM_ITEMS + 1))
    for user, item in PAIRS:
        matrix[user, item] = 1
    to_users = matrix.T / np.maximum(matrix.sum(axis=0)[:, None], 1)
    step = to_users @ (matrix / matrix.sum(axis=1, keepdims=True))
    found = sum((1 - restart) ** k * np.linalg.matrix_power(step, k + 1) for k in range(length))
    np.fill_diagonal(found, 0)
    return np.asarray(found)


@pytest.mark.parametrize("walks", [100, 10_000])
def test_shares_tend_to_those_of_the_chain(walks: int) -> None:
    near = importance_neighbourhoods(small(), number=NUM_ITEMS, walks=walks, length=3, restart=0.4)
    wanted = expected_visits(3, 0.4)
    wanted /= np.maximum(wanted.sum(axis=1, keepdims=True), 1e-9)
    found = np.zeros_like(wanted)
    np.put_along_axis(found, near.item.astype(np.int64), near.weight, axis=1)
    assert np.abs(found - wanted)[1:5, 1:].sum(axis=1).max() < 6 / np.sqrt(walks)


def test_the_most_visited_are_kept_in_order_and_add_up_to_one() -> None:
    near = importance_neighbourhoods(small(), number=2, walks=500)
    assert near.item.shape == near.weight.shape == (NUM_ITEMS + 1, 2)
    full = importance_neighbourhoods(small(), number=NUM_ITEMS, walks=500)
    np.testing.assert_array_equal(near.item, full.item[:, :2])
    for item in range(1, 5):
        assert item not in near.item[item]
        assert near.weight[item, 0] >= near.weight[item, 1] > 0
        assert near.weight[item].sum() == pytest.approx(1)


def test_items_alone_have_no_neighbour() -> None:
    near = importance_neighbourhoods(small(), number=2, walks=20)
    for item in (0, 5, 6):
        assert not near.item[item].any() and not near.weight[item].any()


@pytest.mark.parametrize(("field", "value"), [("number", 0), ("walks", 0), ("length", 0), ("restart", 1.0)])
def test_settings_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}: must be at least"):
        importance_neighbourhoods(small(), **{field: value})  # type: ignore[arg-type]


def test_pairs_are_of_one_user_and_two_items() -> None:
    events = TrainingEvents(np.array([0, 0, 0, 2, 2]), np.array([3, 3, 1, 2, 4]), 4)
    before, after = consecutive_items(events)
    assert (before.tolist(), after.tolist()) == ([3, 2], [1, 4])
