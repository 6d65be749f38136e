"""Product-based neural networks (Qu et al., ICDM 2016, arXiv:1611.00144)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dice import activate
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.interaction import Kernel, KernelProducts, inner_products, outer_product
from jaxrec.nn.layers.mlp import MLP, Activation, Tower, normalise
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


class PNN(nn.Module):
    """A layer that reads the vectors and their products, l = f(W_z z + W_p p + b), and an MLP.

    IPNN has inner products, OPNN the outer product of the sum of all vectors with itself, PNN* both; with
    neither it is FNN.

    Shape names: B batch, N fields, M width of a vector, D₁ = dims[0].

    Fields:
      fields: columns of one width M.
      inner, outer: which products there are.
      factorised: whether the weights of the inner products have rank one, W_p = θ θᵀ for each unit, so that
        their sum is ‖Σ_i θ_i v_i‖²; False: each pair i > j has a weight of its own.
      kernels: forms of `KernelProducts`, whose pairs have a weight each: the authors' later KPNN, which their
        public code and its ports have in place of the outer product.
      dims: widths of the product layer and of the layers after it. activation and the rest: of them
        all, see `MLP`.
    """

    fields: tuple[Categorical | Numeric, ...]
    inner: bool = True
    outer: bool = False
    factorised: bool = True
    kernels: Sequence[Kernel] = ()
    dims: Sequence[int] = (400, 400, 400)
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits
    table_init: nn.initializers.Initializer = nn.initializers.normal(0.01)

    def __post_init__(self) -> None:
        if not self.dims:
            raise ValueError("dims=(): the first width is that of the product layer")
        if len(set(self.kernels)) < len(self.kernels):
            raise ValueError(f"kernels={tuple(self.kernels)}: name each form once")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        """Maps columns to a logit [B]."""
        vectors = FeatureEmbedding(self.fields, self.table_init, name="embedding").stacked(batch)  # [B, N, M]
        count, width, dim = vectors.shape[1], vectors.shape[2], self.dims[0]
        x = nn.Dense(dim, kernel_init=INIT, name="linear")(vectors.reshape(-1, count * width))
        if self.inner and self.factorised:
            theta = self.param("theta", INIT, (count, dim))
            x = x + jnp.sum(jnp.einsum("bnm,nd->bmd", vectors, theta) ** 2, axis=1)
        elif self.inner:
            x = x + nn.Dense(dim, use_bias=False, kernel_init=INIT, name="inner")(inner_products(vectors))
        if self.outer:
            products = outer_product(vectors).reshape(-1, width * width)
            x = x + nn.Dense(dim, use_bias=False, kernel_init=INIT, name="outer")(products)
        for form in self.kernels:
            products = KernelProducts(form, name=f"{form}_products")(vectors)
            x = x + nn.Dense(dim, use_bias=False, kernel_init=INIT, name=form)(products)
        if self.batch_norm:
            x = normalise("norm", train, self.axis_name)(x)
        x = activate(self.activation, x, "activation", train=train, axis_name=self.axis_name)
        x = Dropout(self.dropout, self.bits)(x, train=train)
        mlp = Factory(
            MLP,
            activation=self.activation,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            axis_name=self.axis_name,
            bits=self.bits,
        )
        return Tower(self.dims[1:], mlp=mlp, name="tower")(x, train=train)
