"""Click sessions and their prefixes: a prefix of a session predicts the next click.

A session s of n clicks gives n - 1 examples, s[:k] → s[k] for k = 1 .. n - 1. They are never materialised: an
example is two integers, its session and k, and `jaxrec.tasks.next_click` gathers the clicks on the device.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.events.batching import batched_queries
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Queries
from jaxrec.data.validation import as_integers, check_ids

Part = Literal["train", "validation", "test"]


class SessionStatistics(NamedTuple):
    """The statistics that papers print about sessions.

    train_examples, test_examples: prefixes with a next click. clicks: of all sessions. items: those that
    occur anywhere; train_items: in training sessions. average_length: mean over all examples of the number of
    clicks up to and including the target, so that a session of n clicks counts n - 1 times.
    """

    train_sessions: int
    train_examples: int
    test_sessions: int
    test_examples: int
    clicks: int
    items: int
    train_items: int
    average_length: float


def format_session_statistics(name: str, s: SessionStatistics) -> str:
    """One line, as papers print it."""
    return (
        f"{name}: {s.train_sessions:,} train sessions, {s.train_examples:,} train examples, "
        f"{s.test_examples:,} test examples of {s.test_sessions:,} sessions, {s.clicks:,} clicks, "
        f"{s.items:,} items ({s.train_items:,} in train), average length {s.average_length:.3f}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Sessions:
    """Whole training sessions, and test prefixes, each followed by its next click, the target.

    Both number the items that occur anywhere alike, 1..num_items. Raises ValueError for a session or a
    prefix without a next click, and for parts that number their items differently.
    """

    name: str
    train: Sequences
    test: Sequences

    def __post_init__(self) -> None:
        if not np.array_equal(self.train.item_ids, self.test.item_ids):
            raise ValueError(
                f"{self.name}: train and test number their items differently; number them together"
            )
        for part, sequences in (("train session", self.train), ("test prefix", self.test)):
            short = np.flatnonzero(sequences.lengths < 2)
            if short.size:
                raise ValueError(
                    f"{self.name}: {part} {short[0]} has no next click ({short.size:,} such): a session "
                    "needs at least 2 clicks, a prefix at least 1 and its target; remove the shorter ones"
                )

    @property
    def num_items(self) -> int:
        """Items of both parts, without padding: all are candidates, even those absent from training."""
        return self.train.num_items

    @classmethod
    def from_arrays(
        cls,
        name: str,
        *,
        train_items: np.ndarray,
        train_offsets: np.ndarray,
        test_items: np.ndarray,
        test_offsets: np.ndarray,
        test_target: np.ndarray,
    ) -> Sessions:
        """From concatenated raw item ids; session i of a part is items[offsets[i] : offsets[i + 1]].

        Items that occur are numbered 1..n in the order of their raw ids.

        Raises ValueError for an id below 1, offsets that do not fit the items, an empty session, or not one
        target per test prefix.
        """
        train_items, train_offsets = _check_offsets(f"{name}: train", train_items, train_offsets)
        test_items, test_offsets = _check_offsets(f"{name}: test", test_items, test_offsets)
        test_target = as_integers(test_target, f"{name}: test target")
        if test_target.shape != (len(test_offsets) - 1,):
            raise ValueError(
                f"{name}: {test_target.size:,} test targets for {len(test_offsets) - 1:,} prefixes; "
                "there must be one for each"
            )
        test = np.insert(test_items, test_offsets[1:], test_target)
        raw = np.unique(np.concatenate([train_items, test]))
        if raw[0] < 1:
            raise ValueError(f"{name}: item id {raw[0]}: ids start at 1, 0 is padding; map raw ids first")

        def as_sequences(items: np.ndarray, offsets: np.ndarray) -> Sequences:
            return Sequences(
                name,
                items=(np.searchsorted(raw, items) + 1).astype(np.int32),
                times=None,
                offsets=offsets.astype(np.int64),
                user_ids=np.arange(1, len(offsets)),
                item_ids=raw,
                num_items=len(raw),
            )

        train = as_sequences(train_items, train_offsets)
        return cls(name, train, as_sequences(test, test_offsets + np.arange(len(test_offsets))))

    def statistics(self) -> SessionStatistics:
        """Counts; each test session has one prefix of one click, since all its prefixes are test examples."""
        train, test = self.train.lengths, self.test.lengths
        test_sessions = int((test == 2).sum())
        examples = int(train.sum()) - len(train)
        up_to_target = float((train * (train + 1) // 2 - 1).sum() + test.sum())  # 2 + 3 + .. + n a session
        return SessionStatistics(
            train_sessions=len(train),
            train_examples=examples,
            test_sessions=test_sessions,
            test_examples=len(test),
            clicks=int(train.sum()) + len(test) + test_sessions,
            items=self.num_items,
            train_items=len(np.unique(self.train.items)),
            average_length=up_to_target / (examples + len(test)),
        )


def _check_offsets(where: str, items: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as int64; ValueError unless offsets divide the items into non-empty sessions."""
    items, offsets = as_integers(items, f"{where} items"), as_integers(offsets, f"{where} offsets")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 1).any():
        raise ValueError(
            f"{where} offsets: must ascend from 0 to the number of items, {len(items):,}, each session "
            "having at least 1; the file is truncated or has another layout"
        )
    return items, offsets


