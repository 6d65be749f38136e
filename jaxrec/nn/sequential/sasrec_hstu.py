"""SASRec as the research code of HSTU builds its baseline (Zhai et al., ICML 2024, arXiv:2402.17152).

That code's results of SASRec are of this encoder under HSTU's objective: the two differ in their blocks and
in what they read of time (meta-recsys/generative-recommenders, `research/modeling/sequential/sasrec.py`).
Against the code of its own authors (`sasrec_original.py`): attention has an output projection, norms have
no parameters and none follows the blocks, positions count from a user's first event, and items start from a
normal of 0.02 cut at twice that, whatever their number, where Glorot's deviation, √(2 / (V + D)), shrinks.

Outputs are not normalised here: `Cosine` divides them by their length, as that code does.

Departs from it: events are found by their ids, so that padding may stand on either side, and several users
may share a packed row. A masked item inside a sequence is hidden, where the code attends to it as a zero
vector.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.attention import attend, causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.nn.sequential.hstu import check_length, event_number, standard
from jaxrec.types import Array


class SASRecHSTU(nn.Module):
    """Causal Transformer whose inputs are item vectors times √dim plus learned positions, as HSTU's are.

    Shape names: B batch, L slots, D dim, V num_items + 1, N = max_len + spare_slots.

    Fields besides the sizes:
      max_len: number of most recent events that training and ranking read.
      spare_slots: how much longer the table of positions is (11 in the code's settings).
      raw_residual: residuals add the input of a sub-layer itself, x + g(LN(x)) as the paper of SASRec has it,
        not its normalised form, LN(x) + g(LN(x)) as both codes have it.
      dropout: of the input, the attention weights, and twice in each feed-forward network, of inner width D.
      bits: random bits for dropout. dtype: of products, such as jnp.bfloat16; norms and parameters stay
        float32. None is float32 throughout.
      remat: whether the backward pass computes blocks again instead of keeping their activations.
    """

    num_items: int
    dim: int = 50
    num_layers: int = 2
    num_heads: int = 1
    max_len: int = 200
    spare_slots: int = 0
    raw_residual: bool = False
    dropout: float = 0.2
    norm_epsilon: float = 1e-8
    bits: Bits = threefry_bits
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "num_heads", "max_len")
        check_sizes(self, "num_layers", "spare_slots", at_least=0)
        draw = nn.initializers.truncated_normal
        self.item_embedding = self.param(
            "item_embedding", pad_row(draw(0.02)), (self.num_items + 1, self.dim)
        )
        self.position_embedding = self.param(
            "position_embedding", draw(self.dim**-0.5), (self.max_len + self.spare_slots, self.dim)
        )
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            Block(
                num_heads=self.num_heads,
                raw_residual=self.raw_residual,
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
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D], zero on padding.

        Args:
          items: ids in order of time, 0 = padding on either side or a masked item, [B, L].
          positions: ignored; events are counted from the first of their sequence.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.

        Raises:
          ValueError: a sequence of one user is longer than N.
        """
        del positions
        check_length(items, segments, self.max_len + self.spare_slots)
        real = (items != 0)[..., None]
        x = lookup(self.item_embedding, items) * math.sqrt(self.dim)
        x = x + rows_at(self.position_embedding, event_number(items, segments))
        x = jnp.where(real, self.drop(x, train=train, rows=rows), 0.0)
        visible = causal_mask(items, segments)
        for layer in self.layers:
            block = as_function(layer, remat=self.remat, train=train)
            x = jnp.where(real, block(x, visible, rows=rows), 0.0)
        return x

    def item_table(self) -> Array:
        """Vectors of all ids, padding first, without the √dim of the input: [V, D]."""
        return self.item_embedding


class Block(nn.Module):
    """Attention of the normalised input over the raw one, then a ReLU network; see `OriginalBlock`."""

    num_heads: int
    raw_residual: bool
    dropout: float
    norm_epsilon: float
    bits: Bits
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, visible: Array, *, train: bool, rows: Array | None = None) -> Array:
        """Maps [B, L, D] and bool [B, L, L] to [B, L, D]. rows: see `Dropout`."""
        batch, length, dim = x.shape
        if dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={dim}")
        drop = functools.partial(Dropout(self.dropout, self.bits), train=train, rows=rows)
        stacked = nn.initializers.normal(math.sqrt(0.5 / dim))  # Glorot's for one [D, 3·D] of all three
        glorot = nn.initializers.normal(math.sqrt(1 / dim))
        projected = functools.partial(Dense, dim, dtype=self.dtype)
        inner = functools.partial(projected, kernel_init=glorot, bias_init=uniform(1 / math.sqrt(dim)))

        def heads(y: Array) -> Array:  # [B, L, D] → [B, H, L, D / H]
            return y.reshape(batch, length, self.num_heads, dim // self.num_heads).transpose(0, 2, 1, 3)

        normed = standard(x, self.norm_epsilon)
        mixed = attend(
            heads(projected(kernel_init=stacked, name="query")(normed)),
            heads(projected(kernel_init=stacked, name="key")(x)),
            heads(projected(kernel_init=stacked, name="value")(x)),
            visible,
            drop=drop,
        )
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, dim)
        mixed = projected(kernel_init=glorot, name="output")(mixed)
        between = (x if self.raw_residual else normed) + mixed
        normed = standard(between, self.norm_epsilon)
        hidden = drop(nn.relu(inner(name="inner")(normed)))
        return (between if self.raw_residual else normed) + drop(inner(name="outer")(hidden))


def uniform(bound: float) -> nn.initializers.Initializer:
    """An initialiser that draws from [-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
