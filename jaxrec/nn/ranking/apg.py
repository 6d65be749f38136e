"""Adaptive parameter generation (Yan et al., NeurIPS 2022, arXiv:2203.16218).

Linear layers whose weights are made for each example from a condition: W_i = U S_i V, where U and V are
learned and a small network makes S_i, K × K, from the condition z_i. Never forms W_i: ((h U) S_i) V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dice import activate
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.mlp import MLP, Activation, normalise
from jaxrec.types import Array

INIT = nn.initializers.glorot_normal()
FACTORS = {"u": ("u_left", "u_right"), "v": ("v_left", "v_right")}


class GeneratedDense(nn.Module):
    """A linear layer with weights of its own for each example.

    Shape names: B batch, N input, M = dim, Z condition, K rank, P inner width.

    Fields:
      dim: width of the output.
      rank: K, at most N and M; None makes the whole of W_i, N × M numbers an example.
      inner_dim: P, at least K: U = U_l U_r and V = V_l V_r in training, see `merge`; None: U and V are free.
      generate_bias: whether the bias is made from the condition too.
      use_bias: whether there is a bias.
      hyper_dims: hidden layers of the network that makes the weights. hyper_mlp: builds them, see `Tower`.
    """

    dim: int
    rank: int | None = None
    inner_dim: int | None = None
    generate_bias: bool = True
    use_bias: bool = True
    hyper_dims: Sequence[int] = ()
    hyper_mlp: Callable[..., nn.Module] = MLP

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, *, train: bool = False) -> Array:
        """Maps [B, N] and conditions [B, Z] to [B, M]; None: the input is its own condition."""
        condition = x if condition is None else condition
        width, rank = x.shape[-1], self.rank
        if rank is not None and not 1 <= rank <= min(width, self.dim):
            raise ValueError(f"rank={rank}: must lie in 1..{min(width, self.dim)} for {width} → {self.dim}")
        if self.inner_dim is not None and (rank is None or self.inner_dim < rank):
            raise ValueError(f"inner_dim={self.inner_dim}: needs a rank, here {rank}, and must not be below")
        generated_bias = self.dim if self.use_bias and self.generate_bias else 0
        core = (width, self.dim) if rank is None else (rank, rank)

        hidden = self.hyper_mlp(self.hyper_dims, name="hyper_hidden")(condition, train=train)
        made = nn.Dense(generated_bias + core[0] * core[1], kernel_init=INIT, name="hyper")(hidden)
        weights = made[:, generated_bias:].reshape(-1, *core)
        if rank is None:
            x = jnp.einsum("bn,bnm->bm", x, weights)
        else:
            x = jnp.einsum("bk,bkl->bl", x @ self._factor("u", width, rank), weights)
            x = x @ self._factor("v", rank, self.dim)
        if not self.use_bias:
            return x
        if generated_bias:
            return x + made[:, :generated_bias]
        return x + self.param("bias", nn.initializers.zeros, (self.dim,))

    def _factor(self, name: str, rows: int, columns: int) -> Array:
        if self.inner_dim is None:
            return self.param(name, INIT, (rows, columns))
        left, right = FACTORS[name]
        return self.param(left, INIT, (rows, self.inner_dim)) @ self.param(
            right, INIT, (self.inner_dim, columns)
        )


def merge(params: Mapping[str, Any]) -> dict[str, Any]:
    """Multiplies U_l U_r and V_l V_r out, wherever they stand: for the same model with inner_dim=None."""
    merged = {
        name: merge(value) if isinstance(value, Mapping) else value
        for name, value in params.items()
        if name not in sum(FACTORS.values(), ())
    }
    for name, (left, right) in FACTORS.items():
        if left in params:
            merged[name] = params[left] @ params[right]
    return merged


class APG(nn.Module):
    """Generated linear layer → batch norm → activation → dropout for each width; then logits.

    Fields:
      dims: widths of the layers.
      num_tasks: logits that an ordinary linear layer makes of the last one; None returns the last layer.
      rank, inner_dim: one value, or one for each layer.
      generate_bias, use_bias, hyper_dims, hyper_mlp: see `GeneratedDense`.
      activation, dropout, batch_norm, axis_name, bits: of the layers, see `MLP`.
    """

    dims: Sequence[int] = (256, 128)
    num_tasks: int | None = 1
    rank: int | Sequence[int | None] | None = 32
    inner_dim: int | Sequence[int | None] | None = None
    generate_bias: bool = True
    use_bias: bool = True
    hyper_dims: Sequence[int] = ()
    hyper_mlp: Callable[..., nn.Module] = MLP
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        for name in ("rank", "inner_dim"):
            values = getattr(self, name)
            if isinstance(values, Sequence) and len(values) != len(self.dims):
                raise ValueError(f"{name}={values}: one value, or one for each of dims={tuple(self.dims)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None, *, train: bool = False) -> Array:
        """Maps features [B, F] and conditions [B, Z] to logits [B, T]; None: see `GeneratedDense`."""
        for i, (dim, rank, inner_dim) in enumerate(zip(self.dims, *self.per_layer(), strict=True)):
            x = GeneratedDense(
                dim,
                rank=rank,
                inner_dim=inner_dim,
                generate_bias=self.generate_bias,
                use_bias=self.use_bias,
                hyper_dims=self.hyper_dims,
                hyper_mlp=self.hyper_mlp,
                name=f"layer_{i}",
            )(x, condition, train=train)
            if self.batch_norm:
                x = normalise(f"norm_{i}", train, self.axis_name)(x)
            x = activate(self.activation, x, f"activation_{i}", train=train, axis_name=self.axis_name)
            x = Dropout(self.dropout, self.bits)(x, train=train)
        if self.num_tasks is None:
            return x
        return nn.Dense(self.num_tasks, self.use_bias, kernel_init=INIT, name="logits")(x)

    @nn.nowrap
    def per_layer(self) -> tuple[Sequence[int | None], Sequence[int | None]]:
        """The rank and the inner width of each layer."""
        rank, inner_dim = (
            value if isinstance(value, Sequence) else [value] * len(self.dims)
            for value in (self.rank, self.inner_dim)
        )
        return rank, inner_dim
