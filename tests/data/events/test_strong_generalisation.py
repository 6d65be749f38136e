"""Held-out users: what training may read, what a query has, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.strong_generalisation import hold_out_users, keep_rated


def lists(num_users: int = 30, num_items: int = 12) -> list[list[int]]:
    """Users of 3 to 12 different items; item 12 is in one alone."""
    rng = np.random.default_rng(0)
    found = [rng.permutation(num_items - 1)[: rng.integers(3, num_items)] + 1 for _ in range(num_users)]
    return [[*items.tolist(), *([num_items] if user == 7 else [])] for user, items in enumerate(found)]


SEQUENCES = Sequences.from_lists("small", lists())


def split(seed: int = 0, **options: object) -> HeldOut:
    return hold_out_users(SEQUENCES, **{"validation_users": 4, "test_users": 5, "seed": seed, **options})  # type: ignore[arg-type]


def raw_items(found: HeldOut, user: int) -> list[int]:
    """Raw ids of the items of a user of the split."""
    return np.asarray(found.sequences.item_ids)[found.sequences.user_items(user) - 1].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_user_is_in_one_part_with_all_items_that_training_has(seed: int) -> None:
    found = split(seed)
    raw = [int(user) - 1 for user in found.sequences.user_ids]
    held = set(found.validation.user.tolist()) | set(found.test.user.tolist())
    assert len(held) == len(found.validation.user) + len(found.test.user)
    assert {u for u in range(found.sequences.num_users) if found.train_length[u] == 0} == held
    trained = {
        item for u in range(found.sequences.num_users) if u not in held for item in raw_items(found, u)
    }
    assert trained == set(np.asarray(found.sequences.item_ids).tolist())  # numbered without the others
    for u in range(found.sequences.num_users):
        items, original = raw_items(found, u), lists()[raw[u]]
        if u in held:
            assert sorted(items) == sorted(set(original) & trained) and len(items) >= 5
        else:
            assert items == original and found.train_length[u] == len(items)
    assert set(found.training_events().group.tolist()) == set(range(found.sequences.num_users)) - held


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_share_rounded_down_is_relevant_and_the_rest_is_input(share: float) -> None:
    found = split(share=share)
    for sets in (found.validation, found.test):
        count = found.sequences.lengths[sets.user]
        np.testing.assert_array_equal(sets.number, [int(share * n + 1e-9) for n in count])
        np.testing.assert_array_equal(sets.length, count - sets.number)


def test_fifteen_items_at_a_fifth_are_three() -> None:
    """0.2 · 15 is 3.0000000000000004 and 0.1 · 30 may be 2.9999: neither loses an item."""
    many = Sequences.from_lists("many", [list(range(1, 31))] * 3)
    for n, share in ((30, 0.1), (30, 0.2), (30, 0.7)):
        found = hold_out_users(many, validation_users=0, test_users=1, share=share, least=10)
        assert found.test.number.tolist() == [round(share * n)]
        assert not len(found.validation.user)


def test_a_seed_is_a_split() -> None:
    """The same again; others hold out others, and other items of the same user."""
    first, again, other = split(0), split(0), split(1)
    np.testing.assert_array_equal(first.sequences.items, again.sequences.items)
    assert first.rule == again.rule
    ids = [set(np.asarray(s.sequences.user_ids)[s.test.user].tolist()) for s in (first, other)]
    assert ids[0] != ids[1]


def test_what_is_relevant_is_random() -> None:
    """Each of ten items is relevant about as often: 200 users, 2 of 10 each."""
    many = Sequences.from_lists("many", [list(range(1, 11))] * 201)
    found = hold_out_users(many, validation_users=0, test_users=200)
    relevant, _ = found.relevant(found.test)
    count = np.bincount(relevant, minlength=11)[1:]
    assert count.sum() == 400 and count.min() > 20 and count.max() < 60


def test_items_without_training_and_users_of_too_few_others_are_counted() -> None:
    """One of the two users with items of their own is held out; its others are too few."""
    rows = [[1, 2, 3, 4, 5]] * 6 + [[1, 2, 6, 7, 8]]
    sequences = Sequences.from_lists("own", rows)
    for seed in range(20):
        found = hold_out_users(sequences, validation_users=0, test_users=3, seed=seed)
        if 7 not in found.sequences.user_ids:
            assert found.sequences.num_items == 5 and len(found.test.user) == 2
            assert "3 interactions with items that no user of training has, 1 held-out users" in found.rule
            return
        assert "left out: 0 interactions" in found.rule
    pytest.fail("no seed held the user out")


def test_users_of_few_items_stay_in_training() -> None:
    found = split(least=6)
    short = [u for u in range(found.sequences.num_users) if found.sequences.lengths[u] < 6]
    assert short and (found.train_length[short] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_users": -1}, "validation_users=-1"),
        ({"test_users": 0}, "test_users=0"),
        ({"share": 0.0}, r"share=0\.0"),
        ({"share": 0.1}, r"share=0\.1 of least=5"),
        ({"share": 0.9, "least": 1}, r"share=0\.9 of least=1"),
        ({"test_users": 26}, "30 users are to be held out of 30"),
        ({"least": 13}, "of whom 0 have 13 items"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(**options)


def test_a_repeated_item_is_refused() -> None:
    sequences = Sequences.from_lists("twice", [[1, 2, 3, 4, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="drop the repeats"):
        hold_out_users(sequences, validation_users=0, test_users=1)


def test_held_out_users_with_nothing_in_common_with_training_are_refused() -> None:
    sequences = Sequences.from_lists("apart", [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    with pytest.raises(ValueError, match="no held-out user has 5 items"):
        hold_out_users(sequences, validation_users=0, test_users=1)


def test_ratings_of_at_least_four_of_users_who_have_enough() -> None:
    rated = Interactions.from_raw(
        "rated",
        ["a", "a", "b", "b", "c"],
        [5, 6, 5, 7, 8],
        time=np.arange(5),
        value=np.array([4, 5, 4, 3, 1], np.float32),
    )
    found = keep_rated(rated, at_least=4.0, events=2)
    assert np.asarray(found.user_ids).tolist() == ["a"] and np.asarray(found.item_ids).tolist() == [5, 6]
    assert found.value is not None and found.value.tolist() == [4.0, 5.0]
    assert np.asarray(keep_rated(rated, at_least=4.0).user_ids).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="no value is at least 6"):
        keep_rated(rated, at_least=6)
    with pytest.raises(ValueError, match="has no values"):
        keep_rated(Interactions.from_raw("bare", ["a"], [1]), at_least=4)
