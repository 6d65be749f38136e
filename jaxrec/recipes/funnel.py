"""Models of a funnel, such as view, cart and buy, and their losses in addition to those of the tasks.

Sizes are those of our table on Retailrocket's logs; the weights of the risk and of the calibrator are of
ESCM² (Wang et al., SIGIR 2022) and AITM (Xi et al., KDD 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.data.tables.impressions import Impressions
from jaxrec.nn.layers.dropout import Bits, across_devices, counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.aitm import AITM
from jaxrec.nn.multitask.dbmtl import DBMTL
from jaxrec.nn.multitask.escm2 import ESCM2
from jaxrec.nn.multitask.esm2 import ESM2
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.nmtr import NMTR
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.recipes.multitask import Training
from jaxrec.recipes.trainable import ExtraLoss as ExtraLoss
from jaxrec.recipes.trainable import Outputs as LabelOutputs
from jaxrec.recipes.trainable import Table, TableModel, a_column_each, no_extra_losses
from jaxrec.types import Array, Batch, Outputs


@dataclasses.dataclass(frozen=True)
class Recipe(Training):
    """How a row is trained, and the sizes of its model."""

    dim: int = 16  # width of the embedding of each column
    dropout: float = 0.2  # in layers
    bottom_dims: tuple[int, ...] = (128, 64)  # single-task, shared-bottom, dbmtl: layers that tasks share
    num_experts: int = 4  # mmoe, escm2: experts that tasks share
    expert_dims: tuple[int, ...] = (64, 32)  # mmoe, escm2: hidden layers of an expert
    tower_dims: tuple[int, ...] = (32,)  # hidden layers of each task where tasks share layers or experts
    deep_tower_dims: tuple[int, ...] = (
        64,
        32,
    )  # and where tasks share only embeddings: esmm, esm2, aitm, nmtr
    relation_dims: tuple[int, ...] = (32,)  # dbmtl: layers between a task and the previous one
    counterfactual: float = 0.1  # weight of ESCM²'s risk
    calibrator: float = 0.6  # weight of AITM's penalty on probabilities that rise along the funnel


# --- models: of a number of tasks, in the order of the funnel --------------------------------------------


def _mlp(recipe: Recipe, bits: Bits) -> Factory:
    return Factory(MLP, dropout=recipe.dropout, bits=bits)


def shared_bottom(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> SharedBottom:
    """Layers that all tasks share; the order of the tasks is not used."""
    return SharedBottom(
        num_tasks=num_tasks,
        bottom_dims=recipe.bottom_dims,
        tower_dims=recipe.tower_dims,
        mlp=_mlp(recipe, bits),
    )


def mmoe(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> MMoE:
    """Shared experts with a gate for each task; the order of the tasks is not used."""
    return MMoE(
        num_tasks=num_tasks,
        num_experts=recipe.num_experts,
        expert_dims=recipe.expert_dims,
        tower_dims=recipe.tower_dims,
        mlp=_mlp(recipe, bits),
    )


def esmm(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> ESMM:
    """The first task ("ctr") and the last ("ctcvr", a product of probabilities); no task between them."""
    return ESMM(tower_dims=recipe.deep_tower_dims, mlp=_mlp(recipe, bits))


def esm2(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> ESM2:
    """Three tasks, "ctr", "ctavr" (the action) and "ctcvr", as products."""
    return ESM2(tower_dims=recipe.deep_tower_dims, mlp=_mlp(recipe, bits))


def escm2_ips(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> ESCM2:
    """The outputs of ESMM, from shared experts."""
    return _escm2(recipe, bits, impute=False)


def escm2_dr(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> ESCM2:
    """The same and, for the doubly robust risk, the imputed error of "cvr"."""
    return _escm2(recipe, bits, impute=True)


def _escm2(recipe: Recipe, bits: Bits, *, impute: bool) -> ESCM2:
    return ESCM2(
        impute=impute,
        num_experts=recipe.num_experts,
        expert_dims=recipe.expert_dims,
        tower_dims=recipe.tower_dims,
        mlp=_mlp(recipe, bits),
    )


def aitm(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> AITM:
    """A chain of tasks, each of which reads the information that the previous one transfers."""
    mlp = _mlp(recipe, bits)
    return AITM(num_tasks=num_tasks, tower_dims=recipe.deep_tower_dims, mlp=mlp, transfer_mlp=mlp)


def nmtr(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> NMTR:
    """A cascade of logits from the vectors of user and item, see `Pairs`."""
    return NMTR(num_behaviours=num_tasks, mlp_dims=recipe.deep_tower_dims, mlp=_mlp(recipe, bits))


def dbmtl(num_tasks: int, recipe: Recipe, bits: Bits = counter_bits) -> DBMTL:
    """A chain of relation layers: each task reads the previous one."""
    return DBMTL(
        parents=tuple((t - 1,) if t else () for t in range(num_tasks)),
        bottom_dims=recipe.bottom_dims,
        tower_dims=recipe.tower_dims,
        relation_dims=recipe.relation_dims,
        mlp=_mlp(recipe, bits),
    )


class Pairs(nn.Module):
    """Applies a model of the interaction of user and item to their vectors alone, [B, 2, D]."""

    embedding: FeatureEmbedding
    model: nn.Module

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Applies `model` to the vectors of the two columns of `embedding`."""
        return self.model(self.embedding.stacked(batch), train=train)


