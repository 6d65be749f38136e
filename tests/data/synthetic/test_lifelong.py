"""Lifelong histories: what decides a click, where it stands, and what the last events do not tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.data.synthetic.lifelong import Lifelong, lifelong

RECENT, CATEGORIES, RELEVANT = 20, 6, 3
SIZES: dict[str, Any] = {
    "min_length": 40,
    "max_length": 90,
    "num_categories": CATEGORIES,
    "relevant": RELEVANT,
    "recent": RECENT,
    "items_per_style": 2,
}


@pytest.fixture(scope="module")
def made() -> Lifelong:
    return lifelong(600, noise=0.1, **SIZES)


def majority(made: Lifelong, rows: np.ndarray, last: int) -> np.ndarray:
    """Liked minus disliked events of the target's category among the last `last` of the history, [rows]."""
    clicks, items = made.clicks, made.clicks.side_info.items
    scores = []
    for m in rows:
        history = clicks.events[clicks.start[m] : clicks.end[m]][-last:]
        same = items["category"][history] == items["category"][clicks.item[m]]
        alike = items["style"][history] == items["style"][clicks.item[m]]
        scores.append((same & alike).sum() - (same & ~alike).sum())
    return np.array(scores)


def test_the_majority_of_the_targets_category_is_best_and_the_last_events_tell_nothing(
    made: Lifelong,
) -> None:
    rows = made.clicks.train[::3]
    click = made.clicks.click[rows]
    area = {last: float(metrics.auc(majority(made, rows, last), click)) for last in (10**6, RECENT, 7)}
    spread = 0.5 / np.sqrt(len(rows))  # of a share of at most ½ · ½
    assert made.best_auc == pytest.approx(0.9)
    assert abs(area[10**6] - made.best_auc) < 5 * spread
    assert all(abs(area[last] - 0.5) < 5 * spread for last in (RECENT, 7))


def test_a_click_is_a_liked_style_but_for_the_noise(made: Lifelong) -> None:
    clicks, items = made.clicks, made.clicks.side_info.items
    liked = made.taste[clicks.user, items["category"][clicks.item]] == items["style"][clicks.item]
    wrong = (liked != clicks.click).mean()
    assert abs(wrong - 0.1) < 5 * np.sqrt(0.1 * 0.9 / len(liked))
    quiet = lifelong(10, noise=0.0, **SIZES)
    liked = quiet.taste[quiet.clicks.user, items_of(quiet, "category")] == items_of(quiet, "style")
    np.testing.assert_array_equal(quiet.clicks.click, liked)
    assert quiet.best_auc == 1.0


def items_of(made: Lifelong, name: str) -> np.ndarray:
    return made.clicks.side_info.items[name][made.clicks.item]


def test_planted_events_show_each_taste_and_stand_before_the_recent_ones(made: Lifelong) -> None:
    clicks, items = made.clicks, made.clicks.side_info.items
    lengths = set()
    for user in range(1, clicks.num_users + 1):
        row = np.flatnonzero(clicks.user == user)[0]
        span = slice(clicks.start[row], clicks.end[row])
        events, planted = clicks.events[span], made.planted[span]
        category, style = items["category"][events], items["style"][events]
        lengths.add(len(events))
        counts = np.bincount(category[planted], minlength=CATEGORIES + 1)
        assert counts.tolist() == [0, *[RELEVANT] * CATEGORIES]
        np.testing.assert_array_equal(style[planted], made.taste[user, category[planted]])
        assert not planted[-RECENT:].any()
        assert (category[:-RECENT][~planted[:-RECENT]] > CATEGORIES).all()  # never asked for
        assert (category[-RECENT:] <= CATEGORIES).all()
        either = [np.bincount(category[-RECENT:][style[-RECENT:] == s], minlength=9) for s in (1, 2)]
        np.testing.assert_array_equal(*either)
    assert (items["category"][clicks.item] <= CATEGORIES).all()
    assert min(lengths) == 40
    assert max(lengths) == 90


def test_users_do_not_overlap_and_ids_tell_nothing(made: Lifelong) -> None:
    clicks = made.clicks
    users = [set(clicks.user[rows].tolist()) for rows in (clicks.train, clicks.validation, clicks.test)]
    assert [len(part) for part in users] == [480, 60, 60]
    assert len(set.union(*users)) == 600
    assert clicks.num_items == 2 * CATEGORIES * 2 * 2
    category = clicks.side_info.items["category"][1:]
    assert np.bincount(category)[1:].tolist() == [4] * 2 * CATEGORIES
    assert (np.diff(category) < 0).any()


def test_the_same_seed_gives_the_same_events() -> None:
    first, again, other = (lifelong(10, seed=seed, **SIZES) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.clicks.events, again.clicks.events)
    assert (
        len(first.clicks.events) != len(other.clicks.events)
        or (first.clicks.events != other.clicks.events).any()
    )


def test_histories_of_54_000_events() -> None:
    made = lifelong(10, **SIZES | {"min_length": 54_000, "max_length": 54_000})
    assert (made.clicks.end - made.clicks.start == 54_000).all()
    assert made.planted.sum() == 10 * CATEGORIES * RELEVANT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 9}, "num_users=9: must be at least 10"),
        ({"num_categories": 0}, "num_categories=0"),
        ({"relevant": 0}, "relevant=0"),
        ({"asked": 0}, "asked=0"),
        ({"items_per_style": 0}, "items_per_style=0"),
        ({"recent": 7}, "recent=7: must be even"),
        ({"recent": -2}, "recent=-2"),
        ({"noise": 0.5}, "noise=0.5"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"min_length": 37}, "min_length=37, max_length=90: must be in this order, from 38 on"),
        ({"max_length": 39}, "min_length=40, max_length=39"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lifelong(**{"num_users": 10, **SIZES, **change})
