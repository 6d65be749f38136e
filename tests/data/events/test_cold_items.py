"""Cold items: what belongs to the source task, what to the target task, and that nothing leaks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxrec.data.events.cold_items import (
    ColdItems,
    hold_out_items,
    hold_out_last_clicks,
    split_examples,
)
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.synthetic.grouped_sessions import grouped_sessions

SESSIONS = [
    [1, 2, 3],  # warm
    [1, 9, 2, 9],  # leads to 9
    [8, 1, 2],  # begins with a cold item, so nothing precedes it
    [4, 4, 8, 9, 1],  # leads to 8; what follows is not used
    [5],  # warm, but nothing to predict
    [6, 7],  # warm
    [3, 2, 8],  # leads to 8
]


def divided(sessions: list[list[int]] = SESSIONS, cold: tuple[int, ...] = (8, 9)) -> ColdItems:
    """The sessions divided by these items, the only ones within the limits: each has 20 more clicks."""
    more = [[item] for item in cold for _ in range(20)]
    return hold_out_items(
        Sequences.from_lists("made", sessions + more),
        num_cold=len(cold),
        min_clicks=20,
        max_clicks=99,
        seed=0,
    )


def lists_of(items: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> list[list[int]]:
    return [ids[items[a:b] - 1].tolist() for a, b in itertools.pairwise(offsets)]


def test_sessions_without_a_cold_item_are_the_source() -> None:
    found = divided()
    source = found.source
    assert lists_of(source.items, source.offsets, source.item_ids) == [[1, 2, 3], [6, 7]]
    assert source.user_ids.tolist() == [1, 6]
    assert source.item_ids.tolist() == [1, 2, 3, 4, 5, 6, 7] and source.num_items == 7


def test_clicks_before_the_first_cold_one_are_an_example() -> None:
    found = divided()
    assert lists_of(found.items, found.offsets, found.source.item_ids) == [[1], [4, 4], [3, 2]]
    assert found.cold_ids[found.label - 1].tolist() == [9, 8, 8]
    assert found.session.tolist() == [1, 3, 6]
    assert found.items.dtype == found.label.dtype == np.int32


def test_parts_of_a_log_share_no_session_and_no_cold_item() -> None:
    log = grouped_sessions(300, seed=1)
    found = hold_out_items(log, num_cold=8, min_clicks=1, max_clicks=999, seed=2)
    cold = set(found.cold_ids.tolist())
    assert len(cold) == 8
    source = {int(user) - 1 for user in found.source.user_ids}
    assert not source & set(found.session.tolist())
    for row in range(log.num_users):
        session = log.user_items(row).tolist()
        assert (row in source) == (not cold & set(session) and len(session) > 1)
        assert (row in found.session) == (bool(cold & set(session)) and session[0] not in cold)


def test_only_items_within_the_limits_are_held_out() -> None:
    log = grouped_sessions(300)
    clicks = np.bincount(log.items)
    least, most = np.quantile(clicks[1:], (0.3, 0.7)).astype(int)
    drawn = [
        hold_out_items(log, num_cold=5, min_clicks=least, max_clicks=most, seed=seed).cold_ids
        for seed in (0, 0, 1)
    ]
    for cold in drawn:
        assert ((clicks[cold] >= least) & (clicks[cold] <= most)).all() and len(set(cold)) == 5
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_cold": 1}, "num_cold=1"),
        ({"min_clicks": 0}, "min_clicks=0"),
        ({"max_clicks": 3, "min_clicks": 4}, "max_clicks=3"),
        ({"num_cold": 61}, "60 items have 1..999 clicks"),
        ({"num_cold": 60}, "0 sessions without a cold item"),
    ],
)
def test_what_cannot_be_held_out_is_refused(change: dict[str, int], message: str) -> None:
    settings = {"num_cold": 5, "min_clicks": 1, "max_clicks": 999, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        hold_out_items(grouped_sessions(), **settings)


def test_examples_are_in_one_part_and_more_labels_hold_fewer() -> None:
    few = split_examples(100, train=20, validation=10, test=30, seed=3)
    many = split_examples(100, train=60, validation=10, test=30, seed=3)
    assert [len(part) for part in many] == [60, 10, 30]
    assert sorted(np.concatenate(many).tolist()) == list(range(100))
    assert set(few.train) < set(many.train)
    assert np.array_equal(few.validation, many.validation) and np.array_equal(few.test, many.test)


@pytest.mark.parametrize(("train", "message"), [(61, "at most 60 remain"), (0, "needs an example")])
def test_parts_that_cannot_be_drawn_are_refused(train: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_examples(100, train=train, validation=10, test=30, seed=0)


def test_some_sessions_validate_by_their_last_click_and_train_nothing() -> None:
    log = grouped_sessions(200)
    split = hold_out_last_clicks(log, share=0.1, seed=0)
    held = split.validation.user
    assert len(held) == 20
    assert split.validation.target.tolist() == [log.user_items(row)[-1] for row in held]
    assert (split.train_length[held] == 0).all()
    rest = np.setdiff1d(np.arange(200), held)
    assert (split.train_length[rest] == log.lengths[rest]).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 1.0])
def test_a_share_that_leaves_a_part_empty_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share={share}"):
        hold_out_last_clicks(grouped_sessions(200), share=share, seed=0)
