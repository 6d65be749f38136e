"""Attributes of items in the data of a model that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from jaxrec.commands.training.source import sha256_of
from jaxrec.data.item_attributes import load_item_attributes
from jaxrec.protocols import next_item, retrieval

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
