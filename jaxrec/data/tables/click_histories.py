"""Click impressions made of event sequences: each event against items its user had not met, after a history.

The protocol of DIN (Zhou et al., KDD 2018) and DIEN on Amazon: predict event k + 1 from the first k, one
item drawn at random beside each. A history is not stored row by row: rows share the stream of events, and
`tasks.ctr.behaviours` gathers the window before each on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.tables.impressions import SplitIndices, check_rows, random_rows, time_rows
from jaxrec.data.tables.unobserved_pairs import add_unobserved
from jaxrec.data.validation import check_dtype, check_ids, check_name

SHARED = "shared"  # what rows share: the stream of events, columns of items and of users
CHUNK = 65_536  # rows counted at once


class Sides(NamedTuple):
    """Side information as ids from 1, row 0 for padding: items {name: [num_items + 1]}, users likewise.

    A column of several ids a row, such as the categories of an item, is [num_items + 1, A], filled up with 0.
    """

    items: Mapping[str, np.ndarray]
    users: Mapping[str, np.ndarray]


NONE = Sides({}, {})


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks:
    """M impressions: row m asks whether user[m] takes item[m] after the events start[m] .. end[m] - 1.

    events: items of all users end to end, int32 [N]. user, item: from 1, int32 [M]. click: float32 [M].
    train, validation, test: row indices that don't overlap, by `rule`. left_out: events that have no event
    before them and so are no target.
    times: of the events, in seconds since the first of their user, int32 [N]; time: of the rows, by the same
    clock, int32 [M]. Both or neither; then `tasks.ctr.behaviours` gives the age of each event of a history.

    Raises ValueError for an empty part, for side information of another length, type or range, and for times
    that don't ascend in a history or reach that of its row.
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
    sides: Sides = NONE
    times: np.ndarray | None = None
    time: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        self._check_events()
        for part in ("train", "validation", "test"):
            check_rows(f"{self.name} ({self.rule}): {part}", getattr(self, part), len(self.click))
        for kind, count, columns in (
            ("item", self.num_items, self.sides.items),
            ("user", self.num_users, self.sides.users),
        ):
            for name, column in columns.items():
                where = f"{self.name}: {kind} column {name!r}"
                if name in {"item", "user", "start", "end", "mask"} or "/" in name:
                    raise ValueError(f"{where}: batches use this name otherwise; rename it")
                _check_side(column, count, where)
        if (self.times is None) != (self.time is None):
            raise ValueError(f"{self.name}: times of events and time of rows: give both or neither")
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
                raise ValueError(f"{self.name}: {what} has {len(column):,} rows, user has {len(self.user):,}")
        for what, column in (("start", self.start), ("end", self.end)):
            check_dtype(column, np.int32, f"{self.name}: {what}")
        bad = np.flatnonzero((self.start < 0) | (self.end < self.start) | (self.end > len(self.events)))
        if bad.size:
            row = bad[0]
            raise ValueError(
                f"{self.name}: row {row} ({bad.size:,} such) has a history from {self.start[row]} to "
                f"{self.end[row]}, outside 0..{len(self.events):,}"
            )

    def _check_times(self, times: np.ndarray, time: np.ndarray) -> None:
        for what, column, count in (("times", times, len(self.events)), ("time", time, len(self.click))):
            check_dtype(column, np.int32, f"{self.name}: {what}")
            if len(column) != count:
                raise ValueError(f"{self.name}: {what} has {len(column):,} entries, expected {count:,}")
        if "age" in self.sides.items:
            raise ValueError(f"{self.name}: item column 'age': with times, batches use this name; rename it")
        some = self.end > self.start
        last = np.maximum(self.end - 1, 0)
        descents = np.cumsum(np.append(0, np.diff(times) < 0))[: len(times)]
        falls = some & (descents[last] > descents[np.minimum(self.start, len(times) - 1)])
        bad = np.flatnonzero(falls | (some & (times[last] >= time)))
        if bad.size:
            row = bad[0]
            raise ValueError(
                f"{self.name}: row {row} ({bad.size:,} such) of time {time[row]} has a history of times "
                f"{times[self.start[row] : self.end[row]][-5:].tolist()}: they must ascend and end before it"
            )

    def columns(self) -> dict[str, object]:
        """Training rows, and under `shared` what all rows share: arrays to live on the device."""
        shared: dict[str, object] = {
            "events": self.events,
            "items": dict(self.sides.items),
            "users": dict(self.sides.users),
        }
        if self.times is not None:
            shared["times"] = self.times
        return {name: column[self.train] for name, column in self._rows().items()} | {SHARED: shared}

    def batched(self, rows: np.ndarray, batch_size: int, *, multiple: int = 1) -> dict[str, np.ndarray]:
        """Rows in batches of one shape, [batches, batch_size], and `mask`; as `Impressions.batched`."""
        if batch_size < 1 or multiple < 1:
            raise ValueError(f"batch_size={batch_size}, multiple={multiple}: must be at least 1")
        batches = -(-len(rows) // (batch_size * multiple)) * multiple
        shape = (batches, batch_size)
        found = {name: np.zeros(batches * batch_size, c.dtype) for name, c in self._rows().items()}
        for name, column in self._rows().items():
            found[name][: len(rows)] = column[rows]
        mask = np.arange(batches * batch_size) < len(rows)
        return {name: column.reshape(shape) for name, column in (found | {"mask": mask}).items()}

    def examples_with(self, length: int) -> np.ndarray:
        """How many training rows hold each item as target or among the last `length` events, int64 [V + 1].

        The n_j of DIN's mini-batch aware regularisation.
        """
        counts = np.zeros(self.num_items + 1, np.int64)
        for first in range(0, len(self.train), CHUNK):
            rows = self.train[first : first + CHUNK]
            at = self.end[rows, None] - length + np.arange(length)
            history = np.where(at >= self.start[rows, None], self.events[np.maximum(at, 0)], 0)
            ids = np.sort(np.concatenate([history, self.item[rows, None]], axis=1), axis=1)
            once = np.concatenate([np.ones((len(ids), 1), bool), ids[:, 1:] != ids[:, :-1]], axis=1)
            counts += np.bincount(ids[once], minlength=len(counts))
        counts[0] = 0
        return counts

    def _rows(self) -> dict[str, np.ndarray]:
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
    per_event: int = 1,
    seed: int = 0,
    sides: Sides = NONE,
) -> Clicks:
    """Each event that has one before it, and `per_event` items drawn at random with the same history.

    A history ends before the time of its event: events of the same second are not in it. Sources without
    times go by the order of the events, and have no ages of events.

    split: "last" tests on the last event of each user and validates on the one before; "time" takes shares of
    80/10/10 over all users, and needs times; "user" draws 80/10/10 of the users that have a target, by
    `seed`, and asks for every event of each that has one before it, in testing as in training.
    An item is drawn uniformly among those the user had not met up to the row's part (`add_unobserved`), so
    what a training row draws may turn out positive in a later part.

    Raises ValueError for an unknown split, or one that leaves a part empty.
    """
    count = len(sequences.items)
    if count > np.iinfo(np.int32).max:
        raise ValueError(f"{sequences.name}: {count:,} events are more than int32 places can point at")
    user = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    start, place = sequences.offsets[:-1][user], np.arange(count)
    end = place if sequences.times is None else _first_of_its_second(user, sequences.times)
    asked = np.flatnonzero(end > start)
    if split == "last":
        after = sequences.offsets[1:][user[asked]] - 1 - asked  # events of the user after this one
        train, validation, test = (np.flatnonzero(chosen) for chosen in (after > 1, after == 1, after == 0))
        parts = SplitIndices(train, validation, test, "last event")
    elif split == "time":
        if sequences.times is None:
            raise ValueError(f"{sequences.name}: split='time' needs times; this source has none: use 'last'")
        parts = time_rows(sequences.times[asked])
    elif split == "user":
        parts = _user_rows(user[asked], seed)
    else:
        raise ValueError(f"split={split!r}: must be 'last', 'time' or 'user'")
    for part, rows in zip(("train", "validation", "test"), parts[:3], strict=True):
        check_rows(f"{sequences.name} ({parts.rule}): {part}", rows, len(asked))
    first = np.flatnonzero(end <= start)
    item = sequences.items.astype(np.int64) - 1
    pairs = add_unobserved(
        user[asked],
        item[asked],
        sequences.num_items,
        parts,
        per_pair=per_event,
        seed=seed,
        never=user[first].astype(np.int64) * sequences.num_items + item[first],
    )
    at = asked[pairs.origin]
    times = None if sequences.times is None else sequences.times - sequences.times[start]
    return Clicks(
        sequences.name,
        sequences.items,
        user=(pairs.user + 1).astype(np.int32),
        item=(pairs.item + 1).astype(np.int32),
        start=start[at].astype(np.int32),
        end=end[at].astype(np.int32),
        click=pairs.observed.astype(np.float32),
        train=pairs.rows.train,
        validation=pairs.rows.validation,
        test=pairs.rows.test,
        rule=pairs.rows.rule,
        left_out=count - len(asked),
        num_users=sequences.num_users,
        num_items=sequences.num_items,
        sides=sides,
        times=None if times is None else times.astype(np.int32),
        time=None if times is None else times[at].astype(np.int32),
    )


