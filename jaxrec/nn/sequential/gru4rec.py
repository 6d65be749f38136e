"""GRU4Rec: a recurrent encoder of item sequences (Hidasi et al., ICLR 2016, arXiv:1511.06939).

Departs from the paper as RecBole's and TADA's variants do: learned item vectors in place of one-hot inputs,
the same table for input and output ("constrained embedding" in the authors' code), and a linear layer back to
its width. `projection=False, item_bias=True` is the authors' form with that table; with `inputs="one_hot",
reset_after=False` it is the paper's, and with `inputs="own"` the input has a table of its own. `step` reads
one event a call, with the state carried by the caller, for session-parallel batches
(`jaxrec.tasks.parallel_sessions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.recurrent import GRU
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array


class GRU4Rec(nn.Module):
    """Item vectors → dropout → GRU layers → dropout → linear layer to the width of the item table.

    Shape names: B batch, L slots, D dim, V vocab_size (+ extra_rows), H width of the widest GRU layer.

    Fields besides the sizes:
      hidden_dims: width of each GRU layer; None means num_layers layers of hidden_dim.
      inputs: what the first layer reads of an item. "tied": its vector in the table that scores it. "own": a
        vector of another table. "one_hot": a one-hot vector, so that the item has weights of its own there.
      input_dim: width of vectors with inputs="own"; None means dim.
      dropout: of the item vectors, or of the first layer's output where inputs are one-hot.
      hidden_dropout: of the output of each (other) GRU layer; `step` carries on the state that was dropped,
        as the authors' code does, `__call__` the whole one.
      use_bias: of the gates, one for the input and one for the state. reset_after: see `GRU`.
      skip_padding: True leaves the state alone on padding, whichever side it stands on. False feeds the
        vector of id 0 through the recurrence as TADA's code does, so that left padding changes the result;
        packed rows then differ from padded ones.
      max_len: number of most recent events that training and ranking read; the recurrence itself has no
        limit.
      projection: the linear layer back to `dim`; without it the last GRU layer has to be of width dim.
      item_bias: a bias for each item's score: item_table() has it as its last column, and outputs a 1.
      extra_rows: rows of the item tables after num_items that are not items.
      embedding_init: of the item tables, whose row 0 is zero. The authors': glorot_uniform().
      bits: random bits for dropout. dtype: of the computation; None is float32.
    """

    num_items: int
    dim: int = 64
    hidden_dim: int = 128
    num_layers: int = 1
    hidden_dims: Sequence[int] | None = None
    inputs: Literal["tied", "own", "one_hot"] = "tied"
    input_dim: int | None = None
    dropout: float = 0.5
    hidden_dropout: float = 0.0
    use_bias: bool = False
    reset_after: bool = True
    skip_padding: bool = True
    max_len: int = 50
    projection: bool = True
    item_bias: bool = False
    extra_rows: int = 0
    embedding_init: nn.initializers.Initializer = nn.initializers.glorot_normal()
    bits: Bits = threefry_bits
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.inputs not in ("tied", "own", "one_hot"):
            raise ValueError(f'inputs={self.inputs!r}: must be "tied", "own" or "one_hot"')
        if self.input_dim is not None and self.inputs != "own":
            raise ValueError(f'input_dim={self.input_dim}: is the width of a table with inputs="own" alone')
        if self.input_dim is not None and self.input_dim < 1:
            raise ValueError(f"input_dim={self.input_dim}: must be at least 1, or None for dim")
        super().__post_init__()

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each GRU layer."""
        return (self.hidden_dim,) * self.num_layers if self.hidden_dims is None else tuple(self.hidden_dims)

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "hidden_dim", "num_layers", "max_len")
        if min(self.widths, default=0) < 1:
            raise ValueError(f"hidden_dims={self.hidden_dims}: must be at least one width, none below 1")
        if not self.projection and self.widths[-1] != self.dim:
            name = "hidden_dim" if self.hidden_dims is None else "hidden_dims"
            raise ValueError(
                f"{name}={getattr(self, name)}: without a projection it has to be dim={self.dim}, as "
                "states are scored with the item table"
            )
        num_ids = self.num_items + 1 + self.extra_rows
        init = pad_row(self.embedding_init)
        self.item_embedding = self.param("item_embedding", init, (num_ids, self.dim))
        if self.inputs == "own":
            self.input_embedding = self.param("input_embedding", init, (num_ids, self.input_dim or self.dim))
        if self.item_bias:
            self.output_bias = self.param("output_bias", nn.initializers.zeros, (num_ids,))
        self.drop = Dropout(self.dropout, self.bits)
        self.hidden_drop = Dropout(self.hidden_dropout, self.bits)
        first = num_ids if self.inputs == "one_hot" else None
        self.layers = [
            GRU(
                width,
                use_bias=self.use_bias,
                dtype=self.dtype,
                num_ids=None if i else first,
                reset_after=self.reset_after,
                name=f"layer_{i}",
            )
            for i, width in enumerate(self.widths)
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
        """Maps item ids to states that predict the next item: [B, L] → [B, L, D], D + 1 with a bias.

        Args:
          items: ids, 0 = padding or a masked item, padded on either side, [B, L].
          positions: ignored; a recurrence needs none.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
            The state starts from zero where a new number begins.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.
        """
        del positions
        update = items != 0 if self.skip_padding else None
        reset = None
        if segments is not None:
            before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
            reset = (segments != before) & (segments != 0)
        x = self._read(items, train, rows)
        for i, layer in enumerate(self.layers):
            x = self._dropped(i, layer(x, update=update, reset=reset), train, rows)
        return self._scored(x)

    def start(self, lanes: int) -> Array:
        """The state of `lanes` sessions of which nothing has been read: zeros [lanes, layers, H].

        Where layers are narrower than the widest one, what is past their width stays zero.
        """
        return jnp.zeros((lanes, len(self.widths), max(self.widths)))

    def step(
        self, items: Array, state: Array, *, rows: Array | None = None, train: bool
    ) -> tuple[Array, Array]:
        """One event of each of B sessions: items [B], state [B, layers, H] → output [B, D], state.

        An item 0 leaves the state alone up to dropout, unless `skip_padding=False`. rows: see `__call__`.
        """
        update = (items != 0)[:, None] if self.skip_padding else None
        x = self._read(items[:, None], train, rows)
        states = []
        for i, (layer, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            x = self._dropped(i, layer(x, update=update, start=state[:, i, :width]), train, rows)
            states.append(jnp.pad(x[:, 0], ((0, 0), (0, state.shape[-1] - width))))
        return self._scored(x)[:, 0], jnp.stack(states, axis=1).astype(state.dtype)

    def _read(self, items: Array, train: bool, rows: Array | None) -> Array:
        """What the first layer reads of items [B, L]: vectors [B, L, E], or ids if it has their weights."""
        if self.inputs == "one_hot":
            return items
        table = self.item_embedding if self.inputs == "tied" else self.input_embedding
        return self.drop(lookup(table, items), train=train, rows=rows)

    def _dropped(self, i: int, x: Array, train: bool, rows: Array | None) -> Array:
        """The output of layer i after its dropout."""
        drop = self.drop if i == 0 and self.inputs == "one_hot" else self.hidden_drop
        return drop(x, train=train, rows=rows)

    def _scored(self, x: Array) -> Array:
        """The vectors that are multiplied with the item table, from states [..., H]."""
        x = self.output(x) if self.projection else x
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) if self.item_bias else x

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D], or [V, D + 1]. A score is a product with one of them."""
        if self.item_bias:
            return jnp.concatenate([self.item_embedding, self.output_bias[:, None]], axis=-1)
        return self.item_embedding
