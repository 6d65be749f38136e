"""GRU4Rec: a recurrent encoder of item sequences (Hidasi et al., ICLR 2016, arXiv:1511.06939).

Departs from the paper as RecBole's and TADA's variants do: learned item vectors in place of one-hot inputs,
the same table for input and output ("constrained embedding" in the authors' code), a linear layer back to
its width, gradients through the whole sequence, and whole sequences in place of session-parallel batches.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.recurrent import GRU
from jaxrec.types import Array


class GRU4Rec(nn.Module):
    """Item vectors → dropout → GRU layers → dropout → linear layer to the width of the item table.

    Shape names: B rows, L slots, D dim, V vocab_size (+ extra_rows).

    Fields beside the sizes:
      dropout: of the item vectors. hidden_dropout: of the output of each GRU layer.
      use_bias: of the gates, one for the input and one for the state.
      skip_padding: True leaves the state alone on padding, whichever side it stands on. False feeds the
        vector of id 0 through the recurrence as TADA's code does, so that left padding changes the result;
        packed rows then differ from padded ones.
      max_len: most recent events that training and ranking give it; the recurrence itself has no limit.
      extra_rows: rows of the item table past num_items that are no items.
      bits: random bits for dropout. dtype: of the computation; None is float32.
    """

    num_items: int
    dim: int = 64
    hidden_dim: int = 128
    num_layers: int = 1
    dropout: float = 0.5
    hidden_dropout: float = 0.0
    use_bias: bool = False
    skip_padding: bool = True
    max_len: int = 50
    extra_rows: int = 0
    bits: Bits = threefry_bits
    dtype: Any = None

    def setup(self) -> None:
        for field in ("num_items", "dim", "hidden_dim", "num_layers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: must be at least 1")
        init = pad_row(nn.initializers.glorot_normal())
        self.item_embedding = self.param(
            "item_embedding", init, (self.num_items + 1 + self.extra_rows, self.dim)
        )
        self.drop = Dropout(self.dropout, self.bits)
        self.hidden_drop = Dropout(self.hidden_dropout, self.bits)
        self.layers = [
            GRU(self.hidden_dim, self.use_bias, self.dtype, name=f"layer_{i}") for i in range(self.num_layers)
        ]
        self.output = Dense(self.dim, dtype=self.dtype)

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Maps item ids to what the model expects next at each slot: [B, L] → [B, L, D].

        Args:
          items: ids, 0 = padding or a masked item, padded on either side, [B, L].
          positions: ignored; a recurrence needs none.
          segments: numbers of the users that share a row, 0 = padding, [B, L]: the state starts from zero
            where a new number begins. None means one user a row.
          rows: numbers of the rows, [B], from which each row's dropout derives; None: from the whole batch.
        """
        del positions
        x = self.drop(lookup(self.item_embedding, items), train=train, rows=rows)
        update = items != 0 if self.skip_padding else None
        reset = None
        if segments is not None:
            before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
            reset = (segments != before) & (segments != 0)
        for layer in self.layers:
            x = self.hidden_drop(layer(x, update=update, reset=reset), train=train, rows=rows)
        return self.output(x)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]. A score is a product with one of them."""
        return self.item_embedding
