"""The event table (who did what, when) and its form as one sequence per user."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data import vocab
from jaxrec.data.validation import (
    MAX_SPAN,
    as_int32_ids,
    as_integers,
    check_count,
    check_dtype,
    check_ids,
    check_name,
    check_seconds,
)


class Statistics(NamedTuple):
    """The statistics that papers print about a data set.

    items: distinct items that occur. sparsity: percent, 100 * (1 - interactions / (users * items)), where
    repeated events count each time. first, last: dates (UTC), None without times. repeats: events whose item
    the same user had before; repeat_users: users with such events.
    """

    users: int
    items: int
    interactions: int
    sparsity: float
    average_length: float
    first: str | None
    last: str | None
    repeats: int
    repeat_users: int


def format_statistics(name: str, s: Statistics) -> str:
    """One line, as papers print it."""
    repeated = (
        f"{s.repeats:,} repeats by {s.repeat_users:,} users" if s.repeats else "no repeats within a user"
    )
    return (
        f"{name}: {s.users:,} users, {s.items:,} items, {s.interactions:,} interactions, "
        f"sparsity {s.sparsity:.4f} %, average length {s.average_length:.2f}, "
        f"{f'{s.first} .. {s.last}' if s.first else 'no times'}, {repeated}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Events in the order of their file; repeated items are kept. Raises ValueError on bad columns.

    user: 1..num_users, int32 [N]. item: 1..num_items, int32 [N]. time: seconds since 1970, int64 [N], or
    None: events are in time order. value: such as a rating, float32 [N], or None.
    user_ids, item_ids: raw ids; user u is user_ids[u - 1], item i is item_ids[i - 1].
    ids_kept: item ids are the raw ids, as an existing item table has them: only an explicit request
    renumbers them.
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    value: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    ids_kept: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        check_dtype(self.user, np.int32, f"{self.name}: user")
        check_count(self.user.size, f"{self.name}: events")
        check_count(self.num_users, f"{self.name}: users")
        check_count(self.num_items, f"{self.name}: items")
        check_ids(self.user, self.num_users, f"{self.name}: user")
        check_ids(self.item, self.num_items, f"{self.name}: item")
        if self.time is not None:
            check_seconds(self.time, f"{self.name}: time")
        if self.value is not None:
            check_dtype(self.value, np.float32, f"{self.name}: value")
            bad = np.flatnonzero(~np.isfinite(self.value))
            if bad.size:
                raise ValueError(
                    f"{self.name}: value {self.value[bad[0]]} at position {bad[0]} is not a finite float32"
                )
        for column, array in (("item", self.item), ("time", self.time), ("value", self.value)):
            if array is not None and array.size != self.user.size:
                raise ValueError(
                    f"{self.name}: {column} has {array.size:,} entries, user has {self.user.size:,}"
                )

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Without padding."""
        return len(self.item_ids)

    @classmethod
    def from_raw(
        cls,
        name: str,
        user: object,
        item: object,
        time: np.ndarray | None = None,
        value: np.ndarray | None = None,
        *,
        order: vocab.Order = "appearance",
        real_ids: Collection[str] = (),
    ) -> Interactions:
        """Numbers raw user and item ids (integers or text, [N]) by first appearance or sorted.

        real_ids: ids that look like a missing value (`cells.MISSING_MARKS`) but are real, such as "NA".
        Raises ValueError for missing ids, for text with spaces around it, and as `vocab.as_raw_ids` does.
        """
        columns = []
        for feature, values in ((f"{name}: user", user), (f"{name}: item", item)):
            vocabulary, ids = vocab.build_and_encode(feature, values, order)
            vocab.check_raw_ids(vocabulary, ids, real_ids)
            columns.append((ids, vocabulary.raw))
        (users, user_ids), (items, item_ids) = columns
        return cls(name, user=users, item=items, time=time, value=value, user_ids=user_ids, item_ids=item_ids)

    def event_order(self) -> np.ndarray:
        """Indices that sort events by user, then time (ties: file order), int64 [N]; see `to_sequences`.

        So value[event_order()] are the values of the events of the sequences.
        """
        return np.lexsort((self.user,) if self.time is None else (self.time, self.user))

    def to_sequences(self) -> Sequences:
        """Sorts events by user, then time; events of equal time keep their order."""
        order = self.event_order()
        return Sequences(
            self.name,
            items=self.item[order],
            times=None if self.time is None else self.time[order],
            offsets=offsets_of_lengths(np.bincount(self.user, minlength=self.num_users + 1)[1:]),
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            num_items=self.num_items,
        )

    def k_core(self, k: int, *, item_k: int | None = None, renumber: bool | None = None) -> Interactions:
        """Removes users with fewer than k events and items with fewer than `item_k` (default k), repeatedly.

        Repeated events count each time. The remaining users are renumbered in their order.
        renumber: whether items are renumbered too; None: unless `ids_kept`. Items that are not renumbered
        keep their ids and num_items, so that some have no event.
        Raises ValueError if nothing remains.
        """
        least_user, least_item = k, k if item_k is None else item_k
        if min(least_user, least_item) < 1:
            raise ValueError(f"k={k}, item_k={item_k}: must be at least 1")
        keep = np.ones(self.user.size, bool)
        while True:
            users = np.bincount(self.user[keep], minlength=self.num_users + 1)
            items = np.bincount(self.item[keep], minlength=self.num_items + 1)
            smaller = keep & (users[self.user] >= least_user) & (items[self.item] >= least_item)
            if smaller.sum() == keep.sum():
                break
            keep = smaller
        if not keep.any():
            raise ValueError(
                f"{self.name}: the {least_user}-core of users and {least_item}-core of items is empty; "
                "choose a smaller k"
            )
        user, user_ids = _renumber(self.user[keep], self.user_ids)
        item, item_ids, ids_kept = self.item[keep], self.item_ids, self.ids_kept
        if renumber or (renumber is None and not ids_kept):
            (item, item_ids), ids_kept = _renumber(item, item_ids), False
        return dataclasses.replace(
            self,
            user=user,
            item=item,
            time=None if self.time is None else self.time[keep],
            value=None if self.value is None else self.value[keep],
            user_ids=user_ids,
            item_ids=item_ids,
            ids_kept=ids_kept,
        )

    def statistics(self) -> Statistics:
        return _statistics(self.user, self.item, self.time)


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """One sequence of items per user, oldest first, stored end to end. Raises ValueError on bad columns.

    items: 1..num_items, int32 [N]; user u has items[offsets[u] : offsets[u + 1]].
    times: seconds since 1970, ascending within a user, int64 [N], or None if the source has none.
    offsets: int64 [U + 1]; every user has an event. user_ids: raw ids [U].
    item_ids: raw ids [num_items]; item i has the raw id item_ids[i - 1].
    gap_variance_rank: rank of each user by the variance of the time gaps, int32 [U], 0 is least; or None.
    """

    name: str
    items: np.ndarray
    times: np.ndarray | None
    offsets: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    num_items: int
    gap_variance_rank: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_dtype(self.offsets, np.int64, f"{self.name}: offsets")
        check_count(self.num_users, f"{self.name}: users")
        check_count(self.num_items, f"{self.name}: items")
        if len(self.item_ids) != self.num_items or len(self.user_ids) != self.num_users:
            raise ValueError(
                f"{self.name}: {len(self.user_ids):,} user_ids and {len(self.item_ids):,} item_ids for "
                f"{self.num_users:,} users and {self.num_items:,} items; there must be one for each"
            )
        check_ids(self.items, self.num_items, f"{self.name}: items")
        if self.offsets[0] != 0 or self.offsets[-1] != self.items.size:
            raise ValueError(
                f"{self.name}: offsets run from {self.offsets[0]} to {self.offsets[-1]}, "
                f"expected 0 to {self.items.size}"
            )
        empty = np.flatnonzero(self.lengths < 1)
        if empty.size:
            raise ValueError(
                f"{self.name}: user {self.user_ids[empty[0]]} has no event ({empty.size:,} such users); "
                "leave them out"
            )
        if self.times is not None:
            self._check_times(self.times)
        if self.gap_variance_rank is not None:
            check_dtype(self.gap_variance_rank, np.int32, f"{self.name}: gap_variance_rank")
            if not np.array_equal(np.sort(self.gap_variance_rank), np.arange(self.num_users)):
                raise ValueError(
                    f"{self.name}: gap_variance_rank must hold each of 0..{self.num_users - 1} once"
                )

    def _check_times(self, times: np.ndarray) -> None:
        check_seconds(times, f"{self.name}: times")
        if times.size != self.items.size:
            raise ValueError(f"{self.name}: {times.size:,} times for {self.items.size:,} items")
        back = np.flatnonzero(np.diff(times) < 0) + 1
        back = back[~np.isin(back, self.offsets)]
        if back.size:
            raise ValueError(
                f"{self.name}: user {self.user_ids[self._user_index(back[0])]} has time "
                f"{times[back[0]]} after {times[back[0] - 1]}; "
                "times must ascend within a user: build from Interactions, which sorts"
            )
        span = times[self.offsets[1:] - 1] - times[self.offsets[:-1]]
        if span.max() > MAX_SPAN:
            user = int(span.argmax())
            raise ValueError(
                f"{self.name}: the events of user {self.user_ids[user]} span {span[user]} seconds, more than "
                f"int32 holds ({MAX_SPAN}, 68 years); check the unit of time and look for placeholder dates"
            )

    def _user_index(self, event: int) -> int:
        return int(np.searchsorted(self.offsets, event, side="right")) - 1

    @property
    def num_users(self) -> int:
        return self.offsets.size - 1

    @property
    def lengths(self) -> np.ndarray:
        """Events of each user, int64 [U]."""
        return np.diff(self.offsets)

    @property
    def event_users(self) -> np.ndarray:
        """User index 0..U-1 of each event, int64 [N]."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    def user_items(self, user: int) -> np.ndarray:
        """Items of the user of index `user` (0..U-1), oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @classmethod
    def from_lists(
        cls,
        name: str,
        lists: Sequence[Sequence[int]],
        times: Sequence[Sequence[int]] | None = None,
        *,
        num_items: int | None = None,
    ) -> Sequences:
        """From one list of item ids 1..num_items (default: the largest) per user; users are 1, 2, ...

        Raises ValueError unless items and times are integers and of equal lengths.
        """
        if not len(lists) or not any(len(items) for items in lists):
            raise ValueError(f"{name}: there are no events; at least one user with one event is needed")
        if times is not None and [len(t) for t in times] != [len(items) for items in lists]:
            raise ValueError(f"{name}: items and times differ in length for some user")
        items = np.concatenate([as_integers(x, f"{name}: items of user {i}") for i, x in enumerate(lists)])
        count = int(items.max()) if num_items is None else num_items
        check_count(count, f"{name}: items")
        return cls(
            name,
            items=as_int32_ids(items, count, f"{name}: items"),
            times=None
            if times is None
            else np.concatenate([as_integers(t, f"{name}: times of user {i}") for i, t in enumerate(times)]),
            offsets=offsets_of_lengths(np.array([len(x) for x in lists])),
            user_ids=np.arange(1, len(lists) + 1),
            item_ids=np.arange(1, count + 1),
            num_items=count,
        )

    def statistics(self) -> Statistics:
        return _statistics(self.event_users, self.items, self.times)


