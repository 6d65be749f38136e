"""Random words per sequence: each has its own stream, so that no result depends on the rest of the batch.

A sequence's seed comes from jax.random; its words are an integer hash of seed and counter, several times
cheaper on CPU than as many Threefry words, and the first n words do not depend on how many are drawn.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key

CHOICE_OFFSET, START_OFFSET, ORDER_OFFSET, SUBSTITUTE_OFFSET = (
    0,
    1,
    1 << 16,
    2 << 16,
)  # where the words of each purpose begin


def row_seeds(key: Key, count: int) -> Array:
    """Two random words per sequence, uint32 [count, 2], from one key or from one key per sequence [count]."""
    if key.ndim == 0:
        return jax.random.bits(key, (count, 2))
    return jax.vmap(lambda key: jax.random.bits(key, (2,)))(key)


def words(seeds: Array, begin: int, size: int) -> Array:
    """Random uint32 [B, size]: the words begin, …, begin + size - 1 of each sequence's stream."""
    counter = jnp.arange(begin, begin + size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    return _mix(_mix(counter + seeds[:, :1]) ^ seeds[:, 1:])


def _mix(x: Array) -> Array:
    """A bijection of 32 bits in which every input bit reaches every output bit (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
