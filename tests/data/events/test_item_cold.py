"""Matrices divided by items: no cold item in training, one training part for all questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.item_cold import (
    COLD,
    COLD_TEST,
    COLD_VALIDATION,
    ItemCold,
    build,
    divide_items,
    from_split,
)
from jaxrec.data.synthetic.tastes import group_tastes


def pairs_of(split: HeldOut, part: str) -> set[tuple[Any, int]]:
    sequences = split.sequences
    if part == "training":
        events = split.training_events()
        return set(zip(sequences.user_ids[events.group].tolist(), events.item.tolist(), strict=True))
    sets = getattr(split, part)
    relevant, offsets = split.relevant(sets)
    user = np.repeat(sets.user, np.diff(offsets))
    return set(zip(sequences.user_ids[user].tolist(), relevant.tolist(), strict=True))


def check(found: ItemCold, everything: set[tuple[Any, int]]) -> None:
    training = pairs_of(found.cold, "training")
    items = {item for _, item in training}
    cold = [pairs_of(found.validation, "validation"), pairs_of(found.cold, "test")]
    assert not items & {item for part in cold for _, item in part}
    assert np.flatnonzero(found.is_warm).tolist() == sorted(items)
    assert not (found.is_warm & found.sets[COLD]).any()
    assert not (found.sets[COLD_VALIDATION] & found.sets[COLD_TEST]).any()
    for part, name in zip(cold, (COLD_VALIDATION, COLD_TEST), strict=True):
        assert {item for _, item in part} <= set(np.flatnonzero(found.sets[name]).tolist())
    warm = set() if found.warm is None else pairs_of(found.warm, "test")
    assert {item for _, item in warm} <= items
    assert pairs_of(found.both, "test") == cold[1] | warm
    parts = [training, *cold, warm]
    users = {user for user, _ in training | warm}
    assert set.union(*parts) == {pair for pair in everything if pair[0] in users}
    assert sum(map(len, parts)) == len(set.union(*parts))
    for one in (found.validation, found.cold, found.both):
        np.testing.assert_array_equal(one.sequences.user_ids, found.cold.sequences.user_ids)
        assert pairs_of(one, "training") == training
        for sets in (one.validation, one.test):  # the input of a query is what training has
            np.testing.assert_array_equal(sets.length, one.train_length[sets.user])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), warm=st.sampled_from([0.0, 0.1, 0.6]))
def test_any_matrix_is_divided_by_items(seed: int, warm: float) -> None:
    rng = np.random.default_rng(seed)
    lists = [rng.choice(20, rng.integers(1, 9)).tolist() for _ in range(15)]
    sequences = Sequences.from_lists("made", [[i + 1 for i in row] for row in lists], num_items=20)
    everything = {(user + 1, item + 1) for user, row in enumerate(lists) for item in row}
    check(divide_items(sequences, validation=0.2, test=0.2, warm=warm, seed=seed), everything)


def test_a_division_of_a_data_set_is_kept_and_its_warm_items_can_be_taken_out() -> None:
    sequences = group_tastes(60)
    first = divide_items(sequences, warm=0.0)
    both = {
        "validation": first.validation.sequences, "test": first.cold.sequences,
    }  # fmt: skip
    assert first.warm is None and first.both is first.cold
    training = first.cold.training_events()
    user, item = training.group, training.item
    parts = [(user, item)]
    for name, split in (("validation", first.validation), ("test", first.cold)):
        sets = getattr(split, name)
        relevant, offsets = split.relevant(sets)
        parts.append((np.repeat(sets.user, np.diff(offsets)), relevant))
        assert both[name].num_users == len(first.cold.sequences.user_ids)
    from jaxrec.data.events.held_out import from_parts

    ids = np.asarray(first.cold.sequences.user_ids)
    whole = from_parts(
        "made", tuple(parts), num_items=72, rule="by hand", user_ids=ids, item_ids=np.arange(72)
    )
    everything = {(ids[u], i) for users, items in parts for u, i in zip(users, items.tolist(), strict=True)}
    again = from_split(whole, warm=0.2, seed=3)
    check(again, everything)
    assert again.warm is not None
    np.testing.assert_array_equal(again.sets[COLD_TEST], first.sets[COLD_TEST])
    taken = again.warm.test.number.sum() / len(user)
    assert 0.15 < taken < 0.25
    assert "20% of each user's training items" in again.both.rule


U = np.arange(3)
TRAINING = (np.array([0, 0, 1]), np.array([1, 2, 2]))


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ((TRAINING, (U[:1], U[:1] + 3), (U[:1], U[:1] + 2)), {}, "cold item b of test has training"),
        ((TRAINING, (U[:1], U[:1] + 1), (U[:1], U[:1] + 3)), {}, "cold item a of validation has training"),
        (
            (TRAINING, (U[:1], U[:1] + 3), (U[1:2], U[:1] + 3)),
            {},
            "item c is a cold item of validation and of",
        ),
        ((TRAINING, (U[:0], U[:0]), (U[:1], U[:1] + 3)), {}, "no cold item of validation"),
        ((TRAINING, (U[:1], U[:1] + 3), (U[:0], U[:0])), {}, "no cold item of test"),
        ((TRAINING, (U[:1], U[:1] + 3), (U[:1], U[:1] + 4)), {"warm": 1.0}, "warm=1.0"),
    ],
)
def test_what_is_no_division_by_items_is_refused(parts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(
            "made", parts, num_items=4, rule="by hand", user_ids=U, item_ids=np.array(list("abcd")), **options
        )


@pytest.mark.parametrize("shares", [{"validation": 0.0}, {"test": 1.0}, {"validation": 0.5, "test": 0.5}])
def test_shares_that_leave_nothing_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares must be above 0"):
        divide_items(group_tastes(30), **shares)  # type: ignore[arg-type]
