import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.batching import batched_queries, labelled_columns
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.split import (
    Queries,
    Repeats,
    format_repeats,
    future_share,
    leave_last_out,
    leave_one_out,
    seen_before,
    split_by_time,
    split_by_time_shares,
    split_by_user,
)
from jaxrec.data.tables.impressions import SplitIndices
from jaxrec.data.tables.unobserved_pairs import add_unobserved

ROWS = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=8), min_size=1, max_size=6).filter(
    lambda rows: max(map(len, rows)) >= 4
)
TIMED = Sequences.from_lists(
    "toy",
    [[1, 2, 3, 4, 5], [5, 6, 7], [8, 9], [1, 5]],
    [[0, 1, 10, 20, 30], [5, 10, 20], [12, 13], [21, 25]],
)


def test_leave_last_out_has_a_query_for_each_of_the_last_events() -> None:
    split = leave_last_out(Sequences.from_lists("toy", [[1, 2, 3, 4, 5, 6], [6, 7, 8]]), 2, short="train")
    assert split.train_length.tolist() == [2, 3]
    assert [column.tolist() for column in split.validation] == [[0, 0], [2, 3], [3, 4]]
    assert [column.tolist() for column in split.test] == [[0, 0], [4, 5], [5, 6]]
    assert split.rule == (
        "last 2 events of each user, the 2 before them for validation, users with fewer than 5 events in "
        "training only"
    )


def test_leave_last_out_of_one_event_is_leave_one_out() -> None:
    ours, theirs = leave_last_out(TIMED, 1, short="train"), leave_one_out(TIMED, short="train")
    for part in ("validation", "test"):
        for a, b in zip(getattr(ours, part), getattr(theirs, part), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours.train_length, theirs.train_length)


def test_leave_last_out_refuses_no_event_and_short_users() -> None:
    with pytest.raises(ValueError, match="number=0: must be at least 1"):
        leave_last_out(TIMED, 0)
    with pytest.raises(ValueError, match="fewer than 5 events .* leave 2 out for validation and 2 for test"):
        leave_last_out(TIMED, 2)


def test_leave_one_out_takes_the_last_two_events() -> None:
    split = leave_one_out(Sequences.from_lists("toy", [[1, 2, 3, 4, 5], [6, 7, 8]]))
    assert split.train_length.tolist() == [3, 1]
    assert [column.tolist() for column in split.validation] == [[0, 1], [3, 1], [4, 7]]
    assert [column.tolist() for column in split.test] == [[0, 1], [4, 2], [5, 8]]
    assert split.rule == "leave-one-out"


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_leave_one_out_equals_a_plain_twin(rows: list[list[int]]) -> None:
    split = leave_one_out(Sequences.from_lists("toy", rows))
    for user, row in enumerate(rows):
        assert split.train_length[user] == len(row) - 2
        assert (split.validation.length[user], split.validation.target[user]) == (len(row) - 2, row[-2])
        assert (split.test.length[user], split.test.target[user]) == (len(row) - 1, row[-1])


def test_short_users_are_an_error_that_counts_them() -> None:
    sequences = Sequences.from_lists("toy", [[1, 2, 3, 4], [1], [2, 3]])
    with pytest.raises(
        ValueError, match=r"2 of 3 users have fewer than 3 events \(first: user 2\).*short='train'"
    ):
        leave_one_out(sequences)


def test_short_users_can_be_kept_for_training() -> None:
    split = leave_one_out(Sequences.from_lists("toy", [[1], [1, 2, 3, 4], [2, 3]]), short="train")
    assert split.train_length.tolist() == [1, 2, 2]
    assert split.validation.user.tolist() == split.test.user.tolist() == [1]
    assert "fewer than 3 events in training only" in split.rule


def test_a_split_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match=r"validation split .* is empty"):
        leave_one_out(Sequences.from_lists("toy", [[1, 2], [2, 3]]), short="train")


def test_a_split_without_training_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        leave_one_out(Sequences.from_lists("toy", [[1, 2, 3]]))


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
    split = split_by_time(TIMED, 10, 20, min_history=2)
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
        ({"validation_time": 10, "test_time": 20, "min_history": 0}, "min_history=0: must be at least 1"),
    ],
)
def test_bad_limits_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_time(TIMED, **arguments)


