"""Multi-task models that share parameters, with the sizes of our tables on Census-Income.

All have the same towers; their bodies have 66,000 to 79,000 parameters with the features of Census-Income,
but for `snr_trans`, whose transforms double them. The papers leave sizes out.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn

from jaxrec.nn.multitask.attention_gated_mmoe import AttentionGatedMMoE
from jaxrec.nn.multitask.cgc import CGC
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.snr import SNR

TOWER = (16,)  # hidden layers of each task's tower
EXPERT = (32,)  # layers of an expert


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    epochs: int = 10  # at most; the best one counts
    patience: int = 3  # epochs without a better validation AUC
    batch_size: int = 1024  # examples a step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 8  # width of the embedding of each column


def shared_bottom(num_tasks: int) -> nn.Module:
    """One hidden layer that all tasks share."""
    return SharedBottom(num_tasks=num_tasks, bottom_dims=(256,), tower_dims=TOWER)


def omoe(num_tasks: int) -> nn.Module:
    """Experts behind one gate."""
    return OMoE(num_tasks=num_tasks, num_experts=8, expert_dims=EXPERT, tower_dims=TOWER)


def mmoe(num_tasks: int) -> nn.Module:
    """Experts behind a gate a task."""
    return MMoE(num_tasks=num_tasks, num_experts=8, expert_dims=EXPERT, tower_dims=TOWER)


def attention_gated_mmoe(num_tasks: int) -> nn.Module:
    """Experts that each task attends to."""
    return AttentionGatedMMoE(num_tasks=num_tasks, num_experts=8, expert_dims=EXPERT, tower_dims=TOWER)


def cgc(num_tasks: int) -> nn.Module:
    """Experts of each task beside shared ones."""
    return CGC(num_tasks=num_tasks, num_specific=3, num_shared=2, expert_dims=EXPERT, tower_dims=TOWER)


def ple(num_tasks: int) -> nn.Module:
    """Two levels of CGC."""
    return PLE(
        num_tasks=num_tasks, num_specific=3, num_shared=2, expert_dims=(EXPERT, EXPERT), tower_dims=TOWER
    )


def snr_trans(num_tasks: int) -> nn.Module:
    """Sub-networks with learned gates and a transform on each connection."""
    return SNR(num_tasks=num_tasks, num_subnets=(4, 4), dims=((64,), (32,)), transform=True, tower_dims=TOWER)


def snr_aver(num_tasks: int) -> nn.Module:
    """Sub-networks with learned gates whose inputs are averaged."""
    return SNR(
        num_tasks=num_tasks, num_subnets=(4, 4), dims=((64,), (32,)), transform=False, tower_dims=TOWER
    )
