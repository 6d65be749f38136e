"""Test parts in which only some items are relevant: the same training, input and candidates."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.events.relevant_items import evenly_by_item, only_relevant


@pytest.fixture
def split() -> HeldOut:
    train = (np.array([0, 0, 1, 2]), np.array([1, 2, 3, 1]))
    validation = (np.array([1]), np.array([5]))
    test = (np.array([0, 0, 0, 1, 1, 2]), np.array([3, 4, 5, 2, 4, 4]))
    numbers = np.arange(1, 4), np.arange(1, 6)
    return from_parts("small", (train, validation, test), num_items=5, rule="given", user_ids=numbers[0],
                      item_ids=numbers[1])  # fmt: skip


def relevant(split: HeldOut) -> dict[int, list[int]]:
    items, offsets = split.relevant(split.test)
    parts = np.split(items, offsets[1:-1])
    return {
        int(user): sorted(of.tolist()) for user, of in zip(split.test.user, parts, strict=True) if len(of)
    }


def test_only_marked_items_are_relevant_and_training_stays(split: HeldOut) -> None:
    kept = np.isin(split.sequences.items, (4, 5))
    found = only_relevant(split, kept, rule="items 4 and 5")
    assert relevant(found) == {0: [4, 5], 1: [4], 2: [4]}
    assert found.rule == "given; relevant: items 4 and 5"
    rest = only_relevant(split, ~kept, rule="others")
    assert relevant(rest) == {0: [3], 1: [2]}  # user 2 has no query
    for part in (found, rest):
        np.testing.assert_array_equal(part.training_events().item, split.training_events().item)
        np.testing.assert_array_equal(part.relevant(part.validation)[0], [5])
        for user in range(3):
            assert set(part.sequences.user_items(user)) == set(split.sequences.user_items(user))
        at = {int(u): int(n) for u, n in zip(part.test.user, part.test.length, strict=True)}
        assert (
            at.items() <= dict(zip(split.test.user.tolist(), split.test.length.tolist(), strict=True)).items()
        )


def test_an_even_test_has_so_many_interactions_of_each_item(split: HeldOut) -> None:
    kept = evenly_by_item(split, most=1)
    found = only_relevant(split, kept, rule="even")
    items, _ = found.relevant(found.test)
    assert sorted(items.tolist()) == [2, 3, 4, 5]
    assert evenly_by_item(split, most=9).sum() == 6
    np.testing.assert_array_equal(kept, evenly_by_item(split, most=1))


def test_what_marks_nothing_is_refused(split: HeldOut) -> None:
    with pytest.raises(ValueError, match="no test interaction is marked"):
        only_relevant(split, np.zeros(11, bool), rule="none")
    with pytest.raises(ValueError, match=r"kept: float64\[11\]: must be bool \[11\]"):
        only_relevant(split, np.zeros(11), rule="none")
    with pytest.raises(ValueError, match="most=0: must be at least 1"):
        evenly_by_item(split, most=0)
