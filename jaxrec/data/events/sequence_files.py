"""Text files with one sequence per line, `user item item ...`, oldest first, as many papers share them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.data.cells import PLAIN_INTEGER, BadCell, parse_integer, quote
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.store import read_bytes
from jaxrec.data.validation import as_int32_ids, count_kept_items

# What `cells.INTEGER` does not allow, in text of such cells and white space.
_NOT_PLAIN = re.compile(rb"[^0-9\s-]|(?<![0-9])0[0-9]|-(?![1-9])|(?<=[0-9-])-")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(
    path: str | Path, times_path: str | Path | None = None, *, name: str | None = None
) -> Sequences:
    """Reads lines `user item item ...`, oldest first, and lines `user time time ...` of the same shape.

    Integers throughout, times in seconds since 1970; item ids are kept and must be 1..n; users keep the
    order of the lines. `.gz` allowed. name: of the data set, by default that of the file.
    Raises ValueError naming file, line, rule and remedy.
    """
    name = Path(path).name if name is None else name
    sequences = rows_to_sequences(name, read_bytes(Path(path)), str(path))
    return (
        sequences
        if times_path is None
        else with_times(sequences, read_bytes(Path(times_path)), str(times_path))
    )


def rows_to_sequences(name: str, content: bytes, where: str) -> Sequences:
    """Sequences without times from the content of a file of lines `user item item ...`."""
    users, offsets, values = parse_rows(content, where)
    num_items = count_kept_items(values, f"{where}: item")
    return Sequences(
        name,
        items=as_int32_ids(values, num_items, f"{where}: item"),
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
    named twice, and anything that is not an integer written plainly.
    """
    rows = _split(content, where, "user item item ...")
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            shown_row = b" ".join(row)
            raise ValueError(f"{where}, line {number}: {shown_row!r}: expected `user item item ...`")
    users = _integers([row[0] for row in rows], rows, where)
    values = _integers([token for row in rows for token in row[1:]], rows, where)
    distinct, first = np.unique(users, return_index=True)
    if distinct.size != users.size:
        twice = int(np.setdiff1d(np.arange(users.size), first)[0])
        raise ValueError(f"{where}, line {twice + 1}: user {users[twice]} has a line already; join the two")
    offsets = np.concatenate([[0], np.cumsum([len(row) - 1 for row in rows])]).astype(np.int64)
    return users, offsets, values


def parse_columns(
    content: bytes, names: Sequence[str], where: str, separator: bytes | None = None
) -> np.ndarray:
    """Parses lines of one integer for each name into int64 [N, len(names)]; separator: None is white space.

    Raises ValueError naming file, line and rule for a line of another number of cells, and anything that is
    not an integer written plainly.
    """
    form = (separator or b" ").decode().join(names)
    rows = _split(content, where, form, separator)
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise ValueError(f"{where}, line {number}: {len(row)} cells, expected `{form}`; repair the line")
    return _integers([token for row in rows for token in row], rows, where).reshape(-1, len(names))


def integer_array(cells: Sequence[str], where: str) -> np.ndarray:
    """Cells as int64 [N]; ValueError for what is not an integer written plainly."""
    try:
        return np.array([parse_integer(cell) for cell in cells], np.int64)
    except (BadCell, OverflowError) as error:
        raise ValueError(f"{where}: {error}; repair the file") from None


def _split(content: bytes, where: str, form: str, separator: bytes | None = None) -> list[list[bytes]]:
    """The cells of each line; ValueError for no line at all, or one with what is no plain integer."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    rows = [line.split(separator) for line in content.splitlines()]
    if not rows:
        raise ValueError(f"{where}: the file is empty; expected lines `{form}`")
    if separator is not None:
        content = re.sub(rb"[ \t\v\f]", b"?", content).replace(separator, b" ")
    if _NOT_PLAIN.search(content):
        raise ValueError(_not_integer(rows, where))
    return rows


def _integers(tokens: Sequence[bytes], rows: Sequence[Sequence[bytes]], where: str) -> np.ndarray:
    try:
        return np.array([int(token) for token in tokens], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(_not_integer(rows, where)) from None


def _not_integer(rows: Sequence[Sequence[bytes]], where: str) -> str:
    for number, row in enumerate(rows, 1):
        for token in row:
            text = token.decode(errors="replace")
            try:
                parse_integer(text)
            except (ValueError, OverflowError):
                return (
                    f"{where}, line {number}: {quote(text)} is not an integer of 64 bits; ids and times must "
                    f"be: {PLAIN_INTEGER}"
                )
    raise AssertionError("every token is an integer")
