"""Shared-Bottom, hard parameter sharing (Caruana, Machine Learning 28, 1997; Ma et al., KDD 2018, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class SharedBottom(nn.Module):
    """One MLP that all tasks share, one tower a task on top of it.

    Fields: the widths of the shared MLP and of the towers; mlp builds all MLPs, see `Tower`.
    """

    num_tasks: int
    bottom_dims: Sequence[int] = (256, 128)
    tower_dims: Sequence[int] = (64,)
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        shared = self.mlp(self.bottom_dims, name="bottom")(x, train=train)
        shared = self.perturb("shared", shared)  # lets a weighting read ∂ loss / ∂ shared; otherwise nothing
        return bank(Tower, self.num_tasks)(self.tower_dims, mlp=self.mlp, name="towers")(shared, train=train)
