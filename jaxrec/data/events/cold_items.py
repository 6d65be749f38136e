"""Cold items: a source task that never meets some items, and a target task of telling which of them comes.

One log of sessions makes both, after the data sets ColdRec of PeterRec (Yuan et al., SIGIR 2020,
arXiv:2001.04253), where clicks on one platform tell the first ones on another. Some items are held out as
cold. A session with none of them belongs to the source. Of any other session the clicks before its first cold
one are a target example, labelled with that cold item, and nothing of it belongs to the source: what follows
a cold click is not told to anyone.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Queries, Split


@dataclasses.dataclass(frozen=True, eq=False)
class ColdItems:
    """Sessions of the source, and examples of the target.

    source: sessions without a cold item, of two clicks or more; its items are 1..n without the cold ones.
    items: clicks of all M examples end to end, in the source's numbers, int32 [N]; example e is
    items[offsets[e] : offsets[e + 1]], one click at least. label: 1..T, int32 [M]. session: the row of the
    log that each example stems from, ascending [M]. cold_ids: raw ids, label t is cold_ids[t - 1].
    """

    source: Sequences
    items: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    session: np.ndarray
    cold_ids: np.ndarray


class Parts(NamedTuple):
    """Examples that train, validate and test, each ascending, int32; none is in two parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def hold_out(log: Sequences, *, number: int, least: int, most: int, seed: int) -> ColdItems:
    """Draws `number` cold items among those of least..most clicks, and parts the log by them.

    A session that begins with a cold item has nothing before it: it belongs to neither task.

    Raises ValueError for limits that mean nothing or leave too few items, and for a log that leaves a task
    without a session.
    """
    if number < 2 or not 1 <= least <= most:
        raise ValueError(
            f"number={number}, least={least}, most={most}: at least 2 cold items, and 1 <= least <= most"
        )
    clicks = np.bincount(log.items, minlength=log.num_items + 1)
    possible = np.flatnonzero((clicks >= least) & (clicks <= most))
    if len(possible) < number:
        raise ValueError(
            f"{log.name}: {len(possible):,} items have {least}..{most} clicks, "
            f"number={number:,} are to be held out; hold out fewer, or widen the limits"
        )
    cold = np.sort(np.random.default_rng(seed).choice(possible, number, replace=False))
    is_cold = np.isin(log.items, cold)
    place = np.arange(len(log.items)) - log.offsets[log.users]
    first = log.lengths.copy()  # clicks before the first cold one, all where there is none
    np.minimum.at(first, log.users[is_cold], place[is_cold])
    warm = (first == log.lengths) & (log.lengths >= 2)
    asked = (first < log.lengths) & (first >= 1)
    if not warm.any() or not asked.any():
        raise ValueError(
            f"{log.name}: {warm.sum():,} sessions without a cold item, {asked.sum():,} that lead to one; "
            "hold out fewer items, or other ones"
        )
    rest = np.setdiff1d(np.arange(1, log.num_items + 1), cold)
    number_of = np.zeros(log.num_items + 1, np.int32)
    number_of[rest] = np.arange(1, len(rest) + 1)
    label = log.items[log.offsets[:-1][asked] + first[asked]]
    source = Sequences(
        f"{log.name}-cold",
        items=number_of[log.items[warm[log.users]]],
        times=None if log.times is None else log.times[warm[log.users]],
        offsets=_offsets(log.lengths[warm]),
        user_ids=log.user_ids[warm],
        item_ids=log.item_ids[rest - 1],
        num_items=len(rest),
    )
    return ColdItems(
        source,
        items=number_of[log.items[asked[log.users] & (place < first[log.users])]],
        offsets=_offsets(first[asked]),
        label=(np.searchsorted(cold, label) + 1).astype(np.int32),
        session=np.flatnonzero(asked),
        cold_ids=log.item_ids[cold - 1],
    )


def draw_parts(count: int, *, train: int, validation: int, test: int, seed: int) -> Parts:
    """Examples 0..count-1 in random order: first those that validate, then test, then train.

    With one seed the first two stay the same whatever `train` is, and more training examples hold fewer.

    Raises ValueError for an empty part, or if there are not as many examples.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    if min(sizes.values()) < 1:
        raise ValueError(f"{sizes}: each part needs an example")
    if sum(sizes.values()) > count:
        raise ValueError(
            f"train={train:,}: there are {count:,} examples, of which {validation:,} validate and {test:,} "
            f"test; at most {max(count - validation - test, 0):,} remain to train"
        )
    order = np.random.default_rng(seed).permutation(count)[: sum(sizes.values())].astype(np.int32)
    held, asked, told = np.split(order, np.cumsum([validation, test]))
    return Parts(np.sort(told), np.sort(held), np.sort(asked))


def last_click_of_some(sequences: Sequences, *, share: float, seed: int) -> Split:
    """Validates by the last click of a share of the sessions, drawn at random; the others train as a whole.

    Nothing else is asked of a source task: `test` are the queries of `validation`.

    Raises ValueError for a share that leaves a part empty.
    """
    count = sequences.num_users
    held = round(share * count)
    if not 0 < held < count:
        raise ValueError(f"{sequences.name}: share={share} of {count:,} sessions leaves a part empty")
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:held])
    before = sequences.lengths[rows] - 1
    if (before < 1).any():
        raise ValueError(f"{sequences.name}: a session of 1 click has nothing before its last; leave it out")
    target = sequences.items[sequences.offsets[rows] + before]
    queries = Queries(rows.astype(np.int32), before.astype(np.int32), target)
    length = sequences.lengths.astype(np.int32)
    length[rows] = 0
    rule = f"last click of {100 * share:g}% of sessions, seed {seed}"
    return Split(sequences, length, validation=queries, test=queries, rule=rule)


def grouped_sessions(
    num_sessions: int = 600,
    groups: int = 6,
    size: int = 10,
    *,
    min_length: int = 3,
    max_length: int = 8,
    noise: float = 0.1,
    seed: int = 0,
) -> Sequences:
    """Made-up sessions: each keeps to a group of `size` items, or with probability `noise` takes any item.

    Item i belongs to group (i - 1) // size. Which item of its group comes next is pure chance, so a cold item
    is told by the group of the clicks before it, and that is what there is to learn from the source.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(min_length, max_length + 1, num_sessions)
    group = np.repeat(rng.integers(0, groups, num_sessions), lengths)
    own = group * size + rng.integers(1, size + 1, len(group))
    anything = rng.integers(1, groups * size + 1, len(group))
    items = np.where(rng.random(len(group)) < noise, anything, own)
    return Sequences(
        f"groups-{num_sessions}x{groups * size}",
        items=items.astype(np.int32),
        times=None,
        offsets=_offsets(lengths),
        user_ids=np.arange(1, num_sessions + 1),
        item_ids=np.arange(1, groups * size + 1),
        num_items=groups * size,
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
