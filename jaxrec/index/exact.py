"""Exact search for the best vectors among millions: no approximation, and no sort of all scores.

Two stages. Items lie in groups of 32 with consecutive ids. First all items are scored, a block at a time, and
only the best score of each group is kept. The best k items of a query lie in its best k groups: a group that
comes before theirs holds an item that comes before them. So only the items of k groups are scored again and
sorted. Held for a batch of queries are the scores of one block of items and one number for each group, never
all scores.

The scores that are returned are those of the second stage, sums over the dimensions in one order for all
items, so that equal vectors tie to the bit. The groups are chosen by matrix products, whose rounding differs:
at the last place of a list, of two items whose scores agree but for rounding either may be in it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.chunked import BLOCK, Best, one_zero
from jaxrec.index.measure import Metric, centre_of, check_table, prepare_items, prepare_queries, score_rows
from jaxrec.types import Array

GROUP = 32  # items of which the first stage keeps the best score
RESCORED = 1 << 22  # numbers of item vectors that the second stage gathers at a time


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["vectors", "centre", "count"], meta_fields=["metric"]
)
@dataclasses.dataclass(frozen=True)
class Exact:
    """An index of items 1..count, made by `build`; a pytree, so an argument of compiled functions.

    vectors: prepared for the metric (`index.measure`), in blocks, float32 [N, size, D']; what lies past the
    last item is spare room. centre: what was subtracted from all vectors, [D]. count: items, int32 [].
    """

    vectors: Array
    centre: Array
    count: Array
    metric: Metric

    @property
    def capacity(self) -> int:
        """Items that fit without another block."""
        return self.vectors.shape[0] * self.vectors.shape[1]


def build(table: Any, *, metric: Metric = "inner", block: int = BLOCK) -> Exact:
    """An index of the items 1 .. V - 1 with the vectors of a table [V, D], whose row 0 is padding.

    metric: "inner", the inner product; "cosine", in -1..1, 0 where a vector is 0; "l2", minus the squared
    Euclidean distance.
    block: items scored at a time, rounded up to a multiple of 32.

    Raises:
      ValueError: the table has no items or a number that is not finite, or block is below 1.
    """
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1")
    vectors = check_table(table, metric)[1:]
    centre = jnp.asarray(centre_of(vectors, metric))
    prepared = prepare_items(jnp.asarray(vectors), centre, metric)
    size = _round_up(min(block, len(vectors)), GROUP)
    capacity = _round_up(len(vectors), size)
    blocks = jnp.pad(prepared, ((0, capacity - len(vectors)), (0, 0))).reshape(-1, size, prepared.shape[1])
    return Exact(blocks, centre, jnp.int32(len(vectors)), metric)


def add(index: Exact, vectors: Any) -> Exact:
    """The index with further items [A, D], whose ids are count + 1 .. count + A.

    They take the spare room of the last block; where it is too small, blocks are added, after which a search
    is compiled anew.

    Raises:
      ValueError: the vectors have another width than those of the index, or a number that is not finite.
    """
    padded = np.pad(np.asarray(vectors, np.float32), ((1, 0), (0, 0)))
    new = check_table(padded, index.metric, dim=index.centre.shape[0])[1:]
    count, size = int(index.count), index.vectors.shape[1]
    blocks = -(-(count + len(new)) // size)
    rows = index.vectors.reshape(-1, index.vectors.shape[2])
    rows = jnp.pad(rows, ((0, max(blocks * size - len(rows), 0)), (0, 0)))
    prepared = prepare_items(jnp.asarray(new), index.centre, index.metric)
    rows = jax.lax.dynamic_update_slice(rows, prepared, (count, 0))
    return dataclasses.replace(
        index, vectors=rows.reshape(-1, size, rows.shape[1]), count=jnp.int32(count + len(new))
    )


def vectors_of(index: Exact) -> np.ndarray:
    """The vectors of items 1 .. count, [count, D]: as they were given, for "cosine" of length 1."""
    rows = np.asarray(index.vectors).reshape(-1, index.vectors.shape[2])[: int(index.count)]
    return rows[:, :-1] + np.asarray(index.centre) if index.metric == "l2" else rows


def search(index: Exact, queries: Array, k: int, *, seen: Array | None = None, batch: int = 1024) -> Best:
    """The k best items of each query, [Q, D] → scores, ids [Q, k], best first; the smaller id of equal ones.

    Where fewer than k items are left, as where k is above their number, a list ends in the score -inf and
    the id 0. `finite` is False, and the list means nothing, where a score of the query may not be a finite
    number (the product of its norm and the largest norm of an item is not), or where an id of `seen` is
    neither an item nor 0.

    seen: items that are in no list of the query, ids [Q, S] padded with 0; None: none.
    batch: queries searched at a time: batch x (block + capacity / 32) scores are held.

    Raises:
      ValueError: k or batch is below 1, the queries have another width than the items, or `seen` another
        number of rows.
    """
    check_search(queries, k, dim=index.centre.shape[0], seen=seen, batch=batch)
    seen = jnp.zeros((len(queries), 1), jnp.int32) if seen is None else jnp.asarray(seen)
    return _search(index, jnp.asarray(queries, jnp.float32), seen, k=k, batch=min(batch, len(queries)))


def check_search(queries: Any, k: int, *, dim: int, seen: Any, batch: int = 1) -> None:
    """Raises ValueError for what `search` refuses."""
    for name, value in (("k", k), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if np.ndim(queries) != 2 or np.shape(queries)[0] < 1 or np.shape(queries)[1] != dim:
        raise ValueError(f"queries of shape {np.shape(queries)}: must be [Q, {dim}], with one query at least")
    if seen is not None and (np.ndim(seen) != 2 or np.shape(seen)[0] != np.shape(queries)[0]):
        raise ValueError(f"seen of shape {np.shape(seen)}: must be [{np.shape(queries)[0]}, S], ids")


@functools.partial(jax.jit, static_argnames=("k", "batch"))
def _search(index: Exact, queries: Array, seen: Array, *, k: int, batch: int) -> Best:
    number = len(queries)
    filled = _round_up(number, batch)
    prepared = prepare_queries(queries, index.centre, index.metric)
    largest = jnp.sqrt(jnp.sum(index.vectors**2, axis=2).max())
    known = ((seen >= 0) & (seen <= index.count)).all(axis=1)
    finite = known & jnp.isfinite(jnp.linalg.norm(prepared, axis=1) * largest)
    columns = (jnp.pad(a, ((0, filled - number), (0, 0))) for a in (prepared, seen))
    parts = tuple(a.reshape(-1, batch, a.shape[1]) for a in columns)
    scores, ids = jax.lax.map(lambda part: _search_batch(index, *part, k=k), parts)
    return Best(scores.reshape(filled, k)[:number], ids.reshape(filled, k)[:number], finite)


def _search_batch(index: Exact, queries: Array, seen: Array, *, k: int) -> tuple[Array, Array]:
    """Scores and ids of prepared queries [B, D'], whose seen items are [B, S]: [B, k] twice."""
    best = _group_maxima(index, queries, seen)
    num_groups = min(k + 1, best.shape[1])  # one more: the group in which items end may be none of the best
    groups = jnp.sort(jax.lax.top_k(best, num_groups)[1], axis=1)  # ascending, so that ids are too
    table = index.vectors.reshape(-1, GROUP, index.vectors.shape[2])

    def rescore(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, chosen, past = part
        ids = (GROUP * chosen[:, None] + jnp.arange(GROUP)).reshape(-1) + 1
        scores = one_zero(score_rows(query, table[chosen], index.metric).reshape(-1))
        scores = jnp.where(ids <= index.count, scores, -jnp.inf)
        place = (chosen[:, None] == (past - 1) // GROUP).argmax(axis=0)
        found = (chosen[place] == (past - 1) // GROUP) & (past > 0)
        column = jnp.where(found, GROUP * place + (past - 1) % GROUP, len(ids))
        scores = scores.at[column].set(-jnp.inf, mode="drop")
        value, place = jax.lax.top_k(scores, min(k, len(ids)))
        return value, jnp.where(value > -jnp.inf, ids[place], 0)

    at_a_time = max(1, RESCORED // (num_groups * GROUP * table.shape[2]))
    scores, ids = jax.lax.map(rescore, (queries, groups, seen), batch_size=min(at_a_time, len(queries)))
    missing = ((0, 0), (0, k - scores.shape[1]))
    return jnp.pad(scores, missing, constant_values=-jnp.inf), jnp.pad(ids, missing)


def _group_maxima(index: Exact, queries: Array, seen: Array) -> Array:
    """The best score of each group of items: prepared queries [B, D'] → [B, G].

    In the one group in which items end and spare room begins it may be that of a spare row. (To take these
    out costs a third of the time, since XLA for CPU then reads all scores once more.)
    """
    num_blocks, size, _ = index.vectors.shape
    rows = jnp.arange(len(queries))[:, None]

    def score(_: None, part: tuple[Array, Array]) -> tuple[None, Array]:
        vectors, first = part
        scores = jnp.matmul(queries, vectors.T, precision="highest")
        column = jnp.where(seen >= first, seen - first, size)
        scores = scores.at[rows, column].set(-jnp.inf, mode="drop")
        best = scores.reshape(len(queries), -1, GROUP).max(axis=2)
        return None, jnp.where(first + jnp.arange(0, size, GROUP) <= index.count, best, -jnp.inf)

    first_ids = 1 + size * jnp.arange(num_blocks, dtype=jnp.int32)
    best = jax.lax.scan(score, None, (index.vectors, first_ids))[1]  # [N, B, size / 32]
    return one_zero(best.transpose(1, 0, 2).reshape(len(queries), -1))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
