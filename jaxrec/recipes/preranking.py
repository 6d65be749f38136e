"""Pre-ranking: COLD, the vector product that it replaces, and a ranker (Wang et al., DLP-KDD 2020).

The paper's layers are for billions of impressions; these are for small data sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.ranking import cold
from jaxrec.nn.ranking.cold import COLD, Cost, Fields, VectorProduct
from jaxrec.nn.ranking.din import DIN
from jaxrec.types import Array, Batch, Variables


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    dims: tuple[int, ...] = (64, 32)  # hidden layers of COLD; the paper's: 1024, 512, 256, 128, 64
    product_dims: tuple[int, ...] = (64, 32, 10)  # of each side of the vector product; 200, 200, 10
    ranker_dims: tuple[int, ...] = (128, 64)  # of the ranker
    dim: int = 16  # width of each embedding, that of the paper
    epochs: int = 10  # at most; the best one is used
    patience: int = 2  # epochs without better validation GAUC before a seed stops
    batch_size: int = 1024  # examples per step
    learning_rate: float = 1e-3  # of Adam


class Columns(NamedTuple):
    """What models read. user, item: fields of one side; cross: of both. history: past items, of the table of
    the field `target`; for the ranker alone.
    """

    user: Fields
    item: Fields
    cross: Fields
    history: Categorical
    target: str

    @property
    def all(self) -> Fields:
        """What COLD may read."""
        return (*self.user, *self.item, *self.cross)

    @property
    def per_request(self) -> list[str]:
        """Names of the fields that all candidates of a request share."""
        return [field.name for field in self.user]


class Made(NamedTuple):
    """A model and what it costs, None where that is not counted."""

    model: nn.Module
    cost: Cost | None


def logistic(columns: Columns, recipe: Recipe) -> Made:
    """A linear model of the values of all fields."""
    return Made(Featured(FeatureEmbedding(columns.all), Tower()), _cost(columns.all, (), columns))


def product(columns: Columns, recipe: Recipe) -> Made:
    """The vector product, which reads no crossed field."""
    model = VectorProduct(columns.user, columns.item, recipe.product_dims)
    return Made(model, cold.product_cost(columns.user, recipe.product_dims))


def weighted(columns: Columns, recipe: Recipe) -> Made:
    """COLD with the weights by which fields are chosen."""
    return Made(COLD(columns.all, recipe.dims, weighted=True), None)


def network(fields: Fields, columns: Columns, recipe: Recipe) -> Made:
    """COLD of some fields."""
    return Made(COLD(fields, recipe.dims), _cost(fields, recipe.dims, columns))


def ranker(columns: Columns, recipe: Recipe) -> Made:
    """DIN of all fields and the history."""
    model = WithHistory(
        FeatureEmbedding((*columns.all, columns.history)),
        DIN(recipe.ranker_dims, ActivationUnit((32, 16), PReLU), mlp=MLP),
        targets=[columns.target],
        histories=[columns.history.name],
    )
    return Made(model, None)


def mean_weights(
    model: nn.Module, variables: Variables, columns: Mapping[str, np.ndarray], number: int
) -> np.ndarray:
    """Mean weights of all fields of `weighted`, over seeds and so many evenly spaced examples: [M].

    variables: with a leading axis of seeds. columns: of the training examples.
    """
    size = len(next(iter(columns.values())))
    rows = np.unique(np.linspace(0, size - 1, min(number, size)).astype(np.int64))
    batch = {name: jnp.asarray(column[rows]) for name, column in columns.items()}

    def mean(variables: Variables, batch: Batch) -> Array:
        found: Any = model.apply(variables, batch, method="weights")
        return jnp.mean(found, axis=0)

    return np.asarray(jax.jit(jax.vmap(mean, (0, None)))(variables, batch)).mean(axis=0)


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


def _cost(fields: Fields, dims: tuple[int, ...], columns: Columns) -> Cost:
    names = [field.name for field in fields if field.name in columns.per_request]
    return cold.cost(fields, dims, per_request=names)


NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "cold": "requests with candidates and the ranker that orders them: see experiments/ranking/preranking.py",
}
