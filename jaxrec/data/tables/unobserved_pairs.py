"""Unobserved pairs for tables that hold observed ones only, such as ratings or views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.impressions import SplitIndices
from jaxrec.data.validation import as_integers


class Pairs(NamedTuple):
    """Observed pairs, in their order, then sampled ones.

    user, item: int64 [M]. observed: bool [M]. origin: the observed pair that a row is, or was drawn for,
    int64 [M]: it has that pair's user, time and part of the split. rows: the split of all M rows.
    """

    user: np.ndarray
    item: np.ndarray
    observed: np.ndarray
    origin: np.ndarray
    rows: SplitIndices


def add_unobserved(
    user: np.ndarray,
    item: np.ndarray,
    num_items: int,
    rows: SplitIndices,
    *,
    per_pair: int,
    seed: int,
    never: np.ndarray | None = None,
) -> Pairs:
    """Draws `per_pair` items for each observed pair, uniformly among those its user has not been seen with.

    user, item: observed pairs, user >= 0, item 0..num_items - 1, int [N]. rows: their split.
    "Seen" ends with the pair's part: for training rows, pairs of training; for validation, those of
    validation too; for test, all. So a training negative may turn out positive later, as in life, and
    negatives tell nothing about later parts. The same unobserved pair may be drawn more than once.
    never: pairs user * num_items + item that are positive at a time unknown, so never a negative.

    Raises ValueError if a user has been seen with every item, or an id is no integer or out of range.
    """
    if per_pair < 1:
        raise ValueError(f"per_pair={per_pair}: must be at least 1")
    user, item = as_integers(user, "user"), as_integers(item, "item")
    for name, column, limit in (("user", user, np.inf), ("item", item, num_items)):
        bad = np.flatnonzero((column < 0) | (column >= limit))
        if bad.size:
            allowed = "0 or more" if name == "user" else f"within 0..{num_items - 1:,}"
            raise ValueError(
                f"{name}: {column[bad[0]]} of pair {bad[0]} ({bad.size:,} such pairs) must be {allowed}; "
                "number raw ids first"
            )
    rng = np.random.default_rng(seed)
    pairs = user * num_items + item
    seen = np.empty(0, np.int64) if never is None else never.astype(np.int64)
    items, origins, parts = [item], [np.arange(len(user))], []
    drawn = len(user)
    for part in rows[:3]:
        seen = np.sort(np.concatenate([seen, pairs[part]]))
        seen = seen[np.append(True, seen[1:] != seen[:-1])]
        origin = np.repeat(part, per_pair)
        items.append(_draw(user[origin], seen, num_items, rng))
        origins.append(origin)
        parts.append(np.concatenate([part, np.arange(drawn, drawn + len(origin))]))
        drawn += len(origin)
    origin = np.concatenate(origins)
    rule = f"{rows.rule}; {per_pair} unobserved for each, seed {seed}"
    observed = np.arange(drawn) < len(user)
    train, validation, test = parts
    split = SplitIndices(train, validation, test, rule)
    return Pairs(user[origin], np.concatenate(items), observed, origin, split)


def _draw(user: np.ndarray, seen: np.ndarray, num_items: int, rng: np.random.Generator) -> np.ndarray:
    """An item for each user so that user * num_items + item is not in `seen` (sorted)."""
    count = np.bincount(seen // num_items)
    if count.max() >= num_items:
        raise ValueError(
            f"user {count.argmax()} has been seen with all {num_items} items, so there is no negative to draw"
        )
    item = np.zeros(len(user), np.int64)
    open_rows = np.arange(len(user))
    while open_rows.size:
        item[open_rows] = rng.integers(0, num_items, open_rows.size)
        pair = user[open_rows] * num_items + item[open_rows]
        place = np.minimum(np.searchsorted(seen, pair), len(seen) - 1)
        open_rows = open_rows[seen[place] == pair]
    return item
