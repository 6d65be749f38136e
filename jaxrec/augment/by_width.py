"""Computes mostly short sequences at a small width, and the few long ones again at a larger one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.types import Array

WIDTHS = (16, 32, 64)  # tried in turn before the full width


def by_width(
    compute: Callable[..., Any], width: int, needed: Array, *arrays: Array, widths: tuple[int, ...] = WIDTHS
) -> Any:
    """compute(width, *arrays), at less cost if most sequences need only a few columns.

    compute(w, *arrays) must return a tree of arrays [B, …] whose shapes do not depend on w, and whose entries
    are the same for every w >= needed. All sequences are computed at the smallest width; those that need more
    are then gathered, a 16th of the batch (later a 32nd, …) at a time, and computed at the next width.

    Args:
      needed: columns that each sequence needs, int32 [B].
      arrays: [B, …].
    """
    batch = needed.shape[0]
    steps = (*(w for w in widths if w < width), width)
    out = compute(steps[0], *arrays)
    for level, (below, step) in enumerate(itertools.pairwise(steps)):
        size = min(batch, max(8, batch >> (4 + level)))

        def fill(state: tuple[Array, Any], size: int = size, step: int = step) -> tuple[Array, Any]:
            pending, out = state
            (index,) = jnp.nonzero(pending, size=size, fill_value=batch)
            part = compute(step, *(x[jnp.minimum(index, batch - 1)] for x in arrays))
            out = jax.tree.map(lambda whole, new: whole.at[index].set(new, mode="drop"), out, part)
            return pending.at[index].set(False, mode="drop"), out

        pending = (needed > below) & (needed <= step)
        _, out = jax.lax.while_loop(lambda state: jnp.any(state[0]), fill, (pending, out))
    return out
