"""Exact search: the best 100 of 1,000,000 items with 64 numbers each, for 1,000 queries.

Vectors are drawn from a normal distribution by NumPy, the same as in `peers/faiss_flat.py`. `products` are
the matrix products alone, of which only the best score of each query is kept, the time below which no exact
search falls.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import limits
from experiments.benchmarks.timing import Figure, time_calls
from jaxrec.index import exact
from jaxrec.types import Array

NUM_ITEMS, DIM, NUM_QUERIES, K = 1_000_000, 64, 1000, 100
MIB = 2.0**20


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """The figures of the exact index."""
    num_items, num_queries, k = (1000, 10, 5) if tiny else (NUM_ITEMS, NUM_QUERIES, K)
    rng = np.random.default_rng(0)
    items = rng.standard_normal((num_items, DIM), dtype=np.float32)
    queries = jnp.asarray(rng.standard_normal((num_queries, DIM), dtype=np.float32))
    index = exact.build(np.pad(items, ((1, 0), (0, 0))))
    search = jax.jit(lambda index, queries: exact.search(index, queries, k))
    searched = limits.work(search, index, queries)
    yield from time_calls("index/exact_1e6", lambda: search(index, queries), repeats, work=searched)
    memory = search.lower(index, queries).compile().memory_analysis()
    if memory is not None:
        size = memory.temp_size_in_bytes / MIB
        yield Figure("index/exact_1e6:memory", "MiB", size, size, size, 1)

    @jax.jit
    def products(vectors: Array, queries: Array) -> Array:
        def best(found: Array, block: Array) -> tuple[Array, None]:
            return jnp.maximum(found, (queries @ block.T).max(axis=1)), None

        return jax.lax.scan(best, jnp.full(len(queries), -jnp.inf), vectors)[0]

    yield from time_calls("index/products_1e6", lambda: products(index.vectors, queries), repeats)
