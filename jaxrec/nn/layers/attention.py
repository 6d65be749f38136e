"""Multi-head self-attention over short item sequences (Vaswani et al., NIPS 2017, section 3.2)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.types import Array


def causal_mask(items: Array, segments: Array | None = None) -> Array:
    """Which keys a query may see: bool [B, L queries, L keys].

    A key is visible if it holds an item, stands no later than the query and, in packed rows, belongs to the
    same segment. A query on padding (or on a masked item, id 0) sees the earlier items of its segment.

    Args:
      items: ids, 0 = padding, [B, L].
      segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
    """
    length = items.shape[-1]
    visible = (items != 0)[:, None, :] & jnp.tril(jnp.ones((length, length), bool))
    if segments is None:
        return visible
    return visible & (segments[:, :, None] == segments[:, None, :]) & (segments != 0)[:, None, :]


def attend(
    query: Array,
    key: Array,
    value: Array,
    visible: Array,
    *,
    mask_value: float = -math.inf,
    drop: Callable[[Array], Array] | None = None,
) -> Array:
    """softmax(QKᵀ/√d) V with a mask: [B, H, L, d] each, bool [B, L, L] → [B, H, L, d].

    With mask_value -inf masked keys get exactly no weight, and a query that sees none gets a zero vector and
    a zero gradient. A finite mask value is added to the scores instead: then such a query attends to every
    key as if there were no mask. The softmax runs in float32. `drop` is dropout of the weights.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    exact = math.isinf(mask_value)
    hidden = jnp.where(visible, 0.0, -1e30 if exact else mask_value)  # exp(-1e30 + a score) is 0
    scores = scores * (1.0 / math.sqrt(query.shape[-1])) + hidden[:, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights if drop is None else drop(weights)
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
    return mixed * visible.any(axis=-1)[:, None, :, None].astype(mixed.dtype) if exact else mixed


class SelfAttention(nn.Module):
    """Queries, keys and values of `num_heads` heads, mixed under a mask, with an output projection.

    The three projections keep their own parameters and run as one matrix product.
    """

    num_heads: int
    dropout: float = 0.0  # of the attention weights
    mask_value: float = -math.inf  # see `attend`
    bits: Bits = threefry_bits
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None  # of the computation; parameters are float32

    @nn.compact
    def __call__(self, x: Array, visible: Array, *, train: bool, rows: Array | None = None) -> Array:
        """Maps [B, L, D] and bool [B, L, L] to [B, L, D]. rows: see `Dropout`."""
        batch, length, dim = x.shape
        if self.num_heads < 1 or dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must be at least 1 and divide dim={dim}")
        kernels = [
            self.param(f"{name}_kernel", self.kernel_init, (dim, dim)) for name in ("query", "key", "value")
        ]
        biases = [
            self.param(f"{name}_bias", nn.initializers.zeros, (dim,)) for name in ("query", "key", "value")
        ]
        x, kernel, bias = nn.dtypes.promote_dtype(
            x, jnp.concatenate(kernels, axis=1), jnp.concatenate(biases), dtype=self.dtype
        )
        heads = (x.reshape(-1, dim) @ kernel + bias).reshape(
            batch, length, 3, self.num_heads, dim // self.num_heads
        )
        query, key, value = heads.transpose(2, 0, 3, 1, 4)  # [3, B, H, L, d]
        drop = functools.partial(Dropout(self.dropout, self.bits), train=train, rows=rows)
        mixed = attend(query, key, value, visible, mask_value=self.mask_value, drop=drop)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, dim)
        return Dense(dim, kernel_init=self.kernel_init, dtype=self.dtype, name="output")(mixed)
