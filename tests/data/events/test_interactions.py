import collections
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.interactions import (
    Interactions,
    Sequences,
    Statistics,
    format_statistics,
    gap_variance_rank,
)
from jaxrec.data.validation import check_count

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60)


def table(rows: list[tuple[int, int, int]]) -> Interactions:
    user, item, time = np.array(rows, np.int64).T
    return Interactions.from_raw("toy", user, item, time.copy())


def valid(**changes: Any) -> Sequences:
    fields: dict[str, Any] = {
        "name": "toy",
        "items": np.array([1, 2, 3], np.int32),
        "times": np.array([5, 5, 2], np.int64),
        "offsets": np.array([0, 2, 3], np.int64),
        "user_ids": np.array(["a", "b"]),
        "item_ids": np.array([10, 20, 30]),
        "num_items": 3,
        "gap_variance_rank": np.array([1, 0], np.int32),
    }
    return Sequences(**(fields | changes))


def test_events_are_sorted_by_user_then_time_then_row() -> None:
    rows = [(7, 1, 50), (8, 2, 10), (7, 3, 20), (7, 1, 20), (8, 4, 10)]
    sequences = table(rows).to_sequences()
    assert sequences.user_ids.tolist() == [7, 8]
    assert sequences.item_ids[sequences.items - 1].tolist() == [3, 1, 1, 2, 4]
    assert sequences.times is not None
    assert sequences.times.tolist() == [20, 20, 50, 10, 10]
    assert sequences.lengths.tolist() == [3, 2]
    assert sequences.user_items(1).tolist() == sequences.items[3:].tolist()


def test_without_times_the_rows_are_in_time_order() -> None:
    interactions = Interactions.from_raw("toy", ["b", "a", "b"], ["x", "x", "y"])
    sequences = interactions.to_sequences()
    assert sequences.times is None
    assert [sequences.user_items(u).tolist() for u in range(2)] == [[1, 2], [1]]


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_sequences_equal_a_plain_twin(rows: list[tuple[int, int, int]]) -> None:
    twin = collections.defaultdict(list)
    for user, item, time in rows:
        twin[user].append((time, item))
    sequences = table(rows).to_sequences()
    for row, user in enumerate(sequences.user_ids):
        want = sorted(twin[int(user)], key=lambda event: event[0])
        assert sequences.item_ids[sequences.user_items(row) - 1].tolist() == [item for _, item in want]


def plain_core(rows: list[tuple[int, int, int]], k: int, item_k: int) -> list[tuple[int, int, int]]:
    while True:
        users = collections.Counter(user for user, _, _ in rows)
        items = collections.Counter(item for _, item, _ in rows)
        kept = [row for row in rows if users[row[0]] >= k and items[row[1]] >= item_k]
        if len(kept) == len(rows):
            return kept
        rows = kept


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.integers(1, 4), st.integers(1, 4))
def test_k_core_equals_a_plain_twin(rows: list[tuple[int, int, int]], k: int, item_k: int) -> None:
    want = plain_core(rows, k, item_k)
    if not want:
        with pytest.raises(ValueError, match="is empty; choose a smaller k"):
            table(rows).k_core(k, item_k=item_k)
        return
    core = table(rows).k_core(k, item_k=item_k)
    assert core.time is not None
    found = zip(core.user_ids[core.user - 1], core.item_ids[core.item - 1], core.time, strict=True)
    assert [tuple(int(x) for x in row) for row in found] == want
    assert core.num_users == len({user for user, _, _ in want})
    assert core.num_items == len({item for _, item, _ in want})


def test_k_core_is_iterated() -> None:
    # Item 9 falls first, which leaves user 3 with one event, which leaves item 3 with one event.
    rows = [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0), (2, 3, 0), (3, 3, 0), (3, 9, 0)]
    core = table(rows).k_core(2)
    assert core.user_ids.tolist() == [1, 2]
    assert core.item_ids.tolist() == [1, 2]


