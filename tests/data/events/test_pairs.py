"""The distinct pairs of users and items of training events."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.pairs import pair_columns
from jaxrec.data.events.training_events import TrainingEvents
from tests.tasks import small_pairs
from tests.tasks.small_pairs import NUM_USERS, PAIRS


def test_columns_are_the_distinct_pairs_by_user() -> None:
    found = pair_columns(small_pairs.events(), num_users=NUM_USERS)
    assert list(zip(found["pair_user"].tolist(), found["pair_item"].tolist(), strict=True)) == PAIRS
    for user in range(NUM_USERS):
        start, count = found["pair_start"][user], found["pair_count"][user]
        assert set(found["pair_item"][start : start + count].tolist()) == {i for u, i in PAIRS if u == user}
    assert all(column.dtype == np.int32 for column in found.values())


def test_a_user_beyond_their_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"users 0\.\.5, but num_users=5"):
        pair_columns(small_pairs.events(), num_users=5)
    with pytest.raises(ValueError, match="users -1"):
        pair_columns(TrainingEvents(np.array([-1]), np.array([1]), 2), num_users=5)


def test_a_repeated_event_is_one_pair() -> None:
    found = pair_columns(TrainingEvents(np.array([1, 1, 1, 0]), np.array([2, 3, 2, 2]), 3), num_users=3)
    assert found["pair_user"].tolist() == [0, 1, 1]
    assert found["pair_item"].tolist() == [2, 2, 3]
    assert found["pair_count"].tolist() == [1, 2, 0]
