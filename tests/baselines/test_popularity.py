"""Popularity, of all events and of the session, against counts by a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from jaxrec.baselines import popularity, session_popularity
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS


def clicks_of(rows: list[list[int]]) -> list[int]:
    return [item for row in rows for item in row]


def test_popularity_counts_training_clicks() -> None:
    data = small.session_data()
    clicks = clicks_of(small.training_rows(data.split.training_events()))
    found = small.scores(popularity(data), small.session_queries(data), data.columns)
    for row in found:
        assert row.tolist() == [clicks.count(item) for item in range(1, NUM_ITEMS + 1)]


def test_popularity_counts_training_events_and_none_of_later_ones() -> None:
    data = small.sequence_data()
    (found,) = small.scores_after(popularity(data), [[1]])
    clicks = clicks_of([[1, 2], [2, 3, 4], [6], [1, 2, 4], [3, 1]])
    assert found.tolist() == [clicks.count(item) for item in range(1, NUM_ITEMS + 1)]


def test_session_popularity_counts_the_session_then_all_clicks() -> None:
    data = small.session_data()
    clicks = clicks_of(small.training_rows(data.split.training_events()))
    rows = small.scores(session_popularity(data), small.session_queries(data), data.columns)
    for (prefix, _), found in zip(small.TEST, rows, strict=True):
        check_order(found, prefix, clicks)


def check_order(found: np.ndarray, history: list[int], clicks: list[int]) -> None:
    """Items in the order of their clicks in the history, then of all clicks; equal where both are."""
    keys = [(history.count(i), clicks.count(i)) for i in range(1, NUM_ITEMS + 1)]
    for a in range(NUM_ITEMS):
        for b in range(NUM_ITEMS):
            assert (found[a] > found[b]) == (keys[a] > keys[b])


@settings(max_examples=60, deadline=None)
@given(small.GROUPS, small.HISTORIES)
def test_the_order_is_that_of_the_history_then_of_all_events(
    rows: list[list[int]], histories: list[list[int]]
) -> None:
    found = small.scores_after(session_popularity(small.events_of(rows)), histories)
    for history, row in zip(histories, found, strict=True):
        check_order(row, history, clicks_of(rows))


def test_popularity_tells_neighbours_apart_beside_many_clicks() -> None:
    """300 items with 1, 2, ... 300 events: their order stays, also where the session has clicks of each."""
    events = small.events_of([[item] * item for item in range(1, 301)], num_items=300)
    queries, context = small.histories([list(range(1, 301)) * 3])
    (found,) = small.scores(session_popularity(events), queries, context)
    assert (np.diff(found) > 0).all() and (np.floor(found) == 3).all()


def test_padding_gains_nothing_by_short_histories() -> None:
    """Column 0, a candidate where the rule for seen items is "zero", has no clicks."""
    baseline = session_popularity(small.events_of([[1, 2]]))
    queries, context = small.histories([[1, 2, 3], [1]])
    assert small.scores(baseline, queries, context, padding=True)[:, 0].tolist() == [0, 0]


def test_a_length_past_all_events_ends() -> None:
    """Such a query is an error of the ranking; until it is found, no loop of 2^31 steps is run."""
    baseline = session_popularity(small.events_of([[1, 2]]))
    queries, context = small.histories([[1, 2, 3], [1]])
    queries["length"][1] = np.iinfo(np.int32).max
    assert small.scores(baseline, queries, context)[0].tolist()[:3] > [1, 1, 0.9]
