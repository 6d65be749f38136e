"""POSO on ratings of cold users: a rating from content, with layers gated by how well a user is known.

The gates (`nn.ranking.poso.PersonalMLP`; Dai et al., 2021, arXiv:2108.04690) see the number of a user's
ratings so far, in buckets of powers of two, as the paper's code is the accumulated view count. With
`mean_rating` they see the mean of these ratings too, which the paper does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.content import Column, Content
from jaxrec.nn.ranking.poso import PersonalMLP
from jaxrec.types import Array

BUCKETS = 8  # 0, 1, 2..3, 4..7, ..., 64 and more


class PersonalRating(nn.Module):
    """Embeddings of content, and a gated MLP; the output is a rating, in stars.

    It has the face of `nn.retrieval.melu.MeLU`, and reads two columns of users that `tasks.meta` adds:
    `support_count`, the number of the user's ratings, and `support_mean`, their mean, float32 [...].

    Fields:
      items, users: columns that are read. dim: width of the vector of a column.
      dims: widths of the hidden layers. gate_dim: hidden width of their gates.
      mean_rating: whether the gates see `support_mean`.

    Shape names: as of MeLU; P width of the code.
    """

    items: tuple[Column, ...]
    users: tuple[Column, ...]
    dim: int = 32
    dims: Sequence[int] = (64, 64)
    gate_dim: int = 16
    mean_rating: bool = False

    def setup(self) -> None:
        self.item_content, self.user_content = Content(self.items, self.dim), Content(self.users, self.dim)
        self.gated, self.out = PersonalMLP(self.dims, self.gate_dim), nn.Dense(1)

    @property
    def decision_layers(self) -> tuple[str, ...]:
        """Names of the parameters that `decide` reads."""
        return ("gated", "out")

    def __call__(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """Maps columns of items [..., N] (sets [..., N, A]) and of their users [...] to ratings [..., N]."""
        return self.decide(self.embed(items, users))

    def embed(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """The vectors, and behind them the code: [..., N, F + P]."""
        item = self.item_content(items)
        user = jnp.concatenate([self.user_content(users), self.code(users)], axis=-1)[..., None, :]
        return jnp.concatenate([item, jnp.broadcast_to(user, (*item.shape[:-1], user.shape[-1]))], axis=-1)

    def code(self, users: Mapping[str, Array]) -> Array:
        """What the gates see, [..., P]."""
        count = jnp.maximum(users["support_count"], 0.5)
        bucket = jnp.clip(jnp.floor(jnp.log2(count)) + 1, 0, BUCKETS - 1).astype(jnp.int32)
        code = jax.nn.one_hot(bucket, BUCKETS)
        return jnp.concatenate([code, users["support_mean"][..., None]], -1) if self.mean_rating else code

    def decide(self, x: Array) -> Array:
        """Maps [..., F + P] to ratings [...]."""
        code = BUCKETS + self.mean_rating
        return self.out(self.gated(x[..., :-code], x[..., -code:]))[..., 0]