@dataclasses.dataclass(frozen=True, eq=False)
class SessionSplit:
    """Concatenated clicks of `num_train` training sessions, `num_validation` sessions, then test prefixes.

    items: 1..num_items, int32 [N]; session s has items[offsets[s] : offsets[s + 1]]. Every prefix of a
    training or validation session is an example; a test prefix with its target is one. rule: how the split
    was made.
    """

    name: str
    items: np.ndarray
    offsets: np.ndarray
    num_train: int
    num_validation: int
    num_items: int
    item_ids: np.ndarray
    rule: str

    @property
    def lengths(self) -> np.ndarray:
        """Clicks of each session, int64 [S]."""
        return np.diff(self.offsets)

    @property
    def num_examples(self) -> int:
        """Number of training examples."""
        return int(self.offsets[self.num_train]) - self.num_train

    def queries(self, part: Part) -> Queries:
        """Session (as `user`), number of clicks before the target, and target of every example of a part."""
        first, last = self._session_range(part)
        lengths = self.lengths[first:last]
        if part == "test":
            session, prefix = np.arange(first, last), lengths - 1
        else:
            session = np.repeat(np.arange(first, last), lengths - 1)
            before = np.cumsum(lengths - 1) - (lengths - 1)
            prefix = np.arange(len(session)) - np.repeat(before, lengths - 1) + 1
        target = self.items[self.offsets[session] + prefix]
        return Queries(session.astype(np.int32), prefix.astype(np.int32), target)

    def columns(self) -> dict[str, np.ndarray]:
        """Arrays to keep on the device, all int32.

        items [N], start [S]: all sessions. length [S]: clicks that training may read, 0 in other parts.
        session, prefix [M]: session of each training example, and its number of clicks before the target.
        """
        check_ids(self.items, self.num_items, f"{self.name}: items")
        examples = self.queries("train")
        trained = np.arange(len(self.lengths)) < self.num_train
        return {
            "items": self.items,
            "start": self.offsets[:-1].astype(np.int32),
            "length": np.where(trained, self.lengths, 0).astype(np.int32),
            "session": examples.user,
            "prefix": examples.length,
        }

    def batched(self, part: Part, batch_size: int, *, multiple: int = 1) -> dict[str, np.ndarray]:
        """Examples in batches of one shape: user (the session), length, target, mask, each
        [batches, batch_size]."""
        return batched_queries(self.queries(part), batch_size, num_items=self.num_items, multiple=multiple)

    def training_clicks(self) -> tuple[np.ndarray, np.ndarray]:
        """Session and item of each training click, [C] twice."""
        end = int(self.offsets[self.num_train])
        session = np.repeat(np.arange(self.num_train), self.lengths[: self.num_train])
        return session, self.items[:end]

    def _session_range(self, part: Part) -> tuple[int, int]:
        """First session of a part, and the end."""
        ends = np.cumsum([0, self.num_train, self.num_validation]).tolist()
        match part:
            case "train":
                return ends[0], ends[1]
            case "validation":
                return ends[1], ends[2]
            case "test":
                return ends[2], len(self.lengths)
        raise ValueError(f"part={part!r}: must be 'train', 'validation' or 'test'")


def split_sessions(
    sessions: Sessions, *, share: float = 0.1, by: Literal["random", "last"] = "random", seed: int = 0
) -> SessionSplit:
    """Holds out a share of the training sessions for validation; test prefixes stay as they are.

    by: "random" draws whole sessions by `seed`; the codes of NARM and SR-GNN draw examples instead, so that
    prefixes of one session are in both parts. "last" takes the last sessions of the file, which in these
    sources are the latest: validation is then between training and test in time, but training lacks the most
    recent sessions.

    share: 0 gives no validation, for codes that train on all sessions and select on test.

    Raises ValueError for a share outside [0, 1), an unknown `by`, or a part that would be empty.
    """
    count = sessions.train.num_users
    if not 0 <= share < 1:
        raise ValueError(f"share={share}: must be at least 0 and below 1")
    if by not in ("random", "last"):
        raise ValueError(f"by={by!r}: must be 'random' or 'last'")
    validated = round(share * count)
    if not (share == 0 or 0 < validated < count):
        raise ValueError(
            f"{sessions.name}: a share of {share} of {count} sessions leaves none for "
            f"{'validation' if validated == 0 else 'training'}; choose another share"
        )
    order = np.random.default_rng(seed).permutation(count) if by == "random" else np.arange(count)
    chosen = np.concatenate([np.sort(order[: count - validated]), np.sort(order[count - validated :])])
    lengths = sessions.train.lengths[chosen]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    train = sessions.train.items[np.repeat(sessions.train.offsets[:-1][chosen], lengths) + within]
    drawn = (
        f"{100 * share:g}% of sessions at random, seed {seed}"
        if by == "random"
        else f"last {100 * share:g}% of sessions"
    )
    return SessionSplit(
        sessions.name,
        items=np.concatenate([train, sessions.test.items]),
        offsets=np.concatenate([[0], np.cumsum(np.concatenate([lengths, sessions.test.lengths]))]),
        num_train=count - validated,
        num_validation=validated,
        num_items=sessions.num_items,
        item_ids=sessions.train.item_ids,
        rule=f"later sessions tested, {f'{drawn} for validation' if share else 'all others trained on'}",
    )
