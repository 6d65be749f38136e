"""Shared-Bottom, hard parameter sharing (Caruana, Machine Learning 28, 1997; Ma et al., KDD 2018, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn

from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Activation, Tower, mlp_fields
from jaxrec.types import Array


class SharedBottom(nn.Module):
    """One MLP that all tasks share, one tower a task on top of it.

    Fields beside the widths: activation, dropout, batch_norm, axis_name, bits of all MLPs, see `MLP`.
    """

    num_tasks: int
    bottom_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        shared = MLP(self.bottom_dims, **mlp_fields(self), name="bottom")(x, train=train)
        shared = self.perturb("shared", shared)  # lets a weighting read ∂ loss / ∂ shared; otherwise nothing
        return bank(Tower, self.num_tasks)(self.tower_dims, **mlp_fields(self), name="towers")(
            shared, train=train
        )
