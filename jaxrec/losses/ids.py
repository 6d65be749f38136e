"""Checks of ids inside compiled code, where out-of-range ids are silently clipped or wrapped."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec.types import Array


def is_item(ids: Array, vocab_size: int) -> Array:
    """Whether ids are items, 1..vocab_size - 1; 0 is padding: bool [...]."""
    return (ids > 0) & (ids < vocab_size)


def nan_outside(values: Array, ids: Array, vocab_size: int, *, where: Array | None = None) -> Array:
    """The values, but NaN, with a NaN gradient, where an id is not in 1..vocab_size - 1.

    Args:
      values: floating values computed from the vector of each id, [...].
      ids: int; values and ids broadcast against each other.
      vocab_size: entries of the table, padding included.
      where: False where the value is not used, such as on padding: it stays finite there. None: all are used.

    >>> nan_outside(jnp.ones(4), jnp.array([0, 1, 2, -1]), 2).tolist()
    [nan, 1.0, nan, nan]
    """
    known = is_item(ids, vocab_size)
    if where is not None:
        known = known | jnp.logical_not(where)
    return values * jnp.where(known, 1.0, jnp.nan).astype(values.dtype)
