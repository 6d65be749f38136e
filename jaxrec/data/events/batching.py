"""A split as columns that live on the device: flat arrays and offsets, in memory proportional to events.

Nothing here is done per batch: the compiled step selects users, their windows and their negatives from these
columns.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxrec.data.events.split import Queries, Split
from jaxrec.data.validation import MAX_ITEMS, as_int32_ids, as_integers


def next_item_columns(split: Split, *, reject: str = "train") -> dict[str, np.ndarray]:
    """Columns that training on the next item reads, for the U users of a split.

    items [N], start [U], length [U]: a user's training events are the `length` events from `start` on;
    seconds [N]: time since the user's first event, if the data set has times;
    excluded [M] with excluded_start, excluded_length [U]: each user's distinct items in ascending order,
    which are never sampled as negatives.

    reject: "train" excludes the items of training events; "all" those of validation and test too, as the
    CoSeRec code family does (which leaks a little about the targets to the sampler).

    A user who has interacted with every item leaves no negative: `tasks.objectives.sampled` refuses that.

    Raises:
      ValueError: reject is another value.
    """
    if reject not in ("train", "all"):
        raise ValueError(f"reject={reject!r}: expected 'train' or 'all'")
    sequences = split.sequences
    start = sequences.offsets[:-1]
    lengths = np.diff(sequences.offsets)
    user = np.repeat(np.arange(sequences.num_users), lengths)
    columns = {
        "items": sequences.items.astype(np.int32),
        "start": start.astype(np.int32),
        "length": split.train_length.astype(np.int32),
    }
    if sequences.times is not None:
        seconds = (
            sequences.times - sequences.times[start][user]
        )  # `Sequences` checks that each user's span fits
        columns["seconds"] = seconds.astype(np.int32)
    kept = np.ones(len(user), bool) if reject == "all" else split.in_training
    pairs = np.unique(
        np.stack([user[kept], sequences.items[kept]], axis=1), axis=0
    )  # sorted by user, then item
    count = np.bincount(pairs[:, 0], minlength=sequences.num_users)
    columns["excluded"] = pairs[:, 1].astype(np.int32)
    columns["excluded_start"] = (np.cumsum(count) - count).astype(np.int32)
    columns["excluded_length"] = count.astype(np.int32)
    return columns


def batched_queries(
    queries: Queries, batch_size: int, *, num_items: int | None = None, multiple: int = 1
) -> dict[str, np.ndarray]:
    """Queries in batches of one shape: user, length, target, mask, each [batches, batch_size].

    The last batch is padded with mask False; the number of batches is rounded up to `multiple` (devices).

    num_items: the largest id that a target may have; None for the targets of a `Split`, which are checked.

    Raises:
      ValueError: there is no query, a target is not in 1..num_items, a user or length is negative or beyond
        int32, or the columns are not integers of one length.
    """
    if batch_size < 1 or multiple < 1:
        raise ValueError(f"batch_size={batch_size}, multiple={multiple}: must be at least 1")
    queries = _as_integer_queries(queries)
    count = len(queries.user)
    if count == 0:
        raise ValueError("the split has no query to evaluate: no user has enough events")
    check_targets(queries, num_items)
    batches = -(-count // batch_size)
    batches = -(-batches // multiple) * multiple
    size = batches * batch_size

    def shape(column: np.ndarray) -> np.ndarray:
        out = np.zeros(size, np.int32)
        out[:count] = column
        return out.reshape(batches, batch_size)

    mask = (np.arange(size) < count).reshape(batches, batch_size)
    return {
        "user": shape(queries.user),
        "length": shape(queries.length),
        "target": shape(queries.target),
        "mask": mask,
    }


def _as_integer_queries(queries: Queries) -> Queries:
    """Queries as int64; ValueError unless all columns are integers of one length."""
    found = Queries(*map(as_integers, queries, Queries._fields))
    if len({len(column) for column in found}) > 1:
        lengths = {name: len(column) for name, column in found._asdict().items()}
        raise ValueError(f"queries: columns of {lengths} entries; give one user, length and target for each")
    return found


def check_targets(queries: Queries, num_items: int | None = None) -> None:
    """Raises ValueError unless targets lie in 1..num_items (None: from 1 on), users and lengths in int32."""
    most = MAX_ITEMS if num_items is None else num_items
    bad = np.flatnonzero((queries.target < 1) | (queries.target > most))
    if bad.size:
        raise ValueError(
            f"target: {queries.target[bad[0]]} of query {bad[0]} ({bad.size:,} such queries) is outside "
            f"1..{most:,}; 0 is padding: map raw ids to 1..num_items together with those of the events, and "
            "build the model with that num_items"
        )
    for name, column in (("user", queries.user), ("length", queries.length)):
        bad = np.flatnonzero((column < 0) | (column > np.iinfo(np.int32).max))
        if bad.size:
            raise ValueError(
                f"{name}: {column[bad[0]]} of query {bad[0]} ({bad.size:,} such queries) is outside "
                "0..2^31-1; user indices and numbers of events count from 0"
            )


def labelled_columns(
    items: np.ndarray, offsets: np.ndarray, label: np.ndarray, *, num_items: int, num_classes: int
) -> dict[str, np.ndarray]:
    """Columns that `tasks.profile` reads: items [N], start, length and label [U], all int32.

    Args:
      items: 1..num_items, user after user, [N]; user u has items[offsets[u] : offsets[u + 1]].
      label: class 1..num_classes of each user, [U].

    Raises:
      ValueError: an item or a label is out of range, there is not one label per user, or the offsets do not
        ascend from 0 to N.
    """
    offsets = as_integers(offsets, "offsets")
    if not offsets.size or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets: must ascend from 0 to {len(items):,}, the number of items")
    if label.shape != (len(offsets) - 1,):
        raise ValueError(f"label: {label.size:,} labels for {len(offsets) - 1:,} users; give one for each")
    return {
        "items": as_int32_ids(items, num_items, "items"),
        "start": offsets[:-1].astype(np.int32),
        "length": np.diff(offsets).astype(np.int32),
        "label": as_int32_ids(label, num_classes, "label, a class"),
    }


def event_windows(
    queries: Queries, width: int, *, stride: int, batch_size: int, multiple: int = 1
) -> dict[str, np.ndarray]:
    """Overlapping windows of users' events that cover every query's target, to score many events in one pass.

    A window is the last `width` of a user's first `end` events, right-aligned. Its targets are among the last
    `stride` of them, so that at least width - stride events precede each target where its user has as many.

    Returns: user, end, mask [batches, batch_size], and query [batches, batch_size, width], the index of the
    query whose target is the event in a slot, -1 elsewhere. The last batch is padded with mask False; the
    number of batches is rounded up to `multiple` (devices).

    Raises:
      ValueError: there is no query, a query occurs twice, or stride is not in 1..width.
    """
    if not 1 <= stride <= width:
        raise ValueError(f"stride={stride}: must lie in 1..{width}, the width of a window")
    queries = _as_integer_queries(queries)
    if not queries.user.size:
        raise ValueError("the split has no query to evaluate: no user has enough events")
    order = np.lexsort((queries.length, queries.user))
    user, position = queries.user[order].astype(np.int32), queries.length[order]
    twice = np.flatnonzero((np.diff(user) == 0) & (np.diff(position) == 0))
    if twice.size:
        raise ValueError(
            f"event {position[twice[0]]} of user {user[twice[0]]} is the target of two queries "
            f"({twice.size:,} such events); give each query once"
        )
    _, begin, user_index = np.unique(user, return_index=True, return_inverse=True)
    part = (position - position[begin][user_index]) // stride
    starts = np.flatnonzero(np.diff(user, prepend=-1) | np.diff(part, prepend=-1))
    window = np.cumsum(np.bincount(starts, minlength=len(user))) - 1
    end = np.maximum.reduceat(position, starts) + 1
    batches = -(-len(starts) // batch_size)
    batches = -(-batches // multiple) * multiple
    size = batches * batch_size
    query = np.full((size, width), -1, np.int32)
    query[window, width - (end[window] - position)] = order
    padding = (0, size - len(starts))
    return {
        "user": np.pad(user[starts], padding).reshape(batches, batch_size),
        "end": np.pad(end.astype(np.int32), padding).reshape(batches, batch_size),
        "mask": (np.arange(size) < len(starts)).reshape(batches, batch_size),
        "query": query.reshape(batches, batch_size, width),
    }


def gather_users(
    columns: Mapping[str, np.ndarray], examples: Mapping[str, np.ndarray], *, max_events: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The part of `next_item_columns` that one step reads, for columns that stay on the host.

    columns: of `next_item_columns`, in memory or memory-mapped. examples: example [B], the users of the step,
    and the step's other columns. max_events: most recent training events read per user, max_len + 1 for
    next-item prediction.

    Returns: examples with users numbered 0..B-1, and columns for these users, whose shapes depend only on B,
    max_events and the largest number of excluded items in the data set.
    """
    user = np.asarray(examples["example"])
    found = {}
    kept = np.minimum(columns["length"][user], max_events).astype(np.int32)
    first = columns["start"][user] + columns["length"][user] - kept
    known = columns["excluded_length"][user]
    widest = max(int(columns["excluded_length"].max()), 1)
    for name, start, count, width in (
        *((name, first, kept, max_events) for name in ("items", "seconds") if name in columns),
        ("excluded", columns["excluded_start"][user], known, widest),
    ):
        slot = np.arange(width)
        real = slot < count[:, None]
        found[name] = np.where(real, columns[name][np.where(real, start[:, None] + slot, 0)], 0).reshape(-1)
    number = np.arange(len(user), dtype=np.int32)
    starts = {"start": number * max_events, "excluded_start": number * widest}
    return {**examples, "example": number}, found | starts | {"length": kept, "excluded_length": known}
