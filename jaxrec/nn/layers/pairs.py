"""What models of pairs of a user and an item share: checks, products and cosines."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def products(users: Array, items: Array) -> Array:
    """Dot products of each user with items of its own: [B, D], [B, N, D] → [B, N] in float32."""
    return jnp.einsum("bd,bnd->bn", users, items, preferred_element_type=jnp.float32)


def unit(vectors: Array) -> Array:
    """Vectors of length 1, [..., D]; zero stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors * vectors, axis=-1, keepdims=True), 1e-24))
