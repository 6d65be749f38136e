"""Scores that hang on the last item of a history alone: a table of each item's best successors."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from jaxrec.types import Array, Baseline, Context, Scorer, Variables


def count_pairs(row: np.ndarray, col: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_matrix:
    """How often each pair occurs, as a sparse matrix of this shape."""
    return scipy.sparse.csr_matrix((np.ones(len(row), np.float32), (row, col)), shape=shape)


def score_after_last(
    name: str, last: np.ndarray, item: np.ndarray, value: np.ndarray, *, num_items: int, neighbours: int
) -> Baseline:
    """Scores the `neighbours` items of highest value after the last item by their value, others by 0.

    last, item, value: each pair once, [P]. Of equal values the smaller id is kept.

    Raises:
      ValueError: neighbours is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours}: must be at least 1")
    order = np.lexsort((item, -value, last))
    last, item, value = last[order], item[order], value[order]
    place = np.arange(len(last)) - np.searchsorted(last, last)
    kept = place < neighbours
    near = np.zeros((num_items + 1, neighbours), np.int32)
    weight = np.zeros((num_items + 1, neighbours), np.float32)
    near[last[kept], place[kept]] = item[kept]
    weight[last[kept], place[kept]] = value[kept]
    return Baseline(name, Scorer(_scores), {"near": near, "weight": weight})


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    near, weight = variables["near"], variables["weight"]
    length = queries["length"]
    end = context["start"][queries["user"]] + length
    last = jnp.where(length > 0, context["items"][jnp.maximum(end - 1, 0)], 0)  # 0 has no successors
    row = jnp.arange(end.shape[0])[:, None]
    zeros = jnp.zeros((end.shape[0], near.shape[0]))
    return zeros.at[row, near[last]].set(weight[last])  # an item once, but for 0
