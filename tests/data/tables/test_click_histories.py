"""Click impressions after a history: what a row may read, what is drawn beside it, how rows are split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.tables.click_histories import SHARED, Clicks, SideInfo, item_column, next_clicks


def events(rows: list[list[tuple[int, int]]], num_items: int) -> Sequences:
    """Users' (item, time) events; every item occurs by name, whether or not it is met."""
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    flat = [event for row in rows for event in row]
    return Sequences(
        "made",
        items=np.array([item for item, _ in flat], np.int32),
        times=np.array([time for _, time in flat], np.int64),
        offsets=offsets,
        user_ids=np.arange(len(rows)),
        item_ids=np.arange(num_items),
        num_items=num_items,
    )


@st.composite
def sequences(draw: st.DrawFn) -> Sequences:
    num_items = draw(st.integers(9, 15))
    rows = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=5))
    item = st.integers(1, num_items)
    rows = [np.cumsum(row).tolist() for row in rows] + [[1, 2, 3, 4]]  # the last user fills every part
    return events([[(draw(item), 10**9 + time) for time in row] for row in rows], num_items)


def history(clicks: Clicks, row: int) -> list[int]:
    return clicks.events[clicks.start[row] : clicks.end[row]].tolist()  # type: ignore[no-any-return]


def test_rows_by_hand() -> None:
    made = next_clicks(events([[(1, 10), (2, 11), (3, 11), (4, 12), (5, 13)], [(2, 10)]], 9))
    observed = np.flatnonzero(made.click == 1)
    assert [(made.item[m], history(made, m)) for m in observed] == [
        (2, [1]),
        (3, [1]),
        (4, [1, 2, 3]),
        (5, [1, 2, 3, 4]),
    ]
    parts = [
        made.item[rows[made.click[rows] == 1]].tolist() for rows in (made.train, made.validation, made.test)
    ]
    assert parts == [[2, 3], [4], [5]]
    assert made.left_out == 2 and made.user.tolist() == [1] * len(made.user)


@given(sequences(), st.integers(1, 3))
def test_no_history_holds_an_event_of_its_time_or_later(made: Sequences, per_event: int) -> None:
    """The slow twin: a user's events of a smaller time, for the event and for what is drawn beside it."""
    assert made.times is not None
    clicks = next_clicks(made, negatives_per_event=per_event)
    expected = []
    for user in range(made.num_users):
        own = range(made.offsets[user], made.offsets[user + 1])
        for at in own:
            before = [int(made.items[i]) for i in own if made.times[i] < made.times[at]]
            if before:
                expected.append((user + 1, int(made.items[at]), before))
    found = [
        (int(clicks.user[m]), int(clicks.item[m]), history(clicks, m))
        for m in np.flatnonzero(clicks.click == 1)
    ]
    assert found == expected
    assert clicks.left_out == len(made.items) - len(expected)
    histories = [(u, tuple(h)) for u, _, h in expected]
    drawn = [(int(clicks.user[m]), tuple(history(clicks, m))) for m in np.flatnonzero(clicks.click == 0)]
    assert sorted(drawn) == sorted(histories * per_event)


@given(sequences())
def test_what_is_drawn_was_not_met_up_to_its_part(made: Sequences) -> None:
    clicks = next_clicks(made)
    met: dict[int, set[int]] = {}
    early = np.ones(len(made.items), bool)
    users = np.repeat(np.arange(made.num_users) + 1, made.lengths)
    times = np.asarray(made.times)
    for i in range(len(early)):
        early[i] = not ((users == users[i]) & (times < times[i])).any()
    for user, item in zip(users[early].tolist(), made.items[early].tolist(), strict=True):
        met.setdefault(user, set()).add(item)
    for rows in (clicks.train, clicks.validation, clicks.test):
        for m in rows[clicks.click[rows] == 1]:
            met.setdefault(int(clicks.user[m]), set()).add(int(clicks.item[m]))
        for m in rows[clicks.click[rows] == 0]:
            assert int(clicks.item[m]) not in met[int(clicks.user[m])]
            assert 1 <= clicks.item[m] <= made.num_items


