"""NextItNet: dilated causal convolutions over a user's items (Yuan et al., WSDM 2019, arXiv:1808.05163).

Residual blocks of holed convolutions (section 3): two convolutions each, of dilation l and 2l (form b), or
one between two products that halve and restore the channels (form a). Scores have their own table and bias.

Departs from the paper: a convolution reads zeros where padding stands. `skip_padding=False` reads what the
blocks have made of padding, as the authors' code does, though the vector of id 0 itself never trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dilated import CausalConv
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.remat import as_function
from jaxrec.nn.layers.sizes import check_sizes
from jaxrec.types import Array

INIT = nn.initializers.truncated_normal(0.02)


class NextItNet(nn.Module):
    """Item vectors → residual blocks of dilated causal convolutions → scores of the next item.

    Shape names: B batch, L slots, C dim (channels), V vocab_size (+ extra_rows).

    Fields besides the sizes:
      dilations: one of each block, so that (1, 4) means 1, 2, 4, 8 in blocks of two convolutions.
      bottleneck: blocks of one convolution of C/2 channels, normalised before each product.
      tied: True scores with the input's table after a linear layer, as RecBole does. False with a table and
        a bias of its own after ReLU: then item_table() has the bias as its last column, and outputs a 1.
      skip_padding: True makes padding on the left invisible, and packed rows equal to padded ones. False
        reads it, so that packed rows differ.
      max_len: number of most recent events that training and ranking read; the receptive field is
        1 + 3 (kernel_size - 1) Σ dilations, or a third of that sum in bottleneck blocks.
      extra_rows: rows of the tables after num_items that are not items. dtype: of the computation.
      remat: whether the backward pass computes blocks again instead of keeping their activations.
    """

    num_items: int
    dim: int = 100
    dilations: Sequence[int] = (1, 2, 1, 2, 1, 2)
    kernel_size: int = 3
    bottleneck: bool = False
    tied: bool = False
    skip_padding: bool = True
    max_len: int = 50
    norm_epsilon: float = 1e-8
    extra_rows: int = 0
    dtype: Any = None
    remat: bool = False

    def setup(self) -> None:
        check_sizes(self, "num_items", "dim", "max_len")
        shape = (self.num_items + 1 + self.extra_rows, self.dim)
        self.item_embedding = self.param("item_embedding", pad_row(INIT), shape)
        block = BottleneckBlock if self.bottleneck else TwoLayerBlock
        self.layers = [
            block(dilation, self.kernel_size, self.norm_epsilon, self.dtype, name=f"layer_{i}")
            for i, dilation in enumerate(self.dilations)
        ]
        if self.tied:
            self.output = Dense(self.dim, kernel_init=INIT, dtype=self.dtype)
        else:
            self.output_embedding = self.param("output_embedding", pad_row(INIT), shape)
            self.output_bias = self.param("output_bias", nn.initializers.zeros, shape[:1])

    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps item ids to states that predict the next item: [B, L] → [B, L, C], C + 1 if untied.

        Args:
          items: ids, right-aligned, 0 = padding or a masked item, [B, L].
          positions, rows, train: ignored; there are no positions and no dropout.
          segments: numbers of the users that share a packed row, 0 = padding, [B, L]; None: one user each.
        """
        del positions, rows, train
        x = encode(self.layers, self.item_embedding, items, segments, self.skip_padding, remat=self.remat)
        if self.tied:
            return self.output(x)
        x = nn.relu(x)
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, C], or [V, C + 1]. A score is a product with one of them."""
        if self.tied:
            return self.item_embedding
        return jnp.concatenate([self.output_embedding, self.output_bias[:, None]], axis=-1)


def encode(
    layers: Sequence[nn.Module],
    table: Array,
    items: Array,
    segments: Array | None,
    skip_padding: bool,
    *,
    remat: bool = False,
) -> Array:
    """Vectors of the items through all blocks: ids [B, L] → [B, L, C]. Arguments as of `NextItNet`."""
    x = lookup(table, items)
    real = items != 0 if skip_padding else None
    for layer in layers:
        x = as_function(layer, remat=remat)(x, real=real, segments=segments)
    return x


class TwoLayerBlock(nn.Module):
    """Form b: twice convolution → norm → ReLU, with dilations l and 2l, and + x."""

    dilation: int
    kernel_size: int = 3
    norm_epsilon: float = 1e-8
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, real: Array | None = None, segments: Array | None = None) -> Array:
        """Maps [B, L, C] to [B, L, C]. real, segments: see `CausalConv`."""
        y = x
        for number, dilation in ((1, self.dilation), (2, 2 * self.dilation)):
            convolution = CausalConv(
                x.shape[-1], self.kernel_size, dilation, dtype=self.dtype, name=f"conv_{number}"
            )
            z = self.patched(number, y, convolution(y, real=real, segments=segments))
            y = nn.relu(norm(self.norm_epsilon, f"norm_{number}", self.dtype)(z))
        return x + y

    def patched(self, number: int, before: Array, after: Array) -> Array:
        """What the norm reads, given the input and the output of convolution 1 or 2."""
        del number, before
        return after


class BottleneckBlock(nn.Module):
    """Form a: norm → ReLU → product to C/2, the same with a convolution and with a product to C, and + x."""

    dilation: int
    kernel_size: int = 3
    norm_epsilon: float = 1e-8
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, real: Array | None = None, segments: Array | None = None) -> Array:
        """Maps [B, L, C] to [B, L, C]. real, segments: see `CausalConv`."""
        channels = x.shape[-1]
        if channels % 2:
            raise ValueError(f"dim={channels}: bottleneck blocks need an even number of channels")
        narrow = channels // 2

        def active(number: int, y: Array) -> Array:
            return nn.relu(norm(self.norm_epsilon, f"norm_{number}", self.dtype)(y))

        y = Dense(narrow, kernel_init=INIT, dtype=self.dtype, name="down")(active(1, x))
        convolution = CausalConv(narrow, self.kernel_size, self.dilation, dtype=self.dtype, name="conv")
        y = convolution(active(2, y), real=real, segments=segments)
        return x + Dense(channels, kernel_init=INIT, dtype=self.dtype, name="up")(active(3, y))


def norm(epsilon: float, name: str, dtype: Any) -> nn.LayerNorm:
    """Layer normalisation over channels with a learned scale and shift."""
    return nn.LayerNorm(epsilon, use_fast_variance=False, dtype=dtype, name=name)
