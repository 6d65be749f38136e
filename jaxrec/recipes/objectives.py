"""Several objectives of one user: settings of the fronts, and models of numbers that are missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn

from jaxrec.nn.layers.features import Featured, FeatureEmbedding
from jaxrec.nn.layers.missing import MissingValues, WithMissing
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.weight_actor import WeightActor, WithWeights
from jaxrec.recipes.multitask import Bottom, Training


@dataclasses.dataclass(frozen=True)
class Front(Training, Bottom):
    """Training and sizes of a model whose objectives are weighed; its bottom is narrow: they compete."""

    bottom_dims: tuple[int, ...] = (4,)  # hidden layers that all tasks share
    tower_dims: tuple[int, ...] = ()  # hidden layers of each task's tower
    actor_dims: tuple[int, ...] = (64, 64)  # hidden layers of the actor that gives weights
    least: float = 0.1  # smallest weight that the actor gives
    epochs: int = 20  # at most; the best one is used
    batch_size: int = 256  # examples per step


def shared_bottom(features: FeatureEmbedding, recipe: Front) -> Featured:
    """Two towers on a narrow bottom."""
    return Featured(features, _body(recipe))


def with_actor(features: FeatureEmbedding, recipe: Front) -> WithWeights:
    """The same, and an actor that gives each example weights of the two."""
    actor = WeightActor(2, dims=recipe.actor_dims, least=recipe.least)
    return WithWeights(features, _body(recipe), actor)


def _body(recipe: Front) -> SharedBottom:
    return SharedBottom(2, bottom_dims=recipe.bottom_dims, tower_dims=recipe.tower_dims)


@dataclasses.dataclass(frozen=True)
class Missing(Training, Bottom):
    """Training and sizes of models of numbers that may be missing."""

    bottom_dims: tuple[int, ...] = (64, 32)  # hidden layers that all tasks share
    tower_dims: tuple[int, ...] = (16,)  # hidden layers of each task's tower
    epochs: int = 20  # at most; the best one is used
    batch_size: int = 256  # examples per step


def filled(
    columns: tuple[str, ...], layer: MissingValues, recipe: Missing, *, esmm: bool = False
) -> nn.Module:
    """Numbers with their missing values filled in, and heads of a click, an order after it, and an order.

    esmm: the last is the product of the others, in place of a head of its own.
    """
    body: nn.Module = ESMM(recipe.bottom_dims)
    if not esmm:
        body = SharedBottom(3, bottom_dims=recipe.bottom_dims, tower_dims=recipe.tower_dims)
    return Featured(WithMissing(columns, layer), body)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "pareto": "two labels, of which users want more or less: see experiments/multitask/pareto.py",
}
