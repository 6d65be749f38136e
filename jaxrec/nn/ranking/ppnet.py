"""PPNet, personalised gates on the units of each task's tower (Chang et al., KDD 2023, arXiv:2302.01115).

The part of PEPNet that personalises parameters; its other part, EPNet, gates the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dice import activate
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import Activation, normalise
from jaxrec.nn.layers.personal_gate import PersonalGate
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


class PersonalisedTower(nn.Module):
    """An MLP whose hidden units are scaled by gates of the prior, and a linear layer to one logit.

    Fields:
      dims: widths of the hidden layers, each with a gate after its activation and dropout.
      gate_dim: hidden width of the gates; None: that of the layer they scale.
      activation, dropout, batch_norm, axis_name, bits: of the layers, see `MLP`.
    """

    dims: Sequence[int]
    gate_dim: int | None = None
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, prior: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and priors [B, Z] to a logit [B]."""
        gate_input = jnp.concatenate([jax.lax.stop_gradient(x), prior], axis=-1)
        for i, dim in enumerate(self.dims):
            x = nn.Dense(dim, kernel_init=INIT, name=f"layer_{i}")(x)
            if self.batch_norm:
                x = normalise(f"norm_{i}", train, self.axis_name)(x)
            x = activate(self.activation, x, f"activation_{i}", train=train, axis_name=self.axis_name)
            x = Dropout(self.dropout, self.bits)(x, train=train)
            x = x * PersonalGate(dim, self.gate_dim, name=f"gate_{i}")(gate_input)
        return nn.Dense(1, kernel_init=INIT, name="logit")(x)[..., 0]


class PPNet(nn.Module):
    """A personalised tower for each task.

    Fields:
      dims, gate_dim: of the towers, see `PersonalisedTower`.
      tower: builds them: that class, a `Factory` of it, or another module class that is built as
        tower(dims, gate_dim, name=…) and maps features and priors to a logit [B].
    """

    num_tasks: int = 1
    dims: Sequence[int] = (256, 128)
    gate_dim: int | None = None
    tower: Callable[..., nn.Module] = PersonalisedTower

    @nn.compact
    def __call__(self, x: Array, prior: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and priors [B, Z] (vectors of user, item, author) to logits [B, T].

        The gates read both; no gradient flows from them into the features.
        """
        towers = bank(self.tower, self.num_tasks)(self.dims, self.gate_dim, name="towers")
        return towers(x, prior, train=train)
