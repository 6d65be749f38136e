"""CDAN: what an item is and how popular it is, taken apart from one vector, for two towers of items.

Chen et al., SIGIR 2022, doi:10.1145/3477495.3531952. The paper's formulas are known to us from its abstract
and notes, so layers and losses (`losses.popularity`, `tasks.cdan`) are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import check_sizes, products
from jaxrec.types import Array, Context

Served = Literal["unbiased", "biased", "merged"]
STATISTICS = "item_statistics"


class Parts(NamedTuple):
    """What CDAN learns from. B users, N items of each, M unexposed items, A width of the parts.

    unbiased, biased: scores [B, N]. attribute, popularity: of each user's first item, [B, A]; statistics: the
    encoded statistics of these, [B, A]. partner: attributes of another item of each user, [B, A]. unexposed:
    attributes of unexposed items, [M, A].
    """

    unbiased: Array
    biased: Array
    attribute: Array
    popularity: Array
    statistics: Array
    partner: Array
    unexposed: Array


class CDAN(nn.Module):
    """Scores p_u · h(attribute of i), or p_u · h'(attribute, popularity of i), or their mean.

    Attribute and popularity are both computed from the item's own vector, so that its popular part has a
    place to go; statistics of training only say what popularity is. They are the column "item_statistics" of
    the context, [I + 1, S], and no score reads them.

    Fields:
      num_users, num_items: both tables have a row of padding in front.
      dim: of the vectors of users and items, and of the towers. part_dims: layers to either part.
      serve: the score that is given and ranked by.
      init_std: of normal initial vectors.
    """

    num_users: int
    num_items: int
    dim: int = 64
    part_dims: Sequence[int] = (64,)
    serve: Served = "unbiased"
    init_std: float = 0.1

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        if self.serve not in ("unbiased", "biased", "merged"):
            raise ValueError(f"serve={self.serve!r}: must be 'unbiased', 'biased' or 'merged'")
        if not self.part_dims:
            raise ValueError("part_dims=(): name at least one layer between an item's vector and its parts")
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.attribute_part = MLP(self.part_dims, activate_last=False)
        self.popularity_part = MLP(self.part_dims, activate_last=False)
        self.statistics_part = MLP((*self.part_dims, self.part_dims[-1]), activate_last=False)
        self.unbiased_tower = nn.Dense(self.dim)
        self.biased_tower = nn.Dense(self.dim)

    def _biased(self, attribute: Array, popularity: Array) -> Array:
        """Vectors of the tower of both parts, [..., A] each → [..., D]."""
        return self.biased_tower(jnp.concatenate([attribute, popularity], axis=-1))

    def _served(self, item: Array) -> Array:
        """The vectors that are ranked by, of rows of the table of items: [..., D] → [..., D]."""
        attribute = self.attribute_part(item)
        if self.serve == "unbiased":
            return self.unbiased_tower(attribute)
        biased = self._biased(attribute, self.popularity_part(item))
        return biased if self.serve == "biased" else 0.5 * (self.unbiased_tower(attribute) + biased)

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]."""
        items = self._served(lookup(self.item_embedding, item))
        return products(lookup(self.user_embedding, user), items)

    def learn(self, user: Array, item: Array, partner: Array, unexposed: Array, context: Context) -> Parts:
        """All that the losses read, of users [B], items [B, N], partners [B] and unexposed items [M]."""
        vectors = lookup(self.item_embedding, item)
        attribute, popularity = self.attribute_part(vectors), self.popularity_part(vectors)
        users = lookup(self.user_embedding, user)
        others = self.attribute_part(lookup(self.item_embedding, jnp.concatenate([partner, unexposed])))
        statistics = jnp.asarray(context[STATISTICS])[item[:, 0]]
        return Parts(
            products(users, self.unbiased_tower(attribute)),
            products(users, self._biased(attribute, popularity)),
            attribute[:, 0],
            popularity[:, 0],
            self.statistics_part(statistics),
            others[: len(partner)],
            others[len(partner) :],
        )

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def item_parts(self, item: Array) -> tuple[Array, Array]:
        """Attribute and popularity of items [...]: [..., A] each."""
        vectors = lookup(self.item_embedding, item)
        return self.attribute_part(vectors), self.popularity_part(vectors)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users [U + 1, D] and items [I + 1, D] whose products are the served scores."""
        return self.user_embedding, self._served(self.item_embedding)
