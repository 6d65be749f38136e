import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.interactions import Sequences
from jaxrec.data.split import Queries, future_share, leave_one_out, split_by_time

ROWS = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=8), min_size=1, max_size=6).filter(
    lambda rows: max(map(len, rows)) >= 4
)
TIMED = Sequences.from_rows(
    "toy",
    [[1, 2, 3, 4, 5], [5, 6, 7], [8, 9], [1, 5]],
    [[0, 1, 10, 20, 30], [5, 10, 20], [12, 13], [21, 25]],
)


def test_leave_one_out_takes_the_last_two_events() -> None:
    split = leave_one_out(Sequences.from_rows("toy", [[1, 2, 3, 4, 5], [6, 7, 8]]))
    assert split.train_length.tolist() == [3, 1]
    assert [column.tolist() for column in split.validation] == [[0, 1], [3, 1], [4, 7]]
    assert [column.tolist() for column in split.test] == [[0, 1], [4, 2], [5, 8]]
    assert split.rule == "leave-one-out"


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_leave_one_out_equals_a_plain_twin(rows: list[list[int]]) -> None:
    split = leave_one_out(Sequences.from_rows("toy", rows))
    for user, row in enumerate(rows):
        assert split.train_length[user] == len(row) - 2
        assert (split.validation.length[user], split.validation.target[user]) == (len(row) - 2, row[-2])
        assert (split.test.length[user], split.test.target[user]) == (len(row) - 1, row[-1])


def test_short_users_are_an_error_that_counts_them() -> None:
    sequences = Sequences.from_rows("toy", [[1, 2, 3, 4], [1], [2, 3]])
    with pytest.raises(
        ValueError, match=r"2 of 3 users have fewer than 3 events \(first: user 2\).*short='train'"
    ):
        leave_one_out(sequences)


def test_short_users_can_be_kept_for_training() -> None:
    split = leave_one_out(Sequences.from_rows("toy", [[1], [1, 2, 3, 4], [2, 3]]), short="train")
    assert split.train_length.tolist() == [1, 2, 2]
    assert split.validation.user.tolist() == split.test.user.tolist() == [1]
    assert "fewer than 3 events in training only" in split.rule


def test_a_split_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match=r"validation split .* is empty"):
        leave_one_out(Sequences.from_rows("toy", [[1, 2], [2, 3]]), short="train")


def test_a_split_without_training_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        leave_one_out(Sequences.from_rows("toy", [[1, 2, 3]]))


def test_an_unknown_treatment_of_short_users_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'error' or 'train'"):
        leave_one_out(TIMED, short="drop")  # type: ignore[arg-type]


def test_time_split_asks_for_the_first_event_of_each_window() -> None:
    split = split_by_time(TIMED, 10, 20)
    assert split.train_length.tolist() == [2, 1, 0, 0]
    assert [column.tolist() for column in split.validation] == [[0, 1], [2, 1], [3, 6]]
    assert [column.tolist() for column in split.test] == [[0, 1], [3, 2], [4, 7]]
    assert split.left_out == 2  # rows 2 and 3 begin inside a window
    assert split.rule == "time 10 20, first event of a user, least 1"


def test_time_split_can_ask_for_the_last_event() -> None:
    split = split_by_time(TIMED, 10, 20, targets="last")
    assert [column.tolist() for column in split.validation] == [[0, 1, 2], [2, 1, 1], [3, 6, 9]]
    assert [column.tolist() for column in split.test] == [[0, 1, 3], [4, 2, 1], [5, 7, 5]]
    assert split.left_out == 0


def test_time_split_can_ask_for_all_events() -> None:
    split = split_by_time(TIMED, 10, 20, targets="all")
    assert split.test.user.tolist() == [0, 0, 1, 3]
    assert split.test.length.tolist() == [3, 4, 2, 1]
    assert split.left_out == 2


def test_time_split_can_ask_for_longer_histories() -> None:
    split = split_by_time(TIMED, 10, 20, least=2)
    assert split.validation.user.tolist() == [0]
    assert split.left_out == 3


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 24), st.integers(1, 12), st.sampled_from(["first", "last", "all"]))
def test_no_training_event_of_a_time_split_is_later_than_the_cut(cut: int, width: int, targets: str) -> None:
    assert TIMED.times is not None
    try:
        split = split_by_time(TIMED, cut, cut + width, targets=targets)  # type: ignore[arg-type]
    except ValueError as error:
        assert "is empty" in str(error)  # noqa: PT017
        return
    for user in range(TIMED.num_users):
        start, length = TIMED.offsets[user], split.train_length[user]
        assert (TIMED.times[start : start + length] < cut).all()
        assert (TIMED.times[start + length : TIMED.offsets[user + 1]] >= cut).all()
    for queries, low, high in ((split.validation, cut, cut + width), (split.test, cut + width, 10**9)):
        at = TIMED.times[TIMED.offsets[queries.user] + queries.length]
        assert ((low <= at) & (at < high)).all()
    assert future_share(split) == 0.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"validation_time": 20, "test_time": 20}, "must lie before test_time=20"),
        ({"validation_time": 10, "test_time": 31}, "test split .* is empty"),
        ({"validation_time": 14, "test_time": 16}, "validation split .* is empty"),
        ({"validation_time": 1, "test_time": 20}, "nothing to learn from"),
        ({"validation_time": 10, "test_time": 20, "targets": "some"}, "must be 'first', 'last' or 'all'"),
        ({"validation_time": 10, "test_time": 20, "least": 0}, "least=0: must be at least 1"),
    ],
)
def test_bad_limits_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_time(TIMED, **arguments)


def test_a_time_split_needs_times() -> None:
    with pytest.raises(ValueError, match=r"has no times.*use leave_one_out"):
        split_by_time(Sequences.from_rows("toy", [[1, 2, 3, 4]]), 1, 2)


def test_future_share_by_hand() -> None:
    sequences = Sequences.from_rows("toy", [[1, 2, 3, 4], [1, 2, 3, 4]], [[0, 1, 2, 3], [3, 11, 12, 13]])
    # Four training events, at 0, 1, 3, 11; test targets at 3 (one later, one as late) and 13 (none).
    assert future_share(leave_one_out(sequences)) == (1 / 4 + 0) / 2


def test_future_share_needs_times() -> None:
    with pytest.raises(ValueError, match="has no times"):
        future_share(leave_one_out(Sequences.from_rows("toy", [[1, 2, 3, 4]])))


GOOD = leave_one_out(Sequences.from_rows("toy", [[1, 2, 3, 4, 5], [6, 7, 8]]))


def query(user: int, length: int, target: int) -> Queries:
    return Queries(np.array([user], np.int32), np.array([length], np.int32), np.array([target], np.int32))


@pytest.mark.parametrize(
    "queries, message",
    [
        (query(0, 2, 3), "a target is among the training events"),
        (query(0, 3, 5), "is not the event that follows"),
        (query(0, 5, 5), "reads past its user's last event"),
        (query(2, 1, 1), "user rows must lie in 0..1"),
        (query(0, 3, 0), "target: 0 at position 0"),
        (Queries(*(column.astype(np.int64) for column in query(0, 3, 4))), "user: int64"),
    ],
)
def test_inconsistent_queries_are_refused(queries: Queries, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, test=queries)


@pytest.mark.parametrize("lengths", [[3], [6, 1], [-1, 3]])
def test_impossible_training_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="train"):
        dataclasses.replace(GOOD, train_length=np.array(lengths, np.int32))
