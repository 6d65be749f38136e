"""Activations with parameters of their own: PReLU and Dice. Every layer has its own, see `activate`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array

Activation = Callable[..., Any]  # a function of an array, or what `activate` makes a layer of


class PReLU(nn.Module):
    """max(s, 0) + α · min(s, 0) with a slope α for each channel (He et al., ICCV 2015, section 2.1)."""

    alpha: float = 0.25  # its start

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, where: Array | None = None) -> Array:
        """Maps [..., C] to the same shape; `train` and `where` change nothing."""
        slope = self.param("alpha", nn.initializers.constant(self.alpha), x.shape[-1:])
        return jnp.where(x > 0, x, slope * x)


class Dice(nn.Module):
    """PReLU whose corner adapts to the data and is soft (DIN: Zhou et al., KDD 2018, section 5.3).

        f(s) = p · s + (1 - p) · α · s   p = σ((s - E[s]) / √(Var[s] + ε))

    Mean and biased variance are those of the batch in training and running ones otherwise, as in the paper;
    the public code of DIEN takes those of the batch in evaluation too, where a score then depends on its
    neighbours, and that of DIN scales the argument of σ by a learned factor.

    Fields:
      alpha: start of the slope that each channel learns. epsilon: ε.
      momentum: what running statistics keep of their value at a step.
      axis_name: of the devices whose batches share their statistics; None: each device has its own.
    """

    alpha: float = 0.0
    epsilon: float = 1e-8
    momentum: float = 0.99
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, where: Array | None = None) -> Array:
        """Maps [..., C] to the same shape.

        where: True where the entry counts in the statistics, [...]; None means everywhere. If none does, the
        running statistics stay as they are.
        """
        channels = x.shape[-1:]
        slope = self.param("alpha", nn.initializers.constant(self.alpha), channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, var = running_mean.value, running_var.value
        if train:
            count, mean, var = self._moments(x, where)
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1.0 - keep) * mean
                running_var.value = keep * running_var.value + (1.0 - keep) * var
        share = nn.sigmoid((x - mean) * jax.lax.rsqrt(var + self.epsilon))
        return x * (share + (1.0 - share) * slope)

    def _moments(self, x: Array, where: Array | None) -> tuple[Array, Array, Array]:
        """Number of entries that count [], their mean and variance [C]."""

        def total(values: Array) -> Array:
            shared = self.axis_name is not None and not self.is_initializing()
            return jax.lax.psum(values, self.axis_name) if shared else values

        flat = x.reshape(-1, x.shape[-1])
        real = jnp.ones(flat.shape[0], x.dtype) if where is None else where.reshape(-1).astype(x.dtype)
        count = total(real.sum())
        size = jnp.maximum(count, 1.0)
        mean = total(real @ flat) / size
        return count, mean, total(real @ (flat - mean) ** 2) / size  # centred first: nothing cancels


def activate(
    activation: Activation,
    x: Array,
    name: str,
    *,
    train: bool,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Applies a function, or the layer `name` of a class such as `Dice` or a `functools.partial` of one.

    To be called where the module that owns the layer is compact. where, axis_name: see `Dice`.
    """
    made = activation.func if isinstance(activation, functools.partial) else activation
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        return activation(x)
    shared = axis_name is not None and "axis_name" in made.__dataclass_fields__
    layer = activation(name=name, **({"axis_name": axis_name} if shared else {}))
    return layer(x, train=train, where=where)
