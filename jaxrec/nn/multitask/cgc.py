"""Customised gate control (Tang et al., RecSys 2020, doi:10.1145/3383313.3412236, section 4.2).

Departs from the paper: the gates have a bias (`Gate.use_bias`); all tasks have the same number of experts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class Extraction(nn.Module):
    """Experts of each task beside experts that all share: the whole of CGC and one level of PLE.

    Shape names: B batch, T tasks, m experts a task, s shared experts, D expert width. A task's gate has its
    own experts first, then the shared ones. Sows the weights as "gates" [B, T, m + s] and, if there is a
    shared output, "shared_gates" into the collection "intermediates".

    Fields:
      num_specific: experts of each task; 0 makes it an MMoE layer over the shared experts.
      num_shared: experts of all tasks; 0 leaves nothing that tasks have in common.
      shared_output: whether a gate of its own mixes the stream that the next level's shared experts read.
      shared_gate_over_all: whether that gate has all experts (task 0's, task 1's, …, the shared ones) or
        the shared ones alone.
      gate: builds the gates, see `Gate`.
      mlp: builds all MLPs, see `Tower`.
    """

    num_tasks: int
    num_specific: int
    num_shared: int
    expert_dims: Sequence[int]
    shared_output: bool = False
    shared_gate_over_all: bool = True
    gate: Callable[..., nn.Module] = Gate
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        counts = (self.num_specific, self.num_shared)
        if min(counts) < 0 or sum(counts) < 1:
            raise ValueError(
                f"num_specific={counts[0]}, num_shared={counts[1]}: not below 0, and one of them at least 1"
            )
        if self.shared_output and self.num_shared < 1:
            raise ValueError("shared_output=True with num_shared=0: no shared expert would read it")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, shared: Array | None, tasks: Array | None = None, *, train: bool = False
    ) -> tuple[Array, Array | None]:
        """Maps the stream of each task and the shared one to the next.

        Args:
          shared: [B, F]; None where num_shared is 0 and the tasks have their streams.
          tasks: [B, T, F]; None: each task reads the shared stream, as at the first level.

        Returns:
          Streams of the tasks [B, T, D], and the shared one [B, D] or None.
        """
        streams, axis = (shared, None) if tasks is None else (tasks, 1)
        gates = bank(self.gate, self.num_tasks, axis)(self.num_specific + self.num_shared, name="gate")(
            streams, train=train
        )
        self.sow("intermediates", "gates", gates)

        mixed = []
        experts = []  # [B, E, D] each
        if self.num_specific:
            own = bank(bank(self.mlp, self.num_specific), self.num_tasks, axis)(
                self.expert_dims, name="specific"
            )(streams, train=train)  # [B, T, m, D]
            mixed.append(jnp.einsum("bte,bted->btd", gates[..., : self.num_specific], own))
            if self.shared_gate_over_all:
                experts.append(own.reshape(own.shape[0], -1, own.shape[-1]))
        if self.num_shared:
            common = bank(self.mlp, self.num_shared)(self.expert_dims, name="shared")(shared, train=train)
            mixed.append(mix(gates[..., self.num_specific :], common))
            experts.append(common)
        streams = functools.reduce(jnp.add, mixed)
        if shared is None or not self.shared_output:
            return streams, None

        candidates = jnp.concatenate(experts, axis=1)
        shared_gate = self.gate(candidates.shape[1], name="shared_gate")(shared, train=train)
        self.sow("intermediates", "shared_gates", shared_gate)
        return streams, mix(shared_gate, candidates)


class CGC(nn.Module):
    """One extraction layer and a tower a task. With the same parameters it equals `PLE` of one level.

    Fields as of `Extraction`; tower_dims are the widths of the towers' hidden layers.
    """

    num_tasks: int
    num_specific: int = 1
    num_shared: int = 1
    expert_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    gate: Callable[..., nn.Module] = Gate
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        mixed, _ = Extraction(
            num_tasks=self.num_tasks,
            num_specific=self.num_specific,
            num_shared=self.num_shared,
            expert_dims=self.expert_dims,
            gate=self.gate,
            mlp=self.mlp,
            name="level_0",
        )(x, train=train)
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            mixed, train=train
        )
