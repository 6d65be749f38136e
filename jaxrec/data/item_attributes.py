"""Attributes of items (genres, brands, directors), as numbers by item id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.delimited import column_index, read_header, read_records, resolve_delimiter
from jaxrec.data.typed_columns import category_values
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
    separator: between several values in a cell, such as "Comedy|Romance", with spaces around it or not; "":
    a cell is one value.

    Raises:
      ValueError: an item has two lines, there is no column of attributes, none of the items has a value of an
        attribute; as the reader of the form.
    """
    names, cells, place = _read(source, describe_source(source, NAME), item, columns)
    wanted = {str(value): at for at, value in enumerate(as_raw_ids("item_ids", item_ids).tolist())}
    lists: dict[str, list[list[str]]] = {name: [[] for _ in wanted] for name in names}
    first: dict[str, int] = {}
    for row, (raw, *texts) in enumerate(zip(*cells, strict=True)):
        if not raw:
            raise ValueError(f"{place(row)}: the item is missing; fill it in or remove the row")
        if first.setdefault(raw, row) != row:
            raise ValueError(
                f"{place(row)}: item {raw!r} has a line before; give its values in one cell, as in "
                f"'a{separator or '|'}b'"
            )
        if raw in wanted:
            for name, text in zip(names, texts, strict=True):
                found = [part.strip() for part in text.split(separator)] if separator else [text]
                lists[name][wanted[raw]] = [value for value in found if value]
    return number_attributes(lists)


def _read(
    source: Source, where: str, item: str, columns: Sequence[str] | None
) -> tuple[list[str], list[list[str]], Callable[[int], str]]:
    """The names of the attributes, the cells of the item and of each of them ("" if missing), and what names
    a row in errors."""
    names: list[str] = []

    def choose(header: Sequence[str]) -> list[str]:
        column_index(where, header, "item", item)
        names.extend([name for name in header if name != item] if columns is None else columns)
        for name in names:
            column_index(where, header, "attributes", name)
        if not names or item in names:
            raise ValueError(f"{where}: there is no column of attributes beside {item!r}; add one")
        return [item, *names]

    if source_form(source) != ".csv":
        table = read_typed(source, choose, NAME)
        coded = [category_values(table, "attributes", name) for name in (item, *names)]
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
        raise ValueError(f"{path}: has a header line only; add a line for each item")
    columns_of = [list(column) for column in zip(*rows, strict=True)]
    return names, columns_of, lambda row: f"{path}, line {lines[row]}"


def relation_columns(ids: np.ndarray) -> dict[str, np.ndarray]:
    """The items of each value of each attribute, as columns that `tasks.relations` reads.

    Values of all attributes are numbered one after the other, from 1: value v of attribute t (from 0) is
    number v plus the values of the attributes before it. R pairs of an item and a value, G values.

    related_item [R]: items by value, ascending within each. related_start, related_count [G + 1]: those of
    value g; of 0 none. related_value, related_place [I + 1, T, M]: the number of each value of an item, and
    where the item stands among those that have it; 0 where there is none.

    ids: as of `ItemAttributes`.

    Raises:
      ValueError: ids are not integers [I + 1, T, M] of at least 0 with zeros in row 0, or there is no value.
    """
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or ids.min(initial=0) < 0 or ids[:1].any():
        raise ValueError(
            f"attributes: {ids.dtype}{list(ids.shape)}: must be integers [items + 1, attributes, values] of "
            "at least 0, with zeros in row 0, the padding"
        )
    sizes = ids.max(axis=(0, 2), initial=0)
    if not sizes.any():
        raise ValueError("attributes: no item has a value; give some")
    before = np.cumsum(sizes) - sizes
    value = np.where(ids > 0, ids + before[:, None], 0)
    item, attribute, slot = np.nonzero(value)
    number = value[item, attribute, slot]
    order = np.lexsort((item, number))
    count = np.bincount(number, minlength=int(sizes.sum()) + 1)
    start = np.cumsum(count) - count
    place = np.zeros(ids.shape, np.int64)
    place[item[order], attribute[order], slot[order]] = np.arange(len(order)) - start[number[order]]
    found = {
        "related_item": item[order],
        "related_start": start,
        "related_count": count,
        "related_value": value,
        "related_place": place,
    }
    return {name: column.astype(np.int32) for name, column in found.items()}
