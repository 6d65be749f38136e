"""Ids that have no row in a table: an array library clips them or counts them from the end, in silence."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec.types import Array


def is_item(ids: Array, num_rows: int) -> Array:
    """Whether ids are items of a table, 1..num_rows - 1, whose row 0 is padding: bool [...]."""
    return (ids > 0) & (ids < num_rows)


def nan_outside(values: Array, ids: Array, num_rows: int, *, where: Array | None = None) -> Array:
    """Values as they are, but NaN, as is their gradient, where an id is not in 1..num_rows - 1.

    Args:
      values: what was computed from the row of each id, floating, [...].
      ids: int; values and ids broadcast against each other.
      num_rows: of the table, padding (row 0) with it.
      where: False where the value is not used, such as on padding: it stays finite there. None: nowhere.

    >>> nan_outside(jnp.ones(4), jnp.array([0, 1, 2, -1]), 2).tolist()
    [nan, 1.0, nan, nan]
    """
    known = is_item(ids, num_rows)
    if where is not None:
        known = known | jnp.logical_not(where)
    return values * jnp.where(known, 1.0, jnp.nan).astype(values.dtype)
