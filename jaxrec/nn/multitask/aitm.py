"""Adaptive information transfer multi-task (Xi et al., KDD 2021, arXiv:2105.08489, equations 3 to 10).

Departs from the paper as its official code does: value, query and key are matrices without bias. The
calibrator is a loss, `order_violation` in `jaxrec.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Activation, Tower, mlp_fields
from jaxrec.types import Array


class AITM(nn.Module):
    """Every task weighs its own representation against what the task before it passes on.

    Tasks are the steps of a conversion in their order; each implies the one before.

    Shape names: B batch, F features, D last tower width, T tasks. Sows the weights of the passed information
    and of the own representation, [B, T - 1, 2], as "transfer" into the collection "intermediates".

    Fields:
      tower_dims: of each task's tower; the last width is also that of the transferred information.
      head_dims: hidden layers between a task's representation and its logit; the paper has none.
      transfer_activation: of the passed information; MTReclib has none (the identity).
      activation, dropout, batch_norm, axis_name, bits: of towers, transfer and heads, see `MLP`. The official
        code drops 0.1 after a tower's first layer, 0.3 after the others; the paper has no batch norm.
    """

    num_tasks: int
    tower_dims: Sequence[int] = (128, 64, 32)
    head_dims: Sequence[int] = ()
    transfer_activation: Activation = nn.relu
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if not self.tower_dims:
            raise ValueError("tower_dims=(): the transfer needs a width; give at least one layer")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T], each that of all steps up to its own."""
        mlp = mlp_fields(self)
        states = bank(MLP, self.num_tasks)(self.tower_dims, **mlp, name="towers")(x, train=train)  # [B, T, D]
        if self.num_tasks > 1:
            chain = nn.scan(
                _Transfer,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=1,
                out_axes=1,
            )
            info = mlp | {"dims": self.tower_dims[-1:], "activation": self.transfer_activation}
            _, (later, weights) = chain(info, train, name="transfers")(states[:, 0], states[:, 1:])
            self.sow("intermediates", "transfer", weights)
            states = jnp.concatenate([states[:, :1], later], axis=1)
        return bank(Tower, self.num_tasks, in_axes=1)(self.head_dims, **mlp, name="heads")(
            states, train=train
        )


class _Transfer(nn.Module):
    """One step of the chain: the state before it and the own tower's output make the state of a task."""

    info: Any  # fields of the MLP that the passed information goes through
    train: bool

    @nn.compact
    def __call__(self, before: Array, own: Array) -> tuple[Array, tuple[Array, Array]]:
        """Maps [B, D] and [B, D] to the state [B, D], passed on and given out with its weights [B, 2]."""
        dim = own.shape[-1]
        passed = MLP(**self.info, name="info")(before, train=self.train)
        pair = jnp.stack([passed, own], axis=1)  # [B, 2, D]
        value, query, key = (nn.Dense(dim, use_bias=False, name=n)(pair) for n in ("value", "query", "key"))
        weights = nn.softmax(jnp.sum(query * key, axis=-1) / math.sqrt(dim))
        state = jnp.einsum("bu,bud->bd", weights, value)
        return state, (state, weights)
