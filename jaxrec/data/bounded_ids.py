"""A bounded number of ids for raw ids that never end: those that keep coming get a row, and give it up again.

A state is a tuple of arrays, and `observe` is a pure function of it, so a stream can be taken up from any
stored state (`save`, `load`) with the same ids. Rows are numbered 1..capacity as in a model's table; 0 is
padding; raw ids without a row share `unknown`, row capacity + 1.

    rules = Rules(capacity=100_000, admit_after=3)
    state = start(rules)
    for raw in stream:
        state, seen = observe(rules, state, raw)       seen.ids for the step, seen.renewed: rows to start anew

The rows of `renewed` have changed hands: what a model and its optimiser learned there is of another raw id
(`nn.layers.hashed_tables.renew_rows`).
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.validation import as_integers

NEVER = -1  # the time of a row or a place that holds none
_FORMAT = 1


class Rules(NamedTuple):
    """How rows are given.

    capacity: rows. admit_after: occurrences after which a raw id gets a row, at least 1.
    evict: who gives up a row where none is free, of those that are not in the batch: "oldest", the one not
        seen for longest; "rarest", the one of fewest occurrences, and only to one of more. Ties: the older,
        then the lower row.
    waiting: raw ids without a row that are counted; where there are more, the oldest are forgotten.
    """

    capacity: int
    admit_after: int = 1
    evict: Literal["oldest", "rarest"] = "oldest"
    waiting: int = 1_000_000

    def check(self) -> None:
        """Raises ValueError for a number below 1 or another word."""
        for name in ("capacity", "admit_after", "waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.evict not in ("oldest", "rarest"):
            raise ValueError(f"evict={self.evict!r}: must be 'oldest' or 'rarest'")


class State(NamedTuple):
    """raw, occurrences, seen: of each row, int64 [capacity]: its raw id, how often it came, and the last
    batch that had it, `NEVER` for a free row.
    waiting_*: the same of raw ids without a row, [W], in ascending order of raw ids.
    order: rows that are taken, in ascending order of their raw ids. clock: batches observed.
    """

    raw: np.ndarray
    occurrences: np.ndarray
    seen: np.ndarray
    order: np.ndarray
    waiting_raw: np.ndarray
    waiting_count: np.ndarray
    waiting_seen: np.ndarray
    clock: int


class Seen(NamedTuple):
    """ids: of a batch, int32, in its shape. renewed: ids that another raw id has from now on, int32."""

    ids: np.ndarray
    renewed: np.ndarray


def start(rules: Rules) -> State:
    """All rows free. Raises ValueError, see `Rules.check`."""
    rules.check()
    none, zeros = np.zeros(0, np.int64), np.zeros(rules.capacity, np.int64)
    return State(zeros, zeros.copy(), np.full(rules.capacity, NEVER), none, none, none, none, 0)


def unknown(rules: Rules) -> int:
    """The id of all raw ids without a row: a model's table has capacity + 2 rows."""
    return rules.capacity + 1


def encode(rules: Rules, state: State, raw: object) -> np.ndarray:
    """Ids of raw ids, int32, in their shape; `unknown` where there is no row. Changes nothing."""
    array = np.asarray(raw)
    row = _rows(state, as_integers(array.reshape(-1), "raw ids"))
    return np.where(row >= 0, row + 1, unknown(rules)).astype(np.int32).reshape(array.shape)


