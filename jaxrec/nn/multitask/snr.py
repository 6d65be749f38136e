"""Sub-network routing (Ma et al., AAAI 2019, doi:10.1609/aaai.v33i01.3301216).

Layers of sub-networks whose connections are switched by learned gates: one gate an edge, the same for all
examples. A gate is a hard-concrete variable (Louizos et al., ICLR 2018, arXiv:1712.01312), 0 or 1 with
positive probability. `SNR.open_edges` is the expected number of open gates, for an L0 penalty.

Departs from the paper as typeset: the temperature divides the noise as well as log α, as in Louizos et al.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


def hard_concrete(
    log_alpha: Array,
    uniform: Array | None = None,
    *,
    beta: float = 2 / 3,
    gamma: float = -0.1,
    zeta: float = 1.1,
) -> Array:
    """Hard-concrete gates (Louizos et al., ICLR 2018, sections 2.2 and 3).

        s = σ((log u - log(1 - u) + log α) / β)   z = clip(s (ζ - γ) + γ, 0, 1)   with u
        z = clip(σ(log α) (ζ - γ) + γ, 0, 1)                                        without

    Args:
      log_alpha: of each gate, [...].
      uniform: u in (0, 1), of a shape that broadcasts with that of log_alpha; None serves without noise.
      beta, gamma, zeta: see `HardConcrete`.
    """
    if uniform is not None:
        log_alpha = (jnp.log(uniform) - jnp.log1p(-uniform) + log_alpha) / beta
    return jnp.clip(nn.sigmoid(log_alpha) * (zeta - gamma) + gamma, 0.0, 1.0)


class HardConcrete(nn.Module):
    """Gates in [0, 1] with atoms at 0 and 1, each with a learned log α, see `hard_concrete`.

    Fields:
      shape: of the gates.
      beta: temperature, above 0. gamma, zeta: ends of the stretched range, below 0 and above 1.
      start: of log α.
    """

    shape: Sequence[int]
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    start: float = 0.0

    def __post_init__(self) -> None:
        if not (self.beta > 0 and self.gamma < 0 and self.zeta > 1):
            raise ValueError(
                f"beta={self.beta}, gamma={self.gamma}, zeta={self.zeta}: beta must be above 0, gamma "
                "below 0 and zeta above 1"
            )
        super().__post_init__()

    def setup(self) -> None:
        self.logits = self.param("log_alpha", nn.initializers.constant(self.start), tuple(self.shape))

    def __call__(self, *, train: bool = False) -> Array:
        """Gates of `shape`; in training one draw from the "dropout" stream for the whole batch."""
        uniform = None
        if train:
            tiny = jnp.finfo(jnp.float32).tiny
            uniform = jax.random.uniform(self.make_rng("dropout"), self.logits.shape, minval=tiny)
        return hard_concrete(self.logits, uniform, beta=self.beta, gamma=self.gamma, zeta=self.zeta)

    def open_probability(self) -> Array:
        """P(z > 0) in training, of each gate: σ(log α - β log(-γ / ζ))."""
        return nn.sigmoid(self.logits - self.beta * math.log(-self.gamma / self.zeta))


class SNR(nn.Module):
    """Layers of sub-networks, each reading gated sums of the layer before; the last sums feed the towers.

    Shape names: B batch, F features, n sub-networks of a layer, H their width, T tasks. Sows the gates of
    each layer, [following, n], as "gates" into the collection "intermediates".

        v_i = Σ_j z_ij W_ij u_j (SNR-Trans) or Σ_j z_ij u_j (SNR-Aver), j over a layer, i over the next.

    Fields:
      num_subnets: sub-networks of each layer. The first layer reads the features.
      dims: of each layer, the widths of a sub-network's MLP.
      transform: True is SNR-Trans; W_ij keeps the width. False is SNR-Aver.
      beta, gamma, zeta, start: of the gates, see `HardConcrete`.
      mlp: builds all MLPs, see `Tower`.
    """

    num_tasks: int
    num_subnets: Sequence[int] = (4, 4)
    dims: Sequence[Sequence[int]] = ((64,), (64,))
    tower_dims: Sequence[int] = (16,)
    transform: bool = True
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    start: float = 0.0
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if not self.num_subnets or len(self.num_subnets) != len(self.dims) or not all(self.dims):
            raise ValueError(
                f"num_subnets={self.num_subnets}, dims={self.dims}: for each layer a number of sub-networks "
                "and a tuple of widths, such as (4, 4) and ((64,), (64,))"
            )
        super().__post_init__()

    def setup(self) -> None:
        following = (*self.num_subnets[1:], self.num_tasks)
        axes = (None, *[1] * (len(self.num_subnets) - 1))
        layers = tuple(zip(self.num_subnets, self.dims, following, axes, strict=True))
        self.subnets = [bank(self.mlp, n, axis)(dims) for n, dims, _, axis in layers]
        self.edges = [
            HardConcrete((after, n), beta=self.beta, gamma=self.gamma, zeta=self.zeta, start=self.start)
            for n, _, after, _ in layers
        ]
        if self.transform:
            init = nn.initializers.glorot_uniform(batch_axis=(0, 1))
            self.transforms = [
                self.param(f"transforms_{i}", init, (after, n, dims[-1], dims[-1]))
                for i, (n, dims, after, _) in enumerate(layers)
            ]
        self.towers = bank(Tower, self.num_tasks, in_axes=1)(self.tower_dims, mlp=self.mlp)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] to one logit a task [B, T]."""
        for i, (subnets, edges) in enumerate(zip(self.subnets, self.edges, strict=True)):
            outputs = subnets(x, train=train)  # [B, n, H]
            z = edges(train=train)
            self.sow("intermediates", "gates", z)  # [after, n]
            if self.transform:
                x = jnp.einsum("bjh,ijhk->bik", outputs, z[..., None, None] * self.transforms[i])
            else:
                x = jnp.einsum("bjh,ij->bih", outputs, z)
        return self.towers(x, train=train)

    def open_edges(self) -> Array:
        """Expected number of open gates, the L0 term of the paper before its λ: a scalar."""
        return jnp.sum(jnp.stack([edges.open_probability().sum() for edges in self.edges]))
