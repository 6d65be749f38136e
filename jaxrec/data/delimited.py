"""Reads delimited text, `.gz` allowed: the lines of a file, and the records of a CSV of any delimiter."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrec.data import unpacking
from jaxrec.data.cells import quote

MAX_CELL_LENGTH = 1 << 24  # characters of a cell, used or not
LONGEST_LINE = 1 << 26  # characters of a line
_STAND_IN = "\x1f"  # replaces a delimiter of several characters, which `csv` does not accept
_ESCAPE = re.compile(r"\\(?:t|x[0-9a-fA-F]{2})")


def is_gzip(path: str | Path) -> bool:
    """Whether a file is compressed by gzip, by its name."""
    return str(path).lower().endswith(".gz")


def file_suffix(path: str | Path) -> str:
    """The last suffix of a name other than .gz, in lower case: ".csv" for events.CSV.gz."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def read_text_lines(path: str | Path) -> Generator[str]:
    """Yields the lines of a text file with their ends, without a byte order mark.

    Raises ValueError naming the file for text that is not UTF-8, for a line of more than `LONGEST_LINE`
    characters, and for an archive that is corrupt or unpacks to too much (`check_unpacked`); OSError if the
    file cannot be opened.
    """
    number = size = 0
    packed = is_gzip(path)
    try:
        opener: Any = gzip.open if packed else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) >= LONGEST_LINE and line[-1] not in "\r\n":
                    raise ValueError(
                        f"{path}, line {number}: has {LONGEST_LINE:,} characters or more; is it text with "
                        "line ends? Write it as one line for each row"
                    )
                if packed:
                    size += len(line)
                    if size > unpacking.LARGEST_UNPACKED:
                        unpacking.check_unpacked(path, size)
                yield line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8 text ({error}); convert it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: truncated or corrupt gzip file ({error}, after line {number}); fetch it again"
        ) from error


def resolve_delimiter(path: str | Path, delimiter: str | None) -> str:
    r"""The delimiter given, with \t read as a tab; None: a tab for `.tsv`, a comma otherwise.

    Raises ValueError for a delimiter that cannot separate cells.
    """
    if delimiter is None:
        return "\t" if ".tsv" in (suffix.lower() for suffix in Path(path).suffixes) else ","
    found = _ESCAPE.sub(lambda escape: escape[0].encode().decode("unicode_escape"), delimiter)
    if not found or any(c in '"\n\r\0' for c in found) or (len(found) > 1 and _STAND_IN in found):
        raise ValueError(
            f"delimiter={delimiter!r}: must be one character or several, none of them a quote or the end of "
            "a line; such as ',', '\\t' or '::'"
        )
    return found


def read_records(path: str | Path, delimiter: str) -> Generator[tuple[int, list[str]]]:
    """Yields the line number on which each record ends, and its cells. Quoting is that of CSV.

    Raises as `read_text_lines` does, and ValueError naming the line for quotes that do not close and for a
    cell of more than `MAX_CELL_LENGTH` characters.
    """
    several = len(delimiter) > 1
    lines = _with_stand_in(path, delimiter) if several else read_text_lines(path)
    reader = csv.reader(lines, delimiter=_STAND_IN if several else delimiter, strict=True)
    try:
        while (record := _next_record(reader)) is not None:
            if several:
                record = [cell.replace(_STAND_IN, delimiter) for cell in record]
            yield reader.line_num, record
    except csv.Error as error:
        what = f"{error}; repair the quotes"
        if "field larger than field limit" in str(error):
            what = f"a cell has more than {MAX_CELL_LENGTH:,} characters; shorten it, or close its quotes"
        raise ValueError(f"{path}, line {reader.line_num}: {what}") from error


def read_header(path: str | Path, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    """The first of the records of `read_records`; ValueError if the file or its first line is empty."""
    _, header = next(records, (0, []))
    if any(cell.strip() for cell in header):
        return header
    if any(cell.strip() for _, record in records for cell in record):
        raise ValueError(f"{path}, line 1: is empty; the first line names the columns")
    raise ValueError(f"{path}: the file is empty; expected a header line and one line per event")


def header_fault(header: list[str]) -> str | None:
    """What is wrong with the names of columns: one is missing or occurs twice; None if nothing."""
    for position, name in enumerate(header, 1):
        if not name.strip() or re.fullmatch(r"Unnamed: \d+", name):
            return f"column {position} has no name ({name!r}), such as the index that pandas writes"
        if header.count(name) > 1:
            return f"{header.count(name)} columns are named {quote(name)}; names must differ"
    return None


def column_index(
    where: str | Path, header: Sequence[str], feature: str, name: str, *, remedy: str | None = None
) -> int:
    """Where the column that holds a feature stands in a header; ValueError unless it stands there once.

    feature: what the column holds, and the argument that names it, such as "user". remedy: what to do if it
    is not there; None: to name another one.
    """
    count = list(header).count(name)
    if count > 1:
        raise ValueError(f"{where}: {count} columns are named {name!r}; column names must differ")
    if not count:
        other = next((d for d in (",", ";", "\t", "|", "::") if len(header) == 1 and d in header[0]), None)
        if other is not None:
            raise ValueError(
                f"{where}: the header {quote(header[0])} is one column; give delimiter={other!r} "
                f"(--delimiter {other!r})"
            )
        raise ValueError(
            f"{where}: there is no {feature} column {name!r} among {', '.join(map(quote, header))}; "
            f"{remedy or f'name it with {feature}=... (--{feature})'}"
        )
    return list(header).index(name)


def _next_record(reader: Iterator[list[str]]) -> list[str] | None:
    """The next record, with long cells; the limit of `csv` is process-wide, so it is restored."""
    before = csv.field_size_limit(MAX_CELL_LENGTH)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _with_stand_in(path: str | Path, delimiter: str) -> Iterator[str]:
    for number, line in enumerate(read_text_lines(path), 1):
        if _STAND_IN in line:
            raise ValueError(
                f"{path}, line {number}: has the character {_STAND_IN!r}, which replaces {delimiter!r} "
                "while the file is read; remove it"
            )
        yield line.replace(delimiter, _STAND_IN)