def test_k_core_keeps_values() -> None:
    value = np.array([0.5, 1.5, 2.5], np.float32)
    interactions = Interactions.from_raw("toy", [1, 2, 1], [5, 6, 5], value=value)
    core = interactions.k_core(2)
    assert core.value is not None
    assert core.value.tolist() == [0.5, 2.5]


def kept() -> Interactions:
    """Three users with items 2, 4 and 5 of a table of 6, and one event of item 1."""
    user = np.array([1, 1, 1, 2, 2, 2, 3, 3, 3, 3], np.int32)
    item = np.array([2, 4, 5, 2, 4, 5, 2, 4, 5, 1], np.int32)
    return Interactions("toy", user, item, None, None, np.array([7, 8, 9]), np.arange(1, 7), ids_kept=True)


def test_k_core_leaves_kept_ids_where_their_table_has_them() -> None:
    core = kept().k_core(3)
    assert core.item.tolist() == [2, 4, 5] * 3
    assert (core.num_items, core.item_ids.tolist(), core.ids_kept) == (6, [1, 2, 3, 4, 5, 6], True)
    assert core.to_sequences().num_items == 6
    assert core.k_core(3).item.tolist() == [2, 4, 5] * 3
    few = kept().k_core(4, item_k=1)  # users are numbered as ever
    assert (few.user.tolist(), few.user_ids.tolist(), few.item.tolist()) == ([1] * 4, [9], [2, 4, 5, 1])


def test_k_core_renumbers_kept_ids_when_asked_to() -> None:
    core = kept().k_core(3, renumber=True)
    assert core.item.tolist() == [1, 2, 3] * 3
    assert (core.item_ids.tolist(), core.ids_kept) == ([2, 4, 5], False)
    mapped = dataclasses.replace(kept(), ids_kept=False)
    assert mapped.k_core(3).item_ids.tolist() == [2, 4, 5]
    assert mapped.k_core(3, renumber=False).item.tolist() == [2, 4, 5] * 3


