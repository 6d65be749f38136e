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
BLOCK = 1 << 18  # numbers that are summed at a time on CPU: 1 MiB of float32


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
        if not train:
            scale = jax.lax.rsqrt(running_var.value + self.epsilon)
            return _soft_corner(x, _share(x, running_mean.value, scale), slope)
        flat = x.reshape(-1, *channels)
        real = jnp.ones(len(flat), x.dtype) if where is None else where.reshape(-1).astype(x.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        out, moments = _of_batch(flat, slope, real, self.epsilon, axis_name)
        count, mean, var = jax.lax.stop_gradient(moments)
        if not self.is_initializing():
            keep = jnp.where(count > 0, self.momentum, 1.0)
            running_mean.value = keep * running_mean.value + (1.0 - keep) * mean
            running_var.value = keep * running_var.value + (1.0 - keep) * var
        return out.reshape(x.shape)


def _share(x: Array, mean: Array, scale: Array) -> Array:
    """p, the share of slope 1."""
    return nn.sigmoid((x - mean) * scale)


def _soft_corner(x: Array | float, share: Array, slope: Array) -> Array:
    return x * (share + (1.0 - share) * slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _of_batch(
    x: Array, slope: Array, real: Array, epsilon: float, axis_name: str | None
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Dice by the statistics of the rows of [N, C] where `real` [N] is 1; and these: number, mean, variance.

    JAX would derive the same, in many more passes over memory. The statistics are given without derivatives,
    and there is no forward mode (`jax.jvp`). Within `jax.shard_map` its check_vma has to be off.
    """
    return _forward(x, slope, real, epsilon, axis_name)[0]


def _forward(x: Array, slope: Array, real: Array, epsilon: float, axis_name: str | None) -> Any:
    def total(values: Array) -> Array:
        values = values.sum(axis=0, dtype=jnp.promote_types(values.dtype, jnp.float32))
        return _over_devices(values, axis_name)

    weight = real[:, None]
    count = total(real)
    size = jnp.maximum(count, 1.0)
    mean = total(weight * x) / size
    var = total(weight * (x - mean) ** 2) / size  # centred first: nothing cancels
    scale = jax.lax.rsqrt(var + epsilon)
    out = _soft_corner(x, _share(x, mean, scale), slope)
    return (out, (count, mean, var)), (x, slope, real, mean, scale, size)


def _backward(epsilon: float, axis_name: str | None, kept: Any, gradients: Any) -> Any:
    x, slope, real, mean, scale, size = kept
    g, _ = gradients

    def sums(block: tuple[Array, Array]) -> Array:
        """Of a block of (g, x): Σ g x (1 - p), Σ g x p (1 - p) and Σ g x p (1 - p) z, [3, C]."""
        g, x = block
        share = _share(x, mean, scale)
        of_slope = g * x * (1.0 - share)
        of_corner = of_slope * share
        return jnp.stack([v.sum(axis=0) for v in (of_slope, of_corner, of_corner * (x - mean) * scale)])

    of_slope, shift, stretch = jax.lax.platform_dependent(
        (g, x), cpu=functools.partial(_in_blocks, sums), default=sums
    )
    steepness = 1.0 - slope
    shift, stretch = (_over_devices(steepness * total, axis_name) / size for total in (shift, stretch))
    share, z = _share(x, mean, scale), (x - mean) * scale
    direct = g * (_soft_corner(1.0, share, slope) + steepness * x * share * (1.0 - share) * scale)
    of_x = direct - real[:, None] * scale * (shift + z * stretch)
    return of_x.astype(x.dtype), of_slope.astype(slope.dtype), None


_of_batch.defvjp(_forward, _backward)


def _in_blocks(sums: Callable[[tuple[Array, Array]], Array], rows: tuple[Array, Array]) -> Array:
    """Adds up `sums` over blocks of rows [N, C] that stay in a core's cache."""
    count, channels = rows[0].shape
    least = max(1, -(-count * channels // BLOCK))
    blocks = next((n for n in range(least, count + 1) if count % n == 0), 1)
    if blocks > 4 * least:
        blocks = 1  # a number of few divisors: in blocks of a row or two nothing would be gained
    start = jnp.zeros((3, channels), jax.eval_shape(sums, rows).dtype)
    cut = jax.tree.map(lambda v: v.reshape(blocks, count // blocks, channels), rows)
    return jax.lax.scan(lambda total, block: (total + sums(block), None), start, cut)[0]


def _over_devices(total: Array, axis_name: str | None) -> Array:
    return total if axis_name is None else jax.lax.psum(total, axis_name)


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
