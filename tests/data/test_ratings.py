"""Ratings: parts that share none, and what can't be divided."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.ratings import split_ratings

USER, ITEM = (part.reshape(-1) for part in np.meshgrid(np.arange(5), np.arange(8)))
VALUE = (USER + 10 * ITEM).astype(np.float32)
FOUND = Interactions.from_raw("r", USER, ITEM, value=VALUE)


def test_every_rating_is_in_one_part() -> None:
    split = split_ratings(FOUND, validation=0.2, test=0.1, seed=3)
    parts = (split.train, split.validation, split.test)
    assert [len(part.value) for part in parts] == [28, 8, 4]
    values = np.concatenate([part.value for part in parts])
    assert sorted(values) == sorted(VALUE)
    for part in parts:
        raw = FOUND.user_ids[part.user - 1] + 10 * FOUND.item_ids[part.item - 1]
        np.testing.assert_array_equal(raw, part.value)  # a rating stays with its user and item
    again = split_ratings(FOUND, validation=0.2, test=0.1, seed=3)
    np.testing.assert_array_equal(again.test.value, split.test.value)
    other = split_ratings(FOUND, validation=0.2, test=0.1, seed=4)
    assert not np.array_equal(other.test.value, split.test.value)


@pytest.mark.parametrize(
    ("found", "options", "match"),
    [
        (dataclasses.replace(FOUND, value=None), {}, "r: has no values"),
        (FOUND, {"test": 0.0}, "test=0.0: shares must be above 0"),
        (FOUND, {"validation": 0.6, "test": 0.4}, "below 1 together"),
        (FOUND, {"test": 0.001}, "of which a part would be empty"),
        (
            Interactions.from_raw("r", [1, 1, 2], [4, 4, 4], value=VALUE[:3]),
            {},
            "user 1 rates item 4 2 times",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(found: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        split_ratings(found, **options)
