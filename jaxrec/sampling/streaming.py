"""How often an item comes into a batch, estimated from the stream of batches alone.

(Yi et al., RecSys 2019, doi:10.1145/3298689.3346996, algorithms 2 and 3.) Pure functions of a state that the
training loop carries; it is no parameter and has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array


class Stream(NamedTuple):
    """What is remembered of m hashes into H buckets, and the number of updates.

    last: A, the step at which a bucket was last met, 0 for never, int32 [m, H]; gap: B, the moving average of
    the steps between, float32 [m, H]; step: int32 [].
    """

    last: Array
    gap: Array
    step: Array


class StreamingFrequency(NamedTuple):
    """init() -> Stream; update(stream, ids [B], where=None, axis_name=None) -> Stream after one more step;
    log_probability(stream, ids [...]) -> float32 [...]. See `streaming_frequency`.
    """

    init: Callable[[], Stream]
    update: Callable[..., Stream]
    log_probability: Callable[[Stream, Array], Array]


def streaming_frequency(
    num_buckets: int, *, num_hashes: int = 1, rate: float = 0.01, start_gap: float = 100.0, seed: int = 0
) -> StreamingFrequency:
    """Estimates p, the probability that an item is in a batch, as one over the steps between its batches.

    At step t a bucket h that the batch meets becomes B[h] ← (1 - α) B[h] + α (t - A[h]), then A[h] ← t, and
    p = 1 / max over hashes of B: a collision shortens the gap, so the longest is the best.

    A bucket is updated once a step, however many of the batch's entries fall into it: repeated items and
    colliding ones count once, where the algorithm as printed, item after item, would see a gap of 0 at the
    second. Entries of the batch are handled together, and the result does not depend on their order. Id 0 is
    padding: it is not counted and has log-probability -inf. An item never met has p = 1 / start_gap.

    Steps are those at which `update` is called: with every tenth batch of a stream p is still that of a
    batch. With an axis name the batch is that of all devices, and all end with the same state.

    Args:
      num_buckets: H; the state has 8 m H bytes.
      num_hashes: m; 0 takes ids themselves as buckets, for ids below num_buckets (another is not counted, and
        has log-probability NaN).
      rate: α; a larger one follows changes faster and has more variance.
      start_gap: B before the first step, at least 1. A gap of δ is met without bias from δ / (1 - α).
      seed: of the hashes.

    Raises:
      ValueError: num_buckets is below 1, num_hashes negative, rate not in (0, 1] or start_gap below 1.
    """
    if num_buckets < 1 or num_hashes < 0:
        raise ValueError(
            f"num_buckets={num_buckets}, num_hashes={num_hashes}: must be at least 1 and at least 0"
        )
    if not 0 < rate <= 1 or not start_gap >= 1:
        raise ValueError(f"rate={rate}, start_gap={start_gap}: must be in (0, 1] and at least 1")
    salts = np.random.default_rng(seed).integers(1, 2**32, num_hashes, dtype=np.uint32)

    def buckets(ids: Array) -> Array:
        """The bucket of each id under each hash, int32 [m, ...]; num_buckets where it has none."""
        if num_hashes == 0:
            found = jnp.where((ids >= 0) & (ids < num_buckets), ids, num_buckets)[None]
            return found.astype(jnp.int32)
        hashed = _scramble(ids.astype(jnp.uint32) ^ salts.reshape(-1, *[1] * ids.ndim))
        return (hashed % jnp.uint32(num_buckets)).astype(jnp.int32)

    def init() -> Stream:
        shape = (max(1, num_hashes), num_buckets)
        return Stream(jnp.zeros(shape, jnp.int32), jnp.full(shape, start_gap, jnp.float32), jnp.int32(0))

    def update(
        stream: Stream, ids: Array, where: Array | None = None, axis_name: str | None = None
    ) -> Stream:
        ids = ids if where is None else jnp.where(where, ids, 0)
        ids = ids.reshape(-1)
        if axis_name is not None:
            ids = jax.lax.all_gather(ids, axis_name, tiled=True)
        step = stream.step + 1
        bucket = jnp.where(ids == 0, num_buckets, buckets(ids))  # written past the end: dropped
        hashes = jnp.arange(bucket.shape[0])[:, None]
        waited = (step - stream.last.at[hashes, bucket].get(mode="clip")).astype(jnp.float32)
        gap = (1.0 - rate) * stream.gap.at[hashes, bucket].get(mode="clip") + rate * waited
        # entries of one bucket write the same values, read from the state before the step
        return Stream(
            stream.last.at[hashes, bucket].set(step, mode="drop"),
            stream.gap.at[hashes, bucket].set(gap, mode="drop"),
            step,
        )

    def log_probability(stream: Stream, ids: Array) -> Array:
        bucket = buckets(ids)
        hashes = jnp.arange(bucket.shape[0]).reshape(-1, *[1] * ids.ndim)
        gap = stream.gap.at[hashes, bucket].get(mode="fill", fill_value=jnp.nan)
        return jnp.where(ids == 0, -jnp.inf, -jnp.log(jnp.max(gap, axis=0)))

    return StreamingFrequency(init, update, log_probability)


def _scramble(x: Array) -> Array:
    """A bijection of uint32 by which any bit of x changes about half of the bits: the end of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
