"""Click impressions with histories, made from event sequences and sampled negatives.

The protocol of DIN (Zhou et al., KDD 2018) and DIEN on Amazon: predict event k + 1 from the first k; for each
event one unseen item is sampled as the negative. Histories are not stored per impression: impressions share
the stream of events, and `tasks.ctr.behaviours` gathers the window before each on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.tables.impressions import (
    SplitIndices,
    check_parts,
    check_row_indices,
    split_at_random,
    split_in_time_order,
)
from jaxrec.data.tables.unobserved_pairs import add_unobserved
from jaxrec.data.validation import check_dtype, check_ids, check_name

SHARED = "shared"  # key of the columns that impressions share: events, side information of items and users
_CHUNK = 65_536  # impressions counted at once


class SideInfo(NamedTuple):
    """Side information as ids from 1, entry 0 for padding: items {name: [num_items + 1]}, users likewise.

    A column of several ids per item, such as its categories, is [num_items + 1, A], padded with 0.
    known: {column of items: ids there are, padding not counted}, of columns that need not have all of them.
    """

    items: Mapping[str, np.ndarray]
    users: Mapping[str, np.ndarray]
    known: Mapping[str, int] | None = None

    def item_sizes(self) -> dict[str, int]:
        """Ids of each column of items, the padding counted."""
        known = self.known or {}
        return {name: 1 + max(int(ids.max()), known.get(name, 0)) for name, ids in self.items.items()}


NO_SIDE_INFO = SideInfo({}, {})


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks:
    """M impressions: whether user[m] clicks item[m] after the events start[m] .. end[m] - 1.

    events: concatenated items of all users, int32 [N]. user, item: from 1, int32 [M]. click: float32 [M].
    train, validation, test: indices of impressions that do not overlap, by `rule`. left_out: number of events
    without an earlier event, which are no targets.
    times: of the events, in seconds since their user's first event, int32 [N]; time: of the impressions, on
    the same clock, int32 [M]. Both or neither; with both `tasks.ctr.behaviours` gives the age of each event.

    Raises ValueError for an empty part or parts that overlap, for side information of another length, type or
    range, and for times that do not ascend within a history or are not earlier than the impression.
    """

    name: str
    events: np.ndarray
    user: np.ndarray
    item: np.ndarray
    start: np.ndarray
    end: np.ndarray
    click: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    rule: str
    left_out: int
    num_users: int
    num_items: int
    side_info: SideInfo = NO_SIDE_INFO
    times: np.ndarray | None = None
    time: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        self._check_events()
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        check_parts(f"{self.name} ({self.rule})", parts, len(self.click))
        for kind, count, columns in (
            ("item", self.num_items, self.side_info.items),
            ("user", self.num_users, self.side_info.users),
        ):
            for name, column in columns.items():
                where = f"{self.name}: {kind} column {name!r}"
                if name in {"item", "user", "start", "end", "mask"} or "/" in name:
                    raise ValueError(f"{where}: batches use this name otherwise; rename it")
                _check_side_column(column, count, where)
        if (self.times is None) != (self.time is None):
            raise ValueError(f"{self.name}: times of events and time of impressions: give both or neither")
        if self.times is not None and self.time is not None:
            self._check_times(self.times, self.time)

    def _check_events(self) -> None:
        check_ids(self.events, self.num_items, f"{self.name}: events")
        check_ids(self.item, self.num_items, f"{self.name}: item")
        check_ids(self.user, self.num_users, f"{self.name}: user")
        check_dtype(self.click, np.float32, f"{self.name}: click")
        for what, column in (
            ("item", self.item),
            ("start", self.start),
            ("end", self.end),
            ("click", self.click),
        ):
            if len(column) != len(self.user):
                raise ValueError(f"{self.name}: {what} has {len(column):,} entries, user {len(self.user):,}")
        for what, column in (("start", self.start), ("end", self.end)):
            check_dtype(column, np.int32, f"{self.name}: {what}")
        bad = np.flatnonzero((self.start < 0) | (self.end < self.start) | (self.end > len(self.events)))
        if bad.size:
            at = bad[0]
            raise ValueError(
                f"{self.name}: impression {at} ({bad.size:,} such) has a history from {self.start[at]} to "
                f"{self.end[at]}, outside 0..{len(self.events):,}"
            )

    def _check_times(self, times: np.ndarray, time: np.ndarray) -> None:
        for what, column, count in (("times", times, len(self.events)), ("time", time, len(self.click))):
            check_dtype(column, np.int32, f"{self.name}: {what}")
            if len(column) != count:
                raise ValueError(f"{self.name}: {what} has {len(column):,} entries, expected {count:,}")
        if "age" in self.side_info.items:
            raise ValueError(f"{self.name}: item column 'age': with times, batches use this name; rename it")
        some = self.end > self.start
        last = np.maximum(self.end - 1, 0)
        descents = np.cumsum(np.append(0, np.diff(times) < 0))[: len(times)]
        falls = some & (descents[last] > descents[np.minimum(self.start, len(times) - 1)])
        bad = np.flatnonzero(falls | (some & (times[last] >= time)))
        if bad.size:
            at = bad[0]
            raise ValueError(
                f"{self.name}: impression {at} ({bad.size:,} such) of time {time[at]} has a history of times "
                f"{times[self.start[at] : self.end[at]][-5:].tolist()}: they must ascend and end before it"
            )

    def columns(self) -> dict[str, object]:
        """Columns of the training impressions and, under `shared`, of all: arrays to keep on the device."""
        shared: dict[str, object] = {
            "events": self.events,
            "items": dict(self.side_info.items),
            "users": dict(self.side_info.users),
        }
        if self.times is not None:
            shared["times"] = self.times
        return {name: column[self.train] for name, column in self._impression_columns().items()} | {
            SHARED: shared
        }

    def batched(self, indices: np.ndarray, batch_size: int, *, multiple: int = 1) -> dict[str, np.ndarray]:
        """Impressions in batches of one shape [batches, batch_size], and `mask`, as `Impressions.batched`."""
        if batch_size < 1 or multiple < 1:
            raise ValueError(f"batch_size={batch_size}, multiple={multiple}: must be at least 1")
        batches = -(-len(indices) // (batch_size * multiple)) * multiple
        shape = (batches, batch_size)
        found = {
            name: np.zeros(batches * batch_size, c.dtype) for name, c in self._impression_columns().items()
        }
        for name, column in self._impression_columns().items():
            found[name][: len(indices)] = column[indices]
        mask = np.arange(batches * batch_size) < len(indices)
        return {name: column.reshape(shape) for name, column in (found | {"mask": mask}).items()}

    def count_examples_with(self, length: int) -> np.ndarray:
        """Training impressions that have each item as target or in the last `length` events, int64 [V + 1].

        The n_j of DIN's mini-batch aware regularisation.
        """
        counts = np.zeros(self.num_items + 1, np.int64)
        for first in range(0, len(self.train), _CHUNK):
            chunk = self.train[first : first + _CHUNK]
            at = self.end[chunk, None] - length + np.arange(length)
            history = np.where(at >= self.start[chunk, None], self.events[np.maximum(at, 0)], 0)
            ids = np.sort(np.concatenate([history, self.item[chunk, None]], axis=1), axis=1)
            once = np.concatenate([np.ones((len(ids), 1), bool), ids[:, 1:] != ids[:, :-1]], axis=1)
            counts += np.bincount(ids[once], minlength=len(counts))
        counts[0] = 0
        return counts

    def _impression_columns(self) -> dict[str, np.ndarray]:
        columns = {
            "user": self.user,
            "item": self.item,
            "start": self.start,
            "end": self.end,
            "label/click": self.click,
        }
        return columns if self.time is None else columns | {"time": self.time}


def next_clicks(
    sequences: Sequences,
    *,
    split: Literal["last", "time", "user"] = "last",
    negatives_per_event: int = 1,
    seed: int = 0,
    side_info: SideInfo = NO_SIDE_INFO,
) -> Clicks:
    """A positive for each event that has an earlier one, and `negatives_per_event` sampled items for each.

    A history ends before the time of its event: events of the same second are not in it. For sources without
    times it ends before the event, and events have no ages.

    split: "last" tests on the last event of each user and validates on the one before; "time" splits the
    events of all users 80/10/10 by time, and needs times; "user" splits the users with a target 80/10/10 at
    random, and all their targets with them.
    A negative is uniform among the items the user has not interacted with up to the end of the impression's
    part (`add_unobserved`), so a training negative may be positive in a later part.

    Raises ValueError for an unknown split, or one that leaves a part empty.
    """
    count = len(sequences.items)
    if count > np.iinfo(np.int32).max:
        raise ValueError(f"{sequences.name}: {count:,} events are more than int32 indices can number")
    user = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    start = sequences.offsets[:-1][user]
    end = np.arange(count) if sequences.times is None else _first_of_same_second(user, sequences.times)
    targets = np.flatnonzero(end > start)
    parts = _split_targets(sequences, user, targets, split=split, seed=seed)
    first = np.flatnonzero(end <= start)
    item = sequences.items.astype(np.int64) - 1
    pairs = add_unobserved(
        user[targets],
        item=item[targets],
        num_items=sequences.num_items,
        split=parts,
        negatives_per_pair=negatives_per_event,
        seed=seed,
        excluded=user[first].astype(np.int64) * sequences.num_items + item[first],
    )
    at = targets[pairs.origin]
    times = None if sequences.times is None else sequences.times - sequences.times[start]
    return Clicks(
        sequences.name,
        sequences.items,
        user=(pairs.user + 1).astype(np.int32),
        item=(pairs.item + 1).astype(np.int32),
        start=start[at].astype(np.int32),
        end=end[at].astype(np.int32),
        click=pairs.observed.astype(np.float32),
        train=pairs.split.train,
        validation=pairs.split.validation,
        test=pairs.split.test,
        rule=pairs.split.rule,
        left_out=count - len(targets),
        num_users=sequences.num_users,
        num_items=sequences.num_items,
        side_info=side_info,
        times=None if times is None else times.astype(np.int32),
        time=None if times is None else times[at].astype(np.int32),
    )


def item_column(
    item: np.ndarray,
    values: np.ndarray,
    item_ids: np.ndarray,
    where: str,
    *,
    several: Literal["error", "first"] = "error",
) -> np.ndarray:
    """A column of `SideInfo.items`, int32 [num_items + 1], from a column of events such as the category.

    item: ids of events, [N], every item among them. values: integers or text, [N], numbered 1..n in ascending
    order. several: an item with two values raises ValueError, or takes that of its first event.
    """
    by_item = np.zeros(len(item_ids) + 1, values.dtype)
    by_item[item[::-1]] = values[::-1]  # the last assignment wins: that of the first event
    other = np.flatnonzero(by_item[item] != values)
    if other.size and several == "error":
        at = other[0]
        raise ValueError(
            f"{where}: item {item_ids[item[at] - 1]} has {by_item[item[at]].item()!r} and in event {at} "
            f"{values[at].item()!r} ({other.size:,} such events); correct them"
        )
    return np.append(0, np.unique(by_item[1:], return_inverse=True)[1] + 1).astype(np.int32)


def _split_targets(
    sequences: Sequences, user: np.ndarray, targets: np.ndarray, *, split: str, seed: int
) -> SplitIndices:
    """The split of `next_clicks`, as indices into `targets`; user: of all events, [N]."""
    if split == "last":
        after = sequences.offsets[1:][user[targets]] - 1 - targets  # events of the user after this one
        train, validation, test = (np.flatnonzero(chosen) for chosen in (after > 1, after == 1, after == 0))
        parts = SplitIndices(train=train, validation=validation, test=test, rule="last event")
    elif split == "time":
        if sequences.times is None:
            raise ValueError(f"{sequences.name}: split='time' needs times; this source has none: use 'last'")
        parts = split_in_time_order(sequences.times[targets])
    elif split == "user":
        parts = _user_split(user[targets], seed)
    else:
        raise ValueError(f"split={split!r}: must be 'last', 'time' or 'user'")
    for part, indices in zip(("train", "validation", "test"), parts[:3], strict=True):
        check_row_indices(f"{sequences.name} ({parts.rule}): {part}", indices, len(targets))
    return parts


def _user_split(user: np.ndarray, seed: int) -> SplitIndices:
    """Targets split by their users, [N]: all targets of a user are in one part."""
    users = np.unique(user)
    drawn = split_at_random(len(users), seed=seed)
    train, validation, test = (np.flatnonzero(np.isin(user, users[part])) for part in drawn[:3])
    rule = f"users 80/10/10, seed {seed}"
    return SplitIndices(train=train, validation=validation, test=test, rule=rule)


def _check_side_column(column: np.ndarray, count: int, where: str) -> None:
    """Raises ValueError unless entry 0 is padding and each of the `count` others has an id (`SideInfo`)."""
    check_dtype(column, np.int32, where, ndim=2 if np.ndim(column) == 2 else 1)
    ids = column[:, None] if column.ndim == 1 else column
    if len(ids) != count + 1 or ids[0].any():
        raise ValueError(
            f"{where}: {len(ids):,} entries, the first {column[:1].tolist()}: expected 0 for padding, then "
            f"one for each of {count:,}"
        )
    bad = np.flatnonzero((ids[1:] < 0).any(axis=1) | ~(ids[1:] > 0).any(axis=1)) + 1
    if bad.size:
        raise ValueError(
            f"{where}: entry {bad[0]} ({bad.size:,} such) is {column[bad[0]].tolist()}: expected ids of at "
            "least 1, several padded with 0; give missing values an id of their own"
        )


def _first_of_same_second(user: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the first event of the same user and time, for each event, [N]."""
    new = np.append(True, (user[1:] != user[:-1]) | (times[1:] != times[:-1]))
    return np.maximum.accumulate(np.where(new, np.arange(len(user)), 0))
