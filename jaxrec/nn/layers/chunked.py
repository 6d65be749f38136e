"""Computing a quadratic layer a few queries at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def over_queries(mix: Callable[..., Array], block: int | None, *columns: Array) -> Array:
    """mix(*columns) computed for `block` queries at a time, and again in the backward pass.

    What `mix` makes on the way, such as scores [B, block, L], is held for one block only. It must treat the
    queries independently; what they all read (keys, values) it closes over.

    Args:
      mix: [B, Q, ...] of each column → [B, Q, ...], for any number Q of queries.
      block: queries at a time; None means all at once, keeping what the backward pass reads.
      columns: one entry a query, [B, L, ...].

    Raises:
      ValueError: the block is smaller than 1.
    """
    if block is None:
        return mix(*columns)
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1 query, or None for all at once")
    length = columns[0].shape[1]
    size = min(block, length)
    count = -(-length // size)

    def cut(column: Array) -> Array:
        rest = ((0, 0),) * (column.ndim - 2)
        column = jnp.pad(column, ((0, 0), (0, count * size - length), *rest))
        return column.reshape(column.shape[0], count, size, *column.shape[2:]).swapaxes(0, 1)

    _, mixed = jax.lax.scan(
        lambda _, cuts: (None, jax.checkpoint(mix)(*cuts)), None, tuple(cut(column) for column in columns)
    )  # [count, B, size, ...]
    mixed = mixed.swapaxes(0, 1)
    return mixed.reshape(mixed.shape[0], count * size, *mixed.shape[3:])[:, :length]
