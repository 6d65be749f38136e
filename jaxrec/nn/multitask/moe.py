"""Mixture of experts with one gate for all tasks, "OMoE" in Ma et al., KDD 2018, doi:10.1145/3219819.3220007.

The layer is that of Eigen et al. (arXiv:1312.4314): all experts are evaluated, a softmax gate weighs them.
Departs from the paper: the gate has a bias (`gate_bias`).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.experts import Gate, bank, gate_fields, mix
from jaxrec.nn.layers.mlp import MLP, Activation, Tower, mlp_fields
from jaxrec.types import Array


class MoE(nn.Module):
    """A bank of experts mixed by one gate: [B, F] → [B, D]. Fields as of `OMoE`.

    Sows the weights of the experts, [B, E], as "gates" into the collection "intermediates".
    """

    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    gate_dims: Sequence[int] = ()
    gate_bias: bool = True
    gate_batch_norm: bool = False
    drop_experts: float = 0.0
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to the mean of expert outputs that the gate weighs, [B, D]."""
        experts = bank(MLP, self.num_experts)(self.expert_dims, **mlp_fields(self), name="experts")(
            x, train=train
        )
        gates = Gate(self.num_experts, **gate_fields(self), name="gate")(x, train=train)
        self.sow("intermediates", "gates", gates)
        return mix(gates, experts)


class OMoE(nn.Module):
    """One mixture of experts that all tasks share, one tower a task on top of it.

    Fields beside numbers and widths:
      gate_dims, gate_bias, gate_batch_norm, drop_experts: of the gate, see `Gate`.
      activation, dropout, batch_norm, axis_name, bits: of all MLPs, see `MLP`.
    """

    num_tasks: int
    num_experts: int = 8
    expert_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    gate_dims: Sequence[int] = ()
    gate_bias: bool = True
    gate_batch_norm: bool = False
    drop_experts: float = 0.0
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        mlp = mlp_fields(self)
        mixed = MoE(
            self.num_experts,
            self.expert_dims,
            self.gate_dims,
            self.gate_bias,
            self.gate_batch_norm,
            self.drop_experts,
            **mlp,
            name="moe",
        )(x, train=train)
        return bank(Tower, self.num_tasks)(self.tower_dims, **mlp, name="towers")(mixed, train=train)
