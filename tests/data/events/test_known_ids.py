"""Events of new days numbered behind the ids of an earlier data set."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.known_ids import with_known_ids

USERS, ITEMS = ["u", "new", "w", "u"], ["x", "b", "y", "a"]


def events() -> Interactions:
    return Interactions.from_raw("days", USERS, ITEMS, value=np.arange(4, dtype=np.float32))


def test_known_ids_stay_and_the_events_are_the_same() -> None:
    found = with_known_ids(events(), item=np.array(["a", "b", "c"]), user=np.array(["w", "gone", "u"]))
    assert found.item_ids.tolist() == ["a", "b", "c", "x", "y"]  # c has no event here and stays
    assert found.user_ids.tolist() == ["w", "u", "new"]  # users have events
    assert found.item_ids[found.item - 1].tolist() == ITEMS
    assert found.user_ids[found.user - 1].tolist() == USERS
    assert found.value is not None and found.value.tolist() == [0, 1, 2, 3]
    sequences = found.to_sequences()
    assert sequences.num_items == 5 and sequences.user_items(1).tolist() == [4, 1]


def test_users_keep_their_numbers_where_none_are_known() -> None:
    found = with_known_ids(events(), item=np.array(["a"]))
    assert found.user_ids.tolist() == ["u", "new", "w"] and found.item_ids.tolist() == ["a", "x", "b", "y"]


def test_a_core_of_them_keeps_the_ids_of_items() -> None:
    found = with_known_ids(events(), item=np.array(["a", "b", "c"])).k_core(2, item_k=1)
    assert found.item_ids.tolist() == ["a", "b", "c", "x", "y"] and found.user_ids.tolist() == ["u"]


def test_ids_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="days: item: raw ids of type <U1 given, the vocabulary holds int64"):
        with_known_ids(events(), item=np.array([1, 2]))
