"""GRU4Rec: a recurrent encoder of item sequences (Hidasi et al., ICLR 2016, arXiv:1511.06939).

Departs from the paper as RecBole's and TADA's variants do: learned item vectors in place of one-hot inputs,
the same table for input and output ("constrained embedding" in the authors' code), and a linear layer back to
its width. `projection=False, item_bias=True` is the authors' form with that table. `step` reads one event a
call, with the state carried by the caller, for session-parallel batches (`jaxrec.tasks.parallel_sessions`).
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
      dropout: of the item vectors. hidden_dropout: of the output of each GRU layer; `step` carries on the
        state that was dropped, as the authors' code does, `__call__` the whole one.
      use_bias: of the gates, one for the input and one for the state.
      skip_padding: True leaves the state alone on padding, whichever side it stands on. False feeds the
        vector of id 0 through the recurrence as TADA's code does, so that left padding changes the result;
        packed rows then differ from padded ones.
      max_len: most recent events that training and ranking give it; the recurrence itself has no limit.
      projection: the linear layer back to `dim`; without it hidden_dim has to be dim.
      item_bias: a bias for each item's score: item_table() has it as its last column, and outputs a 1.
      extra_rows: rows of the item table past num_items that are no items.
      embedding_init: of the item table, whose row 0 is zero. The authors': glorot_uniform().
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
    projection: bool = True
    item_bias: bool = False
    extra_rows: int = 0
    embedding_init: nn.initializers.Initializer = nn.initializers.glorot_normal()
    bits: Bits = threefry_bits
    dtype: Any = None

    def setup(self) -> None:
        for field in ("num_items", "dim", "hidden_dim", "num_layers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: must be at least 1")
        if not self.projection and self.hidden_dim != self.dim:
            raise ValueError(
                f"hidden_dim={self.hidden_dim}: without a projection it has to be dim={self.dim}, as "
                "states are scored with the item table"
            )
        shape = (self.num_items + 1 + self.extra_rows, self.dim)
        self.item_embedding = self.param("item_embedding", pad_row(self.embedding_init), shape)
        if self.item_bias:
            self.output_bias = self.param("output_bias", nn.initializers.zeros, shape[:1])
        self.drop = Dropout(self.dropout, self.bits)
        self.hidden_drop = Dropout(self.hidden_dropout, self.bits)
        self.layers = [
            GRU(self.hidden_dim, self.use_bias, self.dtype, name=f"layer_{i}") for i in range(self.num_layers)
        ]
        if self.projection:
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
        """Maps item ids to what the model expects next at each slot: [B, L] → [B, L, D], D + 1 with a bias.

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
        return self._scored(x)

    def start(self, lanes: int) -> Array:
        """The state of `lanes` sessions of which nothing has been read: zeros [lanes, layers, H]."""
        return jnp.zeros((lanes, self.num_layers, self.hidden_dim))

    def step(
        self, items: Array, state: Array, *, rows: Array | None = None, train: bool
    ) -> tuple[Array, Array]:
        """One event of each of B sessions: items [B], state [B, layers, H] → output [B, D], state.

        An item 0 leaves the state alone up to dropout, unless `skip_padding=False`. rows: see `__call__`.
        """
        x = self.drop(lookup(self.item_embedding, items), train=train, rows=rows)[:, None]
        update = (items != 0)[:, None] if self.skip_padding else None
        states = []
        for i, layer in enumerate(self.layers):
            x = layer(x, update=update, start=state[:, i])
            x = self.hidden_drop(x, train=train, rows=rows)
            states.append(x[:, 0])
        return self._scored(x)[:, 0], jnp.stack(states, axis=1).astype(state.dtype)

    def _scored(self, x: Array) -> Array:
        """What the item table is multiplied with, of states [..., H]."""
        x = self.output(x) if self.projection else x
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) if self.item_bias else x

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D], or [V, D + 1]. A score is a product with one of them."""
        if self.item_bias:
            return jnp.concatenate([self.item_embedding, self.output_bias[:, None]], axis=-1)
        return self.item_embedding
