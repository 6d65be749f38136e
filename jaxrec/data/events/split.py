"""Splits: which events training may read, and which next items are the targets of validation and test.

Leave-one-out leaks the future across users: one user's training events may be years later than another
user's test event, so item popularity and co-occurrence of the future reach the model. Most published
tables use it, and so do our tables that compare with them. `future_share` measures the leak; `split_by_time`
has none.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.data.validation import check_dtype, check_ids


class Queries(NamedTuple):
    """Next items to predict.

    user: index of the user in the sequences, from 0, int32 [M]. length: number of the user's events before
    the target, which are the input and the seen items, int32 [M]. target: the next item, int32 [M].
    """

    user: np.ndarray
    length: np.ndarray
    target: np.ndarray


class Repeats(NamedTuple):
    """How many targets of a split their user has interacted with before.

    validation, test: queries whose target is among the events before it; under `seen="exclude"` they are
    misses. duplicates: events with the same user, item and second as another one; None without times.
    """

    validation: int
    test: int
    duplicates: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Training events and two sets of queries over the same sequences. Raises ValueError if they overlap.

    train_length: number of each user's first events that training may read, int32 [U]: inputs are events
    0..train_length-2, targets 1..train_length-1.
    rule: how the split was made, for a Protocol. left_out: number of queries left out because too few events
    precede their target.
    """

    sequences: Sequences
    train_length: np.ndarray
    validation: Queries
    test: Queries
    rule: str = "leave-one-out"
    left_out: int = 0

    def __post_init__(self) -> None:
        name, lengths = self.sequences.name, self.sequences.lengths
        check_dtype(self.train_length, np.int32, f"{name}: train_length")
        if self.train_length.shape != lengths.shape or (self.train_length > lengths).any():
            raise ValueError(
                f"{name}: train_length must have one entry per user, no more than the user's events"
            )
        if (self.train_length < 0).any() or self.train_length.max() < 2:
            raise ValueError(f"{name}: no user has two training events, so there is nothing to learn from")
        for part, queries in (("validation", self.validation), ("test", self.test)):
            self._check_queries(f"{name}: {part} split ({self.rule})", queries)

    @functools.cached_property
    def repeats(self) -> Repeats:
        """Numbers of targets seen before and of exact duplicates."""
        return Repeats(
            validation=int(seen_before(self.sequences, self.validation).sum()),
            test=int(seen_before(self.sequences, self.test).sum()),
            duplicates=count_duplicates(self.sequences),
        )

    @property
    def in_training(self) -> np.ndarray:
        """True for the events that training may read, bool [N]."""
        return first_events(self.sequences, self.train_length)

    def training_events(self) -> TrainingEvents:
        """User and item of each event that training may read."""
        return events_read(self.sequences, self.in_training)

    def _check_queries(self, where: str, queries: Queries) -> None:
        if queries.user.size == 0:
            raise ValueError(f"{where}: it is empty; choose other limits or another split")
        for field, array in zip(Queries._fields, queries, strict=True):
            check_dtype(array, np.int32, f"{where}: {field}")
        check_ids(queries.target, self.sequences.num_items, f"{where}: target")
        if queries.user.min() < 0 or queries.user.max() >= self.sequences.num_users:
            raise ValueError(f"{where}: user indices must lie in 0..{self.sequences.num_users - 1}")
        if (queries.length < self.train_length[queries.user]).any():
            raise ValueError(f"{where}: a target is among the training events")
        if (queries.length >= self.sequences.lengths[queries.user]).any():
            raise ValueError(f"{where}: a query reads past its user's last event")
        at = self.sequences.offsets[queries.user] + queries.length
        if not np.array_equal(self.sequences.items[at], queries.target):
            raise ValueError(f"{where}: a target is not the event that follows its `length` events")


def first_events(sequences: Sequences, number: np.ndarray) -> np.ndarray:
    """True for the first events of each user, bool [N]. number: how many of each user's, integers [U]."""
    index = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    return np.asarray(index < np.repeat(number, sequences.lengths))


def events_read(sequences: Sequences, read: np.ndarray) -> TrainingEvents:
    """User and item of the events for which `read`, bool [N], is True."""
    return TrainingEvents(sequences.event_users[read], sequences.items[read], sequences.num_items)


def leave_one_out(sequences: Sequences, *, short: Literal["error", "train"] = "error") -> Split:
    """The last event of each user is the test target, the last but one the validation target.

    Warning: other users' future leaks into training (see the top of this file).

    short: for users with fewer than 3 events, "error" raises a ValueError; "train" uses all their events for
    training, and they have no query.
    """
    why = "too few to leave one out for validation and one for test"
    lengths, few = sequences.lengths, _short_users(sequences, 3, short, why)
    queried = np.flatnonzero(~few)
    return Split(
        sequences,
        train_length=np.where(few, lengths, lengths - 2).astype(np.int32),
        validation=_queries(sequences, queried, lengths[queried] - 2),
        test=_queries(sequences, queried, lengths[queried] - 1),
        rule="leave-one-out"
        if not few.any()
        else "leave-one-out, users with fewer than 3 events in training only",
    )


