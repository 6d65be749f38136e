"""Mixture of experts with one gate for all tasks, "OMoE" in Ma et al., KDD 2018, doi:10.1145/3219819.3220007.

The layer is that of Eigen et al. (arXiv:1312.4314): all experts are evaluated, a softmax gate weighs them.
Departs from the paper: the gate has a bias (`Gate.use_bias`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class MoE(nn.Module):
    """A bank of experts mixed by one gate: [B, F] → [B, D]. Fields as of `OMoE`.

    Sows the weights of the experts, [B, E], as "gates" into the collection "intermediates".
    """

    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    gate: Callable[..., nn.Module] = Gate
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to the mean of expert outputs that the gate weighs, [B, D]."""
        experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(x, train=train)
        gates = self.gate(self.num_experts, name="gate")(x, train=train)
        self.sow("intermediates", "gates", gates)
        return mix(gates, experts)


class OMoE(nn.Module):
    """One mixture of experts that all tasks share, one tower a task on top of it.

    Fields besides numbers and widths:
      gate: builds the gate, see `Gate`.
      mlp: builds all MLPs, see `Tower`.
    """

    num_tasks: int
    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    gate: Callable[..., nn.Module] = Gate
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        mixed = MoE(
            self.num_experts,
            self.expert_dims,
            gate=self.gate,
            mlp=self.mlp,
            name="moe",
        )(x, train=train)
        return bank(Tower, self.num_tasks)(self.tower_dims, mlp=self.mlp, name="towers")(mixed, train=train)
