"""Attributes of items (genres, brands, directors), as numbers by item id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.delimited import resolve_delimiter
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.rows import read_rows
from jaxrec.data.tables.table_reader import read_column_names
from jaxrec.data.typed_sources import Source, describe_source, is_path, read_typed, source_form
from jaxrec.data.vocab import as_raw_ids

NAME = "item attributes"


class ItemAttributes(NamedTuple):
    """Values of T attributes of I items, at most M of each.

    ids: int32 [I + 1, T, M], row i is that of item i, row 0 zeros; values are numbered from 1 within an
    attribute, 0 where an item has fewer. values: of each attribute by its name, value v being values[v - 1].
    """

    ids: np.ndarray
    values: Mapping[str, np.ndarray]


def number_attributes(columns: Mapping[str, Sequence[Sequence[Any]]]) -> ItemAttributes:
    """Numbers the values of attributes in sorted order. columns: {attribute: values of each item in turn}.

    A value that an item has twice counts once; an item may have none.

    Raises:
      ValueError: there is no attribute, none of an attribute's items has a value, or attributes are of
        different numbers of items.
    """
    if not columns:
        raise ValueError("item attributes: there is no attribute; give one at least")
    sizes = {name: len(lists) for name, lists in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"item attributes: of different numbers of items ({sizes}); give each for all items")
    values, numbered = {}, []
    for name, lists in columns.items():
        known = sorted({value for row in lists for value in row})
        if not known:
            raise ValueError(f"item attributes: no item has a value of {name!r}; leave the attribute out")
        number = {value: at for at, value in enumerate(known, 1)}
        values[name] = np.array(known)
        numbered.append([sorted({number[value] for value in row}) for row in lists])
    most = max(len(row) for lists in numbered for row in lists)
    ids = np.zeros((1 + len(numbered[0]), len(numbered), most), np.int32)
    for at, lists in enumerate(numbered):
        for item, row in enumerate(lists, 1):
            ids[item, at, : len(row)] = row
    return ItemAttributes(ids, values)


def load_item_attributes(
    source: Source,
    item_ids: Sequence[Any] | np.ndarray,
    *,
    item: str = "item",
    columns: Sequence[str] | None = None,
    separator: str = "|",
) -> ItemAttributes:
    """The attributes of items 1..num_items from a file with a line for each item, or a data frame.

    source: CSV, JSON lines, Parquet, a mapping of columns or a data frame with a column `item`. Other items
    than those of `item_ids` are not used; an item without a line, or with empty cells, has no value.
    item_ids: raw ids, such as `Sequences.item_ids`. columns: the attributes; None: all other columns.
    separator: between several values in a cell, such as "Comedy|Romance"; "": a cell is one value.

    Raises:
      ValueError: an item has two lines, there is no column of attributes, none of the items has a value of an
        attribute; as the reader of the form.
    """
    where = describe_source(source, NAME)
    names: list[str] = []

    def choose(header: Sequence[str]) -> list[str]:
        names.extend([name for name in header if name != item] if columns is None else list(columns))
        if not names or item in names:
            raise ValueError(f"{where}: there is no column of attributes beside {item!r}; add one")
        return [item, *names]

    if source_form(source) == ".csv":
        choose(read_column_names(source, resolve_delimiter(source, None)))
    else:
        read_typed(source, choose, NAME)
    arguments = {item: "item", **dict.fromkeys(names, "columns")}
    rows = read_rows(source, categorical=arguments, numeric={}, name=None if is_path(source) else NAME)
    wanted = {str(value): at for at, value in enumerate(as_raw_ids("item_ids", item_ids).tolist())}
    cells = {name: _texts(rows.columns[name]) for name in arguments}
    lists: dict[str, list[list[str]]] = {name: [[] for _ in wanted] for name in names}
    first: dict[str, int] = {}
    for row, raw in enumerate(cells[item]):
        if raw is None:
            raise ValueError(f"{rows.place(row)}: the item is missing; fill it in or remove the row")
        if first.setdefault(raw, row) != row:
            raise ValueError(
                f"{rows.place(row)}: item {raw!r} has a line before; give its values in one cell, as in "
                f"'a{separator or '|'}b'"
            )
        if raw in wanted:
            for name in names:
                text = cells[name][row]
                found = [] if text is None else text.split(separator) if separator else [text]
                lists[name][wanted[raw]] = [value for value in found if value]
    return number_attributes(lists)


def _texts(column: Any) -> list[str | None]:
    """The text of each row, None where it is missing."""
    assert isinstance(column, Coded)
    values = [str(value) for value in column.values.tolist()]
    return [values[code] if code >= 0 else None for code in column.codes.tolist()]
