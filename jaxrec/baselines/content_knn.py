"""Content KNN: items whose content is like that of the user's items. It needs no one's interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Baseline, Context, Retriever, Variables


def content_knn(vectors: Any, *, name: str = "content_knn") -> Baseline:
    """score(u, j) = Σ over the events i of the history of cos(v_i, v_j).

    An item whose vector is 0 has the cosine 0 with all.

    Args:
      vectors: of items, [num_items + 1, D], row 0 padding: of their content, or of any other kind.

    Raises:
      ValueError: the vectors are no such table, not finite, or row 0 is not 0.
    """
    table = np.asarray(vectors, np.float32)
    if table.ndim != 2 or len(table) < 2 or not table.shape[1]:
        raise ValueError(f"vectors: shape {table.shape}: must be [num_items + 1, D], padding first")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise ValueError(f"vectors: that of item {row} is not finite; fill it in, or give 0")
    if table[0].any():
        raise ValueError("vectors: row 0 is padding and must be 0")
    length = np.linalg.norm(table, axis=1, keepdims=True)
    return Baseline(name, NEIGHBOURS, {"vectors": table / np.where(length > 0, length, 1.0)})


def sum_of_history(table: Array, queries: Mapping[str, Array], context: Context) -> Array:
    """The sum of the rows of a table over each query's events, however many: [B, D]."""
    items, length = jnp.asarray(context["items"]), queries["length"]
    start = jnp.asarray(context["start"])[queries["user"]]

    def add_event(place: Array, total: Array) -> Array:
        real = place < length
        item = items[jnp.where(real, start + place, 0)]
        return total + jnp.where(real[:, None], table[item], 0.0)

    longest = jnp.minimum(length.max(), items.shape[0])
    return jax.lax.fori_loop(0, longest, add_event, jnp.zeros((length.shape[0], table.shape[1])))


def _query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    return sum_of_history(jnp.asarray(variables["vectors"]), queries, context)


def _items(variables: Variables) -> Array:
    return jnp.asarray(variables["vectors"])


NEIGHBOURS = Retriever(_query, _items)
