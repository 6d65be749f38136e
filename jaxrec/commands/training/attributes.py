"""Attributes of items in the data of a model that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxrec.commands.training.source import sha256_of
from jaxrec.data.entity_files import read_entities
from jaxrec.data.item_attributes import load_item_attributes
from jaxrec.protocols import next_item, retrieval
from jaxrec.serve import run_folder

Data = TypeVar("Data", next_item.Data, retrieval.Data)
COLUMN = "attributes"  # of the resident columns, int32 [I + 1, T, M]


def with_attributes(data: Data, options: Any) -> Data:
    """The data with the attributes of the file of `--item-attributes`, if that is given.

    Raises:
      ValueError: columns of no file are named, or the settings leave attributes unread (`--side none` of
        EGES); as `load_item_attributes`.
    """
    path, columns = getattr(options, "item_attributes", ""), getattr(options, "attributes", ())
    if not path and columns:
        raise ValueError(
            f"attributes={columns}: are columns of --item-attributes, which is not given; give that, too, or "
            "leave this out"
        )
    if not path:
        return data
    if getattr(options, "side", "") == "none":
        raise ValueError(
            f"item_attributes={path!r}: is not read with --side none; leave it out, or take another --side"
        )
    sha256_of("item_attributes", Path(path))
    found = load_item_attributes(
        Path(path),
        data.split.sequences.item_ids,
        item=options.item,
        columns=columns or None,
        separator=options.attribute_separator,
    )
    return data._replace(columns={**data.columns, COLUMN: found.ids})


class Categories(NamedTuple):
    """A category of each item: of: its number from 1, int32 [num_items + 1], row 0 padding. raw: the category
    of each number, text [C]; "" is that of items without one. A category may have no item."""

    of: np.ndarray
    raw: np.ndarray


def read_categories(options: Any, item_ids: Sequence[Any] | np.ndarray) -> Categories:
    """The column `--category` of the file of `--item-attributes`; a cell is one category.

    Items without a line, or with an empty cell, share a category of their own. Categories are numbered in
    sorted order; with --grow those of the earlier run stay before the new ones, with items or without.

    Raises:
      ValueError: the file or the column is not named, no item has a category; as `read_entities`.
    """
    if not options.item_attributes or not options.category:
        raise ValueError(
            f"item_attributes={options.item_attributes!r}, category={options.category!r}: the model searches "
            "a history by the category of items; name a file with a line for each item by --item-attributes, "
            "and its column of categories by --category"
        )
    sha256_of("item_attributes", Path(options.item_attributes))
    found = read_entities(
        Path(options.item_attributes),
        item_ids,
        entity=options.item,
        columns=(options.category,),
        separator="",
        what="attributes",
    )
    of_items = [values[0] if values else "" for values in found[options.category]]
    if not any(of_items):
        raise ValueError(f"category={options.category!r}: no item has a value; name another column")
    before = run_folder.read(options.warm_start).vocabulary.get("category") if options.grow else None
    known = [] if before is None else before.tolist()
    raw = [*known, *sorted(set(of_items) - {*known})]
    number = {value: at for at, value in enumerate(raw, 1)}
    of = np.array([0, *(number[value] for value in of_items)], np.int32)
    return Categories(of, np.array(raw))
