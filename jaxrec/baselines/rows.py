"""Scores that are sums of rows of a matrix: of the items of a history, or of the neighbours of a user.

A sparse matrix lies on the device as blocks of `WIDTH` entries, of which a row has one or more. Every query
walks through the blocks of its rows, one a step, so that a step adds to distinct items of each query, and
queries × items is held for a batch of queries only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.types import Array, Baseline, Context, Scorer, Variables

WIDTH = 32  # entries of a block


def blocks_of(matrix: csr_matrix, width: int = WIDTH) -> dict[str, np.ndarray]:
    """The rows of a sparse matrix [R, V] cut into blocks of `width` entries; column 0 is no entry.

    first: int32 [R + 1], the first block of each row, which has at least one; item: int32 [blocks, width],
    columns, 0 where there is none; weight: float32 [blocks, width].
    """
    matrix.sum_duplicates()
    counts = np.diff(matrix.indptr)
    number = np.maximum(-(-counts // width), 1)
    first = np.concatenate([[0], np.cumsum(number, dtype=np.int64)])
    at = np.repeat(first[:-1] * width - matrix.indptr[:-1], counts) + np.arange(matrix.nnz)
    item, weight = np.zeros(first[-1] * width, np.int32), np.zeros(first[-1] * width, np.float32)
    item[at], weight[at] = matrix.indices, matrix.data
    shape = (-1, width)
    return {"first": first.astype(np.int32), "item": item.reshape(shape), "weight": weight.reshape(shape)}


def sum_rows(
    blocks: Mapping[str, Array],
    ids: Array,
    start: Array,
    length: Array,
    *,
    num_columns: int,
    factor: Array | None = None,
) -> Array:
    """The sum of the rows ids[start] … ids[start + length - 1] of a matrix for each query, [B, num_columns].

    blocks: as of `blocks_of`. ids: int32 [N]. start, length: int32 [B]. factor: of each of the ids, [N];
    None: 1. A step of the loop takes one block of every query, so that queries of similar length should
    stand in one batch.
    """
    first, item, weight = (jnp.asarray(blocks[name]) for name in ("first", "item", "weight"))
    ids = jnp.asarray(ids)
    width = item.shape[1]
    query = jnp.arange(start.shape[0])[:, None]
    outside = num_columns + jnp.arange(width)  # distinct places that are dropped
    length = jnp.minimum(length, ids.shape[0])

    def remains(state: Any) -> Array:
        place, _, _ = state
        return (place < length).any()

    def add_block(state: Any) -> Any:
        place, block, scores = state
        real = place < length
        at = jnp.where(real, start + place, 0)
        row = jnp.where(real, ids[at], 0)
        here = first[row] + block
        columns = jnp.where(real[:, None] & (item[here] > 0), item[here], outside)
        added = weight[here] if factor is None else weight[here] * jnp.asarray(factor)[at][:, None]
        scores = scores.at[query, columns].add(added, unique_indices=True, mode="drop")
        last = here + 1 == first[row + 1]
        return jnp.where(real & last, place + 1, place), jnp.where(last, 0, block + 1), scores

    zero = jnp.zeros_like(length)
    scores = jnp.zeros((start.shape[0], num_columns), weight.dtype)
    return jax.lax.while_loop(remains, add_block, (zero, zero, scores))[2]


def score_by_history(name: str, weights: csr_matrix, bias: np.ndarray | None = None) -> Baseline:
    """score(j) = Σ over the events i of the history of weights[i, j], plus bias[j].

    weights: float32 [V + 1, V + 1], row and column 0 empty. An event that repeats an item adds its row again.
    bias: float32 [V + 1]; None: 0.
    """
    constant = {} if bias is None else {"bias": np.asarray(bias, np.float32)}
    return Baseline(name, Scorer(_scores), {**blocks_of(weights), **constant})


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    start = jnp.asarray(context["start"])[queries["user"]]
    size = variables["first"].shape[0] - 1
    scores = sum_rows(variables, context["items"], start, queries["length"], num_columns=size)
    return scores + variables["bias"] if "bias" in variables else scores