def test_a_time_split_needs_times() -> None:
    with pytest.raises(ValueError, match=r"has no times.*use leave_one_out"):
        split_by_time(Sequences.from_lists("toy", [[1, 2, 3, 4]]), 1, 2)


def test_shares_of_time_are_shares_of_all_events() -> None:
    events = [[1, 2, 3, 4], [1, 2, 3, 4]], [[0, 1, 5, 8], [2, 3, 6, 9]]  # training to 3, validation 5 and 6
    split = split_by_time_shares(Sequences.from_lists("toy", *events), validation=0.25, test=0.25)
    assert split.train_length.tolist() == [2, 2]
    assert [column.tolist() for column in split.validation] == [[0, 1], [2, 2], [3, 3]]
    assert [column.tolist() for column in split.test] == [[0, 1], [3, 3], [4, 4]]
    assert split.rule == "time 5 8, first event of a user, least 1, windows of 0.25/0.25 of the events"


TIMED_ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=8).map(sorted),
    min_size=2,
    max_size=8,
)


def sequences_of(rows: list[list[tuple[int, int]]]) -> Sequences:
    return Sequences.from_lists(
        "toy", [[item for _, item in row] for row in rows], [[time for time, _ in row] for row in rows]
    )


@settings(deadline=None, max_examples=100)
@given(TIMED_ROWS, st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.sampled_from(["first", "last", "all"]))
def test_no_part_of_a_split_by_shares_is_earlier_than_the_one_before(
    rows: list[list[tuple[int, int]]], validation: float, test: float, targets: Any
) -> None:
    sequences = sequences_of(rows)
    assert sequences.times is not None
    try:
        split = split_by_time_shares(sequences, validation=validation, test=test, targets=targets)
    except ValueError as error:
        assert "empty" in str(error) or "nothing to learn from" in str(error)  # noqa: PT017
        return
    user = sequences.event_users
    position = np.arange(user.size) - sequences.offsets[user]
    training = sequences.times[position < split.train_length[user]]
    middle, last = (
        sequences.times[sequences.offsets[part.user] + part.length] for part in (split.validation, split.test)
    )
    assert training.max() < middle.min() <= middle.max() < last.min()
    rest = sequences.times[position >= split.train_length[user]]
    assert rest.min() > training.max()  # every event before the first window is in training
    assert rest.size >= round(sequences.times.size * (validation + test))
    assert future_share(split) == 0.0


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=3, max_size=20),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 3),
)
def test_a_held_out_user_has_no_event_in_training(
    rows: list[list[int]], validation: float, test: float, seed: int
) -> None:
    sequences = Sequences.from_lists("toy", rows)
    try:
        split = split_by_user(sequences, validation=validation, test=test, seed=seed, short="train")
    except ValueError as error:
        assert "empty" in str(error) or "nothing to learn from" in str(error)  # noqa: PT017
        return
    held_out = np.concatenate([split.validation.user, split.test.user])
    assert len(np.unique(held_out)) == len(held_out)  # nobody is in two parts, or in one part twice
    assert (split.train_length[held_out] == 0).all()
    kept = np.setdiff1d(np.arange(sequences.num_users), held_out)
    assert (split.train_length[kept] == sequences.lengths[kept]).all()
    assert not np.isin(split.training_events().group, held_out).any()
    for part in (split.validation, split.test):
        assert (part.length == sequences.lengths[part.user] - 1).all()
    possible = int((sequences.lengths >= 2).sum())
    assert (len(split.validation.user), len(split.test.user)) == (
        round(validation * possible),
        round(test * possible),
    )


def test_held_out_users_are_drawn_by_the_seed() -> None:
    sequences = Sequences.from_lists("toy", [[1, 2]] * 100)
    drawn = [split_by_user(sequences, seed=seed).test.user.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert split_by_user(sequences).rule == "held-out users 0.1/0.1, seed 0, last event from those before"


@pytest.mark.parametrize("split", [split_by_time_shares, split_by_user])
@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.5), (float("nan"), 0.1)])
def test_shares_leave_something_to_every_part(split: Any, shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="shares must be above 0 and leave some for training"):
        split(TIMED, validation=shares[0], test=shares[1])


