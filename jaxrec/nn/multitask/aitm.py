"""Adaptive information transfer multi-task (Xi et al., KDD 2021, arXiv:2105.08489, equations 3 to 10).

Departs from the paper as its official code does: value, query and key are matrices without bias. The
calibrator is a loss, `order_violation` in `jaxrec.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class AITM(nn.Module):
    """Every task weighs its own representation against what the task before it passes on.

    Tasks are the steps of a conversion in their order; each implies the one before.

    Shape names: B batch, F features, D last tower width, T tasks. Sows the weights of the passed information
    and of the own representation, [B, T - 1, 2], as "transfer" into the collection "intermediates".

    Fields:
      tower_dims: of each task's tower; the last width is also that of the transferred information.
      head_dims: hidden layers between a task's representation and its logit; the paper has none.
      mlp: builds the MLPs of towers and heads, see `Tower`. The official code drops 0.1 after a tower's first
        layer, 0.3 after the others; the paper has no batch norm.
      transfer_mlp: builds the layer that the passed information goes through; in MTReclib it has no
        activation.
    """

    num_tasks: int
    tower_dims: Sequence[int] = (128, 64, 32)
    head_dims: Sequence[int] = ()
    mlp: Callable[..., nn.Module] = MLP
    transfer_mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if not self.tower_dims:
            raise ValueError("tower_dims=(): the transfer needs a width; give at least one layer")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T], each that of all steps up to its own."""
        states = bank(self.mlp, self.num_tasks)(self.tower_dims, name="towers")(x, train=train)  # [B, T, D]
        if self.num_tasks > 1:
            chain = nn.scan(
                _Transfer,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=1,
                out_axes=1,
            )
            transfers = chain(self.transfer_mlp, train, name="transfers")
            _, (later, weights) = transfers(states[:, 0], states[:, 1:])
            self.sow("intermediates", "transfer", weights)
            states = jnp.concatenate([states[:, :1], later], axis=1)
        return bank(Tower, self.num_tasks, in_axes=1)(self.head_dims, mlp=self.mlp, name="heads")(
            states, train=train
        )


class _Transfer(nn.Module):
    """One step of the chain: the state before it and the own tower's output make the state of a task."""

    mlp: Callable[..., nn.Module]
    train: bool

    @nn.compact
    def __call__(self, before: Array, own: Array) -> tuple[Array, tuple[Array, Array]]:
        """Maps [B, D] and [B, D] to the state [B, D], passed on and given out with its weights [B, 2]."""
        dim = own.shape[-1]
        passed = self.mlp((dim,), name="info")(before, train=self.train)
        pair = jnp.stack([passed, own], axis=1)  # [B, 2, D]
        value, query, key = (nn.Dense(dim, use_bias=False, name=n)(pair) for n in ("value", "query", "key"))
        weights = nn.softmax(jnp.sum(query * key, axis=-1) / math.sqrt(dim))
        state = jnp.einsum("bu,bud->bd", weights, value)
        return state, (state, weights)
