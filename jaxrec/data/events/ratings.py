"""Explicit ratings: who rated what how, divided at random among training, validation and test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Interactions


class Ratings(NamedTuple):
    """N ratings. user: 1..num_users, item: 1..num_items, int32 [N]; value: float32 [N]."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    num_users: int
    num_items: int


class RatingSplit(NamedTuple):
    """Ratings in three parts, and how they were divided, for a Protocol. interactions: all of them."""

    interactions: Interactions
    train: Ratings
    validation: Ratings
    test: Ratings
    rule: str


def split_ratings(
    interactions: Interactions, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> RatingSplit:
    """Takes shares of all ratings at random.

    Users and items of the other parts may have no rating of training.

    Raises:
      ValueError: the interactions have no values, a user has two of one item, or shares are outside 0..1,
        together 1 or more, or leave a part empty.
    """
    name = interactions.name
    if interactions.value is None:
        raise ValueError(f"{name}: has no values; name the column of ratings")
    for share_name, share in (("validation", validation), ("test", test)):
        if not 0 < share < 1 or validation + test >= 1:
            raise ValueError(f"{share_name}={share}: shares must be above 0, and below 1 together")
    pair = interactions.user * np.int64(interactions.num_items + 1) + interactions.item
    _, first, count = np.unique(pair, return_index=True, return_counts=True)
    if (count > 1).any():
        at = int(first[count.argmax()])
        raise ValueError(
            f"{name}: user {interactions.user_ids[interactions.user[at] - 1]} rates item "
            f"{interactions.item_ids[interactions.item[at] - 1]} {count.max()} times ({(count > 1).sum():,} "
            "such pairs), which might be in two parts; keep one rating of each"
        )
    size = len(pair)
    numbers = [round(share * size) for share in (test, validation)]
    if min(*numbers, size - sum(numbers)) < 1:
        raise ValueError(f"{name}: {size:,} ratings, of which a part would be empty; take other shares")
    order = np.random.default_rng(seed).permutation(size)
    values = interactions.value

    def part(chosen: np.ndarray) -> Ratings:
        chosen = np.sort(chosen)
        user, item = interactions.user[chosen], interactions.item[chosen]
        return Ratings(user, item, values[chosen], interactions.num_users, interactions.num_items)

    tested, validated, trained = np.split(order, np.cumsum(numbers))
    rule = f"{validation:.0%} and {test:.0%} of the ratings, at random (seed {seed}), for validation and test"
    return RatingSplit(interactions, part(trained), part(validated), part(tested), rule)
