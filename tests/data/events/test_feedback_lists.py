"""Clicks, dislikes and items shown in vain: which events are which, against a loop over users."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.feedback_lists import clicks_of, feedback_columns, no_feedback
from jaxrec.data.events.held_out import split_items
from jaxrec.data.events.interactions import Interactions

RNG = np.random.default_rng(0)
N = 400
USER, ITEM = RNG.integers(0, 20, N), RNG.integers(0, 15, N)
TIME, VALUE = RNG.permutation(N).astype(np.int64), RNG.choice([1, 1, 0, -1], N).astype(np.float32)
VALUE[USER == 19] = 0.0  # a user without a click
VALUE[ITEM == 14] = -1.0  # an item without one


def events(times: bool = True) -> Interactions:
    ids = [f"u{user}" for user in USER], [f"i{item}" for item in ITEM]
    return Interactions.from_raw("made", *ids, TIME if times else None, VALUE)


def test_clicks_are_numbered_anew() -> None:
    found = clicks_of(events())
    assert len(found.user) == (VALUE == 1).sum() and found.value is None
    assert "u19" not in found.user_ids.tolist() and "i14" not in found.item_ids.tolist()


@pytest.mark.parametrize("until_training", [True, False])
def test_lists_are_those_of_a_loop(until_training: bool) -> None:
    split = split_items(clicks_of(events()).to_sequences(), by="last")
    found = feedback_columns(events(), split, until_training=until_training)
    raw_items = np.asarray(split.sequences.item_ids)
    for number, user in enumerate(split.sequences.user_ids):
        own = [at for at in np.argsort(TIME) if f"u{USER[at]}" == user]
        trained = set(raw_items[split.sequences.user_items(number)[: split.train_length[number]] - 1])
        last, met = -1, set()
        for at in own:
            item = f"i{ITEM[at]}"
            if VALUE[at] == 1 and item in trained and item not in met:
                met.add(item)
                last = int(TIME[at])
        for name, kind in (("disliked", -1), ("shown", 0)):
            expected = [
                f"i{ITEM[at]}"
                for at in own
                if VALUE[at] == kind
                and f"i{ITEM[at]}" not in trained
                and ITEM[at] != 14
                and (TIME[at] <= last or not until_training)
            ]
            first = found[f"{name}_start"][number]
            ids = found[name][first : first + found[f"{name}_length"][number]]
            assert raw_items[ids - 1].tolist() == expected


def test_without_such_events_the_lists_are_empty() -> None:
    clicks = clicks_of(events())
    alone = Interactions.from_raw(
        "made", clicks.user_ids[clicks.user - 1], clicks.item_ids[clicks.item - 1], clicks.time,
        np.ones(len(clicks.user), np.float32),
    )  # fmt: skip
    split = split_items(clicks_of(alone).to_sequences(), by="random")
    found, none = feedback_columns(alone, split, until_training=False), no_feedback(clicks.num_users)
    assert set(found) == set(none)
    for name, column in none.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].dtype == column.dtype == np.int32


def test_wrong_feedback_is_refused() -> None:
    made = events()
    for value, message in (
        (np.full(N, 2, np.float32), r"feedback 2 \(400 such\): must be 1 \(clicked\)"),
        (np.zeros(N, np.float32), "no event has feedback 1"),
        (None, "has no values; name the column of feedback"),
    ):
        other = Interactions.from_raw("made", made.user, made.item, made.time, value)
        with pytest.raises(ValueError, match=message):
            clicks_of(other)
