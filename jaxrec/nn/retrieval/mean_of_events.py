"""YouTube's retrieval network of watched items alone (Covington et al., RecSys 2016, section 3): one vector.

Departs from the paper: no features of users, no searches and no age of examples; the vector is a linear layer
behind the ReLU layers. It is ComiRec's baseline "YouTube DNN" with hidden_dims=() and shared=True, its
defaults.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.interests import of_items
from jaxrec.nn.layers.pairs import check_fields
from jaxrec.types import Array, Interests

SIZES = ("num_items", "dim", "max_len")  # fields that are at least 1


class MeanOfEvents(nn.Module):
    """The mean of the vectors of a user's events, through layers, as the one interest of the user.

    Shape names: B batch, L slots, D dim, V vocab_size.

    Fields besides the sizes:
      hidden_dims: widths of ReLU layers before the linear one.
      shared: one table for events and targets; False: two, as in the paper.
      item_std: of the normal initialisation of item vectors. dtype: of the computation.
    """

    num_items: int
    dim: int = 64
    max_len: int = 20
    hidden_dims: tuple[int, ...] = ()
    shared: bool = True
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        init, shape = pad_row(nn.initializers.normal(self.item_std)), (self.num_items + 1, self.dim)
        self.item_embedding = self.param("item_embedding", init, shape)
        if not self.shared:
            self.class_embedding = self.param("class_embedding", init, shape)
        self.hidden = [Dense(width, dtype=self.dtype) for width in self.hidden_dims]
        self.output = Dense(self.dim, dtype=self.dtype)

    def __call__(self, items: Array, *, train: bool, rows: Array | None = None) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to one vector. rows, train: ignored; there is no dropout."""
        del train, rows
        x = lookup(self.item_embedding, items)
        x = x if self.dtype is None else x.astype(self.dtype)
        real = (items != 0)[..., None]
        vector = jnp.where(real, x, 0).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
        for layer in self.hidden:
            vector = nn.relu(layer(vector))
        return of_items(items, self.output(vector)[:, None])

    def item_table(self) -> Array:
        """Vectors of all ids as targets, padding first: [V, D]."""
        return self.item_embedding if self.shared else self.class_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The user's vector, whatever the target [B, D]: [B, D]."""
        return interests.vectors[:, 0]
