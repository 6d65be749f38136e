"""Models of one question in several scenarios, with the sizes of our table on Census-Income.

Each reads all columns, including that of the scenarios. The gates and generators of APG, POSO, EPNet and
PPNet read vectors of the scenario from a table of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn

from jaxrec.data.tables.features import FIRST_VALUE
from jaxrec.nn.layers.features import Categorical, Conditioned, Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.apg import APG
from jaxrec.nn.ranking.epnet import EPNet
from jaxrec.nn.ranking.poso import PersonalMLP
from jaxrec.nn.ranking.ppnet import PPNet
from jaxrec.nn.ranking.star import STAR, Domain
from jaxrec.recipes.multitask import Training
from jaxrec.recipes.trainable import Outputs, Table, TableModel, a_column_each, one_logit
from jaxrec.types import Array


@dataclasses.dataclass(frozen=True)
class Recipe(Training):
    """How a row is trained, and the sizes of its model."""

    patience: int = 2  # epochs without better validation AUC before a seed stops
    dims: tuple[int, ...] = (64, 32)  # hidden layers of every row
    rank: int = 16  # of the weights that apg generates; at most the widths of a layer's input and output


class Inputs(NamedTuple):
    """The inputs of a model.

    embedding: of all columns. column: the one whose values are the scenarios. num_scenarios: the number of
    its values. axis_name: of the devices that share batch statistics; None: one device.
    """

    embedding: FeatureEmbedding
    column: str
    num_scenarios: int
    axis_name: str | None = None

    def own_vectors(self, dim: int) -> FeatureEmbedding:
        """Vectors of the scenarios from a table of their own."""
        return FeatureEmbedding((Categorical(self.column, FIRST_VALUE + self.num_scenarios, dim),))


def mlp(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """The scenario is an ordinary feature; gives logits [B]."""
    return Featured(embedding=inputs.embedding, model=Tower(dims=recipe.dims))


def star(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """A network for each scenario, with weights shared ⊙ specific; gives logits [B]."""
    model = STAR(num_domains=inputs.num_scenarios, dims=recipe.dims, axis_name=inputs.axis_name)
    domain = Domain(column=inputs.column, first=FIRST_VALUE)
    return Conditioned(embedding=inputs.embedding, condition=domain, model=model)


def apg(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """Low-rank weights generated from the scenario; gives logits [B, 1]."""
    return _conditioned(inputs, recipe, APG(dims=recipe.dims, rank=recipe.rank))


def poso(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """Hidden units gated by the scenario; gives logits [B]."""
    return _conditioned(inputs, recipe, PersonalTower(dims=recipe.dims))


def epnet(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """Features gated by the scenario; gives logits [B]."""
    return _conditioned(inputs, recipe, EPNet(dims=recipe.dims))


def ppnet(inputs: Inputs, recipe: Recipe) -> nn.Module:
    """Hidden units gated by the scenario and the features; gives logits [B, 1]."""
    return _conditioned(inputs, recipe, PPNet(num_tasks=1, dims=recipe.dims))


def _conditioned(inputs: Inputs, recipe: Recipe, model: nn.Module) -> Conditioned:
    return Conditioned(embedding=inputs.embedding, condition=inputs.own_vectors(recipe.dim), model=model)


class PersonalTower(nn.Module):
    """POSO's gated MLP with a linear layer to one logit."""

    dims: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, code: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and a code [B, P] to a logit [B]."""
        hidden = PersonalMLP(self.dims, name="mlp")(x, code, train=train)
        return nn.Dense(1, name="logit")(hidden)[..., 0]


# --- models of a table of one's own ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RowsRecipe(Recipe):
    """How a model of one label in several scenarios is trained, and its sizes."""

    scenario: str = ""  # column of categories whose values are the scenarios


def inputs_of(table: Table, recipe: RowsRecipe) -> Inputs:
    """What the models read of a table.

    Raises:
      ValueError: `scenario` is none of its columns of categories.
    """
    sizes = {f.name: f.vocab_size for f in table.rows.fields if f.kind == "categorical"}
    if recipe.scenario not in sizes:
        raise ValueError(
            f"scenario={recipe.scenario!r}: is none of the columns of categories ({', '.join(sizes)}); name "
            "the one whose values are the scenarios"
        )
    number = sizes[recipe.scenario] - FIRST_VALUE
    return Inputs(table.features(recipe.dim), recipe.scenario, number, table.axis_name)


def _in_scenarios(
    model: Callable[[Inputs, Recipe], nn.Module], outputs: Callable[..., Outputs] = one_logit
) -> TableModel:
    return TableModel(RowsRecipe, lambda table, recipe: model(inputs_of(table, recipe), recipe), outputs)


def _first_column(tasks: tuple[str, ...]) -> Outputs:
    """The one output of [B, 1]."""
    one_logit(tasks)
    return a_column_each(tasks)


MODELS: Mapping[str, TableModel] = {
    "star": _in_scenarios(star),
    "apg": _in_scenarios(apg, _first_column),
    "poso": _in_scenarios(poso),
    "epnet": _in_scenarios(epnet),
    "ppnet": _in_scenarios(ppnet, _first_column),
}
