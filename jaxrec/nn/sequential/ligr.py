"""LiGR layers as eSASRec takes them: a gate on each residual, and a SwiGLU network (arXiv:2508.06450).

The layer is of Borisyuk et al., "From features to transformers: Redefining ranking for scalable impact",
2025, arXiv:2502.03417; what is built here is the form that Tikhonovich et al., "eSASRec: Enhancing
Transformer-based Recommendations in a Modular Fashion", RecSys 2025, publish with their code (RecTools).

Against a pre-norm Transformer: each branch is multiplied by a gate in (0, 1), element by element, which is
computed from the branch's input before its norm; the feed-forward network has three matrices and no biases;
no norm follows the last layer.

Departs from that code: queries, keys and values are drawn as three matrices, where theirs are one matrix of
Xavier's deviation; biases of the gates start at 0 and the padding row of the table at 0. Set-wise attention
over the ranked items, which the paper has too, is not built.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import SelfAttention, causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at, slots
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array


class LiGR(nn.Module):
    """Causal Transformer of gated layers over a user's items; the item table is input and output.

    Shape names: B batch, L slots, D dim, V num_items + 1.

    Fields besides the sizes:
      inner_dim: width of the feed-forward network, 4 · dim in the code's default, without the usual 2/3.
      dropout: of the embeddings, the attention weights, the network's inner units and each branch's output.
      bits: random bits for dropout. dtype: of the computation, such as jnp.bfloat16; None is float32.
      remat: whether the backward pass computes blocks again instead of keeping their activations.
    """

    num_items: int
    dim: int = 64
    num_layers: int = 1
    num_heads: int = 1
    inner_dim: int = 256
    max_len: int = 50
    dropout: float = 0.2
    norm_epsilon: float = 1e-5
    bits: Bits = threefry_bits
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "num_heads", "inner_dim", "max_len")
        check_sizes(self, "num_layers", at_least=0)
        init = nn.initializers.glorot_normal()
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        self.position_embedding = self.param("position_embedding", init, (self.max_len, self.dim))
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            LiGRLayer(
                num_heads=self.num_heads,
                inner_dim=self.inner_dim,
                dropout=self.dropout,
                norm_epsilon=self.norm_epsilon,
                bits=self.bits,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            for i in range(self.num_layers)
        ]

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D].

        A vector of position is of the distance from the last slot, since sequences are right-aligned: the
        code's "inverse" positions are the same table read from its other end.

        Args:
          items: ids, right-aligned, 0 = padding, [B, L]. No other slot reads padding; it reads itself.
          positions: the slot each event would have in a sequence of max_len, [B, L]; None: right-aligned.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.
        """
        positions = slots(items.shape[-1], self.max_len) if positions is None else positions
        x = lookup(self.item_embedding, items) + rows_at(self.position_embedding, positions)
        x = self.drop(x, train=train, rows=rows)
        visible = causal_mask(items, segments) | jnp.eye(items.shape[-1], dtype=bool)
        for layer in self.layers:
            x = as_function(layer, remat=self.remat, train=train)(x, visible, rows=rows)
        return x

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]. A score is a product with one of them."""
        return self.item_embedding


class LiGRLayer(nn.Module):
    """x + gate(x) · attention(norm(x)), then u + gate(u) · network(norm(u)); the gates are sigmoids."""

    num_heads: int
    inner_dim: int
    dropout: float
    norm_epsilon: float = 1e-5
    bits: Bits = threefry_bits
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, visible: Array, *, train: bool, rows: Array | None = None) -> Array:
        """Maps [B, L, D] and bool [B, L, L] to [B, L, D]. rows: see `Dropout`."""
        init = nn.initializers.glorot_normal()
        dense = functools.partial(Dense, kernel_init=init, dtype=self.dtype)
        linear = functools.partial(dense, use_bias=False)
        norm = functools.partial(
            nn.LayerNorm, epsilon=self.norm_epsilon, use_fast_variance=False, dtype=self.dtype
        )

        def drop(y: Array) -> Array:
            return Dropout(self.dropout, self.bits)(y, train=train, rows=rows)

        attention = SelfAttention(
            self.num_heads,
            dropout=self.dropout,
            bits=self.bits,
            kernel_init=init,
            dtype=self.dtype,
            name="attention",
        )
        mixed = attention(norm(name="attention_norm")(x), visible, train=train, rows=rows)
        x = x + nn.sigmoid(dense(x.shape[-1], name="attention_gate")(x)) * drop(mixed)
        y = norm(name="inner_norm")(x)
        inner = nn.silu(linear(self.inner_dim, name="gated")(y)) * linear(self.inner_dim, name="inner")(y)
        outer = linear(x.shape[-1], name="outer")(drop(inner))
        return x + nn.sigmoid(dense(x.shape[-1], name="inner_gate")(x)) * drop(outer)
