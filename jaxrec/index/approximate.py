"""Search with `jax.lax.approx_max_k`, which on TPUs finds most of the best items much faster than all.

The operation partitions the scores of a block and keeps the best of each part (Chern et al., NeurIPS 2022,
arXiv:2206.14286). Its recall is what is expected where the best items lie at random ids: shuffle items that
are in an order that says something of their scores. On CPUs and GPUs XLA sorts instead: exact, and slower
than `index.exact`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrec.index.chunked import Best
from jaxrec.index.exact import Exact, check_search
from jaxrec.index.measure import prepare_queries
from jaxrec.types import Array


def search(
    index: Exact,
    queries: Array,
    k: int,
    *,
    recall: float = 0.95,
    seen: Array | None = None,
    batch: int = 1024,
) -> Best:
    """As `exact.search`, with an expected share of `recall` of the best k items.

    Scores are products, for "l2" minus the squared distance, which loses digits where it is small against
    the squared lengths. Of equal scores any may come first.

    Raises:
      ValueError: as `exact.search`; recall is not in 0..1, both excluded.
    """
    check_search(queries, k, dim=index.centre.shape[0], seen=seen, batch=batch)
    if not 0 < recall < 1:
        raise ValueError(f"recall={recall}: must be between 0 and 1; search with index.exact for 1")
    seen = jnp.zeros((len(queries), 1), jnp.int32) if seen is None else jnp.asarray(seen)
    batch = min(batch, len(queries))
    return _search(index, jnp.asarray(queries, jnp.float32), seen, k=k, recall=recall, batch=batch)


@functools.partial(jax.jit, static_argnames=("k", "recall", "batch"))
def _search(index: Exact, queries: Array, seen: Array, *, k: int, recall: float, batch: int) -> Best:
    num_blocks, size, _ = index.vectors.shape
    number, kept = len(queries), min(k, size)
    first_ids = 1 + size * jnp.arange(num_blocks, dtype=jnp.int32)
    prepared = prepare_queries(queries, index.centre, index.metric)
    known = ((seen >= 0) & (seen <= index.count)).all(axis=1)

    def one(part: tuple[Array, Array]) -> Best:
        queries, seen = part
        rows = jnp.arange(len(queries))[:, None]

        def step(best: Best, block: tuple[Array, Array]) -> tuple[Best, None]:
            vectors, first = block
            scores = jnp.matmul(queries, vectors.T, precision="highest")
            finite = best.finite & jnp.isfinite(scores).all(axis=1)
            column = jnp.where(seen >= first, seen - first, size)
            scores = scores.at[rows, column].set(-jnp.inf, mode="drop")
            scores = jnp.where(first + jnp.arange(size) <= index.count, scores, -jnp.inf)
            value, place = jax.lax.approx_max_k(
                scores, kept, recall_target=recall, reduction_input_size_override=num_blocks * size
            )
            value = jnp.concatenate([best.scores, value], axis=1)
            ids = jnp.concatenate([best.ids, first + place], axis=1)
            value, place = jax.lax.top_k(value, k)
            return Best(value, jnp.take_along_axis(ids, place, axis=1), finite), None

        shape = (len(queries), k)
        none = Best(jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32), jnp.ones(shape[0], bool))
        return jax.lax.scan(step, none, (index.vectors, first_ids))[0]

    filled = -(-number // batch) * batch
    parts = (
        jnp.pad(a, ((0, filled - number), (0, 0))).reshape(-1, batch, a.shape[1]) for a in (prepared, seen)
    )
    found = jax.lax.map(one, tuple(parts))
    scores, ids = (a.reshape(filled, k)[:number] for a in (found.scores, found.ids))
    if index.metric == "l2":
        scores = scores - jnp.sum((prepared[:, :-1] / 2) ** 2, axis=1, keepdims=True)
    ids = jnp.where(scores > -jnp.inf, ids, 0)
    return Best(scores, ids, known & found.finite.reshape(-1)[:number])