def decode(rules: Rules, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are taken, and their raw ids: ids int32 [n] in ascending order, raw int64 [n]."""
    taken = np.flatnonzero(state.seen != NEVER)
    return (taken + 1).astype(np.int32), state.raw[taken]


def observe(rules: Rules, state: State, raw: object) -> tuple[State, Seen]:
    """Counts a batch of raw ids of any shape, gives rows, and encodes the batch.

    Of those that may have a row now, the one of most occurrences comes first (ties: the lower raw id).

    Raises:
      ValueError: raw ids that are not integers.
    """
    array = np.asarray(raw)
    values, times = np.unique(as_integers(array.reshape(-1), "raw ids"), return_counts=True)
    clock = state.clock
    count, seen = state.occurrences.copy(), state.seen.copy()
    row = _rows(state, values)
    known = row >= 0
    count[row[known]] += times[known]
    seen[row[known]] = clock
    waiting = _counted(state, values[~known], times[~known], clock)
    state = state._replace(occurrences=count, seen=seen, clock=clock + 1)
    state, waiting, renewed = _admit(rules, state, waiting, clock)
    if len(waiting[0]) > rules.waiting:
        kept = np.sort(np.lexsort((waiting[0], -waiting[2]))[: rules.waiting])
        waiting = tuple(part[kept] for part in waiting)
    state = state._replace(waiting_raw=waiting[0], waiting_count=waiting[1], waiting_seen=waiting[2])
    return state, Seen(encode(rules, state, array), renewed)


def _rows(state: State, raw: np.ndarray) -> np.ndarray:
    """The row of each raw id, -1 where there is none."""
    if not len(state.order):
        return np.full(raw.shape, -1)
    at = np.minimum(np.searchsorted(state.raw[state.order], raw), len(state.order) - 1)
    return np.where(state.raw[state.order[at]] == raw, state.order[at], -1)


Waiting = tuple[np.ndarray, ...]  # raw, count, seen


def _counted(state: State, values: np.ndarray, times: np.ndarray, clock: int) -> Waiting:
    """Those that wait, with new occurrences."""
    raw, place = np.unique(np.concatenate([state.waiting_raw, values]), return_inverse=True)
    old, new = place[: len(state.waiting_raw)], place[len(state.waiting_raw) :]
    count, seen = np.zeros(len(raw), np.int64), np.zeros(len(raw), np.int64)
    count[old], seen[old] = state.waiting_count, state.waiting_seen
    count[new] += times
    seen[new] = clock
    return raw, count, seen


def _admit(rules: Rules, state: State, waiting: Waiting, clock: int) -> tuple[State, Waiting, np.ndarray]:
    """Gives rows to those that were in this batch and have come often enough."""
    raw, count, seen = waiting
    may = np.flatnonzero((count >= rules.admit_after) & (seen == clock))
    may = may[np.lexsort((raw[may], -count[may]))]
    rows = np.flatnonzero(state.seen != clock)  # those of this batch keep theirs
    free = state.seen[rows] == NEVER
    if rules.evict == "oldest":
        keys: tuple[np.ndarray, ...] = (rows, state.seen[rows], ~free)
    else:
        keys = (rows, state.seen[rows], np.where(free, 0, state.occurrences[rows]), ~free)
    rows = rows[np.lexsort(keys)]
    number = min(len(may), len(rows))
    may, rows = may[:number], rows[:number]
    if rules.evict == "rarest":
        wins = (state.seen[rows] == NEVER) | (count[may] > state.occurrences[rows])  # True, then False
        may, rows = may[wins], rows[wins]
    if not len(rows):
        return state, waiting, np.zeros(0, np.int32)
    parts = [state.raw.copy(), state.occurrences.copy(), state.seen.copy()]
    for part, new in zip(parts, waiting, strict=True):
        part[rows] = new[may]
    taken = np.flatnonzero(parts[2] != NEVER)
    order = taken[np.argsort(parts[0][taken])]
    state = state._replace(raw=parts[0], occurrences=parts[1], seen=parts[2], order=order)
    left = np.delete(np.arange(len(raw)), may)
    return state, tuple(part[left] for part in waiting), np.sort(rows + 1).astype(np.int32)


def save(path: str | Path, rules: Rules, state: State) -> None:
    """Stores rules and state in one file, at once: a reader finds the old file or the new one."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, format=_FORMAT,
        **{f"rules_{name}": value for name, value in rules._asdict().items()}, **state._asdict(),
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(buffer.getvalue())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path, rules: Rules) -> State:
    """The state of a file of `save`.

    Raises:
      ValueError: the file cannot be read, or was stored with another capacity or other rules.
    """
    try:
        with Path(path).open("rb") as file, np.load(file) as archive:
            found = {name: archive[name] for name in archive.files}
        stored = Rules(**{name: found[f"rules_{name}"].item() for name in Rules._fields})
        state = State(**{name: found[name] for name in State._fields})._replace(clock=int(found["clock"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: no readable table of bounded ids ({error}); start anew without it"
        ) from error
    if stored != rules:
        raise ValueError(
            f"{path}: stored with {stored}, this run has {rules}; use the same rules to continue it"
        )
    return state
