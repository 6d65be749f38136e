"""Batch norm (Ioffe and Szegedy, ICML 2015) whose statistics leave out what only fills up a shape."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.types import Array


class MaskedBatchNorm(nn.Module):
    """`nn.BatchNorm` over all axes but the last, with its parameters, of real entries alone.

    Fields:
      momentum: what running statistics keep of their value at a step. epsilon: added to the variance.
      axis_name: of devices whose batches share their statistics, however many real entries each has; None:
        each device has its own.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, where: Array | None = None) -> Array:
        """Maps [..., C] to the same shape: by statistics of the batch in training, by running ones otherwise.

        where: True where the entry counts, [...]; None means everywhere. If none does, the running statistics
        stay as they are.
        """
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        mean, var = running_mean.value, running_var.value
        if train:
            axis_name = None if self.is_initializing() else self.axis_name
            real = jnp.ones(x.shape[:-1], bool) if where is None else where
            weight = jnp.broadcast_to(real, x.shape[:-1])[..., None].astype(x.dtype)

            def total(values: Array) -> Array:
                summed = values.sum(axis=range(x.ndim - 1))
                return summed if axis_name is None else jax.lax.psum(summed, axis_name)

            count = total(weight)
            size = jnp.maximum(count, 1.0)
            mean = total(weight * x) / size
            var = total(weight * (x - mean) ** 2) / size  # centred first: nothing cancels
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1.0 - keep) * mean
                running_var.value = keep * running_var.value + (1.0 - keep) * var
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias
