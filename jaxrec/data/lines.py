"""Text files with one sequence per line, `user item item ...`, oldest first, as many papers share them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.data.checks import kept_items, narrow_ids
from jaxrec.data.interactions import Sequences
from jaxrec.data.store import read_bytes


def read_lines(path: str | Path, times_path: str | Path | None = None) -> Sequences:
    """Reads lines `user item item ...`, oldest first, and lines `user time time ...` of the same shape.

    Integers throughout, times in seconds since 1970; item ids are kept and must be 1..n; users keep the
    order of the lines. `.gz` allowed. Raises ValueError naming file, line, rule and remedy.
    """
    sequences = rows_to_sequences(Path(path).name, read_bytes(Path(path)), str(path))
    return (
        sequences
        if times_path is None
        else with_times(sequences, read_bytes(Path(times_path)), str(times_path))
    )


def rows_to_sequences(name: str, content: bytes, where: str) -> Sequences:
    """Sequences without times from the content of a file of lines `user item item ...`."""
    users, offsets, values = parse_rows(content, where)
    num_items = kept_items(values, f"{where}: item")
    return Sequences(
        name,
        items=narrow_ids(values, num_items, f"{where}: item"),
        times=None,
        offsets=offsets,
        user_ids=users,
        item_ids=np.arange(1, num_items + 1),
        num_items=num_items,
    )


def with_times(sequences: Sequences, content: bytes, where: str) -> Sequences:
    """The sequences with the times of lines `user time time ...`: same users, order and lengths."""
    users, offsets, values = parse_rows(content, where)
    if not np.array_equal(users, sequences.user_ids) or not np.array_equal(offsets, sequences.offsets):
        raise ValueError(
            f"{where}: users or their numbers of events differ from those of {sequences.name}; both files "
            "must have the same users in the same order, with one time for each item"
        )
    return dataclasses.replace(sequences, times=values)


def parse_rows(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `user value value ...` into users [U], offsets [U + 1] and values [N], all int64.

    Raises ValueError naming file, line and rule for an empty file or line, a user without values or
    named twice, and anything that is not an integer.
    """
    lines = content.splitlines()
    if not lines:
        raise ValueError(f"{where}: the file is empty; expected lines `user item item ...`")
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ValueError(f"{where}, line {number}: {lines[number - 1]!r}: expected `user item item ...`")
    try:
        users = np.array([int(row[0]) for row in rows], np.int64)
        values = np.array([int(token) for row in rows for token in row[1:]], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(_not_integer(rows, where)) from None
    distinct, first = np.unique(users, return_index=True)
    if distinct.size != users.size:
        twice = int(np.setdiff1d(np.arange(users.size), first)[0])
        raise ValueError(f"{where}, line {twice + 1}: user {users[twice]} has a line already; join the two")
    offsets = np.concatenate([[0], np.cumsum([len(row) - 1 for row in rows])]).astype(np.int64)
    return users, offsets, values


def _not_integer(rows: Sequence[Sequence[bytes]], where: str) -> str:
    for number, row in enumerate(rows, 1):
        for token in row:
            try:
                np.int64(int(token))
            except (ValueError, OverflowError):
                shown = token.decode(errors="replace")
                return (
                    f"{where}, line {number}: {shown!r} is not an integer of 64 bits; ids and times must be"
                )
    raise AssertionError("every token is an integer")
