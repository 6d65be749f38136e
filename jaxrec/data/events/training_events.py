"""Training events as two columns, for methods that only count: of a split, or of a user's own arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.validation import as_int32_ids, as_integers


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingEvents:
    """The events of each user (or session) in time order, one user after the other.

    group: user or session of each event, any integers, [N]. item: 1..num_items, [N].

    Raises:
      ValueError: there is no event, the columns are not integers of one length, an item is outside
        1..num_items, or the events of a group are not contiguous.
    """

    group: np.ndarray
    item: np.ndarray
    num_items: int

    def __post_init__(self) -> None:
        group, item = as_integers(self.group, "group"), as_int32_ids(self.item, self.num_items, "item")
        if len(group) != len(item) or not len(item):
            raise ValueError(
                f"group, item: {len(group):,} and {len(item):,} entries: must be as many, and at least one"
            )
        starts = group[np.diff(group, prepend=group[0] - 1) != 0]
        if len(np.unique(starts)) != len(starts):
            raise ValueError(
                "group: events of a user or session must be contiguous and in time order; sort by both"
            )
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "item", item)
