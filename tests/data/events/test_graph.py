"""The graph of training events: both orders of its edges, degrees, weights, and parts for devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.graph import Edges, Graph, bipartite, split_rows
from jaxrec.data.events.training_events import TrainingEvents

# User 1 has no event; users 3 and 4 and items 4 and 5 are a component of their own; items 3 and 6 have none.
PAIRS = ((0, 2), (0, 1), (0, 2), (2, 2), (3, 5), (3, 4), (4, 5))
NUM_USERS, NUM_ITEMS = 5, 6


def small() -> Graph:
    user, item = np.array(PAIRS).T
    return bipartite(TrainingEvents(user, item, NUM_ITEMS), num_users=NUM_USERS)


def dense(edges: Edges, values: Any, shape: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape, np.float32)
    real = edges.row < shape[0]
    found[edges.row[real], edges.column[real]] = np.asarray(values)[real]
    return found


def interactions() -> np.ndarray:
    found = np.zeros((NUM_USERS + 1, NUM_ITEMS + 1), np.float32)
    for user, item in PAIRS:
        found[user + 1, item] = 1
    return found


def test_both_orders_are_the_same_edges() -> None:
    graph, matrix = small(), interactions()
    ones = np.ones(int(matrix.sum()))
    np.testing.assert_array_equal(dense(graph.by_user, ones, matrix.shape), matrix)
    np.testing.assert_array_equal(dense(graph.by_item, ones, matrix.T.shape), matrix.T)
    for edges, matched in ((graph.by_user, matrix), (graph.by_item, matrix.T)):
        assert (np.diff(edges.row) >= 0).all()
        np.testing.assert_array_equal(np.diff(edges.start), matched.sum(axis=1))
        assert all(column.dtype == np.int32 for column in edges[:4])
    assert graph.by_user.number.tolist() == list(range(len(ones)))
    np.testing.assert_array_equal(graph.by_user.row[graph.by_item.number], graph.by_item.column)


def test_weights_divide_by_the_roots_of_degrees() -> None:
    graph, matrix = small(), interactions()
    user, item = matrix.sum(axis=1), matrix.sum(axis=0)
    np.testing.assert_array_equal(graph.user_degree, user)
    np.testing.assert_array_equal(graph.item_degree, item)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(matrix > 0, matrix / np.sqrt(user[:, None] * item), 0)
    np.testing.assert_allclose(dense(graph.by_user, graph.by_user.weight, matrix.shape), expected, rtol=1e-6)
    by_item = dense(graph.by_item, graph.by_item.weight, matrix.T.shape)
    np.testing.assert_allclose(by_item, expected.T, rtol=1e-6)
    assert graph.by_user.weight.dtype == graph.user_degree.dtype == np.float32


def test_users_are_numbers_from_zero() -> None:
    events = TrainingEvents(np.array([0, 7]), np.array([1, 1]), 1)
    with pytest.raises(ValueError, match=r"users 0\.\.7, but num_users=3 allows 0\.\.2"):
        bipartite(events, num_users=3)


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_parts_hold_the_edges_of_their_rows(num_devices: int) -> None:
    graph = small()
    split = split_rows(graph, num_devices)
    for edges, parts, degree in (
        (graph.by_user, split.by_user, split.user_degree),
        (graph.by_item, split.by_item, split.item_degree),
    ):
        assert len(degree) % num_devices == 0
        rows = len(degree) // num_devices
        columns = [column.reshape(num_devices, -1) for column in parts]
        found = []
        for device, (start, row, column, number, weight) in enumerate(zip(*columns, strict=True)):
            real = start[-1]
            assert start[0] == 0 and len(start) == rows + 1
            np.testing.assert_array_equal(np.diff(start), np.bincount(row[:real], minlength=rows))
            assert (row[real:] == rows).all() and not weight[real:].any()
            found.append(np.stack([row + device * rows, column, number, weight])[:, :real])
        np.testing.assert_array_equal(np.concatenate(found, axis=1), np.stack(edges[1:]))
        assert [column.dtype for column in parts] == [column.dtype for column in edges]


def test_no_device_is_refused() -> None:
    with pytest.raises(ValueError, match="num_devices=0: must be at least 1"):
        split_rows(small(), 0)
