"""The co-action unit of CAN: one feature brings the weights of a small network, another what goes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.types import Array


class CoAction(nn.Module):
    """Σ_t Σ_c MLP_w(p_t^c), c = 1 .. `num_orders`, where an example brings the weights w itself.

    Padding adds nothing. The unit has no parameters of its own, and weights of zero give zero as long as
    activation(0) is 0. Powers of large inputs are larger still: start from small ones.

    The order of w, layer by layer: the kernel, row by row of its inputs, then the bias.

    Fields:
      dim: width of p. dims: of the layers.
      num_orders: how many powers of p, element by element, go in.
      use_bias: whether the layers have biases, or which of them do. activation: of the layers.
      activate_last: whether the last one has the activation too.
      concatenate: whether all layers of all orders stand side by side in the output, the first order first;
        False (the paper) adds the last layer up over the orders.
      order_independent: whether each order has weights of its own, the third level of independence.

    The public code is num_orders=3, use_bias=False, activate_last=False, concatenate=True; dim and dims are
    its own, 160 weights an example.
    """

    dim: int = 16
    dims: Sequence[int] = (8, 4)
    num_orders: int = 2
    use_bias: bool | Sequence[bool] = True
    activation: Callable[[Array], Array] = jnp.tanh
    activate_last: bool = True
    concatenate: bool = False
    order_independent: bool = False

    def __post_init__(self) -> None:
        if not self.dims or min(self.dim, self.num_orders, *self.dims) < 1:
            raise ValueError(
                f"dim={self.dim}, dims={tuple(self.dims)}, num_orders={self.num_orders}: at least one layer, "
                "one order, and a width of 1 are needed"
            )
        if len(self.biases) != len(self.dims):
            raise ValueError(
                f"use_bias={self.use_bias}, dims={tuple(self.dims)}: one for each layer, or one for all"
            )
        super().__post_init__()

    @property
    def biases(self) -> tuple[bool, ...]:
        """Which layers have biases."""
        if isinstance(self.use_bias, bool):
            return (self.use_bias,) * len(self.dims)
        return tuple(self.use_bias)

    @property
    def num_weights(self) -> int:
        """W, the weights that an example brings."""
        sets = self.num_orders if self.order_independent else 1
        layers = zip(pairwise((self.dim, *self.dims)), self.biases, strict=True)
        return sets * sum((rows + bias) * columns for (rows, columns), bias in layers)

    def __call__(self, weights: Array, inputs: Array, mask: Array) -> Array:
        """Maps weights [B, W], inputs [B, L, dim] and bool [B, L] (True: real) to [B, K].

        K is dims[-1], or with `concatenate` num_orders · Σ dims.
        """
        if weights.shape[-1] != self.num_weights or inputs.shape[-1] != self.dim:
            raise ValueError(
                f"weights {weights.shape}, inputs {inputs.shape}: expected widths {self.num_weights} and "
                f"{self.dim}"
            )
        sets = self.num_orders if self.order_independent else 1
        weights = weights.reshape(-1, sets, self.num_weights // sets)  # [B, C or 1, …]
        x = jnp.stack([inputs**order for order in range(1, self.num_orders + 1)], axis=1)  # [B, C, L, dim]
        outputs, at = [], 0
        for i, (rows, columns) in enumerate(pairwise((self.dim, *self.dims))):
            kernel = weights[..., at : at + rows * columns].reshape(-1, sets, rows, columns)
            at += rows * columns
            x = x @ kernel
            if self.biases[i]:
                x = x + weights[..., None, at : at + columns]
                at += columns
            if i + 1 < len(self.dims) or self.activate_last:
                x = self.activation(x)
            outputs.append(x)
        found = jnp.concatenate(outputs, axis=-1) if self.concatenate else x
        found = jnp.sum(jnp.where(mask[:, None, :, None], found, 0.0), axis=2)  # [B, C, …]
        return found.reshape(found.shape[0], -1) if self.concatenate else found.sum(axis=1)
