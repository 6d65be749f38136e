"""Lifelong histories whose clicks a few events of long ago decide: to see what a model finds in them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.click_histories import Clicks, SideInfo
from jaxrec.data.validation import MAX_ITEMS

STYLES = 2


class Lifelong(NamedTuple):
    """Click impressions after long histories, with the answer.

    clicks: items have the columns `category` and `style`. planted: which of `clicks.events` decide, bool [N].
    taste: the style that each user likes in each category, int32 [num_users + 1, num_categories + 1], 0 for
    padding. best_auc: of who knows every taste; nobody can do better on average.
    """

    clicks: Clicks
    planted: np.ndarray
    taste: np.ndarray
    best_auc: float


def lifelong(
    num_users: int = 500,
    *,
    min_length: int = 500,
    max_length: int = 500,
    num_categories: int = 20,
    relevant: int = 4,
    recent: int = 100,
    asked: int = 10,
    items_per_style: int = 5,
    noise: float = 0.05,
    seed: int = 0,
) -> Lifelong:
    """Users who like one of two styles in each category, and showed it long ago.

    A history is, oldest first: an old part, in which `relevant` events of each category have the style that
    the user likes there, at random places among events of as many other categories that are never asked for;
    then `recent` events of the categories that are asked for, as many of either style in each category. After
    all of it the user is asked for items at random; a click says whether the item's style is the one liked in
    its category, and is wrong with probability `noise`.

    So of all events of the target's category the more frequent style is the liked one, which a search by
    category finds in histories of any length. The last `recent` events tell nothing: a model of these alone
    has an area of 0.5. Half of all targets are liked, so who knows every taste has a click rate of 1 - noise
    where he says so and of noise where not: (1 - noise)² of the pairs are in order, 2 noise (1 - noise) tied.

    Args:
      min_length, max_length: events of a history, uniform in between; at least `recent` and what is planted.
      asked: impressions of a user. items_per_style: items of each style in each category.
      recent: an even number. noise: 0 to below 0.5.

    Split 80/10/10 by users.

    Raises:
      ValueError: a setting that means nothing, naming it and its rule.
    """
    counts = {
        "num_users": (num_users, 10),
        "num_categories": (num_categories, 1),
        "relevant": (relevant, 1),
        "recent": (recent, 0),
        "asked": (asked, 1),
        "items_per_style": (items_per_style, 1),
    }
    for name, (count, least) in counts.items():
        if count < least:
            raise ValueError(f"{name}={count}: must be at least {least}")
    if recent % 2:
        raise ValueError(f"recent={recent}: must be even, as many events of either style")
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise={noise}: must lie in 0..0.5, 0.5 left out")
    needed = recent + relevant * num_categories
    if not needed <= min_length <= max_length:
        raise ValueError(
            f"min_length={min_length}, max_length={max_length}: must be in this order, from {needed} on: "
            f"recent + relevant × num_categories events"
        )
    rng = np.random.default_rng(seed)
    category, style, item_of = _catalogue(2 * num_categories, items_per_style, rng)
    lengths = rng.integers(min_length, max_length + 1, num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > MAX_ITEMS:
        raise ValueError(f"{offsets[-1]:,} events: must fit int32; take fewer users or shorter histories")
    taste = np.zeros((num_users + 1, num_categories + 1), np.int32)
    taste[1:, 1:] = rng.integers(1, STYLES + 1, (num_users, num_categories))

    def items(categories: np.ndarray, styles: np.ndarray) -> np.ndarray:
        return item_of[categories, styles, rng.integers(0, items_per_style, categories.shape)]

    events, planted = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], bool)
    showing = np.repeat(np.arange(1, num_categories + 1), relevant)
    for user, (first, last) in enumerate(itertools.pairwise(offsets), 1):
        old = last - first - recent
        other = rng.integers(num_categories + 1, 2 * num_categories + 1, old)
        events[first : first + old] = items(other, rng.integers(1, STYLES + 1, old))
        places = first + rng.choice(old, len(showing), replace=False)
        events[places] = items(showing, taste[user, showing])
        planted[places] = True
        pairs = np.tile(rng.integers(1, num_categories + 1, recent // 2), 2)
        events[last - recent : last] = rng.permutation(items(pairs, np.repeat([1, 2], recent // 2)))

    asking = np.repeat(np.arange(1, num_users + 1), asked)
    wanted = rng.integers(1, num_categories + 1, len(asking))
    shown = rng.integers(1, STYLES + 1, len(asking))
    click = (shown == taste[asking, wanted]) ^ (rng.random(len(asking)) < noise)
    held = max(num_users // 10, 1) * asked  # rows of validation, and of test
    train, validation, test = np.split(np.arange(len(asking)), [len(asking) - 2 * held, len(asking) - held])
    clicks = Clicks(
        f"lifelong-{num_users}x{max_length}",
        events,
        user=asking.astype(np.int32),
        item=items(wanted, shown).astype(np.int32),
        start=offsets[asking - 1].astype(np.int32),
        end=offsets[asking].astype(np.int32),
        click=click.astype(np.float32),
        train=train,
        validation=validation,
        test=test,
        rule="users 80/10/10",
        left_out=0,
        num_users=num_users,
        num_items=len(category) - 1,
        side_info=SideInfo({"category": category, "style": style}, {}),
    )
    return Lifelong(clicks, planted, taste, 1.0 - noise)


def _catalogue(
    num_categories: int, items_per_style: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Category and style of each item, int32 [V + 1], and items by both, int32 [C + 1, 3, items_per_style].

    Ids are in random order, so that they tell nothing.
    """
    shape = (num_categories, STYLES, items_per_style)
    ids = rng.permutation(int(np.prod(shape))).astype(np.int32) + np.int32(1)
    item_of = np.zeros((num_categories + 1, STYLES + 1, items_per_style), np.int32)
    item_of[1:, 1:] = ids.reshape(shape)
    category, style = (np.zeros(len(ids) + 1, np.int32) for _ in range(2))
    of_category, of_style, _ = np.meshgrid(*(np.arange(1, n + 1) for n in shape), indexing="ij")
    category[ids], style[ids] = of_category.reshape(-1), of_style.reshape(-1)
    return category, style, item_of
