"""DLRM, the deep learning recommendation model (Naumov et al., 2019, arXiv:1906.00091).

Departs from the paper: biases start at 0 rather than N(0, 1/m), m the width of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dice import activate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.interaction import inner_products
from jaxrec.nn.layers.mlp import MLP, Activation
from jaxrec.types import Array, Key

INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")  # N(0, 2 / (m + n))


def rows_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Uniform within ±√(1 / rows) of a table [rows, D]."""
    limit = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class DLRM(nn.Module):
    """Numbers through a bottom MLP, then inner products of its output and all vectors, then a top MLP.

    Shape names: B batch, F categorical columns, D width of a vector.

    Fields:
      numbers: columns that the bottom MLP reads as they are, such as log(1 + x) of counts. Without any, ()
        with bottom_dims=(), there is no bottom MLP, and the top reads the F(F - 1)/2 products alone.
      categories: columns of width D; of several ids the paper takes the sum, `average=False`.
      bottom_dims: its widths, the last of which is D.
      top_dims: hidden layers before the logit. They read the bottom's output and all F(F + 1)/2 products
        (row by row of the lower triangle, the bottom's vector first).
      itself: whether products of vectors with themselves count too.
      products: False gives the top all vectors side by side, the bottom's first, in place of their products.
      mlp: builds the top MLP, see `Tower`. bottom_mlp: builds the bottom one; None: `mlp` builds both.
      bottom_output_activation: a function, or a class such as `Dice`, behind the bottom MLP; None: nothing.
        In FuxiCTR the bottom's last layer has an activation, but neither batch norm nor dropout:
        bottom_mlp=Factory(MLP, …, activate_last=False) and bottom_output_activation=nn.relu.
    """

    numbers: tuple[Numeric, ...]
    categories: tuple[Categorical, ...]
    bottom_dims: Sequence[int] = (512, 256, 64, 16)
    top_dims: Sequence[int] = (512, 256)
    itself: bool = False
    products: bool = True
    mlp: Callable[..., nn.Module] = Factory(MLP, kernel_init=INIT)
    bottom_mlp: Callable[..., nn.Module] | None = None
    bottom_output_activation: Activation | None = None

    def __post_init__(self) -> None:
        if bool(self.numbers) != bool(self.bottom_dims):
            raise ValueError(
                f"numbers={[field.name for field in self.numbers]}, bottom_dims={tuple(self.bottom_dims)}: "
                "the bottom MLP reads the numbers, so give both or neither"
            )
        for field in self.categories if self.numbers else ():
            if field.dim != self.bottom_dims[-1]:
                raise ValueError(
                    f"field {field.name}: dim={field.dim}, but bottom_dims={tuple(self.bottom_dims)}; "
                    "its last width must be that of all vectors"
                )
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Maps columns to a logit [B]."""
        vectors = FeatureEmbedding(self.categories, rows_init, name="embedding").stacked(batch)
        dense = []
        if self.numbers:
            numbers = FeatureEmbedding(self.numbers, name="numbers")(batch)
            dense = [self._bottom(numbers, train)]
            vectors = jnp.concatenate([dense[0][:, None], vectors], axis=1)
        if self.products:
            crossed = jnp.concatenate([*dense, inner_products(vectors, itself=self.itself)], axis=-1)
        else:
            crossed = vectors.reshape(vectors.shape[0], -1)
        self.sow("intermediates", "crossed", crossed)
        hidden = self.mlp(self.top_dims, name="top")(crossed, train=train)
        return nn.Dense(1, kernel_init=INIT, name="logit")(hidden)[..., 0]

    def _bottom(self, numbers: Array, train: bool) -> Array:
        """What the bottom MLP makes of the numbers, [B, D]."""
        bottom = (self.bottom_mlp or self.mlp)(self.bottom_dims, name="bottom")
        dense = bottom(numbers, train=train)
        if self.bottom_output_activation is None:
            return dense
        return activate(self.bottom_output_activation, dense, "bottom_activation", train=train)
