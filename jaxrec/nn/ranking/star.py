"""Star topology adaptive recommender for several domains (Sheng et al., CIKM 2021, arXiv:2101.11427).

Every weight of a domain's network is a shared one times the domain's own. The domains' own kernels start at
1, so that at first all domains are the shared network; the paper leaves this open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Activation, Tower
from jaxrec.segments import pick, rows_by_id
from jaxrec.types import Array

MOMENTUM = 0.9  # what running statistics keep of their value at a step


class STAR(nn.Module):
    """Partitioned normalisation, a network a domain, and an auxiliary network that sees the domain.

    A batch may mix domains. All networks run on all examples, and each example keeps the output of its
    domain's network: the cost grows with the number of domains, and no example waits for a sort.

    Fields:
      dims: hidden layers. aux_dims: those of the auxiliary network.
      domain_dim: width of the domain's vector in the auxiliary network, 0 for none.
      domain_statistics: False normalises by the mean and variance of the whole batch, whatever the domains in
        it and in evaluation too, and keeps no running ones. A score then depends on the other examples: those
        that fill up a batch have to be left out by `where`, and an example alone loses its features.
      activate_output: whether the output of a domain's network, too, is normalised and activated.
      epsilon: of the partitioned normalisation.
      activation (a function), dropout, batch_norm, axis_name, bits: of all layers, see `MLP`. Batch norm in a
        domain's network runs over all examples, whatever their domain; the paper has none.

    With domain_dim=0, domain_statistics=False, batch_norm=True, activate_output=True it is the model that
    Scenario-Wise-Rec calls STAR.

    Shape names: B batch, F features, K domains, H layer width.
    """

    num_domains: int
    dims: Sequence[int] = (256, 128, 64)
    aux_dims: Sequence[int] = (32,)
    domain_dim: int = 8
    domain_statistics: bool = True
    activate_output: bool = False
    epsilon: float = 1e-6
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits

    def __post_init__(self) -> None:
        if self.num_domains < 1:
            raise ValueError(f"num_domains={self.num_domains}: must be at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, domain: Array, *, where: Array | None = None, train: bool = False) -> Array:
        """Maps features [B, F] and domains 0..K-1, int32 [B], to a logit [B]; NaN for any other domain.

        where: True where an example counts in the statistics of the batch that the partitioned normalisation
        takes, bool [B]; None: everywhere.
        """
        domain = jnp.where(domain < 0, self.num_domains, domain)  # or a negative one would count from the end
        norm = PartitionedNorm(
            self.num_domains,
            domain_statistics=self.domain_statistics,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            name="norm",
        )
        hidden = norm(x, domain, where=where, train=train)  # [B, K, F]
        for i, dim in enumerate((*self.dims, 1)):
            hidden = StarDense(self.num_domains, dim, name=f"layer_{i}")(hidden)
            if i < len(self.dims) or self.activate_output:
                if self.batch_norm:
                    norm = bank(nn.BatchNorm, self.num_domains, in_axes=1)(
                        not train,
                        momentum=MOMENTUM,
                        use_fast_variance=False,
                        axis_name=self.axis_name,
                        name=f"norm_{i}",
                    )
                    hidden = norm(hidden)
                hidden = Dropout(self.dropout, self.bits)(self.activation(hidden), train=train)
        own = pick(hidden[..., 0], domain[:, None])
        if self.domain_dim:
            vectors = rows_by_id(
                nn.Embed(self.num_domains, self.domain_dim, name="domain_embedding").embedding, domain
            )
            x = jnp.concatenate([vectors, x], axis=-1)
        mlp = Factory(
            MLP,
            activation=self.activation,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            axis_name=self.axis_name,
            bits=self.bits,
        )
        return own[:, 0] + Tower(self.aux_dims, mlp=mlp, name="auxiliary")(x, train=train)


class StarDense(nn.Module):
    """A linear layer a domain, whose kernel is shared ⊙ own and whose bias is shared + own."""

    num_domains: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, K, F] to [B, K, features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("shared_kernel", nn.initializers.lecun_normal(), shape)
        kernels = self.param("kernel", nn.initializers.ones, (self.num_domains, *shape))
        bias = self.param("shared_bias", nn.initializers.zeros, shape[1:])
        biases = self.param("bias", nn.initializers.zeros, (self.num_domains, *shape[1:]))
        return jnp.einsum("bkf,kfh->bkh", x, kernel * kernels) + bias + biases


class PartitionedNorm(nn.Module):
    """Batch norm whose statistics, and part of whose scale and shift, belong to a domain.

        γ γ_k ⊙ (x - mean) / √(var + ε) + β + β_k

    mean and var are those of the example's domain within the batch; outside training the running ones. A
    domain that a batch lacks keeps its running statistics; with one example alone its variance is 0. Running
    variances are of the unbiased ones of batches that have two examples of a domain, or a rare domain would
    seem narrow.
    """

    num_domains: int
    domain_statistics: bool = True
    epsilon: float = 1e-6
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, domain: Array, *, where: Array | None = None, train: bool) -> Array:
        """Maps [B, F] and domains [B] to each example as every domain scales and shifts it, [B, K, F].

        where: True where an example counts in the statistics, bool [B]; None: everywhere.
        """
        if self.domain_statistics:
            mean, var = self._of_domains(x, domain, where, train)
        else:
            mean, var = (row[0] for row in self._moments(x, jnp.ones((x.shape[0], 1), x.dtype), where)[1:])
        x = (x - mean) * jax.lax.rsqrt(var + self.epsilon)
        shape = (self.num_domains, x.shape[-1])
        scale = self.param("shared_scale", nn.initializers.ones, shape[1:])
        scales = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("shared_bias", nn.initializers.zeros, shape[1:])
        shifts = self.param("bias", nn.initializers.zeros, shape)
        return x[:, None] * (scale * scales) + shift + shifts

    def _of_domains(self, x: Array, domain: Array, where: Array | None, train: bool) -> tuple[Array, Array]:
        """Mean and variance of each example's domain, [B, F] each; in training moves the running ones."""
        shape = (self.num_domains, x.shape[-1])
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            member = jax.nn.one_hot(domain, self.num_domains, dtype=x.dtype)
            count, mean, var = self._moments(x, member, where)
            if not self.is_initializing():
                new = jnp.where(count > 0, 1.0 - MOMENTUM, 0.0)[:, None]
                running_mean.value += new * (mean - running_mean.value)
                unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))[:, None]
                new = jnp.where(count > 1, 1.0 - MOMENTUM, 0.0)[:, None]
                running_var.value += new * (unbiased - running_var.value)
        return rows_by_id(mean, domain), rows_by_id(var, domain)

    def _moments(self, x: Array, member: Array, where: Array | None) -> tuple[Array, Array, Array]:
        """Size [K], mean and biased variance [K, F] of groups, from examples [B, F] and membership [B, K].

        where: examples that are read, [B]; the others, which may hold anything, are members of no group.
        """
        if where is not None:
            x, member = jnp.where(where[:, None], x, 0.0), jnp.where(where[:, None], member, 0.0)

        def total(values: Array) -> Array:
            shared = self.axis_name is not None and not self.is_initializing()
            return jax.lax.psum(values, self.axis_name) if shared else values

        count = total(member.sum(axis=0))
        size = jnp.maximum(count, 1.0)[:, None]
        mean = total(member.T @ x) / size
        squares = (x - member @ mean) ** 2  # centred first: nothing cancels
        return count, mean, total(member.T @ squares) / size


class Domain(nn.Module):
    """Numbers of domains from a column of the batch: the condition of `Conditioned` for a STAR.

    first: the id of domain 0, which is 3 in tables of impressions (below it are padding, missing, unknown).
    """

    column: str
    first: int = 0

    def __call__(self, batch: Mapping[str, Array]) -> Array:
        """Maps columns to domains, int32 [B]."""
        if self.column not in batch:
            raise ValueError(f"column {self.column}: not in the batch, which has {', '.join(sorted(batch))}")
        return batch[self.column] - self.first


def premultiplied(params: Any) -> Any:
    """Parameters for serving: the same STAR with each domain's kernels and biases in one piece.

    The shared kernels become 1, the shared biases 0.
    """

    if "shared_kernel" not in params:
        return {
            name: premultiplied(node) if isinstance(node, Mapping) else node for name, node in params.items()
        }
    return {
        "shared_kernel": jnp.ones_like(params["shared_kernel"]),
        "shared_bias": jnp.zeros_like(params["shared_bias"]),
        "kernel": params["shared_kernel"] * params["kernel"],
        "bias": params["shared_bias"] + params["bias"],
    }
