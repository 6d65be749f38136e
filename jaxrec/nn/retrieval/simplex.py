"""SimpleX: a user is its own vector and the pooled vectors of its items, and scores are cosines.

Mao et al., CIKM 2021, arXiv:2109.12613; trained by `losses.ccl` against many negatives. As in the authors'
code, the items of a user include the observed one that a pair is trained on.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes, products, unit
from jaxrec.packing import window
from jaxrec.types import Array, Context

Pooling = Literal["mean", "user_attention", "self_attention"]
USERS_AT_ONCE = 256  # whose items are pooled at a time for the final vectors


class SimpleX(nn.Module):
    """Cosines of items and g p_u + (1 - g) V pool(q_i of the user's training items).

    Shape names: B batch, N items of each user, L items that are pooled, D dim, U users, I items.

    Fields:
      num_users, num_items: U and I; both tables have a row of padding in front.
      max_history: L, the largest number of a user's items that are read, the last ones of the resident
        columns; it bounds memory. A matrix has no order: give the largest number of training items.
      pooling: the mean; or attention whose keys are tanh(W q_i + b) and whose query is p_u, or learned and
        the same for all users. A user without items is g p_u.
      gamma: g, the weight of the user's own vector.
      dropout: of the user's vector, from the "dropout" stream. attention_dropout: of attention weights.
      count_padding: divides attention weights by their sum plus L less the user's items, as the authors' code
        does, whose softmax counts every padded place as a score of 0.
      init_std: of normal initial vectors, as in the authors' code.
    """

    num_users: int
    num_items: int
    dim: int = 64
    max_history: int = 100
    pooling: Pooling = "user_attention"
    gamma: float = 0.8
    dropout: float = 0.0
    attention_dropout: float = 0.0
    count_padding: bool = False
    init_std: float = 1e-4
    bits: Bits = threefry_bits

    def setup(self) -> None:
        sizes = {name: getattr(self, name) for name in ("num_users", "num_items", "dim", "max_history")}
        check_sizes(**sizes)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma={self.gamma}: must be in 0..1")
        if self.pooling not in ("mean", "user_attention", "self_attention"):
            raise ValueError(
                f"pooling={self.pooling!r}: expected 'mean', 'user_attention' or 'self_attention'"
            )
        drawn, square = pad_row(nn.initializers.normal(self.init_std)), (self.dim, self.dim)
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.value_kernel = self.param("value_kernel", nn.initializers.glorot_normal(), square)
        if self.pooling != "mean":
            self.key_kernel = self.param("key_kernel", nn.initializers.glorot_normal(), square)
            self.key_bias = self.param("key_bias", nn.initializers.zeros, (self.dim,))
        if self.pooling == "self_attention":
            self.query = self.param("query", nn.initializers.glorot_normal(), (self.dim, 1))
        self.noise = Dropout(self.dropout, self.bits)
        self.attention_noise = Dropout(self.attention_dropout, self.bits)

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Scores of items [B, N] for users [B]: [B, N].

        context: items [N], start [U] and length [U], the training items of each user. rows [B]: numbers that
        dropout derives from.
        """
        users = self._users(user, context, train=train, rows=rows)
        users = self.noise(users, train=train, rows=rows)
        return products(users, unit(lookup(self.item_embedding, item)))

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users [U + 1, D] and items [I + 1, D], of length 1; a few users' items at a time."""
        users = jax.lax.map(
            lambda user: self._users(user[None], context, train=False)[0],
            jnp.arange(self.num_users + 1, dtype=jnp.int32),
            batch_size=USERS_AT_ONCE,
        )
        return users, unit(self.item_embedding)

    def _users(self, user: Array, context: Context, *, train: bool, rows: Array | None = None) -> Array:
        """Vectors of users of length 1, [B] → [B, D]."""
        number = jnp.maximum(user - 1, 0)
        length = jnp.where(user > 0, context["length"][number], 0)
        end = context["start"][number] + length
        history = window(context["items"], end, length, self.max_history)  # [B, L]
        own, items = lookup(self.user_embedding, user), lookup(self.item_embedding, history)
        pooled = self._pool(own, items, history != 0, train=train, rows=rows) @ self.value_kernel
        return unit(self.gamma * own + (1.0 - self.gamma) * pooled)

    def _pool(self, own: Array, items: Array, real: Array, *, train: bool, rows: Array | None) -> Array:
        """A weighted sum of each user's items, [B, L, D] → [B, D]."""
        count = real.sum(axis=1, keepdims=True)
        if self.pooling == "mean":
            weights = real / jnp.maximum(count, 1)
        else:
            keys = nn.tanh(items @ self.key_kernel + self.key_bias)
            scores = jnp.einsum("bld,bd->bl", keys, own) if self.pooling == "user_attention" else None
            scores = (keys @ self.query)[..., 0] if scores is None else scores
            lowest = 0.0 if self.count_padding else -jnp.inf
            top = jnp.max(jnp.where(real, scores, lowest), axis=1, keepdims=True)
            top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
            mass = jnp.where(real, jnp.exp(jnp.where(real, scores, top) - top), 0.0)
            total = mass.sum(axis=1, keepdims=True)
            if self.count_padding:
                total = total + (real.shape[1] - count) * jnp.exp(-top)
            weights = mass / jnp.where(total > 0, total, 1.0)
            weights = self.attention_noise(weights, train=train, rows=rows)
        return jnp.einsum("bl,bld->bd", weights.astype(items.dtype), items)
