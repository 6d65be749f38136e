"""Multi-View DSSM: one tower of users and one of items for each view, a domain such as apps or news.

Elkahky, Song and He, WWW 2015, doi:10.1145/2736277.2741667. Items of all views are numbered together, and the
context's column "item_view" says which view each is of. Negatives have to be of the view of the observed item
(`same="item_view"` of `jaxrec.tasks.two_tower`).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.retrieval.two_tower import TwoTower, read
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Context


class MultiViewDSSM(TwoTower):
    """Cosines of a user with the items of each view, whose tower reads features of its own.

    A view's tower is not trained by items of others: its gradient from them is exactly 0.

    Fields besides those of `TwoTower`, of which `item_fields` are those of all views and `mlp` has tanh
    layers for the paper's form:
      views: names of the item fields that the tower of each view reads; view v is the v-th, from 1.
    """

    views: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        known = {field.name for field in self.item_fields}
        if not self.views:
            raise ValueError("views=(): name the item fields that each view's tower reads, one view at least")
        for number, names in enumerate(self.views, 1):
            if not names or set(names) - known:
                raise ValueError(
                    f"views: view {number} reads {names}, expected some of item_fields {sorted(known)}"
                )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.view_towers: list[nn.Module] = [self.mlp(self.item_dims) for _ in self.views]

    def items(self, item: Array, context: Context, *, rows: Array | None = None, train: bool) -> Array:
        """Vectors of items by the towers of their views, [N] → [N, D]; NaN for a view that there is not."""
        view = rows_by_id(context["item_view"], item)[:, None]
        found: Array | None = None
        for number, (names, tower) in enumerate(zip(self.views, self.view_towers, strict=True), 1):
            columns = {
                field.name: read(context, field, field.name, item)
                for field in self.item_fields
                if field.name in names
            }
            vectors = self._tower(tower, columns, "item_id", rows, train)
            if found is None:
                found = jnp.where(view == 0, jnp.zeros_like(vectors), jnp.nan)
            found = jnp.where(view == number, vectors, found)
        assert found is not None
        return found
