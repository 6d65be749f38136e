"""The items that short random walks over the bipartite graph visit most often (PinSage, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.graph import Graph
from jaxrec.data.events.training_events import TrainingEvents

WALKERS_AT_ONCE = 1 << 22  # bounds memory


class Neighbourhoods(NamedTuple):
    """Of each item, row 0 of padding in front: int32 [I + 1, T], 0 for none, and float32 [I + 1, T].

    weight: the share of visits among the T neighbours, so that weights add up to 1 (0 without neighbours);
    0 for none. Neighbours are in descending order of weight, then ascending.
    """

    item: np.ndarray
    weight: np.ndarray


def importance_neighbourhoods(
    graph: Graph, *, number: int = 10, walks: int = 100, length: int = 2, restart: float = 0.5, seed: int = 0
) -> Neighbourhoods:
    """The most visited other items of walks item → user → item …, each step along a uniform edge.

    In the limit of many walks the visits are those of personalised PageRank. An item without an edge has no
    neighbour. Equal counts are ordered by item id.

    Args:
      number: T, neighbours that are kept. walks: from each item. length: steps from item to item of a walk.
      restart: probability that a walk ends after a step.

    Raises:
      ValueError: a size is below 1, or restart is not in [0, 1).
    """
    for name, value in (("number", number), ("walks", walks), ("length", length)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= restart < 1:
        raise ValueError(f"restart={restart}: must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    size = len(graph.item_degree)
    item, weight = np.zeros((size, number), np.int32), np.zeros((size, number), np.float32)
    starts = np.flatnonzero(graph.item_degree)
    at_once = max(1, WALKERS_AT_ONCE // (walks * length))
    for part in np.split(starts, range(at_once, len(starts), at_once)):
        start, visited = _visits(rng, graph, np.repeat(part, walks), length, restart)
        _keep_most(item, weight, start, visited)
    return Neighbourhoods(item, weight)


def hard_items(
    graph: Graph, *, first: int, last: int, walks: int, length: int = 10, seed: int = 0
) -> np.ndarray:
    """Items of the ranks first..last by visits of walks from each item, 0 for none: int32 [I + 1, W].

    Related to the item, but not its closest: PinSage's hard negatives (section 3.3), which are the ranks
    2,000 to 5,000 by personalised PageRank. Of few walks a rank that no visit reaches is empty.

    Raises:
      ValueError: the ranks, from 1, are out of order; as `importance_neighbourhoods`.
    """
    if not 1 <= first <= last:
        raise ValueError(f"first={first}, last={last}: must be ranks 1 <= first <= last")
    near = importance_neighbourhoods(graph, number=last, walks=walks, length=length, seed=seed)
    return near.item[:, first - 1 :]


def consecutive_items(events: TrainingEvents) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (q, i) where a user's event of i came right after one of another item q: int32 [P] each."""
    before, after = events.item[:-1], events.item[1:]
    real = (events.group[:-1] == events.group[1:]) & (before != after)
    return before[real].astype(np.int32), after[real].astype(np.int32)


def _visits(
    rng: np.random.Generator, graph: Graph, start: np.ndarray, length: int, restart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where walks from `start` were, and where each began: the start itself is no visit."""
    begun, found, now = start, [], start
    for step in range(length):
        if step:
            goes_on = rng.random(len(now)) >= restart
            begun, now = begun[goes_on], now[goes_on]
        now = _along(rng, graph.by_user, _along(rng, graph.by_item, now))
        elsewhere = now != begun
        found.append(np.stack([begun[elsewhere], now[elsewhere]]))
    return tuple(np.concatenate(found, axis=1))  # type: ignore[return-value]


def _along(rng: np.random.Generator, edges: object, row: np.ndarray) -> np.ndarray:
    """The other end of a uniform edge of each row."""
    first, last = edges.start[row], edges.start[row + 1]  # type: ignore[attr-defined]
    return edges.column[rng.integers(first, last)]  # type: ignore[attr-defined, no-any-return]


def _keep_most(item: np.ndarray, weight: np.ndarray, start: np.ndarray, visited: np.ndarray) -> None:
    """Writes the most visited items of each start, and their shares."""
    size, number = item.shape
    pairs, count = np.unique(start.astype(np.int64) * size + visited, return_counts=True)
    start, visited = np.divmod(pairs, size)
    order = np.lexsort((visited, -count, start))
    start, visited, count = start[order], visited[order], count[order]
    place = np.arange(len(start)) - np.searchsorted(start, start)
    kept = place < number
    item[start[kept], place[kept]] = visited[kept]
    weight[start[kept], place[kept]] = count[kept]
    total = weight.sum(axis=1, keepdims=True)
    np.divide(weight, total, out=weight, where=(total > 0) & (weight >= 1))
