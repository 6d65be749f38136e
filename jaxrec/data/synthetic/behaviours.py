"""Behaviours of a kind, views and purchases, of which only purchases show what a user wants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

VIEW, BUY = 1, 2


class Behaviours(NamedTuple):
    """N users, L behaviours each at most. Ids count from 1; 0 is padding, on the left.

    columns: history_item, history_kind int32 [N, L]; query (a category), item (one of that category), profile
    (which says nothing) int32 [N]; label/click, label/level float32 [N]. num_items, num_categories: of ids.
    """

    columns: dict[str, np.ndarray]
    num_items: int
    num_categories: int


def behaviours(
    num_users: int = 10_000,
    *,
    length: int = 30,
    num_categories: int = 5,
    buys: float = 0.3,
    noise: float = 0.1,
    seed: int = 0,
) -> Behaviours:
    """A user prefers one of two styles in each category, and one of two price levels.

    An item has a category, a style and a price level. A view is of a random item. A purchase, a share `buys`
    of behaviours, is of the user's style and level, each but for a share `noise`. The labels: whether the
    item in question has the user's style for its category (click), and the user's level, each but for that
    share too. So who does not tell views from purchases reads mostly noise, and a click needs those of the
    query's category.

    Raises:
      ValueError: a share that isn't in 0..1, or num_users, length or num_categories below 1.
    """
    for name, share in (("buys", buys), ("noise", noise)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: must be in 0..1")
    for name, count in (("num_users", num_users), ("length", length), ("num_categories", num_categories)):
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")
    rng = np.random.default_rng(seed)
    style = rng.integers(0, 2, (num_users, num_categories))
    level = rng.integers(0, 2, num_users)

    def noisy(bits: np.ndarray) -> np.ndarray:
        return np.asarray(bits ^ (rng.random(bits.shape) < noise))

    shape = (num_users, length)
    category = rng.integers(0, num_categories, shape)
    bought = rng.random(shape) < buys
    own_style = noisy(np.take_along_axis(style, category, axis=1))
    shown_style = np.where(bought, own_style, rng.integers(0, 2, shape))
    shown_level = np.where(bought, noisy(np.broadcast_to(level[:, None], shape)), rng.integers(0, 2, shape))
    real = np.arange(length) >= rng.integers(0, length // 2 + 1, num_users)[:, None]
    query, of_item, price = (rng.integers(0, high, num_users) for high in (num_categories, 2, 2))
    wanted = np.take_along_axis(style, query[:, None], axis=1)[:, 0] == of_item

    def item(category: np.ndarray, style: np.ndarray, level: np.ndarray) -> np.ndarray:
        return np.asarray(1 + 4 * category + 2 * style + level, np.int32)

    columns = {
        "history_item": np.where(real, item(category, shown_style, shown_level), 0).astype(np.int32),
        "history_kind": np.where(real, np.where(bought, BUY, VIEW), 0).astype(np.int32),
        "query": (1 + query).astype(np.int32),
        "item": item(query, of_item, price),
        "profile": rng.integers(1, 4, num_users).astype(np.int32),
        "label/click": noisy(wanted.astype(int)).astype(np.float32),
        "label/level": noisy(level).astype(np.float32),
    }
    return Behaviours(columns, 4 * num_categories, num_categories)
