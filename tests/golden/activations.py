"""Activations by the names that the reference implementations have for them."""

from __future__ import annotations

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.mlp import Activation
from jaxrec.types import Array


class OneSlope(nn.Module):
    """PReLU with one slope for all channels, as PyTorch's is by default."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, where: Array | None = None) -> Array:
        slope = self.param("alpha", nn.initializers.constant(0.25), (1,))
        return jnp.where(x > 0, x, slope * x)


class DiceOfRows(nn.Module):
    """torch-rechub's Dice: mean and summed variance of each row, over its channels, and one slope."""

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False, where: Array | None = None) -> Array:
        slope = self.param("alpha", nn.initializers.normal(1.0), (1,))
        centred = x - x.mean(axis=1, keepdims=True)
        share = jax.nn.sigmoid(centred / jnp.sqrt((centred**2 + self.epsilon).sum(axis=1, keepdims=True)))
        return x * (share + (1.0 - share) * slope)


# of torch-rechub, by its names
WITH_PARAMETERS: dict[str, type[nn.Module]] = {"prelu": OneSlope, "dice": DiceOfRows}


def _softshrink(x: Array) -> Array:
    return jnp.sign(x) * jax.nn.relu(jnp.abs(x) - 0.5)


FUNCTIONS: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "leakyrelu": jax.nn.leaky_relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "mish": jax.nn.mish,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "softshrink": _softshrink,
    "tanhshrink": lambda x: x - jnp.tanh(x),
    "softmax": jax.nn.softmax,
    **dict.fromkeys(("none", "linear", "identity"), lambda x: x),
}


def one_name(names: str | list[str]) -> str:
    """The name of the activation that all layers have, of a name or a list of names, one a layer.

    Raises:
      ValueError: the list has several, where all layers of our MLP have the same.
    """
    found = {names} if isinstance(names, str) else set(names)
    if len(found) != 1:
        raise ValueError(f"activations {sorted(found)}: all layers of our MLP have the same")
    return found.pop()


def activation(name: str) -> Activation:
    """The function of a name such as "relu", "leaky_relu", "nn.ReLU" or "nn.LeakyReLU(negative_slope=0.2)".

    Raises:
      ValueError: another activation (one with parameters of its own too), or another argument.
    """
    found = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+?)(?:\(([^()]*)\))?", name.strip())
    key = found[1].lower().replace("_", "") if found else ""
    if found is None or key not in FUNCTIONS:
        raise ValueError(f"activation {name}: must be one of {', '.join(FUNCTIONS)}, without parameters")
    if not found[2]:
        return FUNCTIONS[key]
    slope = re.fullmatch(r"\s*(negative_slope|alpha)\s*=\s*([0-9.e+-]+)\s*", found[2])
    if slope is None or (key, slope[1]) not in (("leakyrelu", "negative_slope"), ("elu", "alpha")):
        raise ValueError(f"activation {name}: its argument is not understood")
    value = float(slope[2])
    if key == "elu":
        return functools.partial(jax.nn.elu, alpha=value)
    return functools.partial(jax.nn.leaky_relu, negative_slope=value)
