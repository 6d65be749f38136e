"""EPNet, the embedding personalised network of PEPNet (Chang et al., KDD 2023, arXiv:2302.01115).

Departs from the paper: one scene network alone, with an MLP over its output in place of PPNet's task towers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.personal_gate import PersonalGate
from jaxrec.types import Array


class EPNet(nn.Module):
    """Scales every unit of the embedding by a gate that sees the scene, then an MLP to one logit.

    The gate sees the embedding too, but sends it no gradient.

    Fields:
      dims: hidden layers of the MLP; () is a linear layer alone, which the code of Scenario-Wise-Rec comes
        down to whatever widths it is given.
      gate_dim: hidden width of the gate, None for that of the embedding.
      mlp: builds the MLP, see `Tower`.
    """

    dims: Sequence[int] = (256, 128)
    gate_dim: int | None = None
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, scene: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and those of the scene (or domain) [B, S] to a logit [B]."""
        seen = jnp.concatenate([scene, jax.lax.stop_gradient(x)], axis=-1)
        gates = PersonalGate(x.shape[-1], self.gate_dim, name="gate")(seen)
        self.sow("intermediates", "gates", gates)
        return Tower(self.dims, mlp=self.mlp, name="tower")(x * gates, train=train)
