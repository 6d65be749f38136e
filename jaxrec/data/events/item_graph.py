"""The weighted directed graph of items that follow one another in sessions.

Wang et al., KDD 2018, arXiv:1803.02349, section 3.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.events.training_events import TrainingEvents

Column = Any  # np.ndarray on the host; in a program an array of the device


class ItemGraph(NamedTuple):
    """Edges i → j with counts, sorted by i: V items, E edges.

    target: item j of each edge, int32 [E]. upto: sums of the counts, this edge's included, int32 [E]. before:
    the sum of counts of all edges of smaller items, int32 [V + 1]. total: the sum of an item's own counts, 0
    for padding and for items that nothing follows, int32 [V + 1].
    """

    target: Column
    upto: Column
    before: Column
    total: Column


def item_graph(events: TrainingEvents, *, times: np.ndarray | None = None, gap: float = 3600.0) -> ItemGraph:
    """How often an item came right after another in a session. An item after itself is no edge.

    times: seconds of each event, [N]: an event later than `gap` seconds after the one before it begins a new
    session. None: a session is all events of a group.

    Raises:
      ValueError: no item follows another one, times are not one for each event, or the gap is not above 0.
    """
    follows = events.group[1:] == events.group[:-1]
    if times is not None:
        times = np.asarray(times)
        if times.shape != events.item.shape:
            raise ValueError(
                f"times: shape {times.shape}: must be one for each of {len(events.item):,} events"
            )
        if not gap > 0:
            raise ValueError(f"gap={gap}: must be above 0 seconds")
        follows = follows & (np.diff(times) <= gap)
    first, then = events.item[:-1], events.item[1:]
    kept = follows & (first != then)
    if not kept.any():
        raise ValueError(
            "events: no item follows another one in a session, so there is no edge to walk along"
        )
    size = events.num_items + 1
    pair, count = np.unique(first[kept] * np.int64(size) + then[kept], return_counts=True)
    total = np.bincount(pair // size, weights=count, minlength=size).astype(np.int32)
    return ItemGraph(
        target=(pair % size).astype(np.int32),
        upto=np.cumsum(count).astype(np.int32),
        before=(np.cumsum(total) - total).astype(np.int32),
        total=total,
    )


def degrees(graph: ItemGraph) -> np.ndarray:
    """Sums of the counts of an item's edges in both directions, int64 [V + 1]."""
    count = np.diff(graph.upto, prepend=0)
    incoming = np.bincount(graph.target, weights=count, minlength=len(graph.total))
    return np.asarray(graph.total, np.int64) + incoming.astype(np.int64)