def pairs(features: FeatureEmbedding, *, user: str, item: str, model: nn.Module) -> Pairs:
    """A model that reads only the vectors of two feature columns, those of users and items.

    Raises:
      ValueError: one of them is not a column of categories.
    """
    by_name = {field.name: field for field in features.fields if isinstance(field, Categorical)}
    for side, name in (("user", user), ("item", item)):
        if name not in by_name:
            raise ValueError(
                f"{side}={name!r}: {type(model).__name__} reads a column of users and one of items; name "
                f"one of the columns of categories ({', '.join(by_name)}), or leave this model out"
            )
    return Pairs(embedding=FeatureEmbedding((by_name[user], by_name[item])), model=model)


def check_funnel(table: Impressions, *, stages: int | None = 3) -> None:
    """Raises ValueError for a table of another number of labels, or whose labels do not each imply the one
    before.

    stages: how many there must be; None: at least two.
    """
    count = len(table.tasks)
    if count != stages if stages else count < 2:
        wanted = "three" if stages == 3 else stages or "at least two"
        raise ValueError(
            f"{table.name}: {count} labels ({', '.join(table.tasks)}): a funnel has {wanted}; name them in "
            "its order, such as view, cart, buy"
        )
    for before, after in zip(table.tasks, table.tasks[1:], strict=False):
        bad = np.flatnonzero(table.labels[after] > table.labels[before])
        if bad.size:
            raise ValueError(
                f"{table.name}: record {bad[0]} ({bad.size:,} such) has {after} = 1 and {before} = 0, but "
                "each label of a funnel implies the one before; name the labels in its order, or correct "
                "these records"
            )


# --- losses in addition to those of the tasks ------------------------------------------------------------


def no_terms(tasks: Sequence[str], recipe: Recipe) -> dict[str, ExtraLoss]:
    """No losses in addition to those of the tasks."""
    return {}


