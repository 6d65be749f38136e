"""Most rows are short: compute all at a small width, then the few long ones again, in small blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.types import Array

WIDTHS = (16, 32, 64)  # tried in turn before the full width


def by_width(
    compute: Callable[..., Any], width: int, reach: Array, *rows: Array, widths: tuple[int, ...] = WIDTHS
) -> Any:
    """compute(width, *rows), at less cost where most rows reach only a few columns.

    compute(w, *rows) must give the same result, a tree of arrays [B, …] of shapes that do not depend on w,
    for every w >= reach. All rows are computed at the smallest width; the rows for which that was too little
    are then taken out, a 16th of the batch (later a 32nd, …) at a time, and computed at the next width.

    Args:
      reach: columns a row needs, int32 [B].
      rows: arrays [B, …].
    """
    batch = reach.shape[0]
    steps = (*(w for w in widths if w < width), width)
    out = compute(steps[0], *rows)
    for level, (below, step) in enumerate(itertools.pairwise(steps)):
        size = min(batch, max(8, batch >> (4 + level)))

        def fill(state: tuple[Array, Any], size: int = size, step: int = step) -> tuple[Array, Any]:
            pending, out = state
            (index,) = jnp.nonzero(pending, size=size, fill_value=batch)
            part = compute(step, *(x[jnp.minimum(index, batch - 1)] for x in rows))
            out = jax.tree.map(lambda whole, new: whole.at[index].set(new, mode="drop"), out, part)
            return pending.at[index].set(False, mode="drop"), out

        pending = (reach > below) & (reach <= step)
        _, out = jax.lax.while_loop(lambda state: jnp.any(state[0]), fill, (pending, out))
    return out
