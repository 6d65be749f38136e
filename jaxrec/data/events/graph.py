"""The bipartite graph of users and items of training events, its edges sorted in both directions."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.events.interactions import offsets_of_lengths
from jaxrec.data.events.pairs import pair_columns
from jaxrec.data.events.training_events import TrainingEvents

Column = Any  # np.ndarray on the host; in a program an array of the device


class Edges(NamedTuple):
    """The edges that end in N rows, row after row.

    start: the edges of row n are start[n] to start[n + 1] - 1, int32 [N + 1]; those from start[N] on are
    padding. row, column: where each ends and comes from, int32 [E]; the row of padding is N. number: of each
    edge in the order by user, int32 [E]. weight: 1 / sqrt(degree of the user · degree of the item), float32
    [E], 0 for padding.
    """

    start: Column
    row: Column
    column: Column
    number: Column
    weight: Column


class Graph(NamedTuple):
    """Edges between users (rows 1..U) and items (1..I); row 0 of either side is padding and has none.

    by_user: rows are users, columns items. by_item: the same edges, rows are items, columns users.
    user_degree, item_degree: numbers of edges, float32 [U + 1] and [I + 1].

    It is made for `context["graph"]`.
    """

    by_user: Edges
    by_item: Edges
    user_degree: Column
    item_degree: Column


def bipartite(events: TrainingEvents, *, num_users: int) -> Graph:
    """The graph of training events, in which a repeated event is one edge.

    Users and items without a training event have no edge, whether or not they occur in a test.

    Args:
      events: their groups are numbers of users, from 0; user u is row u + 1.
      num_users: how many users there are.

    Raises:
      ValueError: a user is outside 0..num_users - 1.
    """
    pairs = pair_columns(events, num_users=num_users)
    user, item = pairs["pair_user"] + 1, pairs["pair_item"]
    user_degree = np.bincount(user, minlength=num_users + 1).astype(np.float32)
    item_degree = np.bincount(item, minlength=events.num_items + 1).astype(np.float32)
    weight = 1 / np.sqrt(user_degree[user] * item_degree[item])
    number = np.arange(len(user), dtype=np.int32)
    order = np.argsort(item, kind="stable")
    return Graph(
        Edges(_starts(user_degree), user, item, number, weight),
        Edges(_starts(item_degree), item[order], user[order], number[order], weight[order]),
        user_degree,
        item_degree,
    )


def split_rows(graph: Graph, num_devices: int) -> Graph:
    """The graph with the rows of both sides split over devices, as `train.parallel.shard_rows` splits tables.

    Every column has num_devices parts of one length, one after the other: a device has the edges that end in
    its rows, padded to the largest number of any device, and counts these rows from 0. Columns of edges stay
    numbers of whole tables. Rows are filled up to a multiple of num_devices with rows without edges.

    Raises:
      ValueError: num_devices is below 1.
    """
    if num_devices < 1:
        raise ValueError(f"num_devices={num_devices}: must be at least 1")
    return Graph(
        _split_edges(graph.by_user, num_devices),
        _split_edges(graph.by_item, num_devices),
        *(
            _padded(degree, -len(degree) % num_devices, 0)
            for degree in (graph.user_degree, graph.item_degree)
        ),
    )


def _starts(degree: np.ndarray) -> np.ndarray:
    return offsets_of_lengths(degree).astype(np.int32)


def _padded(column: np.ndarray, number: int, value: int) -> np.ndarray:
    return np.pad(column, (0, number), constant_values=value)


def _split_edges(edges: Edges, num_devices: int) -> Edges:
    rows = -(-(len(edges.start) - 1) // num_devices)
    ends = edges.start[np.minimum(np.arange(num_devices + 1) * rows, len(edges.start) - 1)]
    most = int(np.diff(ends).max())
    parts = []
    for device, (first, last) in enumerate(itertools.pairwise(ends)):
        start = edges.start[device * rows : (device + 1) * rows + 1] - first
        start = _padded(start, rows + 1 - len(start), int(last - first))
        row, column, number, weight = (
            _padded(values[first:last], most - int(last - first), value)
            for values, value in zip(edges[1:], ((device + 1) * rows, 0, 0, 0), strict=True)
        )
        parts.append(Edges(start, row - device * rows, column, number, weight))
    return Edges(*(np.concatenate(columns).astype(columns[0].dtype) for columns in zip(*parts, strict=True)))
