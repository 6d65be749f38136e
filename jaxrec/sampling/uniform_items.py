"""Uniform draws of items, of all or of those that a user has not used."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Key

EXCLUSION_PADDING = np.iinfo(np.int32).max  # pads lists of excluded ids; larger than any id
_COMPARE_UP_TO = 128  # up to this width, comparing with all excluded ids is faster than a binary search


def exclusion_table(items: np.ndarray, offsets: np.ndarray, *, num_items: int) -> np.ndarray:
    """Each user's distinct items, ascending, padded with EXCLUSION_PADDING: int32 [U, W], on the host.

    Args:
      items: ids of all events, grouped by user, [N].
      offsets: user u has items[offsets[u]:offsets[u + 1]], [U + 1].
      num_items: ids run from 1 to num_items; padding (0) is ignored.

    Raises:
      ValueError: an id is not an integer in 0..num_items, or a user has every item, so that there is no
        negative.
    """
    for name, column in (("items", items), ("offsets", offsets)):
        if np.size(column) and np.asarray(column).dtype.kind not in "iu":
            raise ValueError(f"{name}: of type {np.asarray(column).dtype}: must be integers; convert them")
    items, offsets = np.asarray(items, np.int64), np.asarray(offsets, np.int64)
    if items.size and not (items.min() >= 0 and items.max() <= num_items):
        raise ValueError(
            f"items: ids {items.min()}..{items.max()}, but num_items={num_items} allows 0..{num_items}"
        )
    num_users = len(offsets) - 1
    user = np.repeat(np.arange(num_users), np.diff(offsets))
    pairs = np.unique((user * (num_items + 1) + items)[items > 0])
    user, item = np.divmod(pairs, num_items + 1)
    counts = np.bincount(user, minlength=num_users)
    if num_users and counts.max(initial=0) >= num_items:
        raise ValueError(
            f"user {int(counts.argmax())} has all {num_items} items, so there is no negative to draw: "
            "leave the user out, or exclude fewer items"
        )
    table = np.full((num_users, max(1, int(counts.max(initial=0)))), EXCLUSION_PADDING, np.int32)
    starts = np.cumsum(counts) - counts
    table[user, np.arange(len(pairs)) - starts[user]] = item
    return table


def uniform(key: Key, shape: tuple[int, ...], *, num_items: int) -> tuple[Array, Array]:
    """Ids drawn uniformly from 1..num_items and their log-probability: both `shape`."""
    if num_items < 1:
        raise ValueError(f"num_items={num_items}: must be at least 1")
    ids = jax.random.randint(key, shape, 1, num_items + 1, dtype=jnp.int32)
    return ids, jnp.full(shape, -math.log(num_items), jnp.float32)


def uniform_excluding(
    key: Key, shape: tuple[int, ...], *, num_items: int, excluded: Array
) -> tuple[Array, Array]:
    """Ids drawn uniformly from the items that are not excluded, without rejection, and their log-probability.

    Draws a number r below n = num_items - (excluded items) and returns the r-th id that is not excluded:
    with e_0 < e_1 < … excluded, e_j - 1 - j allowed ids are below e_j, so r is increased by the number of j
    for which this is at most r.

    Args:
      shape: draws per user.
      num_items: ids run from 1 to num_items.
      excluded: distinct ids of each user, ascending, padded with EXCLUSION_PADDING, [..., W] (see
        `exclusion_table`, which raises if a user excludes all items; here that would give num_items + 1).

    Returns:
      ids, int32 [..., *shape], and -log n, float32 [..., *shape].
    """
    lead, width = excluded.shape[:-1], excluded.shape[-1]
    valid = excluded <= num_items
    allowed = num_items - valid.sum(axis=-1, dtype=jnp.int32)
    wide = allowed.reshape(*lead, *(1,) * len(shape))
    rank = jax.random.randint(key, (*lead, *shape), 0, jnp.maximum(wide, 1), dtype=jnp.int32)
    below = jnp.where(valid, excluded - 1 - jnp.arange(width, dtype=jnp.int32), EXCLUSION_PADDING)
    find = jnp.vectorize(
        lambda bounds, ranks: jnp.searchsorted(
            bounds, ranks, side="right", method="compare_all" if width <= _COMPARE_UP_TO else "scan"
        ),
        signature="(w),(n)->(n)",
    )
    skipped = find(below, rank.reshape(*lead, -1)).reshape(rank.shape).astype(jnp.int32)
    log_prob = -jnp.log(jnp.maximum(wide, 1).astype(jnp.float32))
    return rank + 1 + skipped, jnp.broadcast_to(log_prob, rank.shape)


def uniform_excluding_flat(
    key: Key, *, num_items: int, excluded: Array, start: Array, count: Array, width: int
) -> tuple[Array, Array]:
    """`uniform_excluding` with one draw per entry of `start`, for concatenated lists of excluded ids.

    A binary search reads log2(width) excluded ids, and no table [..., width] is made: for long lists this is
    cheaper. The draws are the same, given the same key.

    Args:
      num_items: ids run from 1 to num_items.
      excluded: concatenated lists of excluded ids, each distinct and ascending, [E].
      start, count: the list of each draw is excluded[start : start + count], int32 [...].
      width: the largest count.

    Returns:
      ids, int32 [...], and -log(num_items - count), float32 [...].
    """
    allowed = jnp.maximum(num_items - count, 1)
    rank = jax.random.randint(key, start.shape, 0, allowed, dtype=jnp.int32)
    low, high = jnp.zeros_like(count), count  # the number of ids to skip is in [low, high]
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        below = excluded[jnp.minimum(start + middle, excluded.shape[0] - 1)] - 1 - middle
        skip = (below <= rank) & (low < high)
        low, high = jnp.where(skip, middle + 1, low), jnp.where(skip, high, jnp.maximum(middle, low))
    return rank + 1 + low, -jnp.log(allowed.astype(jnp.float32))
