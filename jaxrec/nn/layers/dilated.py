"""Causal convolutions with holes over sequences, some of whose slots are not to be read."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array


def earlier(x: Array, steps: int) -> Array:
    """What stands `steps` slots before each one, zeros (False) past the start: [B, L, ...], same shape."""
    length = x.shape[1]
    rest = ((0, 0),) * (x.ndim - 2)
    return jnp.pad(x[:, : max(length - steps, 0)], ((0, 0), (min(steps, length), 0), *rest))


class CausalConv(nn.Module):
    """y_t = b + Σ_k W_k x_{t - (K - 1 - k)·dilation}: the last of K taps reads slot t itself.

    The taps stand side by side and meet the kernel [K, C, features] in one matrix product.
    """

    features: int
    kernel_size: int = 3
    dilation: int = 1
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None  # of the computation; parameters are float32

    def __post_init__(self) -> None:
        check_sizes(self, "features", "kernel_size", "dilation")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, real: Array | None = None, segments: Array | None = None) -> Array:
        """Maps [B, L, C] to [B, L, features].

        Args:
          real: False where a slot is read as zeros, [B, L]; None means that all are read.
          segments: a tap reads zeros where another number stands, [B, L]; None means one number a row.
        """
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x if real is None else jnp.where(real[..., None], x, 0.0)
        taps = []
        for step in range(self.kernel_size - 1, -1, -1):
            tap = earlier(x, step * self.dilation)
            if segments is not None:
                same = earlier(segments, step * self.dilation) == segments
                tap = jnp.where(same[..., None], tap, 0.0)
            taps.append(tap)
        wide = jnp.concatenate(taps, axis=-1).reshape(-1, shape[0] * shape[1])
        return (wide @ kernel.reshape(-1, self.features) + bias).reshape(*x.shape[:2], self.features)
