"""Models of feature interaction, without and with a history of events, all with the same hidden layers.

Sizes are for small data sets; the papers' are for logs of millions of users. The models follow the papers or,
for CAN, its authors' code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn

from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.co_action import CoAction
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.interaction import CrossNetwork, CrossNetworkMix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.can import CAN
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.deepfm import DeepFM
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.dlrm import DLRM
from jaxrec.nn.ranking.pnn import PNN
from jaxrec.recipes.multitask import Training
from jaxrec.recipes.trainable import Table, TableModel, one_logit
from jaxrec.types import HISTORY

DIMS = (128, 64)  # hidden layers of every row
BST_HEADS = 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    epochs: int = 10  # at most; the best one is used
    patience: int = 2  # epochs without better validation AUC before a seed stops
    batch_size: int = 1024  # examples per step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 8  # width of each embedding
    length: int = 20  # most recent events of a history that are read


class Columns(NamedTuple):
    """The columns of an example except its history. items: those that past events have too."""

    fields: tuple[Categorical | Numeric, ...]
    items: tuple[Categorical, ...] = ()

    @property
    def past(self) -> tuple[Categorical, ...]:
        """The columns of the history, which share the embedding tables of the target."""
        return tuple(item._replace(name=f"{HISTORY}{item.name}", vocabulary=item.name) for item in self.items)


# --- columns → logit [B] ---------------------------------------------------------------------------


def deep(columns: Columns) -> nn.Module:
    """An MLP."""
    return Featured(FeatureEmbedding(columns.fields), Tower(DIMS))


def deepfm(columns: Columns) -> nn.Module:
    """A factorisation machine in parallel with an MLP."""
    return DeepFM(columns.fields, DIMS)


def ipnn(columns: Columns) -> nn.Module:
    """PNN with inner products."""
    return PNN(columns.fields, inner=True, outer=False, dims=DIMS)


def opnn(columns: Columns) -> nn.Module:
    """PNN with outer products."""
    return PNN(columns.fields, inner=False, outer=True, dims=DIMS)


def pnn_star(columns: Columns) -> nn.Module:
    """PNN with both."""
    return PNN(columns.fields, inner=True, outer=True, dims=DIMS)


def dcn_v2_stacked(columns: Columns) -> nn.Module:
    """The MLP on top of two cross layers."""
    cross = DCNv2(CrossNetwork(2), stacked_dims=DIMS, parallel_dims=())
    return Featured(FeatureEmbedding(columns.fields), cross)


def dcn_v2_parallel(columns: Columns) -> nn.Module:
    """The MLP in parallel with two cross layers."""
    return Featured(FeatureEmbedding(columns.fields), DCNv2(CrossNetwork(2), parallel_dims=DIMS))


def dcn_mix(columns: Columns) -> nn.Module:
    """The MLP on top of two low-rank cross layers with experts."""
    cross = CrossNetworkMix(2, num_experts=4, rank=16)
    return Featured(FeatureEmbedding(columns.fields), DCNv2(cross, stacked_dims=DIMS, parallel_dims=()))


def dlrm(columns: Columns) -> nn.Module:
    """Inner products of all vectors; numbers pass through an MLP first."""
    numbers = tuple(field._replace(dim=None) for field in columns.fields if isinstance(field, Numeric))
    categories = tuple(field for field in columns.fields if isinstance(field, Categorical))
    bottom = (64, categories[0].dim) if numbers else ()
    return DLRM(numbers, categories, bottom_dims=bottom, top_dims=DIMS)


# --- columns and the history → logit [B] -----------------------------------------------------


def base(columns: Columns) -> nn.Module:
    """The mean of the history's vectors."""
    return _with_history(columns, DINBase(DIMS, mlp=MLP))


def din(columns: Columns) -> nn.Module:
    """Attention of the target over the history."""
    return _with_history(columns, _din())


def can(columns: Columns) -> nn.Module:
    """The mean of the history with co-actions."""
    return _with_history(columns, DINBase(DIMS, mlp=MLP), _co_actions(columns))


def can_din(columns: Columns) -> nn.Module:
    """DIN with co-actions."""
    return _with_history(columns, _din(), _co_actions(columns))


def bst(columns: Columns) -> nn.Module:
    """A transformer block over the history and the target.

    Raises:
      ValueError: its heads do not divide the width of an event.
    """
    width = sum(item.dim for item in columns.items)
    if width % BST_HEADS:
        raise ValueError(
            f"dim={columns.items[0].dim}: the {len(columns.items)} columns of an event have a width of "
            f"{width}, which the {BST_HEADS} heads of bst do not divide; take a multiple of {BST_HEADS}"
        )
    model = BST(columns.items, age_dim=None, num_heads=BST_HEADS, block_dropout=0.0, dims=DIMS, mlp=MLP)
    others = tuple(field for field in columns.fields if field not in columns.items)
    return Sequenced(model, FeatureEmbedding(others))


def _din() -> DIN:
    return DIN(DIMS, ActivationUnit((32, 16), PReLU), mlp=MLP)


def _with_history(columns: Columns, body: nn.Module, extra_features: nn.Module | None = None) -> nn.Module:
    return WithHistory(
        FeatureEmbedding((*columns.fields, *columns.past)),
        body,
        targets=[item.name for item in columns.items],
        histories=[item.name for item in columns.past],
        extra_features=extra_features,
    )


def _co_actions(columns: Columns) -> CAN:
    """Co-actions of each target column with its history, and of the item with each other category."""
    of_user = [field for field in columns.fields if field not in columns.items]
    pairs = [*zip(columns.items, columns.past, strict=True)]
    pairs += [(columns.items[0], field) for field in of_user if isinstance(field, Categorical)]
    action = CoAction(16, (8, 4), num_orders=3, use_bias=False, activate_last=False, concatenate=True)
    return CAN(tuple(pairs), action, name="beside")  # so that checkpoints stay valid


# --- models of labelled rows -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RowsRecipe(Training):
    """How a model of labelled rows without histories is trained; its hidden layers have 128 and 64 units."""

    patience: int = 2  # epochs without a better validation AUC before a seed stops; 0: never


def _of_rows(model: Callable[[Columns], nn.Module]) -> TableModel:
    """A model of the columns of a table, each with a vector; numbers are multiplied with theirs."""

    def module(table: Table, recipe: RowsRecipe) -> nn.Module:
        fields = table.features(recipe.dim).fields
        return model(Columns(tuple(field._replace(dim=recipe.dim) for field in fields)))

    return TableModel(RowsRecipe, module, one_logit)


MODELS: Mapping[str, TableModel] = {
    "deep": _of_rows(deep),
    "deepfm": _of_rows(deepfm),
    "ipnn": _of_rows(ipnn),
    "opnn": _of_rows(opnn),
    "pnn-star": _of_rows(pnn_star),
    "dcn-v2-stacked": _of_rows(dcn_v2_stacked),
    "dcn-v2-parallel": _of_rows(dcn_v2_parallel),
    "dcn-mix": _of_rows(dcn_mix),
    "dlrm": _of_rows(dlrm),
}
