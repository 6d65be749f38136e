"""STAMP: short-term attention/memory priority (Liu et al., KDD 2018, doi:10.1145/3219819.3219950, section 3).

    m_s = mean of x_i,  m_a = m_s + Σ α_i x_i,  α_i = w_0 σ(W_1 x_i + W_2 x_t + W_3 m_s + b_a)
    h_s = tanh(W_s m_a + b_s),  h_t = tanh(W_t x_t + b_t),  score of item j = (h_s ⊙ h_t)·x_j

x_1 … x_t are the vectors of a session's items so far; the weights α are no probabilities. Scores are those
before the sigmoid that the paper puts around them, which bounds a softmax of them and which the authors' code
leaves out. Every prefix of a row is encoded at once.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.chunked import over_queries
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.segments import pick
from jaxrec.types import Array


class STAMP(nn.Module):
    """Encodes each prefix of a session; STMP, STMO and the paper's ablations are fields.

    Shape names: B batch, L slots, D dim, V vocab_size (+ extra_rows).

    Fields besides the sizes:
      attention: False leaves Σ α_i x_i out of the memory m_a (STMP).
      memory: False scores with h_t alone (STMO). last_click: False with h_s alone (the paper's "-" models).
      use_bias: of W_s and W_t; False as in the authors' code.
      normalised: the α are a softmax over the session, and tanh_first: W_s and W_t come after tanh, both as
        in torch-rechub.
      max_norm: longer item vectors are scaled to this length where they are read, but not where they are
        scored (1.0 for Yoochoose and 1.5 for Diginetica in the authors' code); None leaves them.
      max_len: number of most recent events that training and ranking read; there is no other limit.
      block: prefixes whose attention [B, block, L, D] is in memory at a time; None: all L.
      weight_std, item_std: of the normal initialisation.
      extra_rows: rows of the item table after num_items that are not items. dtype: of the computation.
    """

    num_items: int
    dim: int = 100
    attention: bool = True
    memory: bool = True
    last_click: bool = True
    use_bias: bool = True
    normalised: bool = False
    tanh_first: bool = False
    max_norm: float | None = None
    max_len: int = 50
    block: int | None = None
    weight_std: float = 0.05
    item_std: float = 0.002
    extra_rows: int = 0
    dtype: Any = None

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "max_len")
        if not (self.memory or self.last_click):
            raise ValueError("memory=False, last_click=False: nothing is left to score with; keep one")
        init = nn.initializers.normal(self.weight_std)
        self.item_embedding = self.param(
            "item_embedding",
            pad_row(nn.initializers.normal(self.item_std)),
            (self.num_items + 1 + self.extra_rows, self.dim),
        )

        def dense(features: int, use_bias: bool) -> Dense:
            return Dense(features, use_bias, kernel_init=init, dtype=self.dtype)

        if self.attention and self.memory:
            self.from_item, self.from_last = dense(self.dim, True), dense(self.dim, False)
            self.from_mean, self.weight = dense(self.dim, False), dense(1, False)
        if self.memory:
            self.session = dense(self.dim, self.use_bias)
        if self.last_click:
            self.click = dense(self.dim, self.use_bias)

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool = False,
        last_only: bool = False,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D].

        The output of a slot without an item is that of the last item before it.

        Args:
          items: ids in order of time, 0 = padding on either side or a masked item, [B, L].
          positions, rows, train: ignored; there is no order but that of the last item, and no dropout.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          last_only: True encodes the last slot alone, [B, 1, D], at a cost of one prefix a row instead of L.
        """
        del positions, rows, train
        x = clipped(lookup(self.item_embedding, items), self.max_norm)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        length = items.shape[1]
        slots = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), items.shape)
        group = jnp.ones_like(items) if segments is None else segments
        keys = self.from_item(x)[:, None] if self.attention and self.memory else None

        def encode(slots: Array, groups: Array) -> Array:
            """[B, Q] slots and their segments → [B, Q, D]."""
            visible = (jnp.arange(length) <= slots[..., None]) & (items != 0)[:, None]
            visible = visible & (groups[..., None] == group[:, None])  # [B, Q, L]
            newest = jnp.max(jnp.where(visible, jnp.arange(length), -1), axis=-1)[..., None]
            last = jnp.where(newest >= 0, pick(x, jnp.maximum(newest[..., 0], 0)), 0.0)
            state = jnp.ones((), x.dtype)
            if self.memory:
                count = jnp.maximum(visible.sum(axis=-1, keepdims=True), 1)
                mean = (visible.astype(x.dtype) @ x) / count.astype(x.dtype)
                memory = mean
                if keys is not None:
                    query = self.from_last(last) + self.from_mean(mean)
                    scores = self.weight(jax.nn.sigmoid(keys + query[:, :, None]))[..., 0]  # [B, Q, L]
                    memory = memory + self._weights(scores, visible) @ x
                state = state * self._hidden(self.session, memory)
            return state * self._hidden(self.click, last) if self.last_click else state

        if self.is_initializing():
            encode(slots[:, :1], group[:, :1])  # parameters cannot be created inside the loop over blocks
        kept = slice(-1 if last_only else None, None)
        return over_queries(encode, self.block, slots[:, kept], group[:, kept])

    def _weights(self, scores: Array, visible: Array) -> Array:
        if not self.normalised:
            return jnp.where(visible, scores, 0.0)
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
        return jnp.where(visible, weights, 0.0)

    def _hidden(self, layer: Dense, x: Array) -> Array:
        return layer(jnp.tanh(x)) if self.tanh_first else jnp.tanh(layer(x))

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]. A score is a product with one of them."""
        return self.item_embedding


def clipped(x: Array, max_norm: float | None) -> Array:
    """Vectors [..., D] scaled to length `max_norm` where they are longer; None leaves them as they are."""
    if max_norm is None:
        return x
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm}: must be positive, or None for no limit")
    return x * max_norm * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), max_norm**2))
