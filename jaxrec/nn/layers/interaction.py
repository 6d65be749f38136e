"""Products of features: factorisation machines, inner and outer products, cross networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array

INIT = nn.initializers.he_normal()
Kernel = Literal["mat", "vec", "num"]


def fm_second_order(vectors: Array) -> Array:
    """Σ_{i<j} ⟨v_i, v_j⟩ as ½ Σ_d ((Σ_i v_id)² - Σ_i v_id²): [..., F, D] → [...] (Rendle, ICDM 2010).

    >>> float(fm_second_order(jnp.array([[1.0, 2.0], [3.0, 4.0]])))  # 1 · 3 + 2 · 4
    11.0
    """
    total = jnp.sum(vectors, axis=-2) ** 2 - jnp.sum(vectors**2, axis=-2)
    return 0.5 * jnp.sum(total, axis=-1)


def inner_products(vectors: Array, *, itself: bool = False) -> Array:
    """⟨v_i, v_j⟩ of all pairs i > j, row by row of the lower triangle: [..., F, D] → [..., F(F-1)/2].

    itself: whether i = j counts too, F(F+1)/2.
    """
    rows, columns = np.tril_indices(vectors.shape[-2], 0 if itself else -1)
    return jnp.einsum("...id,...jd->...ij", vectors, vectors)[..., rows, columns]


def outer_product(vectors: Array) -> Array:
    """Σ_i Σ_j v_i v_jᵀ = (Σ_i v_i)(Σ_j v_j)ᵀ: [..., F, D] → [..., D, D]."""
    total = jnp.sum(vectors, axis=-2)
    return total[..., :, None] * total[..., None, :]


class KernelProducts(nn.Module):
    """v_iᵀ K_ij v_j of all pairs i > j, each with a trained kernel (Qu et al., TOIS 2018, arXiv:1807.00311).

    Fields: form of K: "mat" is free, "vec" diagonal, "num" a multiple of the identity.
    """

    form: Kernel = "mat"

    def __post_init__(self) -> None:
        if self.form not in get_args(Kernel):
            raise ValueError(f"form={self.form!r}: must be one of {get_args(Kernel)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, vectors: Array) -> Array:
        """Maps [..., F, D] to [..., F(F-1)/2], row by row of the lower triangle as `inner_products`."""
        dim = vectors.shape[-1]
        rows, columns = np.tril_indices(vectors.shape[-2], -1)
        first, second = vectors[..., rows, :], vectors[..., columns, :]
        shapes: dict[str, tuple[int, ...]] = {
            "mat": (dim, len(rows), dim),
            "vec": (len(rows), dim),
            "num": (len(rows), 1),
        }
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shapes[self.form])
        if self.form == "mat":
            second = jnp.einsum("apb,...pb->...pa", kernel, second)
            return jnp.sum(first * second, axis=-1)
        return jnp.sum(first * kernel * second, axis=-1)


class CrossNetworkV1(nn.Module):
    """x ← x₀ (x · w) + b + x, `num_layers` times (Wang et al., ADKDD 2017, arXiv:1708.05123)."""

    num_layers: int = 3

    def __post_init__(self) -> None:
        if self.num_layers < 0:
            raise ValueError(f"num_layers={self.num_layers}: must be at least 0")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, d] to [B, d]."""
        start = x
        for i in range(self.num_layers):
            weight = self.param(f"weight_{i}", nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1],))
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (x.shape[-1],))
            x = start * (x @ weight)[:, None] + bias + x
        return x


class CrossNetwork(nn.Module):
    """x ← x₀ ⊙ (W x + b) + x, `num_layers` times (Wang et al., WWW 2021, arXiv:2008.13535, section 3.2).

    After l layers x is a polynomial of degree l + 1 in the input.

    Fields: rank makes W = U Vᵀ with U and V [d, rank]; None: W is free, [d, d].
    """

    num_layers: int = 3
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.num_layers < 0 or (self.rank is not None and self.rank < 1):
            raise ValueError(f"num_layers={self.num_layers}, rank={self.rank}: at least 0 layers and rank 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, d] to [B, d]."""
        start = x
        for i in range(self.num_layers):
            low = x
            if self.rank is not None:
                low = nn.Dense(self.rank, use_bias=False, kernel_init=INIT, name=f"reduce_{i}")(x)
            x = start * nn.Dense(x.shape[-1], kernel_init=INIT, name=f"layer_{i}")(low) + x
        return x


class CrossNetworkMix(nn.Module):
    """x ← Σ_k G_k(x) · x₀ ⊙ (U_k g(C_k g(V_kᵀ x)) + b) + x, `num_layers` times (DCN-V2, section 3.3).

    Shape names: B batch, d width, K experts, r rank.

    Fields:
      activation: g, such as the identity.
      gate: over the K logits of an example, such as nn.softmax or nn.sigmoid.
      share_gates: whether all layers have the same gate weights, as in FuxiCTR.
    """

    num_layers: int = 3
    num_experts: int = 4
    rank: int = 32
    activation: Callable[[Array], Array] = jnp.tanh
    gate: Callable[[Array], Array] = nn.softmax
    share_gates: bool = False

    def __post_init__(self) -> None:
        if self.num_layers < 0 or self.num_experts < 1 or self.rank < 1:
            raise ValueError(
                f"num_layers={self.num_layers}, num_experts={self.num_experts}, rank={self.rank}: "
                "at least 0 layers, 1 expert and rank 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, d] to [B, d]."""
        start, width = x, x.shape[-1]
        up = nn.initializers.he_normal(in_axis=-1, out_axis=-2, batch_axis=0)
        down = nn.initializers.he_normal(in_axis=-2, out_axis=-1, batch_axis=0)
        tall, square = (self.num_experts, width, self.rank), (self.num_experts, self.rank, self.rank)

        def gate_weights(name: str) -> Array:
            return self.param(name, nn.initializers.he_normal(-1, -2), (self.num_experts, width))

        shared = gate_weights("gate") if self.share_gates else None
        for i in range(self.num_layers):
            weights = gate_weights(f"gate_{i}") if shared is None else shared
            u, v = self.param(f"u_{i}", up, tall), self.param(f"v_{i}", down, tall)
            c = self.param(f"c_{i}", up, square)
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (width,))
            share = self.gate(x @ weights.T)  # [B, K]
            self.sow("intermediates", "gates", share)
            low = self.activation(jnp.einsum("bd,kdr->bkr", x, v))
            low = self.activation(jnp.einsum("bkr,ksr->bks", low, c))
            experts = jnp.einsum("bk,bkr,kdr->bd", share, low, u) + share.sum(axis=-1, keepdims=True) * bias
            x = start * experts + x
        return x