def test_a_split_by_time_trains_before_it_tests() -> None:
    rng = np.random.default_rng(0)
    rows = [
        [
            (int(i), int(t))
            for i, t in zip(rng.integers(1, 60, 12), 10**6 + np.sort(rng.integers(0, 500, 12)), strict=True)
        ]
        for _ in range(20)
    ]
    made = events(rows, 60)
    clicks = next_clicks(made, split="time")
    assert made.times is not None

    def times(part: np.ndarray) -> np.ndarray:
        """Of the events that rows ask for: the first event not in their history."""
        return made.times[clicks.end[part]]  # type: ignore[index]

    assert times(clicks.train).max() < times(clicks.validation).min()
    assert times(clicks.validation).max() < times(clicks.test).min()
    assert clicks.rule.startswith("time")


@settings(deadline=None, max_examples=50)
@given(sequences(), st.integers(1, 2))
def test_every_event_of_a_history_is_older_than_its_row(made: Sequences, per_event: int) -> None:
    """times[j] = t_j - t_first of the user, time[m] = that of the row's own event, also where it is drawn."""
    assert made.times is not None
    clicks = next_clicks(made, negatives_per_event=per_event)
    assert clicks.times is not None and clicks.time is not None
    first = np.repeat(made.times[made.offsets[:-1]], made.lengths)
    np.testing.assert_array_equal(clicks.times + first, made.times)
    for m in range(len(clicks.click)):
        ages = clicks.time[m] - clicks.times[clicks.start[m] : clicks.end[m]]
        assert len(ages) and ages.min() >= 1
        assert made.times[clicks.end[m]] == clicks.time[m] + first[clicks.end[m]]
    columns = clicks.columns()
    np.testing.assert_array_equal(columns["time"], clicks.time[clicks.train])  # type: ignore[arg-type]
    assert columns[SHARED]["times"] is clicks.times  # type: ignore[index]
    batched = clicks.batched(clicks.test, 3)
    np.testing.assert_array_equal(batched["time"][batched["mask"]], clicks.time[clicks.test])


def test_times_are_counted_from_the_first_event_of_the_user() -> None:
    """Seconds since 1970 of today do not fit int32 forever; those of a user's history do."""
    late = 10**10
    made = next_clicks(events([[(1, late), (2, late + 5), (3, late + 7), (4, late + 7), (5, late + 9)]], 9))
    assert made.times is not None and made.time is not None
    assert made.times.tolist() == [0, 5, 7, 7, 9] and made.times.dtype == np.int32
    assert made.time[made.click == 1].tolist() == [5, 7, 7, 9]


