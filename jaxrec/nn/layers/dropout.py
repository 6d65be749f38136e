"""Dropout with a choice of random bits (Srivastava et al., JMLR 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key

Bits = Callable[[Key, tuple[int, ...]], Array]


def threefry_bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Random 32-bit words from JAX's own generator: uint32 `shape`."""
    return jax.random.bits(key, shape, jnp.uint32)


def counter_bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Random 32-bit words from a hash of (key, position): uint32 `shape`, several times faster on CPU.

    Two rounds of a 32-bit finaliser of low bias (C. Wellons, hash-prospector, `lowbias32`), a word of the
    key entering each. Good enough to drop units, not for anything that must survive a test of randomness:
    within one call no word occurs twice.
    """
    return numbered_bits(key, jax.lax.iota(jnp.uint32, math.prod(shape))).reshape(shape)


def numbered_bits(key: Key, number: Array) -> Array:
    """`counter_bits` of numbered entries: uint32 of the shape of `number`, wherever an entry stands."""
    words = jax.random.key_data(key).reshape(-1)
    return _mix(_mix(number.astype(jnp.uint32) ^ words[0]) + words[-1])


def across_devices(bits: Bits, axis_name: str | None) -> Bits:
    """Random words of this device's examples, from those drawn for the examples of all devices of an axis.

    For layers whose leading axis is the batch and that do not know the numbers of their examples: every
    device holds the same key, and the noise of an example does not depend on how many devices there are.
    `bits` itself without an axis name.
    """
    if axis_name is None:
        return bits

    def share(key: Key, shape: tuple[int, ...]) -> Array:
        words = bits(key, (jax.lax.axis_size(axis_name) * shape[0], *shape[1:]))
        return jax.lax.dynamic_slice_in_dim(words, jax.lax.axis_index(axis_name) * shape[0], shape[0])

    return share


def _mix(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


class Dropout(nn.Module):
    """Sets each unit to zero with probability `rate` and scales the others by 1 / (1 - rate).

    Reads the "dropout" stream; every layer and every call has its own key. The rate is met to 2⁻³²: a unit
    is dropped if its random word is below rate · 2³². Rate 0, or train=False, is the identity and needs no
    key; rate 1 gives zeros.
    """

    rate: float
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"dropout rate={self.rate}: must be between 0 and 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool, rows: Array | None = None) -> Array:
        """Maps [...] to the same shape and dtype.

        rows: the number of each entry of x along its first axis, int32 [B] for x [B, ...]. Its noise then
        derives from the number alone: it is the same on whichever device, in whatever batch.
        """
        if not train or self.rate == 0.0:
            return x
        threshold = round(self.rate * 2**32)
        if threshold >= 2**32:
            return jnp.zeros_like(x)
        key = self.make_rng("dropout")
        if rows is None:
            words = self.bits(key, x.shape)
        else:
            words = jax.vmap(lambda row: self.bits(jax.random.fold_in(key, row), x.shape[1:]))(rows)
        kept = words >= jnp.uint32(threshold)
        return jnp.where(kept, x / (1.0 - self.rate), jnp.zeros_like(x))