def leave_last_out(sequences: Sequences, number: int, *, short: Literal["error", "train"] = "error") -> Split:
    """Each user's last `number` events are test targets, and as many before them validation targets.

    The input of each target is all events before it, those of validation and test too. With 1 it is
    `leave_one_out`, and leaks the future of other users as that does.

    short: for users with fewer than 2 number + 1 events, as in `leave_one_out`.

    Raises:
      ValueError: number is below 1; a user is short.
    """
    if number < 1:
        raise ValueError(f"number={number}: must be at least 1")
    why = f"too few to leave {number} out for validation and {number} for test"
    lengths, few = sequences.lengths, _short_users(sequences, 2 * number + 1, short, why)
    user = np.repeat(np.flatnonzero(~few), number)
    position = lengths[user] - number + np.tile(np.arange(number), len(user) // number)
    rule = f"last {number} events of each user, the {number} before them for validation"
    return Split(
        sequences,
        train_length=np.where(few, lengths, lengths - 2 * number).astype(np.int32),
        validation=_queries(sequences, user, position - number),
        test=_queries(sequences, user, position),
        rule=f"{rule}, users with fewer than {2 * number + 1} events in training only" if few.any() else rule,
    )


def split_by_time(
    sequences: Sequences,
    validation_time: int,
    test_time: int,
    *,
    targets: Literal["first", "last", "all"] = "first",
    min_history: int = 1,
) -> Split:
    """Splits all users at the same times: training before `validation_time`, test from `test_time` on.

    validation_time, test_time: seconds since 1970. Events in [validation_time, test_time) are validation.
    targets: which events of a user in a window are targets: the first (then every input is earlier than the
    window, and nothing leaks), the last, or all; earlier events of the window are inputs.
    min_history: queries with fewer events than this before their target are left out and counted in
    `Split.left_out`: a user who first appears in a window has no history to predict from.
    Items that first appear in a window stay candidates. Raises ValueError without times, for times out of
    order, or if a window is empty.
    """
    if sequences.times is None:
        raise ValueError(f"{sequences.name}: has no times, so it can't be split by time; use leave_one_out")
    if not validation_time < test_time:
        raise ValueError(f"validation_time={validation_time}: must lie before test_time={test_time}")
    if targets not in ("first", "last", "all"):
        raise ValueError(f"targets={targets!r}: must be 'first', 'last' or 'all'")
    if min_history < 1:
        raise ValueError(f"min_history={min_history}: must be at least 1")
    user = sequences.event_users
    position = np.arange(user.size) - sequences.offsets[user]
    left_out, parts = 0, []
    for start, end in ((validation_time, test_time), (test_time, None)):
        window = sequences.times >= start
        if end is not None:
            window &= sequences.times < end
        events = np.flatnonzero(window)
        if targets == "first":
            events = events[np.unique(user[events], return_index=True)[1]]
        elif targets == "last":
            events = events[::-1][np.unique(user[events][::-1], return_index=True)[1]]
        enough = position[events] >= min_history
        left_out += int((~enough).sum())
        parts.append(_queries(sequences, user[events[enough]], position[events[enough]]))
    before = np.bincount(user[sequences.times < validation_time], minlength=sequences.num_users)
    return Split(
        sequences,
        train_length=before.astype(np.int32),
        validation=parts[0],
        test=parts[1],
        rule=f"time {validation_time} {test_time}, {targets} event of a user, least {min_history}",
        left_out=left_out,
    )


def split_by_time_shares(
    sequences: Sequences,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    targets: Literal["first", "last", "all"] = "first",
    min_history: int = 1,
) -> Split:
    """`split_by_time` at the moments after which the last shares of all events lie.

    validation, test: shares of the events in the two windows; events of one second are in one part, so a
    window may hold more. targets, min_history, and how many queries there are: as in `split_by_time`.

    Raises:
      ValueError: as `split_by_time`; a share outside 0..1, or so many events of one second that a part is
        empty.
    """
    _check_shares(validation, test)
    if sequences.times is None:
        raise ValueError(f"{sequences.name}: has no times, so it can't be split by time; use leave_one_out")
    ordered = np.sort(sequences.times)
    count = len(ordered)
    first, second = (
        int(ordered[min(count - round(count * share), count - 1)]) for share in (validation + test, test)
    )
    if not ordered[0] < first < second:
        raise ValueError(
            f"{sequences.name}: validation={validation:g}, test={test:g} of {count:,} events leave a part "
            f"empty (training ends at {first}, validation at {second}, the first event is at {ordered[0]}); "
            "choose other shares, or moments with split_by_time"
        )
    split = split_by_time(sequences, first, second, targets=targets, min_history=min_history)
    return dataclasses.replace(split, rule=f"{split.rule}, windows of {validation:g}/{test:g} of the events")


def split_by_user(
    sequences: Sequences,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    short: Literal["error", "train"] = "error",
) -> Split:
    """Holds users out: none of their events is in training, and the last is predicted from those before it.

    The strong generalisation of Liang et al., "Variational Autoencoders for Collaborative Filtering" (WWW
    2018, section 4.1). Departs from them: the target is the last event instead of a random fifth of the
    user's items, and items that held-out users alone have stay candidates.

    validation, test: shares of the users, drawn at random by `seed`. short: for users with fewer than 2
    events, who have nothing to predict, "error" raises a ValueError; "train" never holds them out, so that
    the shares are of the others.

    Raises:
      ValueError: a share outside 0..1, a part without a user, or no user left to train on.
    """
    _check_shares(validation, test)
    lengths, few = sequences.lengths, _short_users(sequences, 2, short, "so nothing to predict")
    possible = np.random.default_rng(seed).permutation(np.flatnonzero(~few))
    for_validation, for_test = (round(share * len(possible)) for share in (validation, test))
    rest = len(possible) - for_validation - for_test
    if min(for_validation, for_test, rest) < 1:
        raise ValueError(
            f"{sequences.name}: validation={validation:g}, test={test:g} of {len(possible):,} users with 2 "
            f"events or more leave a part empty ({rest} for training, {for_validation}, {for_test}); choose "
            "other shares, or a split that keeps every user, such as leave_one_out"
        )
    last, middle = np.sort(possible[:for_test]), np.sort(possible[for_test : for_test + for_validation])
    train_length = lengths.astype(np.int32)
    train_length[last] = train_length[middle] = 0
    rule = f"held-out users {validation:g}/{test:g}, seed {seed}, last event from those before"
    return Split(
        sequences,
        train_length=train_length,
        validation=_queries(sequences, middle, lengths[middle] - 1),
        test=_queries(sequences, last, lengths[last] - 1),
        rule=f"{rule}, users with fewer than 2 events in training only" if few.any() else rule,
    )


def _check_shares(validation: float, test: float) -> None:
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation}, test={test}: shares must be above 0 and leave some for training"
        )


