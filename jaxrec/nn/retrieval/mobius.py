"""MOBIUS's student: two towers whose vectors have a part for each class (Fan et al., KDD 2019, section 3.2).

doi:10.1145/3292500.3330651. A query and an ad have a vector of 96 numbers, three parts of 32; the cosines of
the parts are the logits of "not clicked", "clicked" and "bad". The paper does not say by what cosines are
divided before the softmax; without a temperature no probability would be above 0.8.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.pairs import unit
from jaxrec.nn.retrieval.two_tower import TwoTower, over_rows
from jaxrec.types import Array, Context

UNCLICKED, CLICKED, BAD = 0, 1, 2  # classes


class Mobius(nn.Module):
    """Logits of classes from the parts of the vectors of users (or queries) and items (or ads).

    Shape names: B pairs, C classes, D dim of a part, U users, I items.

    Fields:
      towers: without `cosine`, and with C · D as the width of both last layers.
      num_classes: 3, or 2 for a click model without bad cases. temperature: divides the cosines.
    """

    towers: TwoTower
    num_classes: int = 3
    temperature: float = 0.1

    def __post_init__(self) -> None:
        widths = {dims[-1] for dims in (self.towers.user_dims, self.towers.item_dims) if dims}
        if self.num_classes not in (2, 3) or not self.temperature > 0:
            raise ValueError(
                f"num_classes={self.num_classes}, temperature={self.temperature}: must be 2 or 3, and above 0"
            )
        if len(widths) != 1 or min(widths) % self.num_classes or self.towers.cosine:
            raise ValueError(
                f"towers: vectors of {sorted(widths)} numbers, cosine={self.towers.cosine}; give both towers "
                f"one width that the {self.num_classes} classes divide, and cosine=False"
            )
        super().__post_init__()

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Logits of pairs of rows of users and items, both [B]: [B, C]."""
        users, items = self.parts(user, item, context, rows=rows, train=train)
        return jnp.sum(users * items, axis=-1) / self.temperature

    def cross(self, user: Array, item: Array, context: Context) -> Array:
        """Logits of every user [Q] with every item [A], without dropout: [Q, A, C]."""
        users, items = self.parts(user, item, context, train=False)
        return jnp.einsum("qcd,acd->qac", users, items) / self.temperature

    def parts(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> tuple[Array, Array]:
        """Parts of length 1 of users [Q] and items [A]: [Q, C, D] and [A, C, D]."""
        users = self.towers.users(user, context, target=item if train else None, rows=rows, train=train)
        items = self.towers.items(item, context, rows=rows, train=train)
        return self._divided(users), self._divided(items)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """The parts of the click, by which ads are found: users [U + 1, D] and items [I + 1, D].

        Their product is the logit of a click alone. Its order is not that of probabilities, which depend on
        the other classes' logits too.
        """
        num_users, num_items = context["start"].shape[0], context["item_id"].shape[0] - 1
        users = over_rows(lambda row: self.towers.users(row, context, train=False), num_users + 1)
        items = over_rows(lambda row: self.towers.items(row, context, train=False), num_items + 1)
        found = [self._divided(vectors)[:, CLICKED] for vectors in (users, items)]
        return found[0] / self.temperature, found[1]

    def _divided(self, vectors: Array) -> Array:
        return unit(vectors.reshape(*vectors.shape[:-1], self.num_classes, -1))


def weighted_items(items: Array, weights: Array) -> Array:
    """Vectors whose product with a query orders items by cos(query, item) · weight, such as a bid.

    w y / |y| (section 4.2), whatever the length of the query: [I, D], weights at least 0 [I] → [I, D].

    >>> weighted_items(jnp.array([[3.0, 4.0]]), jnp.array([10.0])).tolist()
    [[6.0, 8.0]]
    """
    return unit(items) * weights[:, None]
