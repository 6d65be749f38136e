"""Parts of a matrix's test: the same queries and candidates, of which only some items are relevant."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.held_out import HeldOut, Sets


def only_relevant(split: HeldOut, kept: np.ndarray, *, rule: str) -> HeldOut:
    """The split with a test part in which only marked interactions are relevant.

    Training, validation and the candidates of a query stay; users without a marked item give no query. So
    metrics of a head and of a tail are told apart without a change of what is ranked.

    Args:
      kept: True for the interactions that stay relevant, bool [N] in the order of `split.sequences.items`.
      rule: what they are, for a Protocol; stands behind that of the split.

    Raises:
      ValueError: the mask has another shape or type, no test interaction is marked, or queries have
        candidates of their own.
    """
    sequences, sets = split.sequences, split.test
    if kept.shape != sequences.items.shape or kept.dtype != bool:
        raise ValueError(f"kept: {kept.dtype}{list(kept.shape)}: must be bool [{len(sequences.items):,}]")
    if split.candidates.test is not None:
        raise ValueError(f"{sequences.name}: queries have candidates of their own; rank among all items")
    first = sequences.offsets[sets.user] + sets.length
    place = np.arange(sets.number.sum()) - np.repeat(np.cumsum(sets.number) - sets.number, sets.number)
    at = np.repeat(first, sets.number) + place
    query = np.repeat(np.arange(len(sets.user)), sets.number)
    items = sequences.items.copy()
    order = np.lexsort((~kept[at], query))  # stable: those that stay come first in each query
    items[at] = sequences.items[at[order]]
    number = np.bincount(query, kept[at], len(sets.user)).astype(np.int32)
    if not number.any():
        raise ValueError(f"{sequences.name}: no test interaction is marked ({rule})")
    stays = number > 0
    return dataclasses.replace(
        split,
        sequences=dataclasses.replace(sequences, items=items),
        test=Sets(sets.user[stays], sets.length[stays], number[stays]),
        rule=f"{split.rule}; relevant: {rule}",
    )


def evenly_by_item(split: HeldOut, *, most: int, seed: int = 0) -> np.ndarray:
    """Marks at most `most` interactions of each item, at random, for `only_relevant`: bool [N].

    An intervened test, in which popular items are relevant no more often than others (as of Bonner and
    Vasile, RecSys 2018). Only interactions of the test part are marked.

    Raises:
      ValueError: most is below 1.
    """
    if most < 1:
        raise ValueError(f"most={most}: must be at least 1")
    sequences, sets = split.sequences, split.test
    kept = np.zeros(len(sequences.items), bool)
    first = sequences.offsets[sets.user] + sets.length
    place = np.arange(sets.number.sum()) - np.repeat(np.cumsum(sets.number) - sets.number, sets.number)
    at = np.repeat(first, sets.number) + place
    drawn = np.random.default_rng(seed).random(len(at))
    order = np.lexsort((drawn, sequences.items[at]))
    item = sequences.items[at[order]]
    rank = np.arange(len(item)) - np.searchsorted(item, item)
    kept[at[order[rank < most]]] = True
    return kept
