"""Vectors of many ids from few rows: quotient and remainder, and hashing with several functions.

A full table of V ids has V · D parameters. Here ids share rows, but pairs of rows tell them apart:

    QuotientRemainder(num_ids, dim, num_remainders)     every id has a pair of its own; 2 √V rows at best
    HashedTable(num_rows, dim, num_hashes=2)            ids without an upper bound, rarely the same pair

Both are modules of ids like `nn.layers.embedding.lookup`: id 0 is padding, gives zeros and never trains.
For ids of which only those that keep coming should have a row: `jaxrec.data.bounded_ids`.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import rows_at
from jaxrec.types import Array

Combine = Callable[[Array, Array], Array]  # of two vectors [..., D]


class QuotientRemainder(nn.Module):
    """The row of id // m combined with that of id % m (Shi et al., KDD 2020, doi:10.1145/3394486.3403059).

    No two ids have both rows in common: the partitions of the ids are complementary. An id out of range gives
    NaN.

    Fields:
      num_ids: ids 1..num_ids. num_remainders: m; there are m + ⌈num_ids / m⌉ rows.
      combine: of the two rows, jnp.multiply (the paper's best), jnp.add, or a concatenation.
      row_init: of the rows of remainders. Where rows are multiplied, those of quotients should start near 1.
      quotient_init: of the rows of quotients.
    """

    num_ids: int
    dim: int
    num_remainders: int
    combine: Combine = jnp.multiply
    row_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    quotient_init: nn.initializers.Initializer = nn.initializers.ones

    def __post_init__(self) -> None:
        for name in ("num_ids", "dim", "num_remainders"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Maps ids to vectors: [...] → [..., D]."""
        quotients = -(-self.num_ids // self.num_remainders)
        remainder = self.param("remainder", self.row_init, (self.num_remainders, self.dim))
        quotient = self.param("quotient", self.quotient_init, (quotients, self.dim))
        number = ids - 1
        inside = (ids >= 1) & (ids <= self.num_ids)
        low = jnp.where(inside, number % self.num_remainders, 0)
        high = jnp.where(inside, number // self.num_remainders, 0)
        vectors = self.combine(rows_at(remainder, low), rows_at(quotient, high))
        outside = jnp.where(ids == 0, 0.0, jnp.nan)
        return jnp.where(inside[..., None], vectors, outside[..., None])


class HashedTable(nn.Module):
    """The sum of the rows that several hash functions give an id; the first ids may have rows of their own.

    Two functions into one table, with rows of their own for frequent ids, is double hashing (Zhang et al.,
    RecSys 2020, doi:10.1145/3383313.3412227, section 3). Departs from it: rows are added up, where the paper
    also concatenates them. Of two ids that share no own row, both rows coincide with probability about
    2 / num_rows².

    Fields:
      num_rows: hashed rows. num_own: ids 1..num_own, such as the most frequent, have a row each.
      num_hashes: functions; 1 is the usual hashing trick (Weinberger et al., ICML 2009).
      salt: chooses the functions. row_init: of all rows.
    """

    num_rows: int
    dim: int
    num_hashes: int = 2
    num_own: int = 0
    salt: int = 0
    row_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

    def __post_init__(self) -> None:
        for name, least in (("num_rows", 1), ("dim", 1), ("num_hashes", 1), ("num_own", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Maps ids, int32 or uint32, to vectors: [...] → [..., D]."""
        table = self.param("rows", self.row_init, (self.num_own + self.num_rows, self.dim))
        salts = jnp.arange(self.salt, self.salt + self.num_hashes, dtype=jnp.uint32)
        buckets = hash_ids(ids[..., None], salts) % jnp.uint32(self.num_rows)  # [..., hashes]
        own = (ids >= 1) & (ids <= self.num_own)
        at = jnp.where(
            own[..., None], ids[..., None].astype(jnp.int32) - 1, self.num_own + buckets.astype(jnp.int32)
        )
        counted = ~own[..., None] | (jnp.arange(self.num_hashes) == 0)
        counted &= (ids != 0)[..., None]
        return jnp.sum(jnp.where(counted[..., None], rows_at(table, at), 0.0), axis=-2)


def hash_ids(ids: Array, salt: Array) -> Array:
    """Random-looking 32-bit integers of ids, uint32, another function for each salt; a bijection of the ids.

    The finaliser of MurmurHash3 on the id, shifted by an odd multiple of the salt.

    >>> hash_ids(jnp.array([1, 2]), jnp.uint32(0)).tolist()
    [1364076727, 821347078]
    """
    x = ids.astype(jnp.uint32) + (2 * salt.astype(jnp.uint32)) * jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def renew_rows(table: Array, rows: Array, fresh: Array) -> Array:
    """A table, or what an optimiser remembers of it, in which some rows start anew: [V, …] → [V, …].

    rows: distinct, int32 [K]; a negative one is none. fresh: their values, [K, …], or one for all.
    """
    at = jnp.where(rows >= 0, rows, table.shape[0] + jnp.arange(len(rows), dtype=rows.dtype))
    values = jnp.broadcast_to(jnp.asarray(fresh, table.dtype), (len(rows), *table.shape[1:]))
    return table.at[at].set(jax.lax.stop_gradient(values), mode="drop", unique_indices=True)
