"""An actor that gives each user weights of several objectives (PAPERec: Xie et al., WWW 2021).

Departs from the paper: its state is a user's features alone, without the items that are already in the list;
what it is trained by, see `tasks.personalised.by_actor`. The paper's repository has no code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array


class WeightActor(nn.Module):
    """Features → MLP → softmax, between `least` and 1 - (K - 1) · least for each of K objectives.

    Without a lower bound an actor may ignore an objective, the one of the larger gradient.
    """

    num_tasks: int
    dims: Sequence[int] = (64, 64)
    least: float = 0.1
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if not 0 <= self.least * self.num_tasks <= 1:
            raise ValueError(
                f"least={self.least}: {self.num_tasks} weights of sum 1 cannot all be as large; take at most "
                f"{1 / self.num_tasks:.3f}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [B, F] to weights [B, K] of sum 1, equal for all at the start."""
        hidden = self.mlp(self.dims, name="mlp")(x, train=train)
        logits = nn.Dense(self.num_tasks, kernel_init=nn.initializers.zeros, name="logits")(hidden)
        return self.least + (1.0 - self.num_tasks * self.least) * nn.softmax(logits)


class WithWeights(nn.Module):
    """A model behind its features, and the weights of its tasks: columns → {"logits": …, "weights": [B, K]}.

    The actor reads the vectors of the features and does not train them.
    """

    embedding: nn.Module
    model: nn.Module
    actor: nn.Module

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Any]:
        """Applies model and actor to the vectors [B, F] of `embedding`."""
        x = self.embedding(batch)
        weights = self.actor(jax.lax.stop_gradient(x), train=train)
        return {"logits": self.model(x, train=train), "weights": weights}
