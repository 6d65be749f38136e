"""Lifelong histories in which a few old events decide the clicks, to test whether a model finds them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.click_histories import Clicks, SideInfo
from jaxrec.data.validation import MAX_ITEMS

STYLES = 2
_LEAST = {  # the least value of each setting
    "num_users": 10,
    "num_categories": 1,
    "relevant": 1,
    "recent": 0,
    "impressions_per_user": 1,
    "items_per_style": 1,
}


class Lifelong(NamedTuple):
    """Click impressions after long histories, with the answer.

    clicks: items have the columns `category` and `style`. planted: which of `clicks.events` show a
    preference, bool [N]. preferences: the style that each user likes in each category, int32
    [num_users + 1, num_categories + 1], 0 for padding. best_auc: AUC of an oracle that knows the true
    preferences; no model can do better on average.
    """

    clicks: Clicks
    planted: np.ndarray
    preferences: np.ndarray
    best_auc: float


def lifelong(
    num_users: int = 500,
    *,
    min_length: int = 500,
    max_length: int = 500,
    num_categories: int = 20,
    relevant: int = 4,
    recent: int = 100,
    impressions_per_user: int = 10,
    items_per_style: int = 5,
    noise: float = 0.05,
    seed: int = 0,
) -> Lifelong:
    """Users who like one of two styles in each category, which only old events show.

    A history is, oldest first: an old part, in which `relevant` events of each category have the style that
    the user likes there, at random positions among events of as many other categories, which no target has;
    then `recent` events of the targets' categories, equally many of either style in each. Targets are
    random items of these categories; a click says whether the item's style is the one liked in its category,
    and is wrong with probability `noise`.

    So the liked style is the more frequent one among all events of the target's category, which a search by
    category finds in histories of any length. The last `recent` events carry no information: a model of these
    alone has an AUC of 0.5. Half of all targets are liked, so an oracle that knows the true preferences has
    click rates of 1 - noise and noise where it predicts a click and where it does not: (1 - noise)² of the
    pairs are in order, 2 noise (1 - noise) tied, and its AUC is 1 - noise.

    Args:
      min_length, max_length: events of a history, uniform in between; at least recent + relevant ×
        num_categories.
      relevant: events of each category that show the preference. recent: an even number.
      items_per_style: items of each style in each category. noise: at least 0 and below 0.5.

    Split 80/10/10 by users.

    Raises:
      ValueError: a setting out of range, naming it and its rule.
    """
    settings = {
        "num_users": num_users,
        "num_categories": num_categories,
        "relevant": relevant,
        "recent": recent,
        "impressions_per_user": impressions_per_user,
        "items_per_style": items_per_style,
    }
    _check_settings(settings, noise=noise, min_length=min_length, max_length=max_length)
    rng = np.random.default_rng(seed)
    category, style, item_of = _draw_items(2 * num_categories, items_per_style, rng)
    offsets = np.cumsum(np.append(0, rng.integers(min_length, max_length + 1, num_users)))
    if offsets[-1] > MAX_ITEMS:
        raise ValueError(f"{offsets[-1]:,} events: must fit int32; take fewer users or shorter histories")
    preferences = np.zeros((num_users + 1, num_categories + 1), np.int32)
    preferences[1:, 1:] = rng.integers(1, STYLES + 1, (num_users, num_categories))
    events, planted = _draw_histories(
        offsets, preferences, item_of, relevant=relevant, recent=recent, rng=rng
    )
    user = np.repeat(np.arange(1, num_users + 1), impressions_per_user)
    target_category = rng.integers(1, num_categories + 1, len(user))
    target_style = rng.integers(1, STYLES + 1, len(user))
    click = (target_style == preferences[user, target_category]) ^ (rng.random(len(user)) < noise)
    tenth = max(num_users // 10, 1) * impressions_per_user  # impressions of validation, and of test
    train, validation, test = np.split(np.arange(len(user)), len(user) - tenth * np.array([2, 1]))
    clicks = Clicks(
        f"lifelong-{num_users}x{max_length}",
        events,
        user=user.astype(np.int32),
        item=_draw_of(item_of, categories=target_category, styles=target_style, rng=rng).astype(np.int32),
        start=offsets[user - 1].astype(np.int32),
        end=offsets[user].astype(np.int32),
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
    return Lifelong(clicks=clicks, planted=planted, preferences=preferences, best_auc=1.0 - noise)


def _check_settings(settings: Mapping[str, int], *, noise: float, min_length: int, max_length: int) -> None:
    """Raises ValueError naming a setting of `lifelong` that is out of range."""
    for name, value in settings.items():
        if value < _LEAST[name]:
            raise ValueError(f"{name}={value}: must be at least {_LEAST[name]}")
    recent = settings["recent"]
    if recent % 2:
        raise ValueError(f"recent={recent}: must be even, as many events of either style")
    if not 0 <= noise < 0.5:
        raise ValueError(f"noise={noise}: must be at least 0 and below 0.5")
    needed = recent + settings["relevant"] * settings["num_categories"]
    if not needed <= min_length <= max_length:
        raise ValueError(
            f"min_length={min_length}, max_length={max_length}: must be in this order, from {needed} on: "
            f"recent + relevant × num_categories events"
        )


def _draw_histories(
    offsets: np.ndarray,
    preferences: np.ndarray,
    item_of: np.ndarray,
    *,
    relevant: int,
    recent: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Events of all users, int32 [N], and which of them show a preference, bool [N]."""
    num_categories = preferences.shape[1] - 1
    events, planted = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], bool)
    shown = np.repeat(np.arange(1, num_categories + 1), relevant)
    for user, (first, last) in enumerate(itertools.pairwise(offsets), 1):
        old = last - first - recent
        other = rng.integers(num_categories + 1, 2 * num_categories + 1, old)
        styles = rng.integers(1, STYLES + 1, old)
        events[first : first + old] = _draw_of(item_of, categories=other, styles=styles, rng=rng)
        positions = first + rng.choice(old, len(shown), replace=False)
        events[positions] = _draw_of(item_of, categories=shown, styles=preferences[user, shown], rng=rng)
        planted[positions] = True
        pairs = np.tile(rng.integers(1, num_categories + 1, recent // 2), 2)
        latest = _draw_of(item_of, categories=pairs, styles=np.repeat([1, 2], recent // 2), rng=rng)
        events[last - recent : last] = rng.permutation(latest)
    return events, planted


def _draw_of(
    item_of: np.ndarray, categories: np.ndarray, styles: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A random item of each category and style."""
    return item_of[categories, styles, rng.integers(0, item_of.shape[2], categories.shape)]


def _draw_items(
    num_categories: int, items_per_style: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Category and style of each item, int32 [V + 1], and items by both, int32 [C + 1, 3, items_per_style].

    Ids are in random order, so that they carry no information.
    """
    shape = (num_categories, STYLES, items_per_style)
    ids = rng.permutation(int(np.prod(shape))).astype(np.int32) + np.int32(1)
    item_of = np.zeros((num_categories + 1, STYLES + 1, items_per_style), np.int32)
    item_of[1:, 1:] = ids.reshape(shape)
    category, style = (np.zeros(len(ids) + 1, np.int32) for _ in range(2))
    categories, styles, _ = np.meshgrid(*(np.arange(1, n + 1) for n in shape), indexing="ij")
    category[ids], style[ids] = categories.reshape(-1), styles.reshape(-1)
    return category, style, item_of
