"""Sessions within groups of items, in which only the group can be predicted, for transfer to cold items."""

from __future__ import annotations

import numpy as np

from jaxrec.data.events.interactions import Sequences, offsets_of_lengths


def grouped_sessions(
    num_sessions: int = 600,
    num_groups: int = 6,
    group_size: int = 10,
    *,
    min_length: int = 3,
    max_length: int = 8,
    noise: float = 0.1,
    seed: int = 0,
) -> Sequences:
    """Sessions whose clicks are drawn from one group of items, or with probability `noise` from all items.

    Item i belongs to group (i - 1) // group_size. Items are drawn uniformly, so the group of the preceding
    clicks is all that predicts a click, a cold item's included: that is what the source task can teach.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(min_length, max_length + 1, num_sessions)
    group = np.repeat(rng.integers(0, num_groups, num_sessions), lengths)
    own = group * group_size + rng.integers(1, group_size + 1, len(group))
    anything = rng.integers(1, num_groups * group_size + 1, len(group))
    items = np.where(rng.random(len(group)) < noise, anything, own)
    return Sequences(
        f"groups-{num_sessions}x{num_groups * group_size}",
        items=items.astype(np.int32),
        times=None,
        offsets=offsets_of_lengths(lengths),
        user_ids=np.arange(1, num_sessions + 1),
        item_ids=np.arange(1, num_groups * group_size + 1),
        num_items=num_groups * group_size,
    )
