"""Multi-gate mixture of experts (Ma et al., KDD 2018, doi:10.1145/3219819.3220007, section 4.2).

Departs from the paper: the gates have a bias (`Gate.use_bias`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import Gate, bank, mix
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class MMoE(nn.Module):
    """One softmax gate a task over a bank of experts that all tasks share.

    Shape names: B batch, F features, E experts, D expert width, T tasks. Sows the weights of the experts,
    [B, T, E], as "gates" into the collection "intermediates".

    Fields besides numbers and widths:
      gate: builds the gates, which read the features, see `Gate`.
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
        experts = bank(self.mlp, self.num_experts)(self.expert_dims, name="experts")(x, train=train)
        gates = bank(self.gate, self.num_tasks)(self.num_experts, name="gate")(x, train=train)
        self.sow("intermediates", "gates", gates)  # [B, T, E]
        mixed = mix(gates, experts)  # [B, T, D]
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            mixed, train=train
        )