def _short_users(sequences: Sequences, least: int, short: str, why: str) -> np.ndarray:
    """Users with fewer than `least` events, bool [U]; ValueError if there are any and short is "error"."""
    if short not in ("error", "train"):
        raise ValueError(f"short={short!r}: must be 'error' or 'train'")
    few = sequences.lengths < least
    if few.any() and short == "error":
        raise ValueError(
            f"{sequences.name}: {few.sum():,} of {few.size:,} users have fewer than {least} events (first: "
            f"user {sequences.user_ids[few.argmax()]}), {why}; take them out with k_core({least}), or keep "
            "them for training only with short='train'"
        )
    return np.asarray(few)


def future_share(split: Split) -> float:
    """Mean over test queries of the share of training events later than the target; 0 means no leak."""
    times, offsets = split.sequences.times, split.sequences.offsets
    if times is None:
        raise ValueError(f"{split.sequences.name}: has no times, so the leak can't be measured")
    training = np.sort(times[split.in_training])
    target_times = times[offsets[split.test.user] + split.test.length]
    return float(1 - np.mean(np.searchsorted(training, target_times, side="right")) / training.size)


def seen_before(sequences: Sequences, queries: Queries) -> np.ndarray:
    """Whether the target of each query is among the `length` events before it, bool [M]."""
    size = np.int64(sequences.num_items + 1)
    pairs, first = np.unique(sequences.event_users * size + sequences.items, return_index=True)
    wanted = queries.user * size + queries.target
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = (pairs[place] == wanted) & (first[place] < sequences.offsets[queries.user] + queries.length)
    return np.asarray(seen)


def count_duplicates(sequences: Sequences) -> int | None:
    """Number of events that repeat another one's user, item and second; None without times."""
    if sequences.times is None:
        return None
    order = np.lexsort((sequences.times, sequences.items, sequences.event_users))
    columns = (sequences.event_users[order], sequences.items[order], sequences.times[order])
    return int(np.logical_and.reduce([column[1:] == column[:-1] for column in columns]).sum())


def format_repeats(split: Split) -> str:
    """`Split.repeats` in a line, and what to do if there are any."""
    found, counts = split.repeats, (len(split.validation.user), len(split.test.user))
    text = (
        f"{split.rule}: {found.validation:,} of {counts[0]:,} validation targets and {found.test:,} of "
        f"{counts[1]:,} test targets were seen before by their user; "
    )
    text += "no times" if found.duplicates is None else f"{found.duplicates:,} exact duplicates"
    text += ", so exact duplicates aren't known" if found.duplicates is None else " (same user, item, second)"
    if found.validation or found.test:
        text += (
            '. With seen="exclude" such targets are misses: rank with seen="keep" (--keep-seen) where users '
            "come back to an item, or remove the events that are no real repeats"
        )
    return text


def _queries(sequences: Sequences, user: np.ndarray, length: np.ndarray) -> Queries:
    target = sequences.items[sequences.offsets[user] + length]
    return Queries(user.astype(np.int32), length.astype(np.int32), target)
