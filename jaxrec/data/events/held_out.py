"""An interaction matrix with sets of held-out items: each user's items of training, validation and test.

The order of a user's items within a part means nothing. A query has a set of relevant items, all that a part
holds out of its user, where `data.events.split` has one next item.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences, format_statistics, offsets_of_lengths
from jaxrec.data.events.split import events_read, first_events
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.data.validation import as_int32_ids, as_integers, check_dtype


class Sets(NamedTuple):
    """Users and the number of their items that are relevant.

    user: index of the user in the sequences, from 0, each once, int32 [M]. length: number of the user's first
    items, which are the input and the seen items, int32 [M]. number: how many items after them are relevant,
    at least 1, int32 [M].
    """

    user: np.ndarray
    length: np.ndarray
    number: np.ndarray


class Candidates(NamedTuple):
    """Given candidates of each query besides its relevant item, int32 [M, n], 0 for none; None: all items."""

    validation: np.ndarray | None = None
    test: np.ndarray | None = None


ALL_ITEMS = Candidates()


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """An interaction matrix in three parts. Raises ValueError if they overlap.

    sequences: each user's items, those of training first, then those of validation and of test; no item
    twice.
    train_length: number of each user's first items that training reads, int32 [U]; 0: the user is held out.
    candidates: where a set of data has its own. rule: how the split was made, for a Protocol. left_out:
    number of users with held-out items who give no query, since training has none of theirs.
    """

    sequences: Sequences
    train_length: np.ndarray
    validation: Sets
    test: Sets
    rule: str
    candidates: Candidates = ALL_ITEMS
    left_out: int = 0

    def __post_init__(self) -> None:
        name, lengths = self.sequences.name, self.sequences.lengths
        check_dtype(self.train_length, np.int32, f"{name}: train_length")
        if self.train_length.shape != lengths.shape or (self.train_length > lengths).any():
            raise ValueError(
                f"{name}: train_length must have one entry per user, no more than the user's items"
            )
        if (self.train_length < 0).any() or not self.train_length.any():
            raise ValueError(f"{name}: no user has an item of training, so there is nothing to learn from")
        self._check_repeats()
        for part, sets in (("validation", self.validation), ("test", self.test)):
            self._check_sets(f"{name}: {part} sets ({self.rule})", sets)
        self._check_overlap()
        for part, given in self.candidates._asdict().items():
            if given is not None:
                self._check_candidates(f"{name}: {part} candidates", getattr(self, part), given)

    @property
    def in_training(self) -> np.ndarray:
        """True for the items that training may read, bool [N]."""
        return first_events(self.sequences, self.train_length)

    def training_events(self) -> TrainingEvents:
        """User and item of each interaction that training may read."""
        return events_read(self.sequences, self.in_training)

    def relevant(self, sets: Sets) -> tuple[np.ndarray, np.ndarray]:
        """The relevant items of queries, one after the other, and where those of each begin: [R], [M + 1]."""
        first = self.sequences.offsets[sets.user] + sets.length
        offsets = offsets_of_lengths(sets.number)
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first, sets.number)
        return self.sequences.items[place], offsets

    def _check_repeats(self) -> None:
        sequences = self.sequences
        pairs = sequences.event_users * np.int64(sequences.num_items + 1) + sequences.items
        values, count = np.unique(pairs, return_counts=True)
        if (count > 1).any():
            user, item = divmod(int(values[count.argmax()]), sequences.num_items + 1)
            raise ValueError(
                f"{sequences.name}: user {sequences.user_ids[user]} has item "
                f"{sequences.item_ids[item - 1]} {count.max()} times ({(count > 1).sum():,} such pairs), but "
                "an item is in one part, once; drop the repeats"
            )

    def _check_sets(self, where: str, sets: Sets) -> None:
        for field, column in sets._asdict().items():
            check_dtype(column, np.int32, f"{where}: {field}")
            if column.shape != sets.user.shape:
                raise ValueError(f"{where}: {field} has {column.size:,} entries for {sets.user.size:,} users")
        if not sets.user.size:
            return
        if sets.user.min() < 0 or sets.user.max() >= self.sequences.num_users:
            raise ValueError(f"{where}: a user is outside 0..{self.sequences.num_users - 1}")
        if len(np.unique(sets.user)) != sets.user.size:
            raise ValueError(f"{where}: a user has two queries; give each user's held-out items as one set")
        if (sets.length < self.train_length[sets.user]).any():
            raise ValueError(f"{where}: items of training would be relevant; they come before `length`")
        if (sets.number < 1).any() or (sets.length < 0).any():
            raise ValueError(f"{where}: a user has no relevant item; leave such users out")
        if (sets.length + sets.number > self.sequences.lengths[sets.user]).any():
            raise ValueError(f"{where}: a user has fewer items than `length` and `number` say")

    def _check_overlap(self) -> None:
        low, high = np.zeros((2, 2, self.sequences.num_users), np.int64)
        for number, sets in enumerate((self.validation, self.test)):
            low[number, sets.user], high[number, sets.user] = sets.length, sets.length + sets.number
        both = np.flatnonzero(high.min(axis=0) > low.max(axis=0))
        if both.size:
            raise ValueError(
                f"{self.sequences.name} ({self.rule}): user {self.sequences.user_ids[both[0]]} "
                f"({both.size:,} such users) has items that are relevant in validation and in test; parts "
                "must not overlap"
            )

    def _check_candidates(self, where: str, sets: Sets, given: np.ndarray) -> None:
        if given.ndim != 2 or len(given) != sets.user.size or given.dtype != np.int32:
            raise ValueError(
                f"{where}: {given.dtype}{list(given.shape)}: must be int32 [{sets.user.size:,}, number]"
            )
        if given.min(initial=0) < 0 or given.max(initial=0) > self.sequences.num_items:
            raise ValueError(f"{where}: an id is outside 0..{self.sequences.num_items:,}, where 0 is none")
        if (sets.number != 1).any():
            raise ValueError(f"{where}: a query has several relevant items; candidates are for one each")


def from_parts(
    name: str,
    parts: tuple[tuple[np.ndarray, np.ndarray], ...],
    *,
    num_items: int,
    rule: str,
    user_ids: np.ndarray,
    item_ids: np.ndarray,
) -> HeldOut:
    """A matrix from (user, item) columns of training, of validation (may be empty) and of test.

    parts: three pairs of columns, users 0..U-1, items 1..num_items, in any order. Users without an item in
    any part are left out; so are the queries of users without an item of training, which are counted.

    Raises:
      ValueError: columns that are not integers of one length, an item out of range, a pair that is given
        twice or in two parts.
    """
    for which, (user, item) in zip(("training", "validation", "test"), parts, strict=True):
        if len(user) != len(item):
            raise ValueError(f"{name}: {which}: {len(user):,} users for {len(item):,} items")
    user = as_integers(np.concatenate([users for users, _ in parts]), f"{name}: user")
    item = as_int32_ids(np.concatenate([items for _, items in parts]), num_items, f"{name}: item")
    part = np.repeat(np.arange(3), [len(users) for users, _ in parts])
    if user.size and (user.min() < 0 or user.max() >= len(user_ids)):
        raise ValueError(f"{name}: user: outside 0..{len(user_ids) - 1}")
    order = np.lexsort((item, part, user))
    user, item, part = user[order], item[order], part[order]
    known, number = np.unique(user, return_inverse=True)
    count = np.stack([np.bincount(number[part == p], minlength=len(known)) for p in range(3)])
    sequences = Sequences(
        name,
        items=item,
        times=None,
        offsets=offsets_of_lengths(count.sum(axis=0)),
        user_ids=user_ids[known],
        item_ids=item_ids,
        num_items=num_items,
    )
    train = count[0].astype(np.int32)
    validation, test = _sets(train, count[1], train), _sets(train + count[1], count[2], train)
    left_out = int(((count[1:].sum(axis=0) > 0) & (train == 0)).sum())
    return HeldOut(sequences, train, validation, test, rule, left_out=left_out)


def _sets(length: np.ndarray, number: np.ndarray, train: np.ndarray) -> Sets:
    user = np.flatnonzero((number > 0) & (train > 0))
    return Sets(*(column.astype(np.int32) for column in (user, length[user], number[user])))


def split_items(
    sequences: Sequences,
    *,
    by: Literal["random", "last"] = "random",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> HeldOut:
    """Divides the items of each user among training, validation and test.

    A user's later events of an item that they had before are left out. by: "random" takes shares of each
    user's items at random, at least one of each and never all; "last" takes the last new item for test and
    the one before for validation. Users with fewer than 3 items are for training only.

    Raises:
      ValueError: a share outside 0..1, shares that leave nothing, or no user with 3 items.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 < share < 1 or validation + test >= 1:
            raise ValueError(f"{name}={share}: shares must be above 0, and below 1 together")
    if by not in ("random", "last"):
        raise ValueError(f"by={by!r}: must be 'random' or 'last'")
    user, item = sequences.event_users, sequences.items.astype(np.int64)
    _, first = np.unique(user * (sequences.num_items + 1) + item, return_index=True)
    first.sort()
    user, item = user[first], item[first]
    count = np.bincount(user, minlength=sequences.num_users)
    if count.max() < 3:
        raise ValueError(f"{sequences.name}: no user has 3 different items, so nothing can be held out")
    if by == "random":
        order = np.lexsort((np.random.default_rng(seed).random(len(user)), user))
        item = item[order]
    number = np.stack([np.round(share * count) for share in (validation, test)]).astype(np.int64)
    number = np.where(count < 3, 0, np.maximum(number, 1) if by == "random" else np.ones_like(number))
    number[1] = np.minimum(number[1], np.maximum(count - 2, 0))  # one is left for each other part
    number[0] = np.minimum(number[0], np.maximum(count - number[1] - 1, 0))
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    rest = count - number.sum(axis=0)
    part = (place >= rest[user]).astype(int) + (place >= (rest + number[0])[user])
    rule = (
        f"{validation:.0%} and {test:.0%} of each user's items, at random, for validation and test"
        if by == "random"
        else "each user's last new item for test, the one before for validation"
    )
    return from_parts(
        sequences.name,
        tuple((user[part == p], item[part == p]) for p in range(3)),
        num_items=sequences.num_items,
        rule=rule,
        user_ids=np.asarray(sequences.user_ids),
        item_ids=np.asarray(sequences.item_ids),
    )


