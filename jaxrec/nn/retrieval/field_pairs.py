"""What models of pairs share that read features and a user's past items, and whose score is no product."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.features import FeatureEmbedding, Numeric
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.nn.retrieval.two_tower import Field, Frozen, past_items, read
from jaxrec.types import Array, Context


class FieldPairs(nn.Module):
    """A model of a user, candidates and past items, behind the vectors of their fields.

    A subclass has `__call__(user [B], item [B, N], context, *, train) -> [B, N]`; rows of users and ids of
    items are from 1. Features are columns of the context, as of `two_tower.TwoTower`.

    Shape names: B batch, N items of each user, L past items, D width of an item's fields, I items.

    Fields:
      user_fields, item_fields: what is read, "user_id" and "item_id" among them or not.
      model: what scores the vectors.
      max_history: L, the last ones of the user's items of training that are read.
      items_at_once: bounds memory where all items are scored.
      init_std: of normal initial tables.
    """

    user_fields: tuple[Field, ...]
    item_fields: tuple[Field, ...]
    model: nn.Module
    max_history: int = 50
    items_at_once: int = 128
    init_std: float = 0.05

    def setup(self) -> None:
        check_sizes(max_history=self.max_history, items_at_once=self.items_at_once)
        fields = tuple(
            Numeric(field.name) if isinstance(field, Frozen) else field
            for field in (*self.user_fields, *self.item_fields)
        )
        self.embedding = FeatureEmbedding(fields, nn.initializers.normal(self.init_std))

    def field_vectors(self, fields: tuple[Field, ...], rows: Array, context: Context) -> list[Array]:
        """The vector of each field of users or items, [...] → [..., width] of each."""
        flat = rows.reshape(-1)
        columns = {field.name: read(context, field, field.name, flat) for field in fields}
        found = self.embedding.vectors(columns, columns)
        return [found[field.name].reshape(*rows.shape, -1) for field in fields]

    def past(self, user: Array, item: Array, context: Context, train: bool) -> Array:
        """Past items of users, [B, L], 0 where there is none; in training without the first of `item` [B, N].

        The first item of a row is the observed one, which has to be scored by what else the user did.
        """
        found = past_items(user, context, self.max_history)
        return jnp.where(found == item[:, :1], 0, found) if train else found

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of the tables of ids of users [B] and items [B, N]; there is none without such a field."""
        ids = {"user_id": user, "item_id": item.reshape(-1)}
        names = [field.name for field in (*self.user_fields, *self.item_fields) if field.name in ids]
        found = self.embedding.vectors(ids, names) if names else {}
        shapes = {"user_id": user.shape, "item_id": item.shape}
        return tuple(rows.reshape(*shapes[name], -1) for name, rows in found.items())

    def all_scores(self, user: Array, context: Context) -> Array:
        """Scores of all items, the padding in front: [B] → [B, I + 1]."""
        found: Any = self.unbind()
        module, variables = found

        def one(item: Array) -> Array:
            candidate = jnp.broadcast_to(item, (user.shape[0], 1))
            return module.apply(variables, user, candidate, context, train=False)[:, 0]

        items = jnp.arange(context["item_id"].shape[0], dtype=jnp.int32)
        return jax.lax.map(one, items, batch_size=self.items_at_once).T
