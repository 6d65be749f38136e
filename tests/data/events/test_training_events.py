"""Training events as two columns: from splits, and from arrays that are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.events.training_events import TrainingEvents


def test_a_split_gives_the_events_that_training_may_read() -> None:
    rows = [[1, 2, 3, 4], [2, 2], [5, 1, 2]]
    split = leave_one_out(Sequences.from_lists("made", rows), short="train")
    found = split.training_events()
    pairs = [(user, item) for user, row in enumerate([[1, 2], [2, 2], [5]]) for item in row]
    assert list(zip(found.group.tolist(), found.item.tolist(), strict=True)) == pairs
    assert found.num_items == 5


def test_groups_may_have_any_numbers_in_any_order() -> None:
    found = TrainingEvents(np.array([7, 7, -2, 10**12]), np.array([1, 2, 2, 3], np.uint8), 3)
    assert found.group.tolist() == [7, 7, -2, 10**12]
    assert found.item.tolist() == [1, 2, 2, 3]
    assert found.item.dtype == np.int32


@pytest.mark.parametrize(
    ("group", "item", "message"),
    [
        ([0, 1, 0], [1, 2, 3], "group: events of a user or session must be contiguous"),
        ([0, 0], [1, 2, 3], "group, item: 2 and 3 entries"),
        ([], [], "group, item: 0 and 0 entries"),
        ([0, 0], [1, 0], "item: id 0 at position 1 is outside 1..3"),
        ([0, 0], [4, 1], "item: id 4 at position 0 is outside 1..3"),
        ([0, 0], [1.0, 2.0], "item: 1.0"),
        ([0.5, 1.0], [1, 2], "group: 0.5"),
    ],
)
def test_columns_that_are_no_training_events_are_refused(group: Any, item: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingEvents(group, item, 3)