def gap_variance_rank(sequences: Sequences, lengths: np.ndarray | None = None) -> np.ndarray:
    """Ranks users by the variance of their time gaps, ascending: int32 [U], 0 for the least.

    lengths: how many of each user's first events are read, int [U]; None means all.

    Events of equal time count once, as in TiCoSeRec (Dang et al., AAAI 2023); users with fewer than two
    gaps have variance 0, and ties keep the order of users. Departs from the published order files, which
    their authors computed on unsorted events: use such a file where a source has one.
    """
    if sequences.times is None:
        raise ValueError(f"{sequences.name}: has no times, so users can't be ranked by their time gaps")
    ends = sequences.offsets[1:] if lengths is None else sequences.offsets[:-1] + lengths
    parts = [sequences.times[a:b] for a, b in zip(sequences.offsets[:-1], ends, strict=True)]
    variance = [gaps.var() if (gaps := np.diff(np.unique(part))).size > 1 else 0.0 for part in parts]
    rank = np.empty(sequences.num_users, np.int32)
    rank[np.argsort(variance, kind="stable")] = np.arange(sequences.num_users, dtype=np.int32)
    return rank


def offsets_of_lengths(lengths: np.ndarray) -> np.ndarray:
    """Offsets of consecutive parts, int64 [U + 1], from their lengths [U]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _renumber(ids: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the ids that occur 1..n in ascending order; returns them and their raw ids."""
    present = np.unique(ids)
    return (np.searchsorted(present, ids) + 1).astype(np.int32), raw[present - 1]


def _statistics(user: np.ndarray, item: np.ndarray, time: np.ndarray | None) -> Statistics:
    pairs = np.unique(user.astype(np.int64) << 32 | item)
    pair_users, distinct = np.unique(pairs >> 32, return_counts=True)
    events = np.bincount(user)[pair_users]
    users, items = pair_users.size, np.unique(item).size
    return Statistics(
        users=users,
        items=items,
        interactions=user.size,
        sparsity=100 * (1 - user.size / (users * items)),
        average_length=user.size / users,
        first=None if time is None else _date(time.min()),
        last=None if time is None else _date(time.max()),
        repeats=user.size - pairs.size,
        repeat_users=int((events > distinct).sum()),
    )


def _date(seconds: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return (epoch + datetime.timedelta(seconds=int(seconds))).date().isoformat()
    except OverflowError:
        return f"{seconds} s"
