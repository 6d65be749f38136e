"""Columns of factors and content: by their formulas, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.factor_columns import best_items, check_content, factor_columns
from jaxrec.data.events.training_events import TrainingEvents

# Users 0, 1 and 3 have training events, items 1 to 4 too; user 2 and items 5 and 6 are new.
EVENTS = TrainingEvents(np.array([0, 0, 1, 1, 3]), np.array([1, 2, 2, 3, 4]), 6)
SIZES = {"num_users": 4}


def factors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    users, items = rng.normal(1, 2, (5, 3)), rng.normal(-1, 3, (7, 3))
    users[[0, 3]], items[[0, 5, 6]] = 0, 0
    return users.astype(np.float32), items.astype(np.float32)


def test_factors_are_standardised_among_those_who_have_events() -> None:
    users, items = factors()
    found = factor_columns(users, items, EVENTS, **SIZES)
    known = users[[1, 2, 4]]
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    np.testing.assert_allclose(found["user_factors"][[1, 2, 4]], (known - mean) / deviation, rtol=1e-5)
    of_items = items[[2, 3]].mean(axis=0)  # of user 1
    np.testing.assert_allclose(
        found["user_means"][2], np.clip((of_items - mean) / deviation, -5, 5), rtol=1e-4
    )
    like, mean = items[1:5].std(axis=0), items[1:5].mean(axis=0)
    of_users = users[[1, 2]].mean(axis=0)  # of item 2
    np.testing.assert_allclose(found["item_means"][2], np.clip((of_users - mean) / like, -5, 5), rtol=1e-4)
    for name in ("user_factors", "user_means"):
        assert not found[name][[0, 3]].any()
    for name in ("item_factors", "item_means", "item_teacher"):
        assert not found[name][[0, 5, 6]].any()
    assert found["warm_items"].tolist() == [1, 2, 3, 4]
    assert found["item_count"].tolist() == [0, 1, 2, 1, 1, 0, 0]
    assert all(column.dtype in (np.float32, np.int32) for column in found.values())
    short = factor_columns(users[:5], items, EVENTS, num_users=6)
    assert short["user_factors"].shape == (7, 3) and not short["user_factors"][5:].any()


def test_a_repeated_event_counts_once_in_means() -> None:
    twice = TrainingEvents(np.array([0, 0, 0, 1, 1, 3]), np.array([1, 2, 1, 2, 3, 4]), 6)
    once, found = (factor_columns(*factors(), events, **SIZES) for events in (EVENTS, twice))
    for name in ("user_means", "item_means"):
        np.testing.assert_array_equal(found[name], once[name])
    assert found["item_count"].tolist() == [0, 2, 2, 1, 1, 0, 0]


def test_best_items_have_the_largest_products() -> None:
    users, items = factors()
    found = factor_columns(users, items, EVENTS, **SIZES)
    best = best_items(found, 2)
    for user in range(4):
        order = 1 + np.argsort(-(users[user + 1] @ items[1:5].T), kind="stable")
        if users[user + 1].any():
            assert set(best[user]) == set(order[:2])
    assert best_items(found, 99).shape == (4, 4)
    with pytest.raises(ValueError, match="number=0"):
        best_items(found, 0)


def test_an_item_without_events_and_content_is_refused_or_kept() -> None:
    content = np.ones((7, 2), np.float32)
    content[[0, 3]] = 0  # item 3 has events, so it needs none
    factor_columns(*factors(), EVENTS, **SIZES, item_content=content)
    content[6] = 0
    with pytest.raises(ValueError, match=r"item 6 has neither training events nor content \(1 such"):
        factor_columns(*factors(), EVENTS, **SIZES, item_content=content)
    kept = factor_columns(*factors(), EVENTS, **SIZES, item_content=content, empty="keep")
    np.testing.assert_array_equal(kept["item_content"], content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": (5, 1.0)}, "items: row 5 has no training event but factors that are not 0"),
        ({"users": (3, 1.0)}, "users: row 3 has no training event"),
        ({"items": (2, np.nan)}, "items: factors are not finite"),
        ({"users": (0, 1.0)}, "users: row 0 is padding"),
        ({"item_content": np.ones((6, 2))}, r"item_content: shape \(6, 2\): must be \[7, width\]"),
        ({"item_content": np.ones(7)}, r"item_content: shape \(7,\)"),
        ({"item_content": np.full((7, 2), np.inf)}, "item_content: row 0 has an entry that is not finite"),
        ({"item_content": np.full((7, 2), 1e300)}, "item_content: row 0 has an entry that is not finite"),
        ({"user_content": np.ones((4, 2))}, r"user_content: shape \(4, 2\): must be \[5"),
        ({"num_users": 3}, r"users \(5, 3\), items \(7, 3\): must be \[4"),
    ],
)
def test_other_columns_are_refused(change: dict[str, Any], message: str) -> None:
    users, items = factors()
    tables = {"users": users, "items": items}
    options: dict[str, Any] = dict(SIZES)
    for name, value in change.items():
        if name in tables:
            tables[name][value[0]] = value[1]
        else:
            options[name] = value
    with pytest.raises(ValueError, match=message):
        factor_columns(users, items, EVENTS, **options)


def test_content_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"content: shape \(3, 2\): must be \[3, 4\]"):
        check_content("content", np.ones((3, 2)), 3, 4)
