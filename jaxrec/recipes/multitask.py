"""Multi-task models that share parameters, with the sizes of our tables.

`Recipe` is for Census-Income, where all bodies have 66,000 to 79,000 parameters, except `snr_trans`, whose
transforms double that; the papers do not state these sizes. `SyntheticStudy` has the sizes of the MMoE paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Featured
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.attention_gated_mmoe import AttentionGatedMMoE
from jaxrec.nn.multitask.cgc import CGC
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.snr import SNR
from jaxrec.recipes.compute import DataType, dtype_of
from jaxrec.recipes.trainable import Table, TableModel


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model of labelled examples is trained."""

    epochs: int = 10  # at most; the best one is used
    patience: int = 3  # epochs without better validation AUC before a seed stops
    batch_size: int = 1024  # examples per step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 8  # width of the embedding of each column


@dataclasses.dataclass(frozen=True)
class Bottom:
    """Sizes of Shared-Bottom."""

    bottom_dims: tuple[int, ...] = (256,)  # hidden layers that all tasks share, where there are no experts
    tower_dims: tuple[int, ...] = (16,)  # hidden layers of each task's tower


@dataclasses.dataclass(frozen=True)
class Experts(Bottom):
    """Sizes of Shared-Bottom and of the models with experts that all tasks share."""

    num_experts: int = 8  # experts behind gates
    expert_dims: tuple[int, ...] = (32,)  # hidden layers of an expert


@dataclasses.dataclass(frozen=True)
class Recipe(Training, Experts, DataType):
    """Training and sizes of the models on Census-Income."""

    num_specific: int = 3  # CGC, PLE: experts of each task alone
    num_shared: int = 2  # CGC, PLE: experts that the tasks share
    num_levels: int = 2  # PLE: levels of experts
    num_subnets: int = 4  # SNR: sub-networks of a level
    subnet_dims: tuple[int, ...] = (64, 32)  # SNR: their width at each level


@dataclasses.dataclass(frozen=True)
class SyntheticStudy(Experts):
    """Sizes of section 6.2 of the MMoE paper (Ma et al., KDD 2018), and how its models are trained here.

    The shared layer is as wide as makes the numbers of parameters equal. The learning rate is from the
    paper's grid.
    """

    bottom_dims: tuple[int, ...] = (113,)  # hidden layers that both tasks share, where there are no experts
    tower_dims: tuple[int, ...] = (8,)  # hidden layers of each task's tower
    num_experts: int = 8  # experts behind gates
    expert_dims: tuple[int, ...] = (16,)  # hidden layers of an expert
    epochs: int = 40  # at most; the best one is used
    batch_size: int = 256  # examples per step
    learning_rate: float = 1e-3  # of Adam


@dataclasses.dataclass(frozen=True)
class Balance:
    """Settings of the methods that weight losses or balance gradients (`jaxrec.optim`)."""

    rate: float = 0.8  # scheduled: factor per epoch of the weights of all tasks but the first
    alpha: float = 1.5  # gradnorm: strength of the weighting towards slowly learned tasks
    bound: float = 0.3  # pe-ltr: least weight of each task


# Parameters of `Featured(features, shared_bottom(…))` that all tasks share, and those of its bottom alone.
SHARED = ("embedding", "model/bottom")
BOTTOM = ("model/bottom",)


def mlp_of(sizes: Any) -> Callable[..., nn.Module]:
    """The MLPs of experts, towers and shared layers. Gates and logits are float32 whatever their `dtype`."""
    half = isinstance(sizes, DataType) and sizes.dtype != "float32"
    return Factory(MLP, dtype=dtype_of(sizes)) if half else MLP


def shared_bottom(num_tasks: int, sizes: Bottom) -> SharedBottom:
    """Layers that all tasks share."""
    return SharedBottom(
        num_tasks=num_tasks,
        bottom_dims=sizes.bottom_dims,
        tower_dims=sizes.tower_dims,
        mlp=mlp_of(sizes),
    )


def omoe(num_tasks: int, sizes: Experts) -> OMoE:
    """Shared experts with one gate for all tasks."""
    return OMoE(
        num_tasks=num_tasks,
        num_experts=sizes.num_experts,
        expert_dims=sizes.expert_dims,
        tower_dims=sizes.tower_dims,
        mlp=mlp_of(sizes),
    )


def mmoe(num_tasks: int, sizes: Experts) -> MMoE:
    """Shared experts with a gate for each task."""
    return MMoE(
        num_tasks=num_tasks,
        num_experts=sizes.num_experts,
        expert_dims=sizes.expert_dims,
        tower_dims=sizes.tower_dims,
        mlp=mlp_of(sizes),
    )


def attention_gated_mmoe(num_tasks: int, sizes: Experts) -> AttentionGatedMMoE:
    """Shared experts with attention of each task over them."""
    return AttentionGatedMMoE(
        num_tasks=num_tasks,
        num_experts=sizes.num_experts,
        expert_dims=sizes.expert_dims,
        tower_dims=sizes.tower_dims,
        mlp=mlp_of(sizes),
    )


def cgc(num_tasks: int, recipe: Recipe) -> CGC:
    """Experts of each task and shared experts."""
    return CGC(
        num_tasks=num_tasks,
        num_specific=recipe.num_specific,
        num_shared=recipe.num_shared,
        expert_dims=recipe.expert_dims,
        tower_dims=recipe.tower_dims,
        mlp=mlp_of(recipe),
    )


def ple(num_tasks: int, recipe: Recipe) -> PLE:
    """Levels of CGC, one on top of the other."""
    return PLE(
        num_tasks=num_tasks,
        num_specific=recipe.num_specific,
        num_shared=recipe.num_shared,
        expert_dims=(recipe.expert_dims,) * recipe.num_levels,
        tower_dims=recipe.tower_dims,
        mlp=mlp_of(recipe),
    )


def snr_trans(num_tasks: int, recipe: Recipe) -> SNR:
    """Sub-networks with learned gates and a transform on each connection."""
    return _snr(num_tasks, recipe, transform=True)


def snr_aver(num_tasks: int, recipe: Recipe) -> SNR:
    """Sub-networks with learned gates whose inputs are averaged."""
    return _snr(num_tasks, recipe, transform=False)


def _snr(num_tasks: int, recipe: Recipe, *, transform: bool) -> SNR:
    return SNR(
        num_tasks=num_tasks,
        num_subnets=(recipe.num_subnets,) * len(recipe.subnet_dims),
        dims=tuple((dim,) for dim in recipe.subnet_dims),
        transform=transform,
        tower_dims=recipe.tower_dims,
        mlp=mlp_of(recipe),
    )


def _behind_features(body: Callable[[int, Any], nn.Module]) -> Callable[[Table, Recipe], nn.Module]:
    """A body of a number of tasks, behind a vector for each column."""

    def module(table: Table, recipe: Recipe) -> nn.Module:
        return Featured(table.features(recipe.dim), body(table.num_tasks, recipe))

    return module


MODELS: Mapping[str, TableModel] = {
    "shared-bottom": TableModel(Recipe, _behind_features(shared_bottom)),
    "omoe": TableModel(Recipe, _behind_features(omoe)),
    "mmoe": TableModel(Recipe, _behind_features(mmoe)),
    "attention-gated-mmoe": TableModel(Recipe, _behind_features(attention_gated_mmoe)),
    "cgc": TableModel(Recipe, _behind_features(cgc)),
    "ple": TableModel(Recipe, _behind_features(ple)),
    "snr-trans": TableModel(Recipe, _behind_features(snr_trans)),
    "snr-aver": TableModel(Recipe, _behind_features(snr_aver)),
}