@pytest.mark.parametrize("k", [0, -1])
def test_k_core_needs_a_positive_k(k: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        table([(1, 1, 1)]).k_core(k)


def test_statistics_are_those_of_the_definition() -> None:
    day = 86_400
    rows = [(1, 1, 0), (1, 1, day), (1, 2, day), (2, 1, 2 * day)]
    want = Statistics(2, 2, 4, 100 * (1 - 4 / (2 * 2)), 4 / 2, "1970-01-01", "1970-01-03", 1, 1)
    assert table(rows).statistics() == want
    assert table(rows).to_sequences().statistics() == want


@settings(deadline=None, max_examples=40)
@given(PAIRS)
def test_statistics_do_not_depend_on_the_form(rows: list[tuple[int, int, int]]) -> None:
    repeats = len(rows) - len({(user, item) for user, item, _ in rows})
    assert table(rows).statistics().repeats == repeats
    assert table(rows).to_sequences().statistics() == table(rows).statistics()


def test_statistics_count_only_items_that_occur() -> None:
    assert Sequences.from_lists("toy", [[1, 2]], num_items=9).statistics().items == 2


def test_statistics_read_as_papers_print_them() -> None:
    line = format_statistics(
        "x/Beauty", Statistics(22363, 12101, 198502, 99.926641, 8.876, "2002-06-12", "2014-07-23", 0, 0)
    )
    assert line == (
        "x/Beauty: 22,363 users, 12,101 items, 198,502 interactions, sparsity 99.9266 %, average "
        "length 8.88, 2002-06-12 .. 2014-07-23, no repeats within a user"
    )


def test_statistics_name_repeats_and_missing_times() -> None:
    line = format_statistics("x", Statistics(1, 1, 3, 0.0, 3.0, None, None, 2, 1))
    assert line.endswith("no times, 2 repeats by 1 users")


def test_valid_columns_pass() -> None:
    assert valid().num_users == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"items": np.array([1, 2, 3])}, r"int64\[3\], expected a NumPy array int32"),
        ({"items": [1, 2, 3]}, "list, expected a NumPy array int32"),
        ({"items": np.array([1, 0, 3], np.int32)}, r"0 at position 1 \(1 such values\) is outside 1..3"),
        ({"items": np.array([1, 2, 4], np.int32)}, "4 at position 2 .* outside 1..3"),
        ({"items": np.array([-1, -2, 3], np.int32)}, r"-1 at position 0 \(2 such values\)"),
        ({"times": np.array([5.0, 5.0, 2.0])}, "times: float64.*expected a NumPy array int64"),
        ({"times": np.array([6, 5, 2])}, "user a has time 5 after 6; times must ascend"),
        ({"times": np.array([5, 5])}, "2 times for 3 items"),
        ({"times": np.array([1_400_000_000_000, 1_400_000_000_001, 2])}, "looks like milliseconds"),
        ({"times": np.array([0, 2**31, 2])}, "user a span 2147483648 seconds, more than int32 holds"),
        ({"offsets": np.array([0, 2, 4])}, "run from 0 to 4, expected 0 to 3"),
        ({"offsets": np.array([0, 3, 3])}, r"user b has no event \(1 such users\)"),
        ({"offsets": np.array([0, 4, 3])}, "user b has no event"),
        ({"user_ids": np.array(["a"])}, "1 user_ids and 3 item_ids for 2 users"),
        ({"num_items": 2**31 - 1}, "more than 2,147,483,646"),
        ({"gap_variance_rank": np.array([1, 1], np.int32)}, "gap_variance_rank must hold each of 0..1 once"),
        ({"gap_variance_rank": np.array([1, 0])}, "gap_variance_rank: int64"),
        ({"offsets": np.array([0]), "user_ids": np.array([])}, "users: there are none"),
    ],
)
def test_bad_sequences_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        valid(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"user": np.zeros(0, np.int32)}, "events: there are none"),
        ({"user": np.array([1, 3], np.int32)}, "user: 3 at position 1"),
        ({"item": np.array([1], np.int32)}, "item has 1 entries, user has 2"),
        ({"time": np.array([1, 2 * 10**11])}, "looks like milliseconds"),
        ({"value": np.array([1, np.nan], np.float32)}, "value nan at position 1"),
        ({"value": np.array([np.inf, 1], np.float32)}, "value inf at position 0"),
        ({"value": np.array([1.0, 2.0])}, "value: float64"),
    ],
)
def test_bad_events_are_refused(changes: dict[str, Any], message: str) -> None:
    good = table([(1, 1, 1), (2, 2, 2)])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **changes)


@pytest.mark.parametrize("count", [0, 2**31 - 1, 2**40])
def test_counts_that_int32_ids_cannot_number_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="items"):
        check_count(count, "items")


def test_the_largest_count_passes() -> None:
    check_count(2**31 - 2, "items")


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_from_rows_without_events_is_refused(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="there are no events"):
        Sequences.from_lists("toy", rows)


def test_from_rows_does_not_wrap_large_ids() -> None:
    with pytest.raises(ValueError, match=r"id 4294967301 at position 1 is outside 1..9"):
        Sequences.from_lists("toy", [[1, 2**32 + 5]], num_items=9)


def test_from_rows_needs_times_of_the_same_shape() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Sequences.from_lists("toy", [[1, 2]], [[1]])


def test_uniform_rank_orders_by_gap_variance() -> None:
    times = [[0, 1, 5], [0, 5, 10], [0, 0, 7, 14, 22], [3, 4]]  # variances 2.25, 0, 0.22 (gaps 7, 7, 8), 0
    sequences = Sequences.from_lists("toy", [[1] * len(t) for t in times], times)
    assert gap_variance_rank(sequences).tolist() == [3, 0, 2, 1]


def test_uniform_rank_needs_times() -> None:
    with pytest.raises(ValueError, match="has no times"):
        gap_variance_rank(Sequences.from_lists("toy", [[1, 2]]))
