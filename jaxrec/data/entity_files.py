"""Values of users or items from a file with a line for each: what features and attributes are read by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.cells import BadCell, check_id
from jaxrec.data.delimited import column_index, read_header, read_records, resolve_delimiter
from jaxrec.data.typed_columns import category_values
from jaxrec.data.typed_sources import Source, describe_source, is_path, read_typed, source_form
from jaxrec.data.vocab import as_raw_ids

SEPARATOR = "|"  # between the values of a cell that has several


def read_entities(
    source: Source,
    ids: Sequence[Any] | np.ndarray,
    *,
    entity: str,
    columns: Sequence[str] | None = None,
    separator: str = SEPARATOR,
    what: str = "features",
) -> dict[str, list[list[str]]]:
    """The values of each entity in the order of `ids`, as text: {column: a list of values for each of them}.

    Rows of other ids are not used; an entity without a row, or with empty cells, has no value. An integer id
    and the text it is written as are one id.

    source: CSV, JSON lines, Parquet, a mapping of columns or a data frame. ids: raw ids of numbers 1..E, such
    as `Sequences.item_ids`. entity: the column of ids. columns: those to read; None: all others. separator:
    between several values in a cell, such as "Comedy|Drama", with spaces around it or not; "": a cell is one
    value. what: what errors call the columns.

    Raises:
      ValueError: an entity has two lines or a line none, or an id has spaces around it; no line is of one of
        the ids; there is no such column, or none beside that of ids; values are neither text nor integers; as
        the reader of the form.
      ImportError: without pyarrow, for Parquet and data frames.
    """
    where = describe_source(source, what)
    names, cells, place = _read(source, where, entity, columns, what)
    wanted = {str(value): at for at, value in enumerate(as_raw_ids("ids", ids).tolist())}
    lists: dict[str, list[list[str]]] = {name: [[] for _ in wanted] for name in names}
    first: dict[str, int] = {}
    for row, (raw, *texts) in enumerate(zip(*cells, strict=True)):
        if not raw:
            raise ValueError(f"{place(row)}: the {entity} is missing; fill it in or remove the row")
        try:
            check_id(entity, raw, real=(raw,))  # ids that read like a missing value may be real
        except BadCell as error:
            raise ValueError(f"{place(row)}: {error}") from None
        if first.setdefault(raw, row) != row:
            raise ValueError(
                f"{place(row)}: {entity} {raw!r} has a line before; give its values in one cell, as in "
                f"'a{separator or SEPARATOR}b'"
            )
        if raw in wanted:
            for name, text in zip(names, texts, strict=True):
                found = [part.strip() for part in text.split(separator)] if separator else [text]
                lists[name][wanted[raw]] = [value for value in found if value]
    if wanted and not wanted.keys() & first.keys():
        raise ValueError(
            f"{where}: none of its {len(first):,} lines is of one of the {len(wanted):,} ids of {entity}: it "
            f"has {next(iter(first), '')!r} and others, they are {next(iter(wanted))!r} and others; write "
            "them alike"
        )
    return lists


def _read(
    source: Source, where: str, entity: str, columns: Sequence[str] | None, what: str
) -> tuple[list[str], list[list[str]], Callable[[int], str]]:
    """The names of the columns, the cells of the ids and of each of them ("" if missing), and what names a
    row in errors."""
    names: list[str] = []

    def choose(header: Sequence[str]) -> list[str]:
        column_index(where, header, entity, entity, remedy="name its column of ids so")
        names.extend([name for name in header if name != entity] if columns is None else columns)
        for name in names:
            column_index(where, header, what, name, remedy="name columns that are there")
        if not names or entity in names:
            raise ValueError(f"{where}: there is no column of {what} beside {entity!r}; add one")
        return [entity, *names]

    if source_form(source) != ".csv":
        table = read_typed(source, choose, f"of {what}")
        coded = [category_values(table, what, name) for name in (entity, *names)]
        texts = [[text[code] if code >= 0 else "" for code in codes.tolist()] for codes, text in coded]
        return names, texts, table.place
    assert is_path(source)
    path = Path(source)
    records = read_records(path, resolve_delimiter(path, None))
    header = read_header(path, records)
    chosen = [header.index(name) for name in choose(header)]
    lines, rows = [], []
    for line, record in records:
        if len(record) != len(header):
            raise ValueError(
                f"{path}, line {line}: has {len(record)} cells, the header has {len(header)}; repair the line"
            )
        lines.append(line)
        rows.append([record[at] for at in chosen])
    if not rows:
        raise ValueError(f"{path}: has a header line only; add a line for each {entity}")
    columns_of = [list(column) for column in zip(*rows, strict=True)]
    return names, columns_of, lambda row: f"{path}, line {lines[row]}"