def of_items(
    item: np.ndarray,
    values: np.ndarray,
    item_ids: np.ndarray,
    where: str,
    *,
    several: Literal["error", "first"] = "error",
) -> np.ndarray:
    """A column of `Sides.items` from what events say of their items: int32 [num_items + 1].

    item: ids of events, [N]; every item has one. values: integers or text, [N], numbered 1..n in ascending
    order. several: an item with two values raises ValueError, or has that of its first event.
    """
    of_item = np.zeros(len(item_ids) + 1, values.dtype)
    of_item[item[::-1]] = values[::-1]  # the last assigned remains: that of the first event
    other = np.flatnonzero(of_item[item] != values)
    if other.size and several == "error":
        at = other[0]
        raise ValueError(
            f"{where}: item {item_ids[item[at] - 1]} has {of_item[item[at]].item()!r} and in event {at} "
            f"{values[at].item()!r} ({other.size:,} such events); correct them"
        )
    return np.append(0, np.unique(of_item[1:], return_inverse=True)[1] + 1).astype(np.int32)


def _user_rows(user: np.ndarray, seed: int) -> SplitIndices:
    """Rows by shares of their users, [N]: all rows of a user are in one part."""
    some = np.unique(user)
    drawn = random_rows(len(some), seed=seed)
    train, validation, test = (np.flatnonzero(np.isin(user, some[part])) for part in drawn[:3])
    return SplitIndices(train, validation, test, f"users 80/10/10, seed {seed}")


def _check_side(column: np.ndarray, count: int, where: str) -> None:
    """Raises ValueError unless row 0 is padding and each of `count` others has an id, as in `Sides`."""
    check_dtype(column, np.int32, where, ndim=2 if np.ndim(column) == 2 else 1)
    rows = column[:, None] if column.ndim == 1 else column
    if len(rows) != count + 1 or rows[0].any():
        raise ValueError(
            f"{where}: {len(rows):,} rows, first {column[:1].tolist()}: expected 0 for padding, then a row "
            f"for each of {count:,}"
        )
    bad = np.flatnonzero((rows[1:] < 0).any(axis=1) | ~(rows[1:] > 0).any(axis=1)) + 1
    if bad.size:
        raise ValueError(
            f"{where}: row {bad[0]} ({bad.size:,} such) holds {column[bad[0]].tolist()}: expected ids of at "
            "least 1, where a row of several is filled up with 0; give what is not known an id of its own"
        )


def _first_of_its_second(user: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The place of the first event of the same user and time, [N]."""
    new = np.append(True, (user[1:] != user[:-1]) | (times[1:] != times[:-1]))
    return np.maximum.accumulate(np.where(new, np.arange(len(user)), 0))
