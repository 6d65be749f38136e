"""Columns of what is known of users and items, several values a column where need be, as vectors.

The tables begin as PyTorch's layers do, since MeLU's code has them so and its paper does not say: single
values are an Embedding, N(0, 1); sets of values a Linear without bias on indicators, U(±1/√V).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.types import Array, Key


class Column(NamedTuple):
    """A column of values 1..num_values, where 0 is none. several: a set of values an entry, else one."""

    name: str
    num_values: int
    several: bool = False


class Content(nn.Module):
    """The vectors of all columns side by side; that of a set is the mean of its values' vectors.

    A set without values is zero, and so is the padding id 0, which never trains. An id outside its table
    gives NaN.

    Fields:
      columns: in the order of their vectors.
      dim: width of the vector of a column.

    Shape names: A values of a set, at most; C columns. Leading axes are free.
    """

    columns: tuple[Column, ...]
    dim: int = 32

    def __post_init__(self) -> None:
        check_columns(self.columns)
        if self.dim < 1:
            raise ValueError(f"dim={self.dim}: must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Mapping[str, Array]) -> Array:
        """Maps columns {name: int32 [...], or [..., A] of sets} to [..., C · dim]."""
        found = []
        for column in self.columns:
            if column.name not in batch:
                raise ValueError(f"column {column.name!r}: not in the batch, which has {sorted(batch)}")
            init = centred(column.num_values) if column.several else nn.initializers.normal(1.0)
            shape = (column.num_values + 1, self.dim)
            table = self.param(f"{column.name}_embedding", pad_row(init), shape)
            vectors = lookup(table, batch[column.name])
            found.append(mean_of_set(vectors, batch[column.name]) if column.several else vectors)
        return jnp.concatenate(found, axis=-1)


def mean_of_set(vectors: Array, ids: Array) -> Array:
    """The mean over the real ids of a set, 0 without any: [..., A, D], [..., A] → [..., D]."""
    real = (ids != 0)[..., None]
    return jnp.sum(jnp.where(real, vectors, 0.0), axis=-2) / jnp.maximum(jnp.sum(real, axis=-2), 1)


def centred(fan_in: int) -> Any:
    """U(±1/√fan_in), as PyTorch's Linear begins, weights and bias."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def check_columns(columns: tuple[Column, ...]) -> None:
    """Raises ValueError for no column, a name twice, or a column without values."""
    if not columns:
        raise ValueError("columns=(): name at least one column to read")
    for name, count in Counter(column.name for column in columns).items():
        if count > 1:
            raise ValueError(f"column {name!r}: stands {count} times in columns; name each once")
    for column in columns:
        if column.num_values < 1:
            raise ValueError(
                f"column {column.name!r}: num_values={column.num_values}: must be at least 1; leave it out"
            )
