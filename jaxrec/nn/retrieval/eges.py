"""EGES: item vectors from random walks and side information (Wang et al., KDD 2018, arXiv:1803.02349).

Without side information it is the paper's BGE, which is DeepWalk (Perozzi et al., KDD 2014, arXiv:1403.6652)
with negative sampling; with equal weights of all fields it is GES.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.types import Array


class EGES(nn.Module):
    """Scores H_v · Z_u of a centre v and items u of its context.

    H_v = Σ_s softmax_s(a_v) W_s, over the embeddings W_s of the item itself (s = 0) and of its side
    information; Z is a table of its own. A field without a value (id 0) is left out of the sum.

    Shape names: B batch, N context items, V items, n fields of side information, D dim.

    Fields:
      num_items: V. side_sizes: how many values each field has, ids from 1; (): none.
      weighted: False: the mean of the embeddings (GES).
      tied: Z is H, as in the code of DGL and, without side information, of PyTorch Geometric.
    """

    num_items: int
    side_sizes: tuple[int, ...] = ()
    dim: int = 160
    weighted: bool = True
    tied: bool = False

    def setup(self) -> None:
        for name, size in (("num_items", self.num_items), ("dim", self.dim)):
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        drawn = pad_row(nn.initializers.normal(0.5 / self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.side_embeddings = [
            self.param(f"side_embedding_{field}", drawn, (size + 1, self.dim))
            for field, size in enumerate(self.side_sizes)
        ]
        zeros = nn.initializers.zeros
        if self.weighted and self.side_sizes:
            self.weight = self.param("weight", zeros, (self.num_items + 1, 1 + len(self.side_sizes)))
        if not self.tied:
            self.context_embedding = self.param("context_embedding", zeros, (self.num_items + 1, self.dim))

    def __call__(self, centre: Array, context: Array, side: Array | None = None, *, train: bool) -> Array:
        """Scores of items [B, N] around centres [B]: [B, N]. side: ids of each item's fields, [V + 1, n]."""
        around = self.merged(context, side) if self.tied else lookup(self.context_embedding, context)
        return jnp.einsum("bd,bnd->bn", self.merged(centre, side), around)

    def merged(self, item: Array, side: Array | None = None) -> Array:
        """H of items, [...] → [..., D]."""
        return self.combined(item, self._side(side)[item] if self.side_sizes else None)

    def combined(self, item: Array, fields: Array | None) -> Array:
        """H of items [...] with the side information [..., n]: [..., D]."""
        vectors = lookup(self.item_embedding, item)
        if fields is None or not self.side_sizes:
            return vectors
        parts = [vectors, *(lookup(t, fields[..., s]) for s, t in enumerate(self.side_embeddings))]
        logits = lookup(self.weight, item) if self.weighted else jnp.zeros((*item.shape, len(parts)))
        real = jnp.concatenate([jnp.ones_like(item[..., None]), fields], axis=-1) > 0
        share = nn.softmax(jnp.where(real, logits, -jnp.inf), axis=-1)
        return jnp.einsum("...s,...sd->...d", share, jnp.stack(parts, axis=-2))

    def vectors(self, side: Array | None = None, seen: Array | None = None) -> Array:
        """H of all items, [V + 1, D].

        seen: False for items that no walk has met, [V + 1]: their vector is the mean of the embeddings of
        their side information, 0 if they have none (section 3.3.2). None: all items were met.
        """
        item = jnp.arange(self.num_items + 1)
        merged = self.merged(item, side)
        if seen is None:
            return merged
        if not self.side_sizes:
            return jnp.where(seen[:, None], merged, 0.0)
        fields = self._side(side)
        parts = jnp.stack(
            [lookup(table, fields[:, s]) for s, table in enumerate(self.side_embeddings)], axis=1
        )
        real = (fields > 0)[..., None]
        mean = jnp.sum(jnp.where(real, parts, 0.0), axis=1) / jnp.maximum(real.sum(axis=1), 1)
        return jnp.where(seen[:, None], merged, mean)

    def _side(self, side: Array | None) -> Array:
        expected = (self.num_items + 1, len(self.side_sizes))
        if side is None or side.shape != expected:
            raise ValueError(
                f"side: shape {getattr(side, 'shape', None)}: must be {expected}, ids of each item's fields"
            )
        return side
