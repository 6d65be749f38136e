"""Poly-encoder (Humeau et al., ICLR 2020, arXiv:1905.01969, section 4.4): learned codes read a history.

Departs from the paper, whose inputs are texts: the vectors of a history are item embeddings, with positions,
and an item's vector is its embedding in the same table. Attention is the "basic" one, without projections.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.interests import SIZES, attended, of_items, placed, weights_over
from jaxrec.nn.layers.pairs import check_fields
from jaxrec.types import Array, Interests


class PolyEncoder(nn.Module):
    """K codes c_k give y_k = Σ softmax_t(c_k·h_t) h_t; a candidate v reads Σ softmax_k(v·y_k) y_k.

    The score of a candidate is its product with what it reads (`scores`), which is at most that with the
    nearest y_k: the best by any y_k are candidates to be scored exactly (`index.several.search_rescored`).

    Shape names: B batch, L slots, K codes, D dim, V vocab_size, C candidates.

    Fields besides the sizes:
      positions: whether positions, counted from the most recent event, are added to item vectors.
      masked: False lets padding take part, as in a public implementation where only the text encoder masks.
      item_std: of the normal initialisation of tables. dtype: of the computation.
    """

    merge = "attention"  # how ranking scores an item by the K vectors, exactly: see `types.Retriever`

    num_items: int
    dim: int = 64
    max_len: int = 50
    num_interests: int = 16
    positions: bool = True
    masked: bool = True
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        init = nn.initializers.normal(self.item_std)
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        if self.positions:
            self.position_embedding = self.param("position_embedding", init, (self.max_len, self.dim))
        shape = (self.num_interests, self.dim)
        self.codes = self.param("codes", nn.initializers.uniform(1.0), shape)  # from 0 to 1, as theirs

    def __call__(self, items: Array, *, train: bool, rows: Array | None = None) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to K vectors, which no candidate enters.

        rows, train: ignored; there is no dropout.
        """
        del train, rows
        x = lookup(self.item_embedding, items)
        x = x if self.dtype is None else x.astype(self.dtype)
        x = placed(x, self.position_embedding) if self.positions else x
        mask = items != 0 if self.masked else jnp.ones_like(items, bool)
        weights = weights_over(x @ self.codes.astype(x.dtype).T, mask[..., None], axis=1)  # [B, L, K]
        return of_items(items, jnp.einsum("blk,bld->bkd", weights, x))

    def scores(self, interests: Interests, candidates: Array) -> Array:
        """Exact scores of candidates [C, D], or of each row's own [B, C, D]: [B, C]."""
        own = "bcd" if candidates.ndim == 3 else "cd"
        products = jnp.einsum(f"bkd,{own}->bck", interests.vectors, candidates)
        shares = weights_over(products, interests.active[:, None], axis=-1)
        return jnp.sum(shares * products, axis=-1)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return self.item_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """What a target [B, D] reads: [B, D]."""
        return attended(interests, target)
