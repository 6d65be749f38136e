"""Embedding and MLP: the base model of the DIN paper (Zhou et al., KDD 2018, arXiv:1706.06978, section 4.2).

Departs from the public code: no linear layer after the pooling, no bias for each item, and batch norm, if
there is any, stands behind the linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.activation_unit import pool
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class DINBase(nn.Module):
    """The history pooled to one vector, whatever the target, and an MLP. The order of events changes nothing.

    Fields:
      dims: hidden layers.
      average: True takes the mean of the events (the code), False their sum (the paper). No event gives zero.
      product: whether the MLP also sees pooled history ⊙ target.
      mlp: builds the MLP, see `Tower`.
    """

    dims: Sequence[int] = (200, 80)
    average: bool = True
    product: bool = False
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=PReLU)

    @nn.compact
    def __call__(self, x: Array, target: Array, history: Array, mask: Array, *, train: bool = False) -> Array:
        """Maps features [B, F], target [B, D], events [B, L, D] and their mask [B, L] to a logit [B].

        x are all features beside the history, those of the target too; see `nn.layers.history.WithHistory`.
        """
        weights = mask.astype(history.dtype)
        if self.average:
            weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1.0)
        head = joined(x, pool(weights, history), target, product=self.product)
        return Tower(self.dims, mlp=self.mlp, name="tower")(head, train=train)


def joined(x: Array, interest: Array, target: Array, *, product: bool) -> Array:
    """What the MLP of an interest model reads: features, interest and, with `product`, interest ⊙ target."""
    parts = [x, interest, *([interest * target] if product else [])]
    return jnp.concatenate(parts, axis=-1)
