"""Multi-gate mixture of experts (Ma et al., KDD 2018, doi:10.1145/3219819.3220007, section 4.2).

Departs from the paper: the gates have a bias (`gate_bias`).
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.experts import Gate, bank, gate_fields, mix
from jaxrec.nn.layers.mlp import MLP, Activation, Tower, mlp_fields
from jaxrec.types import Array


class MMoE(nn.Module):
    """One softmax gate a task over a bank of experts that all tasks share.

    Shape names: B batch, F features, E experts, D expert width, T tasks. Sows the weights of the experts,
    [B, T, E], as "gates" into the collection "intermediates".

    Fields beside numbers and widths:
      gate_dims, gate_bias, gate_batch_norm, drop_experts: of the gates, which read the features, see `Gate`.
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
        experts = bank(MLP, self.num_experts)(self.expert_dims, **mlp, name="experts")(x, train=train)
        gates = bank(Gate, self.num_tasks)(self.num_experts, **gate_fields(self), name="gate")(x, train=train)
        self.sow("intermediates", "gates", gates)  # [B, T, E]
        mixed = mix(gates, experts)  # [B, T, D]
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, **mlp, name="towers")(
            mixed, train=train
        )
