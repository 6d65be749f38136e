"""Windows that hold the target of every query, against loops over users and events."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.data.events.batching import event_windows
from jaxrec.data.events.split import Queries

WIDTH, FRESH = 6, 4


def queries_of(asked: dict[int, list[int]], order: np.ndarray | None = None) -> Queries:
    """Queries for the events of `asked`, by user, in a shuffled order."""
    pairs = np.array([(user, event) for user, events in asked.items() for event in events], np.int32)
    pairs = pairs if order is None else pairs[order]
    return Queries(pairs[:, 0], pairs[:, 1], np.ones(len(pairs), np.int32))


def random_queries(seed: int) -> Queries:
    """Some users with several asked events, not all of them in a row."""
    rng = np.random.default_rng(seed)
    asked = {
        user: sorted(rng.choice(30, rng.integers(1, 20), replace=False).tolist())
        for user in rng.choice(9, 5, replace=False).tolist()
    }
    count = sum(map(len, asked.values()))
    return queries_of(asked, rng.permutation(count))


@pytest.mark.parametrize("seed", range(6))
def test_every_query_stands_in_one_window_in_the_slot_of_its_target(seed: int) -> None:
    queries = random_queries(seed)
    found = event_windows(queries, WIDTH, stride=FRESH, batch_size=3, multiple=2)
    flat = {name: column.reshape(-1, *column.shape[2:]) for name, column in found.items()}
    assert found["mask"].shape[0] % 2 == 0 and found["mask"].shape[1] == 3
    assert (flat["query"][~flat["mask"]] == -1).all()
    seen = []
    for user, end, row in zip(flat["user"], flat["end"], flat["query"], strict=True):
        for slot in np.flatnonzero(row >= 0):
            number = int(row[slot])
            seen.append(number)
            assert queries.user[number] == user
            assert queries.length[number] == end - WIDTH + slot
            assert slot >= WIDTH - FRESH  # so many earlier events are read, where there are any
    assert sorted(seen) == list(range(len(queries.user)))


def test_a_run_of_events_takes_as_few_windows_as_it_can() -> None:
    found = event_windows(queries_of({2: list(range(3, 13))}), WIDTH, stride=FRESH, batch_size=3)
    assert found["end"][found["mask"]].tolist() == [7, 11, 13]
    assert found["user"][found["mask"]].tolist() == [2, 2, 2]


def test_what_has_no_meaning_is_refused() -> None:
    one, none = queries_of({0: [1]}), Queries(*(np.zeros(0, np.int32) for _ in range(3)))
    for fresh in (0, WIDTH + 1):
        with pytest.raises(ValueError, match=f"stride={fresh}: must lie in 1..6"):
            event_windows(one, WIDTH, stride=fresh, batch_size=1)
    with pytest.raises(ValueError, match="no query"):
        event_windows(none, WIDTH, stride=1, batch_size=1)
    with pytest.raises(ValueError, match="event 4 of user 3 is the target of two queries"):
        event_windows(queries_of({3: [2, 4, 4]}), WIDTH, stride=1, batch_size=1)
