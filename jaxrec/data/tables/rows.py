"""A user's own rows, from a file or a data frame, as raw columns: the same rules for every form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.data.cells import BadCell, parse_seconds
from jaxrec.data.delimited import column_index, resolve_delimiter
from jaxrec.data.tables.columns import Coded, RawColumn
from jaxrec.data.tables.table_reader import read_column_names, read_table
from jaxrec.data.typed_columns import TypedTable, category_values, number_values, second_values
from jaxrec.data.typed_sources import Source, describe_source, read_typed, source_form
from jaxrec.data.vocab import text_array


class Rows(NamedTuple):
    """Raw columns of N rows. columns: categories as coded text, numbers as float32 [N], NaN where missing.

    time: seconds, int64 [N], or None. place: names a row, counted from 0, as errors do.
    """

    columns: dict[str, RawColumn]
    time: np.ndarray | None
    num_rows: int
    place: Callable[[int], str]


def read_rows(
    source: Source,
    *,
    categorical: Mapping[str, str],
    numeric: Mapping[str, str],
    time: str | None = None,
    name: str | None = None,
    delimiter: str | None = None,
    remedy: str | None = None,
) -> Rows:
    """The named columns of a CSV, JSON lines or Parquet file, a mapping of columns, or a data frame.

    categorical, numeric: {column: the argument that named it, for errors}. time: column of seconds. name: of
    a data frame. delimiter: of a CSV file, one character. remedy: for a column that is not there.

    An empty cell, null, and NaN in a column of numbers are missing. Integers in a column of categories are
    read as the text they are written as, so that "3" in a CSV file and 3 in a data frame are one category.

    Raises:
      ValueError: a column that is not there, a cell that is not a finite number, a time that is missing or
        not in whole seconds, a category that is neither text nor an integer; as the reader of the form.
      ImportError: without pyarrow, which all forms but JSON lines and mappings need.
    """
    wanted = {**categorical, **numeric} | ({} if time is None else {time: "time"})

    def choose(header: Sequence[str]) -> list[str]:
        for column, argument in wanted.items():
            column_index(where, header, argument, column, remedy=remedy)
        return list(wanted)

    where = describe_source(source, name)
    if source_form(source) == ".csv":
        by = resolve_delimiter(source, delimiter)
        if len(by) > 1:
            raise ValueError(
                f"delimiter={delimiter!r}: labelled tables have one of one character, such as ','"
            )
        choose(read_column_names(source, by))
        return _read_text_rows(Path(source), categorical, numeric, time, by)
    if delimiter is not None:
        raise ValueError(f"delimiter={delimiter!r}: is for CSV files; leave it out for {where}")
    table = read_typed(source, choose, name)
    columns: dict[str, RawColumn] = {}
    for column, argument in categorical.items():
        codes, texts = category_values(table, argument, column)
        columns[column] = Coded(codes, text_array(f"{where}: {column}", texts))
    for column, argument in numeric.items():
        columns[column] = _float32(table, argument, column)
    seconds = None if time is None else second_values(table, "time", time)
    return Rows(columns, seconds, table.num_rows, table.place)


def _read_text_rows(
    path: Path, categorical: Mapping[str, str], numeric: Mapping[str, str], time: str | None, delimiter: str
) -> Rows:
    def place(row: int) -> str:
        return f"{path}, line {row + 2}"

    texts = list(dict.fromkeys([*categorical, *([] if time is None else [time])]))
    columns, (count,) = read_table([path], categories=texts, numbers=list(numeric), delimiter=delimiter)
    if time is None:
        return Rows(columns, None, count, place)
    column = columns.pop(time)
    assert isinstance(column, Coded)
    codes = column.codes
    texts = [*column.values.tolist(), *([""] if (codes < 0).any() else [])]  # code -1 is the last one
    seconds = np.zeros(len(texts), np.int64)
    for code, text in enumerate(texts):
        try:
            seconds[code] = parse_seconds("time", text)
        except BadCell as error:
            row = int((codes % len(texts) == code).argmax())
            raise ValueError(f"{place(row)}: {error}") from None
    return Rows(columns, seconds[codes], count, place)


def _float32(table: TypedTable, argument: str, name: str) -> np.ndarray:
    """A column of numbers as float32, NaN where missing; ValueError for one that is not finite in it."""
    found = number_values(table, argument, name, missing="nan")
    with np.errstate(over="ignore"):
        values = found.astype(np.float32)
    bad = np.flatnonzero(np.isinf(values))
    if bad.size:
        raise ValueError(
            f"{table.place(int(bad[0]))}: {name} {found[bad[0]]} is not a finite float32 ({bad.size:,} such "
            f"{table.unit}s); correct it, or leave it empty if it is missing"
        )
    return values
