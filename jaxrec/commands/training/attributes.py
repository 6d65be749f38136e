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
    """The data with the attributes of the file of `--item-attributes`, if that is given."""
    path = getattr(options, "item_attributes", "")
    if not path:
        return data
    sha256_of("item_attributes", Path(path))
    found = load_item_attributes(
        Path(path),
        data.split.sequences.item_ids,
        item=options.item,
        columns=options.attributes or None,
        separator=options.attribute_separator,
    )
    return data._replace(columns={**data.columns, COLUMN: found.ids})
