"""Features of users or items from a user's own file, in the order of the numbers of the events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.data.entity_files import SEPARATOR, read_entities
from jaxrec.data.events.side_features import SideFeatures, encode_features
from jaxrec.data.typed_sources import Source


def load_side_features(
    source: Source,
    ids: Sequence[Any] | np.ndarray,
    *,
    entity: str,
    columns: Sequence[str] | None = None,
    separator: str = SEPARATOR,
    allow_empty: bool = True,
) -> SideFeatures:
    """The categories of every user or item: entity number i has the row of ids[i - 1], if there is one.

    A column in which no entity has two values is one of single ids. Arguments as of
    `entity_files.read_entities`.

    allow_empty: False refuses an entity without a row, or whose cells are all empty.

    Raises:
      ValueError: as `read_entities`; a column holds nothing, or has a name that is no identifier.
      ImportError: as `read_entities`.
    """
    lists = read_entities(source, ids, entity=entity, columns=columns, separator=separator)
    several = {name: rows for name, rows in lists.items() if max(map(len, rows)) > 1}
    single = {
        name: [row[0] if row else "" for row in rows] for name, rows in lists.items() if name not in several
    }
    return encode_features(single, several=several, allow_empty=allow_empty)
