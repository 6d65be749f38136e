"""Modules that a user might write."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.types import Array


class LastItems(nn.Module):
    """The mean vector of the items so far."""

    num_items: int
    dim: int = 4
    max_len: int = 8

    def setup(self) -> None:
        self.item_embedding = self.param(
            "item_embedding", nn.initializers.normal(0.1), (self.num_items + 1, self.dim)
        )

    def __call__(self, items: Array, *, train: bool) -> Array:
        """[B, L] → [B, L, D]."""
        real = (items != 0)[..., None]
        vectors = jnp.where(real, self.item_embedding[items], 0.0)
        return jnp.cumsum(vectors, axis=1) / jnp.maximum(jnp.cumsum(real, axis=1), 1)

    def item_table(self) -> Array:
        """[V, D]."""
        return self.item_embedding


class Linear(nn.Module):
    """A linear model of each task."""

    num_tasks: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[B, F] → [B, T]."""
        return nn.Dense(self.num_tasks)(x)


def not_a_module() -> None:
    """What a user might name by mistake."""
