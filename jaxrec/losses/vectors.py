"""Vectors of length 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def l2_normalise(z: Array, shortest: float = 1e-24) -> Array:
    """Vectors of length 1, [..., D]; the zero vector stays zero.

    shortest: the square of a length. A vector that is shorter is divided by that length instead, and has the
    gradient 0, where that of dividing by its own has no bound.
    """
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    long = square > shortest
    kept = jnp.where(long, z, jax.lax.stop_gradient(z))
    return kept * jax.lax.rsqrt(jnp.where(long, square, shortest))
