"""Sampled unobserved pairs, as negatives, for tables of observed pairs only, such as ratings or views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.impressions import SplitIndices
from jaxrec.data.validation import as_integers


class Pairs(NamedTuple):
    """Observed pairs, in their order, then sampled ones.

    user, item: int64 [M]. observed: bool [M]. origin: index of the observed pair that a pair is, or was
    sampled for, int64 [M]; both have the same user, time and part of the split. split: of all M pairs.
    """

    user: np.ndarray
    item: np.ndarray
    observed: np.ndarray
    origin: np.ndarray
    split: SplitIndices


def add_unobserved(
    user: np.ndarray,
    item: np.ndarray,
    num_items: int,
    split: SplitIndices,
    *,
    negatives_per_pair: int,
    seed: int,
    excluded: np.ndarray | None = None,
) -> Pairs:
    """Samples `negatives_per_pair` items for each observed pair, uniformly among its user's unobserved items.

    user, item: observed pairs, user >= 0, item 0..num_items - 1, int [N]. split: of these pairs.
    "Observed" ends with the pair's part: for training, the pairs of training; for validation, those of
    validation too; for test, all. So a training negative may be positive in a later part, and negatives leak
    nothing about later parts. The same unobserved pair may be sampled more than once.
    excluded: pairs user * num_items + item that are never sampled, such as positives of unknown time.

    Raises ValueError if a user has every item, or an id is no integer or out of range.
    """
    if negatives_per_pair < 1:
        raise ValueError(f"negatives_per_pair={negatives_per_pair}: must be at least 1")
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
    seen = np.empty(0, np.int64) if excluded is None else excluded.astype(np.int64)
    items, origins, parts = [item], [np.arange(len(user))], []
    count = len(user)
    for part in split[:3]:
        seen = np.sort(np.concatenate([seen, pairs[part]]))
        seen = seen[np.append(True, seen[1:] != seen[:-1])]
        origin = np.repeat(part, negatives_per_pair)
        items.append(_draw_unseen(user[origin], seen=seen, num_items=num_items, rng=rng))
        origins.append(origin)
        parts.append(np.concatenate([part, np.arange(count, count + len(origin))]))
        count += len(origin)
    origin = np.concatenate(origins)
    rule = f"{split.rule}; {negatives_per_pair} unobserved for each, seed {seed}"
    observed = np.arange(count) < len(user)
    train, validation, test = parts
    return Pairs(
        user=user[origin],
        item=np.concatenate(items),
        observed=observed,
        origin=origin,
        split=SplitIndices(train=train, validation=validation, test=test, rule=rule),
    )


def _draw_unseen(user: np.ndarray, seen: np.ndarray, num_items: int, rng: np.random.Generator) -> np.ndarray:
    """An item for each user such that user * num_items + item is not in `seen` (sorted)."""
    count = np.bincount(seen // num_items)
    if count.max() >= num_items:
        raise ValueError(
            f"user {count.argmax()} has been seen with all {num_items} items: there is no negative to sample"
        )
    item = np.zeros(len(user), np.int64)
    rejected = np.arange(len(user))
    while rejected.size:
        item[rejected] = rng.integers(0, num_items, rejected.size)
        pair = user[rejected] * num_items + item[rejected]
        place = np.minimum(np.searchsorted(seen, pair), len(seen) - 1)
        rejected = rejected[seen[place] == pair]
    return item