def calibrator(tasks: Sequence[str], recipe: Recipe) -> dict[str, ExtraLoss]:
    """AITM's penalty on probabilities that rise along the funnel."""

    def loss(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        return losses.order_violation(outputs, where=batch["mask"], axis_name=axis_name)

    return {"calibrator": ExtraLoss(loss, recipe.calibrator, without="no-calibrator")}


def inverse_propensity_risk(tasks: Sequence[str], recipe: Recipe) -> dict[str, ExtraLoss]:
    """ESCM²'s risk of the last task over all examples, from those whose first label is 1."""

    def loss(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        errors, seen, propensity = _errors(outputs, batch, tasks)
        return losses.inverse_propensity_risk(
            errors, seen, propensity, where=batch["mask"], axis_name=axis_name
        )

    return {"counterfactual": ExtraLoss(loss, recipe.counterfactual, without="no-risk")}


def doubly_robust_risk(tasks: Sequence[str], recipe: Recipe) -> dict[str, ExtraLoss]:
    """The doubly robust form of this risk, plus the risk of its imputed errors."""

    def loss(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        errors, seen, propensity = _errors(outputs, batch, tasks)
        found = (errors, outputs["imputed_error"], seen, propensity)
        shared: Any = {"where": batch["mask"], "axis_name": axis_name}
        return losses.doubly_robust_risk(*found, **shared) + losses.imputation_risk(*found, **shared)

    return {"counterfactual": ExtraLoss(loss, recipe.counterfactual, without="no-risk")}


def _errors(outputs: Outputs, batch: Batch, tasks: Sequence[str]) -> tuple[Array, Array, Array]:
    """Cross-entropy of "cvr" [B], where it is observed (the first label is 1), and the propensity of that."""
    seen, propensity = batch[f"label/{tasks[0]}"] > 0, losses.clipped_propensity(outputs["ctr"])
    bought = jnp.where(seen, batch[f"label/{tasks[-1]}"], 0.0)
    return losses.sigmoid_cross_entropy(outputs["cvr"], bought), seen, propensity


# --- models of a table of one's own ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PairRecipe(Recipe):
    """How a model of users and items alone is trained, and its sizes."""

    user_column: str = "user_id"  # column of categories that is read as users
    item_column: str = "item_id"  # and as items


def first_and_last(tasks: Sequence[str]) -> LabelOutputs:
    """The first label is the click, the last the conversion among all rows; those between have no output."""
    return {tasks[0]: "ctr", tasks[-1]: "ctcvr"}


def three_stages(tasks: Sequence[str]) -> LabelOutputs:
    """A click, an action after it, and the conversion among all rows."""
    return dict(zip(tasks, ("ctr", "ctavr", "ctcvr"), strict=True))


def _several_stages(table: Impressions) -> None:
    check_funnel(table, stages=None)


def _bits(table: Table) -> Bits:
    return across_devices(counter_bits, table.axis_name)


def _funnel(
    body: Callable[[int, Recipe, Bits], nn.Module],
    outputs: Callable[[Sequence[str]], LabelOutputs] = a_column_each,
    extra_losses: Callable[[Sequence[str], Any], Mapping[str, ExtraLoss]] = no_extra_losses,
    check: Callable[[Impressions], None] = _several_stages,
) -> TableModel:
    """A body behind a vector for each column."""

    def module(table: Table, recipe: Recipe) -> nn.Module:
        return Featured(table.features(recipe.dim), body(table.num_tasks, recipe, _bits(table)))

    return TableModel(Recipe, module, outputs, extra_losses, check)


def _nmtr(table: Table, recipe: PairRecipe) -> nn.Module:
    body = nmtr(table.num_tasks, recipe, _bits(table))
    user, item = recipe.user_column, recipe.item_column
    return pairs(table.features(recipe.dim), user=user, item=item, model=body)


MODELS: Mapping[str, TableModel] = {
    "esmm": _funnel(esmm, first_and_last),
    "esm2": _funnel(esm2, three_stages, check=check_funnel),
    "escm2-ips": _funnel(escm2_ips, first_and_last, inverse_propensity_risk),
    "escm2-dr": _funnel(escm2_dr, first_and_last, doubly_robust_risk),
    "aitm": _funnel(aitm, extra_losses=calibrator),
    "nmtr": TableModel(PairRecipe, _nmtr, check=_several_stages),
    "dbmtl": _funnel(dbmtl),
}
