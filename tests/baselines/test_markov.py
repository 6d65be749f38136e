"""The Markov chain against counts by a loop."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings

from jaxrec.baselines import markov
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS


def counts_after(history: list[int], rows: list[list[int]]) -> list[int]:
    """How often each item came right after the last one of the history, within a group."""
    pairs = [pair for row in rows for pair in itertools.pairwise(row)]
    return [pairs.count((history[-1], item)) if history else 0 for item in range(1, NUM_ITEMS + 1)]


def test_successors_are_counted_within_sessions() -> None:
    data = small.session_data()
    rows = small.training_rows(data.split.training_events())
    found = small.scores(markov(data), small.session_queries(data), data.columns)
    for (prefix, _), row in zip(small.TEST, found, strict=True):
        assert row.tolist() == counts_after(prefix, rows)


def test_successors_are_counted_within_users_and_before_their_validation_item() -> None:
    data = small.sequence_data()
    rows = small.training_rows(data.split.training_events())
    assert rows[1] == [2, 3, 4]
    found = small.scores_after(markov(data), [[3], [4], [1, 2]])
    assert found.tolist() == [counts_after(history, rows) for history in ([3], [4], [1, 2])]
    assert not found[1].any()  # 5 came after 4 in a validation query alone


@settings(max_examples=60, deadline=None)
@given(small.GROUPS, small.HISTORIES)
def test_the_most_frequent_successors_are_kept(rows: list[list[int]], histories: list[list[int]]) -> None:
    found = small.scores_after(markov(small.events_of(rows), neighbours=2), histories)
    for history, row in zip(histories, found, strict=True):
        counts = counts_after(history, rows)
        kept = sorted(range(NUM_ITEMS), key=lambda i, c=counts: (-c[i], i))[:2]  # type: ignore[misc]
        assert row.tolist() == [count if i in kept else 0 for i, count in enumerate(counts)]


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbours=0: must be at least 1"):
        markov(small.session_data(), neighbours=0)
