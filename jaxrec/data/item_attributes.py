"""Attributes of items (genres, brands, directors), as numbers by item id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.entity_files import SEPARATOR, read_entities
from jaxrec.data.typed_sources import Source


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
    separator: str = SEPARATOR,
) -> ItemAttributes:
    """The attributes of items 1..num_items from a file with a line for each item, or a data frame.

    An item without a line, or with empty cells, has no value. item: the column of ids; other arguments as of
    `entity_files.read_entities`.

    Raises:
      ValueError: as `read_entities`; none of the items has a value of an attribute.
    """
    return number_attributes(
        read_entities(source, item_ids, entity=item, columns=columns, separator=separator, what="attributes")
    )


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
