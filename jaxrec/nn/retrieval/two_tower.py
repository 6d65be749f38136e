"""Two towers: a user's and an item's features each become a vector, and a score is their product.

Yi et al., RecSys 2019, doi:10.1145/3298689.3346996 (there unit vectors, and a softmax over the batch whose
logits are corrected for how often an item is in one, see `jaxrec.tasks.two_tower`). The other models of two
towers are this one with other fields: DSSM, YouTubeDNN and Facebook's embedding-based retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import products, unit
from jaxrec.packing import window
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Context

HISTORY, AGE = "history_", "example_age"
ROWS_AT_ONCE = 1024  # users or items whose final vectors are made at a time


class Frozen(NamedTuple):
    """A column of vectors that are not trained, such as of text. width: numbers of each."""

    name: str
    width: int


Field = Categorical | Numeric | Frozen


class TwoTower(nn.Module):
    """Products or cosines of MLP(user features) and MLP(item features), divided by a temperature.

    Shape names: B batch, N items of each user, L items of a history, D dim, U users, I items.

    Features are columns of the context by the row of a user or an item, [U + 1, …] and [I + 1, …], see
    `data.events.side_features`. Of a user's fields, "history_<name>" is the mean vector over the column
    "item_<name>" of the user's training items; give it the vocabulary "item_<name>" to share the item's
    table. "example_age" is the age of an example: an argument in training, 0 otherwise.

    Fields:
      user_fields, item_fields: what the towers read, "user_id" and "item_id" among them or not. A user or an
        item that has no id (0) is known by its features alone.
      user_dims, item_dims: widths of the layers; none at all: the vectors of the fields side by side.
      mlp: builds a tower: `MLP`, or a `Factory` of it. With several devices its dropout needs
        `dropout.across_devices`, and its batch norm an `axis_name`, or each device has statistics of its own.
      cosine: both vectors are divided by their length. temperature: τ, which divides the scores.
      id_dropout: share of users and items that are trained without their id, so that features alone come to
        do (from the "dropout" stream).
      max_history: L, the last ones of the user's items that are read. A matrix has no order: give the largest
        number of training items.
      with_target: a history in training has the item that is to be found, as all of a user's items have it
        later. False leaves it out.
      init_std: of normal initial tables.
    """

    user_fields: tuple[Field, ...]
    item_fields: tuple[Field, ...]
    user_dims: Sequence[int] = (128, 64)
    item_dims: Sequence[int] = (128, 64)
    mlp: Callable[..., nn.Module] = Factory(MLP)
    cosine: bool = True
    temperature: float = 0.05
    id_dropout: float = 0.0
    max_history: int = 50
    with_target: bool = False
    init_std: float = 0.05
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be positive")
        if self.max_history < 1:
            raise ValueError(f"max_history={self.max_history}: must be at least 1")
        for side, fields in (("user", self.user_fields), ("item", self.item_fields)):
            if not fields:
                raise ValueError(f"{side}_fields=(): the {side}s' tower needs a feature or the id")
            for field in fields:
                allowed = ("user_", HISTORY, AGE) if side == "user" else ("item_",)
                if not field.name.startswith(allowed):
                    raise ValueError(
                        f"{side}_fields: {field.name!r} must start with {' or '.join(map(repr, allowed))}"
                    )
        super().__post_init__()

    def setup(self) -> None:
        fields = tuple(
            Numeric(field.name) if isinstance(field, Frozen) else field
            for field in (*self.user_fields, *self.item_fields)
        )
        self.embedding = FeatureEmbedding(fields, nn.initializers.normal(self.init_std))
        self.user_tower = self.mlp(self.user_dims)
        self.item_tower = self.mlp(self.item_dims)
        self.noise = Dropout(self.id_dropout, self.bits)

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. The first item of a row is the one to be found.

        user: rows, from 1. rows [B]: numbers that noise derives from.
        """
        count = item.shape[1]
        users = self.users(user, context, target=item[:, 0], rows=rows, train=train)
        own = None if rows is None else (rows[:, None] * count + jnp.arange(count)).reshape(-1)
        items = self.items(item.reshape(-1), context, rows=own, train=train)
        return products(users, items.reshape(*item.shape, -1)) / self.temperature

    def users(
        self,
        user: Array,
        context: Context,
        *,
        target: Array | None = None,
        age: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        """Vectors of users, [B] → [B, D].

        target: the item that each is to find, which training without `with_target` takes out of its history.
        age: of the examples, [B]; None: 0, once the model is trained.

        Raises:
          ValueError: the model reads ages, and training gives none.
        """
        if train and age is None and any(field.name == AGE for field in self.user_fields):
            raise ValueError(
                f"{AGE}: the model reads the age of each example, and training gives none; train by "
                "tasks.two_tower with the column pair_age [P], or leave the field out"
            )
        columns = {
            field.name: self._user_column(field, user, context, target if train else None, age)
            for field in self.user_fields
        }
        return self._tower(self.user_tower, columns, "user_id", rows, train)

    def items(self, item: Array, context: Context, *, rows: Array | None = None, train: bool) -> Array:
        """Vectors of items, [N] → [N, D]."""
        columns = {field.name: read(context, field, field.name, item) for field in self.item_fields}
        return self._tower(self.item_tower, columns, "item_id", rows, train)

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of the tables of ids of users [B] and items [B, N]; there is none without such a field."""
        ids = {"user_id": user, "item_id": item.reshape(-1)}
        fields = (*self.user_fields, *self.item_fields)
        names = [field.name for field in fields if field.name in ids]
        found = self.embedding.vectors(ids, names) if names else {}
        return tuple(
            rows.reshape(*(item.shape if name == "item_id" else user.shape), -1)
            for name, rows in found.items()
        )

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users [U + 1, D], divided by the temperature, and of items [I + 1, D]."""
        num_users, num_items = context["start"].shape[0], context["item_id"].shape[0] - 1
        users = over_rows(lambda rows: self.users(rows, context, train=False), num_users + 1)
        items = over_rows(lambda rows: self.items(rows, context, train=False), num_items + 1)
        return users / self.temperature, items

    def _tower(
        self, tower: nn.Module, columns: dict[str, Array], name: str, rows: Array | None, train: bool
    ) -> Array:
        if name in columns:
            ids = columns[name]
            kept = self.noise(jnp.ones((ids.shape[0], 1)), train=train, rows=rows)[:, 0] > 0
            columns = {**columns, name: jnp.where(kept, ids, 0)}
        vectors = self.embedding.vectors(columns, columns)
        x = jnp.concatenate([vectors[field] for field in columns], axis=-1)
        x = tower(x, train=train)  # type: ignore[operator]
        return unit(x) if self.cosine else x

    def _user_column(
        self, field: Field, user: Array, context: Context, target: Array | None, age: Array | None
    ) -> Array:
        if field.name == AGE:
            return jnp.zeros(user.shape) if age is None else age
        if not field.name.startswith(HISTORY):
            return read(context, field, field.name, user)
        items = past_items(user, context, self.max_history)
        if target is not None and not self.with_target:
            items = jnp.where(items == target[:, None], 0, items)
        found = read(context, field, f"item_{field.name.removeprefix(HISTORY)}", items)
        if isinstance(field, Categorical):
            return found.reshape(user.shape[0], -1)
        return mean_of_items(found, items != 0)


def past_items(user: Array, context: Context, count: int) -> Array:
    """The last `count` training items of rows of users, 0 on the left: [B] → [B, count].

    A row of users that is not in 0..U gives -1, whose vectors are NaN.
    """
    number = jnp.maximum(user - 1, 0)
    start, counts = jnp.asarray(context["start"]), jnp.asarray(context["length"])
    length = jnp.where(user > 0, counts[number], 0)
    found = window(jnp.asarray(context["items"]), start[number] + length, length, count)
    known = (user >= 0) & (user <= counts.shape[0])
    return jnp.where(known[:, None], found, -1)


def read(context: Context, field: Field, name: str, rows: Array) -> Array:
    """Rows of a column of the context.

    Raises:
      ValueError: there is no such column, or its vectors have another width than those of the field.
    """
    if name not in context:
        known = sorted(key for key in context if key.startswith(("user_", "item_")))
        raise ValueError(
            f"feature {name}: not in the context, which has {', '.join(known) or 'none of users and items'}"
        )
    column = jnp.asarray(context[name])
    if isinstance(field, Frozen) and column.shape[1:] != (field.width,):
        raise ValueError(
            f"feature {name}: {list(column.shape)}, but the model reads vectors of {field.width} numbers; "
            "give it features of the same width, or train it on these"
        )
    if isinstance(field, Categorical) and not jnp.issubdtype(column.dtype, jnp.integer):
        raise ValueError(f"feature {name}: {column.dtype}, but the model reads ids; give it those")
    return jax.lax.stop_gradient(rows_by_id(column, rows))


def mean_of_items(values: Array, real: Array) -> Array:
    """Mean of the numbers or vectors of a history's real items, [B, L, …] → [B, …]; 0 without any."""
    real = real.reshape(*real.shape, *(1,) * (values.ndim - 2))
    total = jnp.sum(jnp.where(real, values, 0), axis=1)
    return total / jnp.maximum(jnp.sum(real, axis=1), 1)


def over_rows(make: Callable[[Array], Array], count: int) -> Array:
    """Vectors of rows 0 .. count - 1, some at a time: [count, D]."""
    size = min(ROWS_AT_ONCE, count)
    rows = jnp.arange(-(-count // size) * size, dtype=jnp.int32).clip(max=count - 1).reshape(-1, size)
    found = jax.lax.map(make, rows)
    return found.reshape(-1, found.shape[-1])[:count]
