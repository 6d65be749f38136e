"""Models of feature interaction after a history: co-actions (CAN) and a transformer (BST)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn

from jaxrec.data.tables.click_histories import Clicks
from jaxrec.nn.layers.features import Categorical
from jaxrec.recipes import interaction
from jaxrec.recipes.interaction import Columns
from jaxrec.recipes.trainable import ClickModel


@dataclasses.dataclass(frozen=True)
class Recipe(interaction.Recipe):
    """How a row is trained; hidden layers have 128 and 64 units."""


def columns_of(clicks: Clicks, dim: int) -> Columns:
    """The columns of a click: the item and the user, and what is known of them, each with a vector."""
    known = clicks.side_info
    items = {"item": clicks.num_items + 1} | known.item_sizes()
    users = {"user": clicks.num_users + 1} | {name: int(ids.max()) + 1 for name, ids in known.users.items()}
    fields = tuple(Categorical(name, size, dim) for name, size in (items | users).items())
    return Columns(fields, tuple(field for field in fields if field.name in items))


def _after_history(
    model: Callable[[Columns], nn.Module],
) -> Callable[[Clicks, Recipe, str | None], nn.Module]:
    def module(clicks: Clicks, recipe: Recipe, axis: str | None) -> nn.Module:
        return model(columns_of(clicks, recipe.dim))

    return module


MODELS: Mapping[str, ClickModel] = {
    "can": ClickModel(Recipe, _after_history(interaction.can)),
    "can-din": ClickModel(Recipe, _after_history(interaction.can_din)),
    "bst": ClickModel(Recipe, _after_history(interaction.bst)),
}
