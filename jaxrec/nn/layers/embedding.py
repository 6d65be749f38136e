"""Lookup tables of ids and of positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.segments import rows_by_id
from jaxrec.types import Array


def pad_row(init):  # type: ignore[no-untyped-def]
    """An initialiser whose row 0, the padding, is zero."""
    return lambda key, shape, dtype=jnp.float32: init(key, shape, dtype).at[0].set(0.0)


def lookup(table: Array, ids: Array) -> Array:
    """Rows of a table, [V, D], [...] → [..., D]; NaN where an id is not in 0..V-1.

    Padding (id 0) reads its row like any other id but sends no gradient back, so it never trains.
    """
    rows = rows_at(table, ids)
    return jnp.where((ids != 0)[..., None], rows, jax.lax.stop_gradient(rows))


def rows_at(table: Array, positions: Array) -> Array:
    """Rows of a table without padding, such as of positions; NaN where a position is not in 0..V-1."""
    return rows_by_id(table, positions)


def slots(length: int, max_len: int) -> Array:
    """Positions of a right-aligned row, max_len - length .. max_len - 1: int32 [1, length]."""
    if length > max_len:
        raise ValueError(
            f"sequences of length {length}: max_len={max_len} is the longest; cut off the oldest events"
        )
    return jnp.arange(max_len - length, max_len, dtype=jnp.int32)[None]
