"""Session-parallel mini-batches: which session is in which of B lanes at each step, one event per step.

Sessions are taken in order: the next one goes to the lane that is free first (ties: the lowest lane), as in
the authors' code of GRU4Rec (Hidasi et al., ICLR 2016). So every event but the last of each session is an
input once per epoch, and the next event is its target. When no session is left, the slots of free lanes are
masked, so that no pair of input and target is lost. (The authors' code drops those lanes instead; without
extra negatives it stops when a single lane is left, and loses the rest of its session.)
"""

from __future__ import annotations

import heapq

import numpy as np

from jaxrec.data.validation import as_integers

LANE_COLUMNS = ("session", "event", "mask")


def lane_columns(
    lengths: np.ndarray, num_lanes: int, *, order: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The plan of an epoch: session [T, B], event within it [T, B] and mask [T, B], for T steps of B lanes.

    A lane's input is event `event` of its session, and the target is the next event; event 0 starts a
    session, where a recurrent state is reset. Masked slots hold zeros. Sessions of one event have no target
    and are skipped. T is the number of steps of the longest lane.

    Args:
      lengths: events of each session, [S].
      num_lanes: B.
      order: sessions in the order they are taken, a permutation of 0..S-1; None: 0, 1, ..., which should be
        the order in time.

    Raises:
      ValueError: num_lanes is below 1, no session has two events, or order is no permutation.
    """
    lengths = as_integers(lengths, "lengths")
    if num_lanes < 1:
        raise ValueError(f"num_lanes={num_lanes}: must be at least 1")
    order = np.arange(lengths.size) if order is None else as_integers(order, "order")
    if not np.array_equal(np.sort(order), np.arange(lengths.size)):
        raise ValueError(f"order: must hold each session 0..{lengths.size - 1} once")
    order = order[lengths[order] >= 2]
    if order.size == 0:
        raise ValueError("lengths: no session has two events, so there is no pair of input and target")
    steps = lengths[order] - 1
    free = [(0, lane) for lane in range(num_lanes)]  # a heap of (step from which it is free, lane)
    begin, lane = np.empty(order.size, np.int64), np.empty(order.size, np.int64)
    for i, count in enumerate(steps.tolist()):
        begin[i], lane[i] = free[0]
        heapq.heapreplace(free, (free[0][0] + count, free[0][1]))
    event = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    at = np.repeat(begin, steps) + event, np.repeat(lane, steps)
    shape = (int((begin + steps).max()), num_lanes)
    columns = {
        "session": np.zeros(shape, np.int32),
        "event": np.zeros(shape, np.int32),
        "mask": np.zeros(shape, bool),
    }
    columns["session"][at] = np.repeat(order, steps)
    columns["event"][at] = event
    columns["mask"][at] = True
    return columns
