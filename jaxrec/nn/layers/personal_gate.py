"""Gates that scale units by what is known about a user or a scene."""

from __future__ import annotations

import flax.linen as nn

from jaxrec.nn.layers.mlp import Activation
from jaxrec.types import Array


class PersonalGate(nn.Module):
    """`factor` times the sigmoid of a two-layer network (POSO, arXiv:2108.04690; PEPNet, arXiv:2302.01115).

    The weights do not compete: each lies between 0 and `factor`, and 2 makes an undecided gate neutral.

    Fields: hidden_dim is the width of the hidden layer, None for that of the output; activation, a function,
    is what follows it.
    """

    dim: int
    hidden_dim: int | None = None
    factor: float = 2.0
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, code: Array) -> Array:
        """Maps what the gate may see [B, P] to weights [B, dim]."""
        hidden = self.activation(nn.Dense(self.hidden_dim or self.dim, name="hidden")(code))
        return self.factor * nn.sigmoid(nn.Dense(self.dim, name="gate")(hidden))
