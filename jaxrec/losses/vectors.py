"""Vectors of length 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def l2_normalise(z: Array) -> Array:
    """Vectors of length 1, [..., D]; the zero vector stays zero, with a finite gradient."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
