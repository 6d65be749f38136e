"""Frozen vectors of items, of their texts or images, beside the ids of any sequence encoder.

An item's vector is e_i + W v_i, with e_i its learned embedding, v_i the frozen vector and W a learned
projection without a bias: ID and feature embeddings are added up as in S3-Rec (Zhou et al., CIKM 2020,
arXiv:2008.07873, section 3.3), and a new item, whose e_i was never trained, still has the second part.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array, Variables

TABLE, VECTORS = "item_embedding", "item_vectors"


class WithItemVectors(nn.Module):
    """An encoder whose table of items, wherever it reads or scores with it, is that of the ids plus W v.

    Shape names: B batch, L slots, D dim, V rows of the item table, E width of the frozen vectors.

    The frozen vectors [V, E] are the variable "item_vectors" of the collection "constants", which training
    leaves alone: it starts as zeros and is given (`initial` of `train.fit.fit`). Row 0 has to be zero, so
    that padding stays so.

    Fields:
      encoder: has a parameter `item_embedding` [V, D], such as `SASRec`, `GRU4Rec`, `HSTU`, `Cosine` of one.
      width: E.
      projection_init: of W, [E, D].
    """

    encoder: Any
    width: int
    projection_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @property
    def max_len(self) -> int:
        return int(self.encoder.max_len)

    @nn.compact
    def __call__(self, items: Array, **columns: Any) -> Array:
        """Maps item ids [B, L] and what else the encoder reads to its outputs, [B, L, D]."""
        if self.is_initializing():
            self.encoder(items, **columns)  # draws its parameters
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        found: Array = self._inside().apply(self._variables(), items, **columns, rngs=rngs)
        return found

    @nn.compact
    def item_table(self) -> Array:
        """Vectors of all ids, padding first, as the encoder scores with them: [V, D]."""
        found: Array = self._inside().apply(self._variables(), method="item_table")
        return found

    def _inside(self) -> Any:
        return self.encoder.clone(parent=None, name=None)

    def _variables(self) -> Variables:
        """Those of the encoder with the sum in place of its item table."""
        params = self.encoder.variables["params"]
        path = table_path(params, type(self.encoder).__name__)
        table = params
        for name in path:
            table = table[name]
        vectors = self.variable(
            "constants", VECTORS, lambda: jnp.zeros((table.shape[0], self.width), jnp.float32)
        )
        projection = self.param("projection", self.projection_init, (self.width, table.shape[1]))
        return {"params": _replaced(params, path, table + vectors.value @ projection)}


def table_path(params: Any, encoder: str) -> tuple[str, ...]:
    """Where the item table is among an encoder's parameters.

    Raises:
      ValueError: there is none.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [tuple(str(key.key) for key in path) for path, _ in leaves]
    found = sorted((path for path in paths if path[-1] == TABLE), key=len)
    if not found:
        raise ValueError(
            f"{encoder}: has no parameter {TABLE!r}, to which vectors of items could be added; give its "
            "table of items this name"
        )
    return found[0]


def _replaced(tree: Any, path: tuple[str, ...], leaf: Array) -> Any:
    return leaf if not path else {**tree, path[0]: _replaced(tree[path[0]], path[1:], leaf)}
