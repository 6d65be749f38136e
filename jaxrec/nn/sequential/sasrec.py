"""SASRec as the S3-Rec, RecBole, CoSeRec and TiCoSeRec family builds it (post-norm, GELU).

Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018, arXiv:1808.09781. Against the
authors' own code (`sasrec_original.py`): normalisation after each residual as in BERT, an output projection,
an inner width of its own, no √D scaling, no final normalisation.

Departs from the family: masked keys get exactly no weight (`mask_value=-10000.0` is the family's finite
mask), and the padding row of the item table starts at zero (theirs is drawn, and never trains either).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.attention import SelfAttention, causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at, slots
from jaxrec.nn.layers.gelu import gelu as gelu
from jaxrec.nn.layers.layer_norm import LayerNorm
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array


class SASRec(nn.Module):
    """Causal Transformer over a user's items; scores are products with the table that also feeds it.

    Shape names: B batch, L slots, D dim, V vocab_size (+ extra_rows).

    Fields besides the sizes:
      dropout: of the embeddings and of each sub-layer's output. attention_dropout: of attention weights.
      init_std: deviation of the normal initialisation of kernels and tables; biases start at 0.
      mask_value: -inf hides keys exactly, and a query that sees none gets no attention output. A finite one
        is added to the scores as in the family's code (-10000.0), where such queries attend to every slot.
      extra_rows: rows of the item table after num_items that are not items (1 for the family's mask id).
      bits: random bits for dropout. dtype: of the computation, such as jnp.bfloat16; None is float32.
      remat: whether the backward pass computes blocks again instead of keeping their activations.
    """

    num_items: int
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    inner_dim: int = 256
    max_len: int = 50
    dropout: float = 0.5
    attention_dropout: float = 0.5
    activation: Callable[[Array], Array] = gelu
    init_std: float = 0.02
    norm_epsilon: float = 1e-12
    mask_value: float = -math.inf
    extra_rows: int = 0
    bits: Bits = threefry_bits
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "num_heads", "inner_dim", "max_len")
        check_sizes(self, "num_layers", at_least=0)
        init = nn.initializers.normal(self.init_std)
        self.item_embedding = self.param(
            "item_embedding", pad_row(init), (self.num_items + 1 + self.extra_rows, self.dim)
        )
        self.position_embedding = self.param("position_embedding", init, (self.max_len, self.dim))
        self.norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype)
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            Block(
                num_heads=self.num_heads,
                inner_dim=self.inner_dim,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                activation=self.activation,
                init_std=self.init_std,
                norm_epsilon=self.norm_epsilon,
                mask_value=self.mask_value,
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
        scale: Array | None = None,
        at: Array | None = None,
        train: bool,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D], or [Q, D] of some slots.

        Args:
          items: ids, right-aligned, 0 = padding or a masked item, [B, L].
          positions: the slot each event would have in a sequence of max_len, [B, L]; None: right-aligned.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.
          scale: factors of the tokens that enter the first block, of a shape that broadcasts with [B, L, D],
            such as the prompt of a task; None: 1.
          at: the slots whose states are wanted, such as users' last events, int32 [Q], slot l of row b being
            b · L + l; the last block computes no others after its attention. Not in training. None: all.

        Raises:
          ValueError: `at` is given in training.
        """
        if at is not None and train:
            raise ValueError("at: states of some slots are for evaluation; train=True needs those of all")
        positions = slots(items.shape[-1], self.max_len) if positions is None else positions
        x = lookup(self.item_embedding, items) + rows_at(self.position_embedding, positions)
        x = self.drop(self.norm(x), train=train, rows=rows)
        x = x if scale is None else x * scale
        visible = causal_mask(items, segments)
        for i, layer in enumerate(self.layers):
            wanted = at if i == self.num_layers - 1 else None
            x = as_function(layer, remat=self.remat, train=train)(x, visible, rows=rows, at=wanted)
        return x if at is None or self.layers else at_slots(x, at)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]. A score is a product with one of them."""
        return self.item_embedding


class Block(nn.Module):
    """Self-attention and a two-layer network, each added to its input and then normalised."""

    num_heads: int
    inner_dim: int
    dropout: float
    attention_dropout: float
    activation: Callable[[Array], Array]
    init_std: float
    norm_epsilon: float
    mask_value: float
    bits: Bits
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Array,
        visible: Array,
        *,
        train: bool,
        rows: Array | None = None,
        at: Array | None = None,
    ) -> Array:
        """Maps [B, L, D] and bool [B, L, L] to [B, L, D], or of some slots to [Q, D]. rows: see `Dropout`."""
        init = nn.initializers.normal(self.init_std)
        dense = functools.partial(Dense, kernel_init=init, dtype=self.dtype)
        norm = functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)

        def drop(y: Array) -> Array:
            return Dropout(self.dropout, self.bits)(y, train=train, rows=rows)

        attention = SelfAttention(
            self.num_heads,
            dropout=self.attention_dropout,
            mask_value=self.mask_value,
            bits=self.bits,
            kernel_init=init,
            dtype=self.dtype,
            name="attention",
        )
        mixed = attention(x, visible, train=train, rows=rows)
        if at is not None:
            x, mixed = at_slots(x, at), at_slots(mixed, at)
        x = norm(name="attention_norm")(x + drop(mixed))
        inner = self.activation(dense(self.inner_dim, name="inner")(x))
        return norm(name="inner_norm")(x + drop(dense(x.shape[-1], name="outer")(inner)))


def at_slots(x: Array, at: Array) -> Array:
    """The vectors of some slots, numbered row after row: [B, L, D] and int32 [Q] → [Q, D]."""
    return x.reshape(-1, x.shape[-1]).at[at].get(mode="clip")
