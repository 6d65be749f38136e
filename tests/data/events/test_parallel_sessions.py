"""Sessions side by side: every pair once, in order, as a loop over lanes would place them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.parallel_sessions import LANE_COLUMNS, lane_columns

LENGTHS = np.array([3, 2, 5, 1, 2, 2, 7, 4])


def slow(lengths: list[int], num_lanes: int, order: list[int]) -> list[list[tuple[int, int] | None]]:
    """Steps as lists of (session, event) a lane, None where a lane is empty: one step after the other."""
    waiting = [session for session in order if lengths[session] > 1]
    lanes: list[tuple[int, int] | None] = [None] * num_lanes
    steps: list[list[tuple[int, int] | None]] = []
    while True:
        for lane, place in enumerate(lanes):
            if place is not None and place[1] + 2 < lengths[place[0]]:
                lanes[lane] = (place[0], place[1] + 1)
            else:
                lanes[lane] = (waiting.pop(0), 0) if waiting else None
        if not any(lanes):
            return steps
        steps.append(list(lanes))


def found(columns: dict[str, np.ndarray]) -> list[list[tuple[int, int] | None]]:
    return [
        [(int(s), int(e)) if m else None for s, e, m in zip(*step, strict=True)]
        for step in zip(*(columns[name] for name in LANE_COLUMNS), strict=True)
    ]


@pytest.mark.parametrize("num_lanes", [1, 2, 3, 20])
def test_lanes_are_filled_as_a_loop_fills_them(num_lanes: int) -> None:
    columns = lane_columns(LENGTHS, num_lanes)
    assert {name: column.dtype for name, column in columns.items()} == {
        "session": np.int32, "event": np.int32, "mask": bool
    }  # fmt: skip
    assert found(columns) == slow(LENGTHS.tolist(), num_lanes, list(range(8)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 6), st.randoms())
def test_every_pair_is_read_once_in_any_order(lengths: list[int], num_lanes: int, random: object) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)  # type: ignore[attr-defined]
    if max(lengths) < 2:
        lengths[0] = 2
    columns = lane_columns(np.array(lengths), num_lanes, order=np.array(order))
    assert found(columns) == slow(lengths, num_lanes, order)
    read = Counter(place for step in found(columns) for place in step if place is not None)
    assert read == Counter((s, e) for s, n in enumerate(lengths) for e in range(n - 1))
    assert len(columns["mask"]) <= sum(max(n - 1, 0) for n in lengths) / num_lanes + max(lengths) - 1


def test_a_masked_slot_holds_zeros_and_only_the_end_is_masked() -> None:
    columns = lane_columns(LENGTHS, 3)
    for name in ("session", "event"):
        assert (columns[name][~columns["mask"]] == 0).all()
    full = columns["mask"].sum(axis=1)
    assert (np.diff(full) <= 0).all() and full[0] == 3 and full[-1] >= 1


@pytest.mark.parametrize(
    ("lengths", "lanes", "order", "message"),
    [
        ([2, 3], 0, None, "num_lanes=0"),
        ([1, 0, 1], 2, None, "no session has two events"),
        ([], 2, None, "no session has two events"),
        ([2, 3], 1, [0, 0], "order: must hold each session 0..1 once"),
        ([2, 3], 1, [1], "order"),
    ],
)
def test_what_makes_no_plan_is_refused(
    lengths: list[int], lanes: int, order: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lane_columns(np.array(lengths), lanes, order=None if order is None else np.array(order))