def test_times_that_would_show_the_future_are_refused() -> None:
    good = next_clicks(events([[(i, i) for i in range(1, 8)]], 9))
    assert good.times is not None and good.time is not None
    row = int(np.flatnonzero(good.end == 3)[0])
    late, swapped = good.time.copy(), good.times.copy()
    late[row] = good.times[2]
    swapped[:2] = good.times[1::-1]
    for change, message in (
        ({"time": late}, rf"impression {row} \(1 such\) of time 2 has a history of times \[0, 1, 2\]"),
        (
            {"times": swapped, "time": good.time + np.int32(9)},
            r"has a history of times \[1, 0\]: they must ascend and end before it",
        ),
        ({"time": None}, "give both or neither"),
        ({"times": good.times[1:]}, "times has 6 entries, expected 7"),
        ({"time": good.time.astype(np.int64)}, "time: int64"),
        (
            {"side_info": SideInfo({"age": np.append(0, np.ones(9)).astype(np.int32)}, {})},
            "item column 'age'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **change)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=50)
@given(sequences(), st.integers(0, 3))
def test_a_split_by_users_shares_none(made: Sequences, seed: int) -> None:
    """Every event with one before it is asked in the part of its user; histories are as in other splits."""
    more = [[(item, 10**9 + 10 * item + u) for item in (u % 9 + 1, u % 7 + 2, 3)] for u in range(12)]
    rows = [
        list(zip(made.items[a:b].tolist(), np.asarray(made.times)[a:b].tolist(), strict=True))
        for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True)
    ]
    made = events(rows + [sorted(row, key=lambda event: event[1]) for row in more], made.num_items)
    clicks, others = next_clicks(made, split="user", seed=seed), next_clicks(made, seed=seed)
    parts = {name: getattr(clicks, name) for name in ("train", "validation", "test")}
    assert sorted(np.concatenate([*parts.values()]).tolist()) == list(range(len(clicks.click)))
    users = {name: set(clicks.user[rows].tolist()) for name, rows in parts.items()}
    assert sum(map(len, users.values())) == len(set(clicks.user.tolist()))  # so no user is in two
    total = len(set(clicks.user.tolist()))
    assert len(users["test"]) == len(users["validation"]) == round(total / 10)
    observed, same = clicks.click == 1, others.click == 1
    for name in ("user", "item", "start", "end"):
        np.testing.assert_array_equal(getattr(clicks, name)[observed], getattr(others, name)[same])
    times = np.asarray(made.times)
    for m in range(len(clicks.click)):
        assert (times[clicks.start[m] : clicks.end[m]] < times[clicks.end[m]]).all()
    assert clicks.rule.startswith(f"users 80/10/10, seed {seed}; ")


def test_users_are_drawn_by_the_seed() -> None:
    made = events([[(1 + u % 5, 1), (2, 2), (3, 3)] for u in range(50)], 9)
    first, again, other = (next_clicks(made, split="user", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.user[first.test]) != set(other.user[other.test])
    assert [len(set(first.user[rows])) for rows in (first.train, first.validation, first.test)] == [40, 5, 5]
    with pytest.raises(ValueError, match=r"users 80/10/10, seed 0.*validation: it is empty"):
        next_clicks(events([[(1, 1), (2, 2)]] * 4, 9), split="user")


def test_sources_without_times_go_by_order() -> None:
    made = Interactions.from_raw("made", np.repeat([1, 2], 4), np.arange(8)).to_sequences()
    clicks = next_clicks(made)
    assert clicks.end[clicks.click == 1].tolist() == [1, 2, 3, 5, 6, 7]
    assert clicks.times is None and clicks.time is None
    assert "time" not in clicks.columns() and "time" not in clicks.batched(clicks.test, 2)
    assert set(clicks.columns()[SHARED]) == {"events", "items", "users"}  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="split='time' needs times"):
        next_clicks(made, split="time")


@given(sequences(), st.integers(1, 8))
def test_counts_of_examples_are_those_of_a_loop(made: Sequences, length: int) -> None:
    clicks = next_clicks(made)
    expected = np.zeros(made.num_items + 1, int)
    for m in clicks.train:
        for item in {int(clicks.item[m]), *history(clicks, m)[-length:]}:
            expected[item] += 1
    np.testing.assert_array_equal(clicks.count_examples_with(length), expected)


def test_batches_hold_every_row_once() -> None:
    clicks = next_clicks(events([[(i, i) for i in range(1, 8)]] * 3, 9))
    found = clicks.batched(clicks.test, 4, multiple=2)
    assert found["mask"].shape == (2, 4) and found["mask"].sum() == len(clicks.test)
    np.testing.assert_array_equal(found["item"][found["mask"]], clicks.item[clicks.test])
    assert len(clicks.columns()["item"]) == len(clicks.train)  # type: ignore[arg-type]
    assert SHARED in clicks.columns()
    with pytest.raises(ValueError, match="batch_size=0"):
        clicks.batched(clicks.test, 0)


def test_what_events_say_of_their_items_is_numbered() -> None:
    item, said = np.array([2, 1, 3, 2]), np.array(["b", "c", "b", "b"])
    raw = np.array(["x", "y", "z"])
    assert item_column(item, said, raw, "f: kind").tolist() == [0, 2, 1, 1]
    said[3] = "a"
    with pytest.raises(ValueError, match=r"f: kind: item y has 'b' and in event 3 'a' \(1 such events\)"):
        item_column(item, said, raw, "f: kind")
    assert item_column(item, said, raw, "f: kind", several="first").tolist() == [0, 2, 1, 1]


def test_bad_input_is_refused() -> None:
    whole = [[(1, 1), (2, 2), (3, 3), (4, 4)]]
    good = np.append(0, np.ones(9)).astype(np.int32)
    with pytest.raises(ValueError, match="split='first'"):
        next_clicks(events(whole, 9), split="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"made \(last event\): train: it is empty"):
        next_clicks(events([[(1, 1), (2, 2), (3, 3)]], 9))
    for column, message in (
        (good[:-1], r"9 entries, the first \[0\]: expected 0 for padding"),
        (good + np.int32(1), r"first \[1\]"),
        (good * 0, r"entry 1 \(9 such\) is 0: expected ids of at least 1"),
        (good.astype(np.int64), "int64"),
    ):
        with pytest.raises(ValueError, match=message):
            next_clicks(events(whole, 9), side_info=SideInfo({"genres": column}, {}))
    several = np.stack([good, 0 * good], axis=1)
    assert (
        next_clicks(events(whole, 9), side_info=SideInfo({"tags": several}, {})).side_info.items["tags"]
        is several
    )
    for column, message in (
        (several[1:], r"9 entries, the first \[\[1, 0\]\]: expected 0"),
        (np.eye(10, 2, dtype=np.int32)[::-1], r"entry 1 \(7 such\) is \[0, 0\]: expected ids"),
        (several - np.eye(10, 2, k=-2, dtype=np.int32) * 2, r"entry 2 \(2 such\) is \[-1, 0\]"),
        (several[:, :0], r"entry 1 \(9 such\) is \[\]"),
        (several[..., None], "of rank 1"),
    ):
        with pytest.raises(ValueError, match=message):
            next_clicks(events(whole, 9), side_info=SideInfo({"tags": column}, {}))
    with pytest.raises(ValueError, match="'mask'.*rename"):
        next_clicks(events(whole, 9), side_info=SideInfo({"mask": good}, {}))
    with pytest.raises(ValueError, match="user column 'age'"):
        next_clicks(events(whole, 9), side_info=SideInfo({}, {"age": good}))
    clicks = next_clicks(events(whole, 9))
    with pytest.raises(ValueError, match="test"):
        dataclasses.replace(clicks, test=np.array([99]))
    with pytest.raises(ValueError, match=r"made \(.*\): row \d+ is in test and in train; parts must not"):
        dataclasses.replace(clicks, test=np.append(clicks.test, clicks.train[0]))
    with pytest.raises(ValueError, match="train holds a row twice"):
        dataclasses.replace(clicks, train=np.repeat(clicks.train, 2))


@pytest.mark.parametrize(
    "field, change, message",
    [
        ("events", lambda c: c.astype(np.int64), "events: int64"),
        ("item", lambda c: c + np.int32(99), "item: .* is outside 1..9"),
        ("user", lambda c: c * 0, "user: 0 at position 0"),
        ("click", lambda c: c.astype(np.float64), "click: float64"),
        ("start", lambda c: c - np.int32(5), "impression 0 .* has a history from -5"),
        ("end", lambda c: c + np.int32(99), r"impression 0 .* outside 0..5"),
        ("end", lambda c: c[:-1], "end has .* entries, user"),
    ],
)
def test_impressions_that_point_nowhere_are_refused(
    field: str, change: Callable[..., Any], message: str
) -> None:
    made = next_clicks(events([[(1, 10), (2, 11), (3, 12), (4, 13), (5, 14)]], 9))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made, **{field: change(getattr(made, field))})
