"""Events of three kinds: clicks, which are trained on, and what users disliked or were shown in vain."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.held_out import HeldOut
from jaxrec.data.events.interactions import Interactions, offsets_of_lengths

CLICKED, SHOWN, DISLIKED = 1, 0, -1
KINDS = {"disliked": DISLIKED, "shown": SHOWN}  # of the lists beside the clicks


def clicks_of(events: Interactions) -> Interactions:
    """The events whose value is 1, of users and items that have one.

    Raises:
      ValueError: the events have no values, one is none of 1, 0 and -1, or none is 1.
    """
    if events.value is None:
        raise ValueError(f"{events.name}: has no values; name the column of feedback")
    if (other := np.flatnonzero(~np.isin(events.value, (CLICKED, SHOWN, DISLIKED)))).size:
        raise ValueError(
            f"{events.name}: feedback {events.value[other[0]]:g} ({other.size:,} such): must be 1 (clicked), "
            "0 (shown, not clicked) or -1 (disliked)"
        )
    clicked = events.value == CLICKED
    if not clicked.any():
        raise ValueError(f"{events.name}: no event has feedback 1, so there is no click to learn from")
    kept = dataclasses.replace(
        events,
        user=events.user[clicked],
        item=events.item[clicked],
        time=None if events.time is None else events.time[clicked],
        value=None,
    )
    return kept.k_core(1)


def feedback_columns(events: Interactions, split: HeldOut, *, until_training: bool) -> dict[str, np.ndarray]:
    """Two more lists of items of each user of a split of the clicks, as columns that live on the device.

    disliked [N]: items of value -1 by user, the most recent last, with disliked_start, disliked_length [U];
    shown, shown_start and shown_length alike, of value 0. An item that the user clicked in training is in
    neither, nor is one that has no click of anybody. A list of nobody is one 0.

    until_training: where events have times, only those no later than the user's last click of training, as a
    split by time has it. False: all.
    """
    sequences = split.sequences
    user = _numbers(events.user_ids, sequences.user_ids)[events.user - 1]
    item = _numbers(events.item_ids, sequences.item_ids)[events.item - 1]
    size = sequences.num_items + 1
    pair = (user - 1).astype(np.int64) * size + item
    place = np.arange(len(sequences.items)) - sequences.offsets[:-1][sequences.event_users]
    training = sequences.event_users * size + sequences.items.astype(np.int64)
    training = training[place < split.train_length[sequences.event_users]]
    trained = np.isin(pair, training)
    kept = (user > 0) & (item > 0) & ~trained
    if until_training and events.time is not None:
        kept &= events.time <= _last_click(events, user, pair, trained, sequences.num_users)[user]
    order = events.event_order()
    found: dict[str, np.ndarray] = {}
    for name, kind in KINDS.items():
        assert events.value is not None
        chosen = order[(kept & (events.value == kind))[order]]
        chosen = chosen[np.argsort(user[chosen], kind="stable")]
        length = np.bincount(user[chosen] - 1, minlength=sequences.num_users)
        found[name] = (item[chosen] if chosen.size else np.zeros(1)).astype(np.int32)
        found[f"{name}_start"] = offsets_of_lengths(length)[:-1].astype(np.int32)
        found[f"{name}_length"] = length.astype(np.int32)
    return found


def no_feedback(num_users: int) -> dict[str, np.ndarray]:
    """The same columns of data in which nobody disliked anything or was shown anything in vain."""
    none = np.zeros(num_users, np.int32)
    columns = {name: np.zeros(1, np.int32) for name in KINDS}
    return columns | {f"{name}_{what}": none for name in KINDS for what in ("start", "length")}


def _numbers(raw: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The number of each raw id among the known ones, from 1; 0 for another."""
    at = {value: number for number, value in enumerate(np.asarray(known).tolist(), 1)}
    return np.array([at.get(value, 0) for value in np.asarray(raw).tolist()], np.int64)


def _last_click(
    events: Interactions, user: np.ndarray, pair: np.ndarray, trained: np.ndarray, num_users: int
) -> np.ndarray:
    """The time of each user's last click of training, [U + 1], the first click of an item counting."""
    assert events.time is not None and events.value is not None
    found = np.full(num_users + 1, np.iinfo(np.int64).min)
    clicks = np.flatnonzero(trained & (events.value == CLICKED))
    clicks = clicks[np.argsort(events.time[clicks], kind="stable")]
    _, first = np.unique(pair[clicks], return_index=True)
    np.maximum.at(found, user[clicks[first]], events.time[clicks[first]])
    return found
