"""Locality-sensitive hashing: signs of random projections (Charikar, STOC 2002) as packed bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.nn.layers.target_attention import top_k
from jaxrec.types import Array

WORD = 32  # bits of a packed integer


def simhash(x: Array, rotations: Array) -> Array:
    """Codes of vectors: bit i is 1 where (x · R)_i > 0. [..., D] and [..., D, m] → uint32 [..., ⌈m/32⌉].

    Codes are made a word of 32 bits at a time, so no array of vectors × m numbers is held. Bits past m are 0.
    No gradient flows back.

    Args:
      x: vectors, [..., N, D].
      rotations: random directions, [D, m], or one set for each index of axes before N, such as heads:
        [H, D, m] for x [B, H, N, D].
    """
    x, rotations = jax.lax.stop_gradient((x, rotations))
    num_bits = rotations.shape[-1]
    num_words = -(-num_bits // WORD)
    space = [(0, 0)] * (rotations.ndim - 1) + [(0, num_words * WORD - num_bits)]
    words = jnp.moveaxis(
        jnp.pad(rotations, space).reshape(*rotations.shape[:-1], num_words, WORD), -2, 0
    )  # [words, ..., D, 32]
    powers = jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32)

    def code(directions: Array) -> Array:
        bits = jnp.matmul(x, directions) > 0
        return jnp.sum(jnp.where(bits, powers, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)

    return jnp.moveaxis(jax.lax.map(code, words), 0, -1)


def hamming(a: Array, b: Array) -> Array:
    """How many bits of two codes differ: uint32 [..., words] each → int32 [...].

    >>> int(hamming(jnp.array([5], jnp.uint32), jnp.array([6], jnp.uint32)))  # 101 and 110
    2
    """
    return jnp.sum(jax.lax.population_count(a ^ b), axis=-1).astype(jnp.int32)


def hamming_top_k(
    target: Array, history: Array, mask: Array, rotations: Array, k: int
) -> tuple[Array, Array, Array]:
    """The k behaviours whose codes are nearest to the target's (Chen et al., arXiv:2108.04468, section 4.2).

    With an axis of heads, each head has rotations and finds behaviours of its own.

    Args:
      target: [..., D] or, with heads, [B, H, D]. history: [..., L, D] or [B, H, L, D].
      mask: True where real, [..., L]. rotations: [D, m] or [H, D, m]. k: see `top_k`.

    Returns:
      Slots [..., k] oldest first, which of them are real [..., k], and all distances in bits [..., L]; that
      of padding is m + 1. Of equal distances the most recent behaviour wins.
    """
    distances = hamming(simhash(history, rotations), simhash(target[..., None, :], rotations))
    return nearest(distances, mask, rotations.shape[-1], k)


def nearest(distances: Array, mask: Array, num_bits: int, k: int) -> tuple[Array, Array, Array]:
    """`hamming_top_k` of distances [..., L] between codes of `num_bits` bits."""
    distances = jnp.where(mask, distances, num_bits + 1)
    return *top_k(-distances, mask, k), distances