def test_parts_that_would_be_empty_are_refused() -> None:
    with pytest.raises(ValueError, match="validation=0.1, test=0.1 of 4 users .* leave a part empty"):
        split_by_user(TIMED)
    with pytest.raises(ValueError, match=r"2 of 3 users have fewer than 2 events \(first: user 1\)"):
        split_by_user(Sequences.from_lists("toy", [[1], [1, 2], [3]]))
    at_once = Sequences.from_lists("toy", [[1, 2, 3], [1, 2, 3]], [[1, 5, 5], [2, 5, 5]])
    with pytest.raises(ValueError, match="of 6 events leave a part empty .*choose other shares"):
        split_by_time_shares(at_once, validation=0.2, test=0.2)
    with pytest.raises(ValueError, match="has no times"):
        split_by_time_shares(Sequences.from_lists("toy", [[1, 2, 3, 4]]))


def test_future_share_by_hand() -> None:
    sequences = Sequences.from_lists("toy", [[1, 2, 3, 4], [1, 2, 3, 4]], [[0, 1, 2, 3], [3, 11, 12, 13]])
    # Four training events, at 0, 1, 3, 11; test targets at 3 (one later, one as late) and 13 (none).
    assert future_share(leave_one_out(sequences)) == (1 / 4 + 0) / 2


def test_future_share_needs_times() -> None:
    with pytest.raises(ValueError, match="has no times"):
        future_share(leave_one_out(Sequences.from_lists("toy", [[1, 2, 3, 4]])))


GOOD = leave_one_out(Sequences.from_lists("toy", [[1, 2, 3, 4, 5], [6, 7, 8]]))


def query(user: int, length: int, target: int) -> Queries:
    return Queries(np.array([user], np.int32), np.array([length], np.int32), np.array([target], np.int32))


