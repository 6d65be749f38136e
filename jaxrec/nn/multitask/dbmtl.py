"""Deep Bayesian multi-target learning (Wang et al., 2019, arXiv:1902.09154), with experts as in EasyRec.

Targets form a directed graph; a target reads the hidden vectors of its parents, not their labels or
probabilities: P(t₁, …, t_T | x) = Π P(t | parents of t, x). The weighted sum of the targets' losses is minus
the logarithm of that product.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class DBMTL(nn.Module):
    """Shared bottom (or experts), a tower a task, and relation layers along the edges of the graph.

    Fields:
      parents: for each task the tasks it reads, by number: ((), (0,)) lets task 1 read task 0. Any order of
        the tasks will do as long as there is no cycle.
      bottom_dims: layers that all tasks share, () for none.
      num_experts, expert_dims: experts over the bottom with one gate a task; 0 experts is hard sharing.
      relation_dims: layers over a task's tower and its parents' relation vectors.
      mlp, gate: build all MLPs and the gates, see `Tower` and `Gate`.

    Shape names: B batch, F features, E experts, D expert width, T tasks, H tower width, R relation width.
    """

    parents: tuple[tuple[int, ...], ...]
    bottom_dims: Sequence[int] = (1024, 512, 256)
    num_experts: int = 0
    expert_dims: Sequence[int] = (256,)
    tower_dims: Sequence[int] = (256, 128, 64, 32)
    relation_dims: Sequence[int] = (32,)
    mlp: Callable[..., nn.Module] = MLP
    gate: Callable[..., nn.Module] = Gate

    def __post_init__(self) -> None:
        in_order(self.parents)
        if not self.relation_dims:
            raise ValueError("relation_dims=(): what a task passes on needs a width; give at least one layer")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit (or value, of a target that is a number) a task [B, T]."""
        num_tasks = len(self.parents)
        x = self.mlp(self.bottom_dims, name="bottom")(x, train=train)
        in_axes = None
        if self.num_experts:
            experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(x, train=train)
            gates = bank(self.gate, num_tasks)(self.num_experts, name="gate")(x, train=train)  # [B, T, E]
            self.sow("intermediates", "gates", gates)
            x, in_axes = mix(gates, experts), 1  # [B, T, D]
        towers = bank(self.mlp, num_tasks, in_axes)(self.tower_dims, name="towers")(
            x, train=train
        )  # [B, T, H]
        relations: dict[int, Array] = {}
        for task in in_order(self.parents):  # each has inputs of its own, and must wait for its parents
            inputs = jnp.concatenate([towers[:, task], *(relations[p] for p in self.parents[task])], axis=-1)
            relations[task] = self.mlp(self.relation_dims, name=f"relation_{task}")(inputs, train=train)
        stacked = jnp.stack([relations[task] for task in range(num_tasks)], axis=1)  # [B, T, R]
        return bank(Tower, num_tasks, in_axes=1)(name="heads")(stacked)


def in_order(parents: Sequence[Sequence[int]]) -> list[int]:
    """The tasks of a graph, each after its parents.

    Raises:
      ValueError: a parent that is no task, or a cycle.

    >>> in_order(((2,), (), (1,)))
    [1, 2, 0]
    """
    if not parents:
        raise ValueError("parents=(): give one tuple a task, () for a task without parents")
    for task, of_task in enumerate(parents):
        for parent in of_task:
            if not 0 <= parent < len(parents):
                raise ValueError(
                    f"parents of task {task}: {parent} is no task; they are numbered 0..{len(parents) - 1}"
                )
    try:
        return list(graphlib.TopologicalSorter(dict(enumerate(parents))).static_order())
    except graphlib.CycleError as error:
        cycle = " → ".join(map(str, error.args[1]))
        raise ValueError(f"parents: the tasks {cycle} form a cycle; take out one of these edges") from None
