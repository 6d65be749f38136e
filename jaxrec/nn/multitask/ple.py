"""Progressive layered extraction (Tang et al., RecSys 2020, doi:10.1145/3383313.3412236, section 4.3).

Departs from the paper: the gates have a bias (`Gate.use_bias`); all tasks have the same number of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from jaxrec.nn.layers.experts import Gate, bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.multitask.cgc import Extraction
from jaxrec.types import Array


class PLE(nn.Module):
    """Extraction layers on top of each other, each with a stream a task and a shared one; then the towers.

    The experts and the gate of a task read its stream, shared experts and their gate the shared stream. The
    last level has no shared output.

    Fields besides those of `Extraction`:
      expert_dims: for each level the widths of its experts' layers.
      shared_gate_over_all: True: the gate of the shared stream has all experts of its level, as in the
        paper; False: the shared ones only, as in FuxiCTR.
    """

    num_tasks: int
    num_specific: int = 1
    num_shared: int = 1
    expert_dims: Sequence[Sequence[int]] = ((256,), (128,))
    tower_dims: Sequence[int] = (64,)
    shared_gate_over_all: bool = True
    gate: Callable[..., nn.Module] = Gate
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if not self.expert_dims or any(isinstance(dims, int) for dims in self.expert_dims):
            raise ValueError(
                f"expert_dims={self.expert_dims}: a tuple of widths for each level, such as ((256,), (128,))"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        shared: Array | None = x
        tasks: Array | None = None
        for i, dims in enumerate(self.expert_dims):
            last = i + 1 == len(self.expert_dims)
            tasks, shared = Extraction(
                num_tasks=self.num_tasks,
                num_specific=self.num_specific,
                num_shared=self.num_shared,
                expert_dims=dims,
                shared_output=not last and self.num_shared > 0,
                shared_gate_over_all=self.shared_gate_over_all,
                gate=self.gate,
                mlp=self.mlp,
                name=f"level_{i}",
            )(shared, tasks, train=train)
        return bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp, name="towers")(
            tasks, train=train
        )
