"""Cold items: a source task without some items, and a target task that predicts which of them is clicked.

Both are made from one log of sessions, after the data sets ColdRec of PeterRec (Yuan et al., SIGIR 2020,
arXiv:2001.04253), where clicks on one platform predict the first ones on another. Some items are held out as
cold. A session without a cold item belongs to the source. Of any other session the clicks before its first
cold one are an example of the target, labelled with that cold item; the rest of the session is not used.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences, offsets_of_lengths
from jaxrec.data.events.split import Queries, Split


@dataclasses.dataclass(frozen=True, eq=False)
class ColdItems:
    """Sessions of the source task and examples of the target task.

    source: sessions of at least two clicks without a cold item; its items are 1..n without the cold ones.
    items: concatenated clicks of all M examples, in the source's item ids, int32 [N]; example e has
    items[offsets[e] : offsets[e + 1]], at least one. label: 1..T, int32 [M]. session: index in the log of
    each example's session, ascending [M]. cold_ids: raw ids; label t is cold_ids[t - 1].
    """

    source: Sequences
    items: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    session: np.ndarray
    cold_ids: np.ndarray


class ExampleSplit(NamedTuple):
    """Indices of examples, each part ascending, int32; no example is in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def hold_out_items(
    log: Sequences, *, num_cold: int, min_clicks: int, max_clicks: int, seed: int
) -> ColdItems:
    """Draws `num_cold` cold items from those with min_clicks..max_clicks clicks, and divides the log.

    A session that begins with a cold item belongs to neither task, since no click precedes it.

    Raises ValueError for impossible limits, too few items within them, and a task without a session.
    """
    if num_cold < 2 or not 1 <= min_clicks <= max_clicks:
        raise ValueError(
            f"num_cold={num_cold}, min_clicks={min_clicks}, max_clicks={max_clicks}: must be at least 2, and "
            "1 <= min_clicks <= max_clicks"
        )
    clicks = np.bincount(log.items, minlength=log.num_items + 1)
    possible = np.flatnonzero((clicks >= min_clicks) & (clicks <= max_clicks))
    if len(possible) < num_cold:
        raise ValueError(
            f"{log.name}: {len(possible):,} items have {min_clicks}..{max_clicks} clicks, "
            f"fewer than num_cold={num_cold:,}; hold out fewer, or widen the limits"
        )
    cold = np.sort(np.random.default_rng(seed).choice(possible, num_cold, replace=False))
    is_cold = np.isin(log.items, cold)
    place = np.arange(len(log.items)) - log.offsets[log.event_users]
    first = log.lengths.copy()  # clicks before the first cold one, all where there is none
    np.minimum.at(first, log.event_users[is_cold], place[is_cold])
    warm = (first == log.lengths) & (log.lengths >= 2)
    labelled = (first < log.lengths) & (first >= 1)
    if not warm.any() or not labelled.any():
        raise ValueError(
            f"{log.name}: {warm.sum():,} sessions without a cold item, {labelled.sum():,} that lead to one; "
            "hold out fewer items, or other ones"
        )
    rest = np.setdiff1d(np.arange(1, log.num_items + 1), cold)
    new_id = np.zeros(log.num_items + 1, np.int32)
    new_id[rest] = np.arange(1, len(rest) + 1)
    label = log.items[log.offsets[:-1][labelled] + first[labelled]]
    source = Sequences(
        f"{log.name}-cold",
        items=new_id[log.items[warm[log.event_users]]],
        times=None if log.times is None else log.times[warm[log.event_users]],
        offsets=offsets_of_lengths(log.lengths[warm]),
        user_ids=log.user_ids[warm],
        item_ids=log.item_ids[rest - 1],
        num_items=len(rest),
    )
    return ColdItems(
        source,
        items=new_id[log.items[labelled[log.event_users] & (place < first[log.event_users])]],
        offsets=offsets_of_lengths(first[labelled]),
        label=(np.searchsorted(cold, label) + 1).astype(np.int32),
        session=np.flatnonzero(labelled),
        cold_ids=log.item_ids[cold - 1],
    )


def split_examples(count: int, *, train: int, validation: int, test: int, seed: int) -> ExampleSplit:
    """Splits examples 0..count-1 at random into parts of these sizes.

    With the same seed validation and test do not depend on `train`, and a larger training part contains a
    smaller one.

    Raises ValueError for an empty part, or if there are too few examples.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    if min(sizes.values()) < 1:
        raise ValueError(f"{sizes}: each part needs an example")
    if sum(sizes.values()) > count:
        raise ValueError(
            f"train={train:,}: there are {count:,} examples, of which {validation:,} are for validation and "
            f"{test:,} for test; at most {max(count - validation - test, 0):,} remain"
        )
    order = np.random.default_rng(seed).permutation(count)[: sum(sizes.values())].astype(np.int32)
    for_validation, for_test, for_training = np.split(order, np.cumsum([validation, test]))
    return ExampleSplit(np.sort(for_training), np.sort(for_validation), np.sort(for_test))


def hold_out_last_clicks(sequences: Sequences, *, share: float, seed: int) -> Split:
    """Validates on the last click of a random share of the sessions; all other sessions are for training.

    A source task needs no test: `test` has the queries of `validation`.

    Raises ValueError for a share that leaves a part empty.
    """
    count = sequences.num_users
    num_held_out = round(share * count)
    if not 0 < num_held_out < count:
        raise ValueError(f"{sequences.name}: share={share} of {count:,} sessions leaves a part empty")
    held_out = np.sort(np.random.default_rng(seed).permutation(count)[:num_held_out])
    before = sequences.lengths[held_out] - 1
    if (before < 1).any():
        raise ValueError(f"{sequences.name}: a session has 1 click, which nothing precedes; leave it out")
    target = sequences.items[sequences.offsets[held_out] + before]
    queries = Queries(held_out.astype(np.int32), before.astype(np.int32), target)
    length = sequences.lengths.astype(np.int32)
    length[held_out] = 0
    rule = f"last click of {100 * share:g}% of sessions, seed {seed}"
    return Split(sequences, length, validation=queries, test=queries, rule=rule)
