"""SASRec as its authors' code builds it (Kang and McAuley, ICDM 2018, arXiv:1808.09781, section III).

Follows the published code where it differs from the paper: queries come from the normalised input, keys and
values from the input itself, and each residual adds the *normalised* input of its sub-layer. There is no
output projection, and a last normalisation follows the blocks.

Departs from the code: padding is known by its id (the code infers it from vectors that sum to zero), so
padded outputs are exactly zero, also after the last normalisation, whose bias the code leaves there.

The much used PyTorch port (pmixer/SASRec.pytorch) is `norms="last"` (its default) or `norms="first"` (its
`norm_first`), with `output_projection=True` and `skip_padding=False`; its table of orders of normalisation
compares these with "queries", the authors' own.

That of RecTools (MobileTeleSystems), which eSASRec is compared with (arXiv:2508.06450), is
`output_projection=True`, `scaled=False` and `norm_epsilon=1e-5`, but for its draw of initial values and for
padding, which it reads unless told otherwise.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import attend, causal_mask
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row, rows_at, slots
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array

Norms = Literal["queries", "first", "last"]


class SASRecOriginal(nn.Module):
    """Causal Transformer whose inputs are item vectors times √dim plus learned positions.

    Shape names: B batch, L slots, D dim, V vocab_size.

    Fields besides the sizes:
      dropout: of the embeddings, of the attention weights and, twice, in each feed-forward network, whose
        inner width is D.
      norms: "queries": as the authors' code has it, see the module's docstring. "first": x + g(LN(x)) for
        both sub-layers g, the formula of the paper. "last": LN(x + g(x)).
      output_projection: a linear layer after the heads of the attention.
      skip_padding: True hides padding and sets it to zero after every block. False starts it at zero and
        then reads what biases have made of it, so that its amount changes the result and packed rows differ.
      scaled: items enter times √dim.
      bits: random bits for dropout. dtype: of the computation; None is float32.
      remat: whether the backward pass computes blocks again instead of keeping their activations.
    """

    num_items: int
    dim: int = 50
    num_layers: int = 2
    num_heads: int = 1
    max_len: int = 50
    dropout: float = 0.5
    norm_epsilon: float = 1e-8
    norms: Norms = "queries"
    output_projection: bool = False
    skip_padding: bool = True
    scaled: bool = True
    bits: Bits = threefry_bits
    dtype: Any = None
    remat: bool = False

    def __post_init__(self) -> None:
        if self.norms not in ("queries", "first", "last"):
            raise ValueError(f'norms={self.norms!r}: must be "queries", "first" or "last"')
        super().__post_init__()

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "num_heads", "max_len")
        check_sizes(self, "num_layers", at_least=0)
        init = nn.initializers.glorot_uniform()
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        self.position_embedding = self.param("position_embedding", init, (self.max_len, self.dim))
        self.drop = Dropout(self.dropout, self.bits)
        self.layers = [
            OriginalBlock(
                num_heads=self.num_heads,
                dropout=self.dropout,
                norm_epsilon=self.norm_epsilon,
                norms=self.norms,
                output_projection=self.output_projection,
                bits=self.bits,
                dtype=self.dtype,
                name=f"layer_{i}",
            )
            for i in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm(epsilon=self.norm_epsilon, use_fast_variance=False, dtype=self.dtype)

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

        Padded slots are zero, unless `skip_padding=False`.

        Args:
          items: ids, right-aligned, 0 = padding, [B, L].
          positions: the slot each event would have in a sequence of max_len, [B, L]; None: right-aligned.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
          rows: index of each sequence or packed row in the whole batch, [B], from which its dropout derives;
            None: dropout is drawn for all of them together.
        """
        positions = slots(items.shape[-1], self.max_len) if positions is None else positions
        real = (items != 0)[..., None]
        x = lookup(self.item_embedding, items) * (math.sqrt(self.dim) if self.scaled else 1.0)
        x = x + rows_at(self.position_embedding, positions)
        x = jnp.where(real, self.drop(x, train=train, rows=rows), 0.0)
        read = real if self.skip_padding else jnp.ones_like(real)
        visible = causal_mask(items if self.skip_padding else jnp.ones_like(items), segments)
        for layer in self.layers:
            block = as_function(layer, remat=self.remat, train=train)
            x = jnp.where(read, block(x, visible, rows=rows), 0.0)
        return jnp.where(read, self.norm(x), 0.0)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first, without the √dim of the input: [V, D]."""
        return self.item_embedding


class OriginalBlock(nn.Module):
    """Attention, then a ReLU network, with residuals and norms in the order that `norms` names."""

    num_heads: int
    dropout: float
    norm_epsilon: float
    norms: Norms
    output_projection: bool
    bits: Bits
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, visible: Array, *, train: bool, rows: Array | None = None) -> Array:
        """Maps [B, L, D] and bool [B, L, L] to [B, L, D]. rows: see `Dropout`."""
        batch, length, dim = x.shape
        if dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={dim}")
        dense = functools.partial(Dense, dim, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)
        norm = functools.partial(
            nn.LayerNorm, epsilon=self.norm_epsilon, use_fast_variance=False, dtype=self.dtype
        )

        def drop(y: Array) -> Array:
            return Dropout(self.dropout, self.bits)(y, train=train, rows=rows)

        def heads(y: Array) -> Array:  # [B, L, D] → [B, H, L, D / H]
            return y.reshape(batch, length, self.num_heads, dim // self.num_heads).transpose(0, 2, 1, 3)

        def attention(queries: Array, keys: Array) -> Array:
            q, k, v = (
                heads(dense(name="query")(queries)),
                heads(dense(name="key")(keys)),
                heads(dense(name="value")(keys)),
            )
            mixed = attend(q, k, v, visible, drop=drop).transpose(0, 2, 1, 3).reshape(batch, length, dim)
            return dense(name="output")(mixed) if self.output_projection else mixed

        def network(y: Array) -> Array:
            return drop(dense(name="outer")(drop(nn.relu(dense(name="inner")(y)))))

        before, between = norm(name="attention_norm"), norm(name="inner_norm")
        if self.norms == "first":
            normed = before(x)
            x = x + attention(normed, normed)
            return x + network(between(x))
        if self.norms == "last":
            x = before(x + attention(x, x))
            return between(x + network(x))
        normed = before(x)
        normed = between(normed + attention(normed, x))
        return normed + network(normed)
