"""Offline hard negatives: items that an index ranks high for a query, but not highest."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key


def rank_window(
    key: Key,
    lists: Array,
    positives: Array,
    *,
    number: int,
    first: int = 101,
    last: int = 500,
) -> tuple[Array, Array]:
    """Items of the ranks first..last of each query's list, without its positives: ids and their ranks.

    The semi-hard negatives of Huang et al. (KDD 2020, arXiv:2006.11632, section 6.1): the top of a list is
    full of items that are relevant and unobserved. Draws are uniform and without replacement; they have no
    log-probability to correct by, and are to be mixed with uniform negatives (up to 100 of them for each).

    Args:
      lists: ids that the current model ranks highest, best first, int32 [..., K]; 0 is no item.
      positives: ids that are never returned, int32 [..., P], padded with 0.
      number: drawn for each query.
      first, last: ranks, from 1.

    Returns:
      ids and ranks, both int32 [..., number]; 0 where the window has no more items.

    Raises:
      ValueError: the window is empty, its ranks are not in the lists, or it is shorter than number.
    """
    longest = lists.shape[-1]
    if not 1 <= first <= last <= longest:
        raise ValueError(
            f"first={first}, last={last}: must be ranks 1 <= first <= last <= {longest}, the length of the "
            "lists; search for more items, or take a window of lower ranks"
        )
    if not 1 <= number <= last - first + 1:
        raise ValueError(f"number={number}: must be in 1..{last - first + 1}, the ranks of the window")
    window = lists[..., first - 1 : last]
    known = jnp.any(window[..., :, None] == positives[..., None, :], axis=-1)
    allowed = (window != 0) & ~known
    order = jnp.where(allowed, jax.random.uniform(key, window.shape), -1.0)
    best, place = jax.lax.top_k(order, number)
    there = best >= 0
    ids = jnp.take_along_axis(window, place, axis=-1)
    return jnp.where(there, ids, 0), jnp.where(there, first + place, 0).astype(jnp.int32)