def hold_out_validation(
    split: HeldOut, *, share: float = 0.1, least: Literal["none", "one"] = "none", seed: int = 0
) -> HeldOut:
    """Takes a part of each user's items of training, at random, as those of validation.

    share: of a user's items, rounded to the nearest number, never all of them. least: "one" takes at least
    one item of each user who has two; "none" leaves users of few items without a query.

    Raises:
      ValueError: the split has a validation part, a share outside 0..1, or no item to take.
    """
    name = split.sequences.name
    if split.validation.user.size:
        raise ValueError(f"{name}: has a validation part of its own")
    if not 0 < share < 1:
        raise ValueError(f"share={share}: must be above 0 and below 1")
    number = np.round(share * split.train_length).astype(np.int64)
    number = np.clip(number, 0 if least == "none" else 1, np.maximum(split.train_length - 1, 0))
    if not number.any():
        raise ValueError(f"{name}: no user has an item to spare for share={share}; take a larger share")
    sequences = split.sequences
    user = sequences.event_users
    drawn = np.random.default_rng(seed).random(len(user))
    place = np.arange(len(user)) - sequences.offsets[user]
    order = np.lexsort((drawn, place >= split.train_length[user], user))
    train = (split.train_length - number).astype(np.int32)
    part = (place >= train[user]).astype(int) + (place >= split.train_length[user])
    items = sequences.items[order]
    items = items[np.lexsort((items, part, user))]
    rule = f"{split.rule}; {share:.0%} of each user's training items, at random, for validation"
    queried = np.flatnonzero((number > 0) & (train > 0))
    validation = Sets(
        *(column[queried].astype(np.int32) for column in (np.arange(len(train)), train, number))
    )
    return dataclasses.replace(
        split,
        sequences=dataclasses.replace(sequences, items=items),
        train_length=train,
        validation=validation,
        rule=rule,
    )


def format_matrix(split: HeldOut) -> str:
    """Numbers of users, items and interactions of each part, as text."""
    lines = [format_statistics(split.sequences.name, split.sequences.statistics())]
    lines.append(f"training: {int(split.train_length.sum()):,} interactions ({split.rule})")
    for part, sets in (("validation", split.validation), ("test", split.test)):
        if sets.user.size:
            lines.append(f"{part}: {int(sets.number.sum()):,} interactions of {sets.user.size:,} users")
    if split.left_out:
        lines.append(f"{split.left_out:,} users have held-out items but none in training: they give no query")
    return "\n".join(lines)
