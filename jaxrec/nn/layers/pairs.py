"""What models of pairs of a user and an item share: checks, products and cosines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def check_fields(module: Any, names: Iterable[str]) -> None:
    """Raises ValueError for a field of a module, of these names, that is below 1."""
    check_sizes(**{name: getattr(module, name) for name in names})


def products(users: Array, items: Array) -> Array:
    """Dot products of each user with items of its own: [B, D], [B, N, D] → [B, N] in float32."""
    return jnp.einsum("bd,bnd->bn", users, items, preferred_element_type=jnp.float32)


def unit(vectors: Array, shortest: float = 1e-24) -> Array:
    """Vectors of length 1, [..., D]; the zero vector stays zero.

    shortest: the square of a length. A vector that is shorter is divided by that length instead, and has the
    gradient 0, where that of dividing by its own has no bound.
    """
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    long = square > shortest
    kept = jnp.where(long, vectors, jax.lax.stop_gradient(vectors))
    return kept * jax.lax.rsqrt(jnp.where(long, square, shortest))
