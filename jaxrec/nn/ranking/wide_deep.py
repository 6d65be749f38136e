"""Wide & Deep (Cheng et al., DLRS 2016, arXiv:1606.07792, section 3), for ratings from content.

The wide part has a weight for each value of a column, the deep part is an MLP on the values' vectors, and
their sum is the rating. Crossed columns of the wide part are columns of the data, if there are any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.content import Column, Content
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array


class WideDeep(nn.Module):
    """A linear model of all values and an MLP on their vectors; the output is a rating, in stars.

    It has the face of `nn.retrieval.melu.MeLU`, so that `tasks.meta` trains it, without adaptation.

    Fields:
      items, users: columns that are read. dim: width of the vector of a column.
      dims: widths of the hidden layers.

    Shape names: as of MeLU.
    """

    items: tuple[Column, ...]
    users: tuple[Column, ...]
    dim: int = 32
    dims: Sequence[int] = (64, 64)

    def setup(self) -> None:
        self.item_content, self.user_content = Content(self.items, self.dim), Content(self.users, self.dim)
        self.item_weights, self.user_weights = Content(self.items, 1), Content(self.users, 1)
        self.deep, self.out = MLP(self.dims), nn.Dense(1)

    @property
    def decision_layers(self) -> tuple[str, ...]:
        """Names of the parameters that `decide` reads."""
        return ("deep", "out")

    def __call__(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """Maps columns of items [..., N] (sets [..., N, A]) and of their users [...] to ratings [..., N]."""
        return self.decide(self.embed(items, users))

    def embed(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """The vectors, and behind them the sum of the wide part: [..., N, F + 1]."""
        item, user = self.item_content(items), self.user_content(users)[..., None, :]
        wide = self.item_weights(items).sum(-1) + self.user_weights(users).sum(-1)[..., None]
        user = jnp.broadcast_to(user, (*item.shape[:-1], user.shape[-1]))
        return jnp.concatenate([item, user, wide[..., None]], axis=-1)

    def decide(self, x: Array) -> Array:
        """Maps [..., F + 1] to ratings [...]."""
        return self.out(self.deep(x[..., :-1]))[..., 0] + x[..., -1]
