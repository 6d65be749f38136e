"""Stacks of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from jaxrec.nn.layers.dice import Activation as Activation
from jaxrec.nn.layers.dice import activate
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.types import Array


class MLP(nn.Module):
    """Linear → batch norm → activation → dropout, once for each width.

    Fields:
      dims: widths of the layers; none at all is the identity.
      activation: a function, or a class such as `Dice`, of which every layer has its own.
      dropout: rate, from the "dropout" stream.
      batch_norm: between the linear layer and its activation, statistics in the collection "batch_stats".
      activate_last: False ends with a linear layer alone, without norm, activation and dropout.
      axis_name: of the devices whose batches share their statistics; None: each device has its own.
      bits: random bits for dropout; with several devices `dropout.across_devices(bits, axis_name)`, or each
        draws the same for its examples.
      dtype: of the computation, such as jnp.bfloat16; parameters and statistics are float32. None: float32.
    """

    dims: Sequence[int]
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    activate_last: bool = True
    use_bias: bool = True
    axis_name: str | None = None
    bits: Bits = threefry_bits
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    dtype: Any = None

    def __post_init__(self) -> None:
        if any(dim < 1 for dim in self.dims):
            raise ValueError(f"dims={tuple(self.dims)}: each layer needs a width of at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [..., F] to [..., dims[-1]]."""
        for i, dim in enumerate(self.dims):
            x = nn.Dense(dim, self.use_bias, self.dtype, kernel_init=self.kernel_init, name=f"layer_{i}")(x)
            if i + 1 < len(self.dims) or self.activate_last:
                if self.batch_norm:
                    x = normalise(f"norm_{i}", train, self.axis_name, self.dtype)(x)
                x = activate(self.activation, x, f"activation_{i}", train=train, axis_name=self.axis_name)
                x = Dropout(self.dropout, self.bits)(x, train=train)
        return x


class Tower(nn.Module):
    """An MLP and a linear layer to one logit.

    Fields:
      dims: widths of the hidden layers.
      mlp: builds them: `MLP`, a `Factory` of it, or another module class that is built as mlp(dims, name=…)
        and maps [B, F] to [B, dims[-1]], with `train` as a keyword.
    """

    dims: Sequence[int] = ()
    mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps [B, F] to a logit [B]."""
        x = self.mlp(self.dims, name="mlp")(x, train=train)
        return nn.Dense(1, kernel_init=nn.initializers.glorot_uniform(), name="logit")(x)[..., 0]


def normalise(name: str, train: bool, axis_name: str | None = None, dtype: Any = None) -> nn.BatchNorm:
    """Batch norm over all axes but the last: statistics of the batch in training, running ones otherwise.

    Running statistics keep 0.9 of their value at a step, as PyTorch's do.
    """
    return nn.BatchNorm(
        not train, momentum=0.9, dtype=dtype, axis_name=axis_name, use_fast_variance=False, name=name
    )
