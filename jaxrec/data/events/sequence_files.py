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

# Finds what `cells.INTEGER` does not allow in a text of integers and white space.
_NOT_PLAIN = re.compile(rb"[^0-9\s-]|(?<![0-9])0[0-9]|-(?![1-9])|(?<=[0-9-])-")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_sequences(
    path: str | Path, times_path: str | Path | None = None, *, name: str | None = None
) -> Sequences:
    """Reads lines `user item item ...`, oldest first, and optionally lines `user time time ...` to match.

    All are integers, times in seconds since 1970; item ids are kept and must be 1..n; users keep the order of
    the lines. `.gz` allowed. name: of the data set, by default that of the file.
    Raises ValueError naming file, line, rule and remedy.
    """
    name = Path(path).name if name is None else name
    sequences = parse_sequences(name, read_bytes(Path(path)), str(path))
    return (
        sequences
        if times_path is None
        else add_times(sequences, read_bytes(Path(times_path)), str(times_path))
    )


def parse_sequences(name: str, content: bytes, where: str) -> Sequences:
    """Sequences without times, from the content of a file with lines `user item item ...`."""
    users, offsets, values = parse_lines(content, where)
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


def add_times(sequences: Sequences, content: bytes, where: str) -> Sequences:
    """The sequences with times from lines `user time time ...` of the same users, order and lengths."""
    users, offsets, values = parse_lines(content, where)
    if not np.array_equal(users, sequences.user_ids) or not np.array_equal(offsets, sequences.offsets):
        raise ValueError(
            f"{where}: users or their numbers of events differ from those of {sequences.name}; both files "
            "must have the same users in the same order, with one time for each item"
        )
    return dataclasses.replace(sequences, times=values)


def parse_lines(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses lines `user value value ...` into users [U], offsets [U + 1] and values [N], all int64.

    Raises ValueError naming file, line and rule for an empty file or line, a user without values or with two
    lines, and anything that is not a plain integer (`cells.PLAIN_INTEGER`).
    """
    lines = _split_lines(content, where, "user item item ...")
    for number, line in enumerate(lines, 1):
        if len(line) < 2:
            shown_line = b" ".join(line)
            raise ValueError(f"{where}, line {number}: {shown_line!r}: expected `user item item ...`")
    users = _as_integers([line[0] for line in lines], lines, where)
    values = _as_integers([cell for line in lines for cell in line[1:]], lines, where)
    distinct, first = np.unique(users, return_index=True)
    if distinct.size != users.size:
        twice = int(np.setdiff1d(np.arange(users.size), first)[0])
        raise ValueError(f"{where}, line {twice + 1}: user {users[twice]} has a line already; join the two")
    offsets = np.concatenate([[0], np.cumsum([len(line) - 1 for line in lines])]).astype(np.int64)
    return users, offsets, values


def parse_table(
    content: bytes, names: Sequence[str], where: str, separator: bytes | None = None
) -> np.ndarray:
    """Parses lines with one integer per name into int64 [N, len(names)]; separator None is white space.

    Raises ValueError naming file, line and rule for a line with another number of cells, and anything that
    is not a plain integer.
    """
    form = (separator or b" ").decode().join(names)
    lines = _split_lines(content, where=where, form=form, separator=separator)
    for number, line in enumerate(lines, 1):
        if len(line) != len(names):
            raise ValueError(f"{where}, line {number}: {len(line)} cells, expected `{form}`; repair the line")
    return _as_integers([cell for line in lines for cell in line], lines, where).reshape(-1, len(names))


def parse_integers(cells: Sequence[str], where: str) -> np.ndarray:
    """Cells as int64 [N]; ValueError for one that is not a plain integer."""
    try:
        return np.array([parse_integer(cell) for cell in cells], np.int64)
    except (BadCell, OverflowError) as error:
        raise ValueError(f"{where}: {error}; repair the file") from None


def _split_lines(content: bytes, where: str, form: str, separator: bytes | None = None) -> list[list[bytes]]:
    """The cells of each line; ValueError for an empty file, or a cell that is not a plain integer."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    lines = [line.split(separator) for line in content.splitlines()]
    if not lines:
        raise ValueError(f"{where}: the file is empty; expected lines `{form}`")
    if separator is not None:
        content = re.sub(rb"[ \t\v\f]", b"?", content.replace(separator, b"\n"))
    if _NOT_PLAIN.search(content):
        raise ValueError(_describe_bad_cell(lines, where))
    return lines


def _as_integers(cells: Sequence[bytes], lines: Sequence[Sequence[bytes]], where: str) -> np.ndarray:
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(_describe_bad_cell(lines, where)) from None


def _describe_bad_cell(lines: Sequence[Sequence[bytes]], where: str) -> str:
    """What is wrong with the first cell that is not an integer."""
    for number, line in enumerate(lines, 1):
        for cell in line:
            text = cell.decode(errors="replace")
            try:
                parse_integer(text)
            except (ValueError, OverflowError):
                return (
                    f"{where}, line {number}: {quote(text)} is not an integer of 64 bits; ids and times must "
                    f"be: {PLAIN_INTEGER}"
                )
    raise AssertionError("every cell is an integer")
