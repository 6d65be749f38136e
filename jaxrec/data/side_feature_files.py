"""Features of users or items from a user's own file, in the order of the numbers of the events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.data.delimited import column_index, resolve_delimiter
from jaxrec.data.events.side_features import SideFeatures, encode_features
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.rows import Rows, read_rows
from jaxrec.data.tables.table_reader import read_column_names
from jaxrec.data.typed_sources import Source, describe_source, read_typed, source_form
from jaxrec.data.vocab import as_raw_ids

SEPARATOR = "|"  # between the values of a cell that has several
_SHOWN = 5  # users or items that an error names


def load_side_features(
    source: Source,
    ids: Sequence[Any] | np.ndarray,
    *,
    entity: str,
    columns: Sequence[str] | None = None,
    separator: str = SEPARATOR,
    allow_empty: bool = True,
) -> SideFeatures:
    """The categories of every user or item: entity number i has the row of ids[i - 1].

    Rows of other ids are not used. An integer id and the text it is written as are one id. A cell may hold
    several values, such as "Comedy|Drama", or none.

    source: a CSV, JSON lines or Parquet file, a mapping of columns or a data frame.
    ids: raw ids of numbers 1..E, such as `Sequences.item_ids`. entity: the column of ids.
    columns: those to read; None: all others. separator: of the values of a cell; "": it has one.
    allow_empty: False refuses an entity whose cells are all empty.

    Raises:
      ValueError: a user or an item has no row or two; a column is not there, holds nothing, or other values
        than text and integers, or has a name that is no identifier; as the reader of the form.
      ImportError: without pyarrow, which all forms but JSON lines and mappings need.
    """
    wanted = [str(value) for value in as_raw_ids("ids", ids).tolist()]
    where = describe_source(source, None)
    header = _header(source, entity)
    column_index(where, header, "entity", entity)
    names = [name for name in header if name != entity] if columns is None else list(columns)
    if not names or entity in names:
        raise ValueError(f"{where}: there is no feature beside {entity!r}; add a column")
    rows = read_rows(source, categorical=dict.fromkeys([entity, *names], "columns"), numeric={})
    order = _rows_of(rows, entity, wanted, where)
    single: dict[str, list[str]] = {}
    several: dict[str, list[list[str]]] = {}
    for name in names:
        column = rows.columns[name]
        assert isinstance(column, Coded)
        texts = [*map(str, column.values.tolist()), ""]  # code -1, a missing cell, is the last one
        cells = [texts[code] for code in column.codes[order].tolist()]
        if separator and any(separator in text for text in texts):
            several[name] = [[part.strip() for part in cell.split(separator)] for cell in cells]
        else:
            single[name] = cells
    return encode_features(single, several=several, allow_empty=allow_empty)


def _header(source: Source, entity: str) -> list[str]:
    if source_form(source) == ".csv":
        return list(read_column_names(source, resolve_delimiter(source, None)))
    found: list[str] = []

    def choose(header: Sequence[str]) -> list[str]:
        found.extend(header)
        column_index(describe_source(source, None), header, "entity", entity)
        return [entity]

    read_typed(source, choose, "of features")
    return found


def _rows_of(rows: Rows, entity: str, wanted: list[str], where: str) -> np.ndarray:
    """The row of each id; ValueError for one that has none or two."""
    column = rows.columns[entity]
    assert isinstance(column, Coded)
    if (column.codes < 0).any():
        raise ValueError(
            f"{rows.place(int((column.codes < 0).argmax()))}: {entity} is missing; fill it in, or "
            "remove the row"
        )
    texts = [str(value) for value in column.values.tolist()]
    at: dict[str, int] = {}
    for row, code in enumerate(column.codes.tolist()):
        if at.setdefault(texts[code], row) != row:
            raise ValueError(
                f"{where}: {entity} {texts[code]!r} has two rows, {rows.place(at[texts[code]])} and "
                f"{rows.place(row)}; leave one of them"
            )
    lacking = [name for name in wanted if name not in at]
    if lacking:
        raise ValueError(
            f"{where}: {len(lacking):,} of {len(wanted):,} have no row, such as "
            f"{', '.join(map(repr, lacking[:_SHOWN]))}; add one, with empty cells where nothing is known"
        )
    return np.array([at[name] for name in wanted], np.int64)