@pytest.mark.parametrize(
    "queries, message",
    [
        (query(0, 2, 3), "a target is among the training events"),
        (query(0, 3, 5), "is not the event that follows"),
        (query(0, 5, 5), "reads past its user's last event"),
        (query(2, 1, 1), "user indices must lie in 0..1"),
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


# --- targets that were seen before, and duplicates ---

REPEATED = Sequences.from_lists(
    "toy",
    [[1, 2, 1, 2], [3, 4, 5, 6], [7, 7, 8, 7], [1, 2, 3, 1], [9, 8, 7, 6]],
    [[0, 1, 1, 1], [0, 0, 0, 0], [5, 5, 6, 7], [1, 2, 3, 4], [1, 2, 3, 4]],
)


def test_a_split_counts_targets_that_were_seen_before_and_exact_duplicates() -> None:
    """Validation asks for 1, 5, 8, 3, 7, test for 2, 6, 7, 1, 6; 2 and 7 come twice in a second."""
    assert leave_one_out(REPEATED).repeats == Repeats(validation=1, test=3, duplicates=2)


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_seen_targets_equal_a_plain_twin(rows: list[list[int]]) -> None:
    split = leave_one_out(Sequences.from_lists("toy", rows))
    assert seen_before(split.sequences, split.validation).tolist() == [row[-2] in row[:-2] for row in rows]
    assert seen_before(split.sequences, split.test).tolist() == [row[-1] in row[:-1] for row in rows]
    assert split.repeats.duplicates is None  # nothing has a time


def test_a_file_read_twice_has_every_event_twice() -> None:
    twice = Interactions.from_raw(
        "twice",
        np.tile([1, 1, 1, 2, 2, 2], 2),
        np.tile([1, 2, 3, 3, 4, 5], 2),
        np.tile([1, 2, 3, 4, 5, 6], 2),
    )
    split = leave_one_out(twice.to_sequences())
    assert split.repeats == Repeats(validation=0, test=2, duplicates=6)
    said = format_repeats(split)
    assert "0 of 2 validation targets and 2 of 2 test targets" in said
    assert "6 exact duplicates" in said and 'seen="keep"' in said


def test_a_split_without_repeats_has_nothing_to_advise() -> None:
    said = format_repeats(leave_one_out(Sequences.from_lists("toy", [[1, 2, 3, 4]])))
    assert "0 of 1 test targets" in said and "aren't known" in said and "seen=" not in said


# --- queries in batches ---


@pytest.mark.parametrize("target", [0, -1, 6, 99])
def test_a_target_that_is_no_item_is_refused_when_queries_are_batched(target: int) -> None:
    queries = Queries(*(np.array(column, np.int32) for column in ([0, 1], [2, 2], [5, target])))
    with pytest.raises(ValueError, match=rf"target: {target} of query 1 \(1 such queries\) is outside 1..5;"):
        batched_queries(queries, 2, num_items=5)


@pytest.mark.parametrize("name", ["user", "length"])
def test_users_and_lengths_below_0_are_refused_when_queries_are_batched(name: str) -> None:
    queries = Queries(*(np.array(column, np.int32) for column in ([0, 1], [2, 2], [5, 5])))
    with pytest.raises(ValueError, match=f"{name}: -1 of query 0"):
        batched_queries(queries._replace(**{name: np.array([-1, 0], np.int32)}), 2)
    with pytest.raises(ValueError, match=f"{name}: 4294967297 of query 1"):  # as int32 it would be 1
        batched_queries(queries._replace(**{name: np.array([0, 2**32 + 1])}), 2)


@pytest.mark.parametrize("name", Queries._fields)
@pytest.mark.parametrize("wrong", [[1.0, 2.5], [1.0, np.nan], [True, True]])
def test_fractions_are_refused_when_queries_are_batched(name: str, wrong: list[float]) -> None:
    queries = Queries(*(np.array(column, np.int32) for column in ([0, 1], [2, 2], [5, 5])))
    with pytest.raises(ValueError, match=rf"{name}: (float64|bool)\[2\], expected integers"):
        batched_queries(queries._replace(**{name: np.array(wrong)}), 2)


def test_queries_of_other_lengths_and_batches_of_none_are_refused() -> None:
    queries = Queries(*(np.array(column, np.int32) for column in ([0, 1], [2, 2], [5])))
    with pytest.raises(ValueError, match="give one user, length and target for each"):
        batched_queries(queries, 2)
    with pytest.raises(ValueError, match="batch_size=0"):
        batched_queries(queries._replace(target=queries.user + 1), 0)


@pytest.mark.parametrize("offsets", [[0, 1.5, 3], [0, 5, 3], [1, 2, 3], [0, 2, 2]])
def test_labelled_columns_refuse_offsets_that_do_not_cut_the_items(offsets: list[float]) -> None:
    with pytest.raises(ValueError, match="offsets: "):
        labelled_columns(np.array([1, 2, 3]), np.array(offsets), np.array([1, 2]), num_items=3, num_classes=2)


@pytest.mark.parametrize("label", [0, 3, -1])
def test_a_class_that_does_not_exist_is_refused_when_columns_are_made(label: int) -> None:
    items, offsets = np.array([1, 2, 3]), np.array([0, 2, 3])
    columns = labelled_columns(items, offsets, np.array([1, 2]), num_items=3, num_classes=2)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "items": [1, 2, 3],
        "start": [0, 2],
        "length": [2, 1],
        "label": [1, 2],
    }
    with pytest.raises(ValueError, match=rf"label, a class: id {label} at position 1 is outside 1..2"):
        labelled_columns(items, offsets, np.array([1, label]), num_items=3, num_classes=2)
    with pytest.raises(ValueError, match="items: id 3"):
        labelled_columns(items, offsets, np.array([1, 2]), num_items=2, num_classes=2)
    with pytest.raises(ValueError, match="3 labels for 2 users"):
        labelled_columns(items, offsets, np.array([1, 2, 1]), num_items=3, num_classes=2)


@pytest.mark.parametrize("changed", [{"item": 3}, {"item": -1}, {"user": -1}])
def test_a_pair_out_of_range_is_refused_before_unobserved_ones_are_drawn(changed: dict[str, int]) -> None:
    columns = {"user": np.array([0, 1, 1]), "item": np.array([0, 1, 2])}
    for name, value in changed.items():
        columns[name][1] = value
    parts = SplitIndices(np.array([0]), np.array([1]), np.array([2]), "toy")
    with pytest.raises(ValueError, match=rf"{next(iter(changed))}: {next(iter(changed.values()))} of pair 1"):
        add_unobserved(columns["user"], columns["item"], 3, parts, negatives_per_pair=1, seed=0)


@pytest.mark.parametrize("name", ["user", "item"])
def test_unobserved_pairs_refuse_fractions(name: str) -> None:
    columns = {"user": np.array([0, 1, 1]), "item": np.array([0, 1, 2])}
    columns[name] = columns[name] + 0.5
    parts = SplitIndices(np.array([0]), np.array([1]), np.array([2]), "toy")
    with pytest.raises(ValueError, match=f"{name}: float64"):
        add_unobserved(columns["user"], columns["item"], 5, parts, negatives_per_pair=1, seed=0)
