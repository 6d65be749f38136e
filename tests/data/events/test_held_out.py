"""Interaction matrices with sets of held-out items."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.held_out import (
    Candidates,
    HeldOut,
    Sets,
    format_matrix,
    from_parts,
    hold_out_validation,
    split_items,
)
from jaxrec.data.events.interactions import Sequences

TRAIN = ([0, 0, 0, 1, 1, 3, 3, 3, 3], [5, 2, 9, 1, 2, 4, 3, 2, 1])
TEST = ([3, 0, 2, 3], [7, 1, 5, 6])  # user 2 has no item of training, user 4 none at all
NONE: tuple[list[int], list[int]] = ([], [])


def matrix(train: Any = TRAIN, validation: Any = NONE, test: Any = TEST, num_items: int = 9) -> HeldOut:
    parts = tuple((np.array(u, np.int64), np.array(i, np.int64)) for u, i in (train, validation, test))
    return from_parts(
        "toy",
        parts,  # type: ignore[arg-type]
        num_items=num_items,
        rule="toy parts",
        user_ids=np.array(["a", "b", "c", "d", "e"]),
        item_ids=np.arange(10, 10 + num_items),
    )


def sets(columns: list[list[int]]) -> Sets:
    return Sets(*np.array(columns, np.int32))


def sets_of(split: HeldOut, sets: Sets) -> dict[Any, tuple[set[int], set[int]]]:
    """Raw user -> (input items, relevant items)."""
    found = {}
    relevant, offsets = split.relevant(sets)
    for row, (user, length, _) in enumerate(zip(*sets, strict=True)):
        items = split.sequences.user_items(int(user))[:length]
        rest = relevant[offsets[row] : offsets[row + 1]]
        found[split.sequences.user_ids[user]] = set(items.tolist()), set(rest.tolist())
    return found


def test_each_users_items_are_those_of_training_then_those_held_out() -> None:
    split = matrix()
    assert split.sequences.user_ids.tolist() == ["a", "b", "c", "d"]
    assert split.train_length.tolist() == [3, 2, 0, 4]
    assert sets_of(split, split.test) == {"a": ({2, 5, 9}, {1}), "d": ({1, 2, 3, 4}, {6, 7})}
    assert split.left_out == 1  # c, of whom training knows nothing
    events = split.training_events()
    assert sorted(zip(events.group.tolist(), events.item.tolist(), strict=True)) == sorted(
        zip([0, 0, 0, 1, 1, 3, 3, 3, 3], TRAIN[1], strict=True)
    )


def test_a_test_query_has_seen_the_items_of_validation() -> None:
    split = matrix(validation=([0, 1], [3, 3]))
    assert sets_of(split, split.validation) == {"a": ({2, 5, 9}, {3}), "b": ({1, 2}, {3})}
    assert sets_of(split, split.test)["a"] == ({2, 3, 5, 9}, {1})
    assert 3 in split.training_events().item  # of user d
    assert len(split.training_events().item) == len(TRAIN[0])


@pytest.mark.parametrize("share", [0.1, 0.34, 0.5, 0.9])
@pytest.mark.parametrize("least", ["none", "one"])
def test_validation_is_taken_out_of_training(share: float, least: Any) -> None:
    before = matrix()
    if least == "none" and share < 0.13:
        with pytest.raises(ValueError, match="no user has an item to spare for share=0.1"):
            hold_out_validation(before, share=share)
        return
    split = hold_out_validation(before, share=share, least=least, seed=3)
    taken = before.train_length - split.train_length
    lengths = before.train_length.astype(int)
    expected = np.clip(np.round(share * lengths), least == "one", np.maximum(lengths - 1, 0))
    assert taken.tolist() == expected.tolist()
    known = {user: items for user, (items, _) in sets_of(before, before.test).items()}
    for user, (items, relevant) in sets_of(split, split.validation).items():
        assert not items & relevant
        if user in known:
            assert items | relevant == known[user]
    assert sets_of(split, split.test) == sets_of(before, before.test)
    again = hold_out_validation(before, share=share, least=least, seed=3)
    np.testing.assert_array_equal(split.sequences.items, again.sequences.items)
    with pytest.raises(ValueError, match="has a validation part of its own"):
        hold_out_validation(split)


def test_validation_items_are_drawn_uniformly() -> None:
    split = matrix(train=([0] * 8, range(1, 9)), test=([0], [9]))
    drawn = [hold_out_validation(split, share=0.25, seed=seed) for seed in range(400)]
    items = np.concatenate([one.relevant(one.validation)[0] for one in drawn])
    counts = np.bincount(items, minlength=9)[1:]
    assert (abs(counts - 100) < 4 * np.sqrt(100 * 0.75)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ([0, 0], [1, 1])}, "user a has item 10 3 times"),
        ({"test": ([0], [5])}, "user a has item 14 2 times"),
        ({"num_items": 8}, "item"),
        ({"train": ([0, 5], [1, 2])}, "user: outside 0..4"),
        ({"train": ([0], [1, 2])}, "training: 1 users for 2 items"),
        ({"train": NONE}, "no user has an item of training"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrix(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": sets([[0], [2], [1]])}, "items of training would be relevant"),
        ({"test": sets([[0], [3], [0]])}, "a user has no relevant item"),
        ({"test": sets([[0], [3], [2]])}, "fewer items than `length` and `number` say"),
        ({"test": sets([[0, 0], [3, 3], [1, 1]])}, "a user has two queries"),
        ({"test": sets([[4], [3], [1]])}, r"a user is outside 0\.\.3"),
        ({"validation": sets([[0], [3], [1]])}, r"user a \(1 such users\) .* in validation and in test"),
        ({"candidates": Candidates(test=np.array([[1, 2], [3, 4]], np.int32))}, "several relevant items"),
        ({"candidates": Candidates(test=np.array([[1, 2]], np.int32))}, r"must be int32 \[2, number\]"),
        ({"candidates": Candidates(test=np.array([[1, 2], [3, 10]], np.int32))}, r"outside 0\.\.9"),
    ],
)
def test_a_split_whose_parts_overlap_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(matrix(), **changes)


def test_numbers_of_each_part_are_told() -> None:
    text = format_matrix(hold_out_validation(matrix(), share=0.5))
    assert "training: 4 interactions" in text  # of 3, 2 and 4 items, 2, 1 and 2 are taken
    assert "validation: 5 interactions of 3 users" in text
    assert "test: 3 interactions of 2 users" in text
    assert "1 users have held-out items but none in training" in text


EVENTS = Sequences.from_lists("toy", [[3, 1, 3, 2, 5, 1], [4, 4, 1], list(range(1, 21)), [2]])


def test_the_last_new_items_are_held_out() -> None:
    split = split_items(EVENTS, by="last")
    assert sets_of(split, split.test) == {1: ({1, 2, 3}, {5}), 3: (set(range(1, 20)), {20})}
    assert sets_of(split, split.validation) == {1: ({1, 3}, {2}), 3: (set(range(1, 19)), {19})}
    assert split.train_length.tolist() == [2, 2, 18, 1]  # users of two items and of one train only


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.3, 0.2)])
def test_shares_of_each_users_items_are_held_out_at_random(shares: tuple[float, float]) -> None:
    split = split_items(EVENTS, validation=shares[0], test=shares[1], seed=2)
    for part, share in ((split.validation, shares[0]), (split.test, shares[1])):
        assert part.user.tolist() == [0, 2]
        assert part.number.tolist() == [1, round(20 * share)]
    for user in range(4):
        found = sorted(split.sequences.user_items(user).tolist())
        assert found == sorted(set(EVENTS.user_items(user).tolist()))
    other = split_items(EVENTS, validation=shares[0], test=shares[1], seed=3)
    assert (split.sequences.items != other.sequences.items).any()


def test_large_shares_leave_an_item_for_each_part() -> None:
    split = split_items(EVENTS, validation=0.05, test=0.9)
    assert split.train_length.tolist() == [1, 2, 1, 1]
    assert split.validation.number.tolist() == [1, 1]
    assert split.test.number.tolist() == [2, 18]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 0.0}, "test=0.0: shares must be above 0"),
        ({"validation": 0.5, "test": 0.5}, "below 1 together"),
        ({"by": "time"}, "by='time': must be 'random' or 'last'"),
    ],
)
def test_shares_that_leave_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_items(EVENTS, **options)
    with pytest.raises(ValueError, match="no user has 3 different items"):
        split_items(Sequences.from_lists("toy", [[1, 2, 1]]))
