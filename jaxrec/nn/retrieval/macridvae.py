"""MacridVAE (Ma, Zhou, Cui, Yang and Zhu, NeurIPS 2019, arXiv:1910.14238): a code for each concept of a user.

Items are softly assigned to K concepts by their cosine with each one's prototype, the same for all users. A
user's row is split by the assignment, each part is encoded by one encoder to a code of its own, and an item's
probability is a mixture over concepts. A user has no parameter. Read after the paper and the authors' code.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.nn.retrieval.multivae import Reconstruction, normal_rows, unit_rows
from jaxrec.types import Array


class MacridVAE(nn.Module):
    """Maps a user's row to scores of all items by way of a code for each concept.

    Shape names: B batch, V = num_items + 1 columns, of which column 0 is padding, K concepts, D dim. Arrays
    of [B, K, V] are in memory.

    Fields:
      dropout: of the entries of each concept's part of the row.
      temperature: τ, which divides all cosines.
      prior_std: σ0, of the prior around a code's mean, which has length 1.
      gumbel: whether training draws the assignment by Gumbel-softmax of temperature 1, once for the batch.
      normalise: "concept" makes each concept's part of a row one of length 1; "history" the row before it is
        split, as RecBole, so that a concept of few items has a small input.
    """

    num_items: int
    num_concepts: int = 7
    dim: int = 100
    hidden_dims: tuple[int, ...] = (100,)
    dropout: float = 0.5
    temperature: float = 0.1
    prior_std: float = 0.075
    gumbel: bool = True
    normalise: Literal["concept", "history"] = "concept"
    bits: Bits = threefry_bits

    def setup(self) -> None:
        check_sizes(num_items=self.num_items, num_concepts=self.num_concepts, dim=self.dim)
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be positive")
        if not self.prior_std >= 0:
            raise ValueError(f"prior_std={self.prior_std}: must be 0 or more")
        if self.normalise not in ("concept", "history"):
            raise ValueError(f"normalise={self.normalise!r}: must be 'concept' or 'history'")
        init = nn.initializers.glorot_uniform()
        self.items = self.param("items", init, (self.num_items + 1, self.dim))
        self.concepts = self.param("concepts", init, (self.num_concepts, self.dim))
        self.encoder = MLP((*self.hidden_dims, 2 * self.dim), nn.tanh, activate_last=False)
        self.drop = Dropout(self.dropout, self.bits)

    def assignment(self, *, train: bool) -> Array:
        """Log-probability of each concept for each item, [V, K]; in training drawn, if `gumbel`."""
        logits = unit_rows(self.items) @ unit_rows(self.concepts).T / self.temperature
        if train and self.gumbel:
            logits = logits + jax.random.gumbel(self.make_rng("dropout"), logits.shape)
        return jax.nn.log_softmax(logits, axis=-1)

    def encode(
        self, x: Array, assignment: Array, *, train: bool, rows: Array | None = None
    ) -> tuple[Array, Array]:
        """Mean, of length 1, and log-variance in units of the prior's of each concept's posterior.

        x [B, V], assignment [V, K] → [B, K, D] twice.
        """
        share = jnp.exp(assignment).T  # [K, V]
        if self.normalise == "concept":
            parts = unit_rows(x[:, None] * share)
        else:
            parts = unit_rows(x)[:, None] * share
        mean, log_variance = jnp.split(self.encoder(self.drop(parts, train=train, rows=rows)), 2, axis=-1)
        return unit_rows(mean), log_variance

    def __call__(
        self, x: Array, *, train: bool, rows: Array | None = None, noise: Array | None = None
    ) -> Reconstruction:
        """Maps rows [B, V] of 0 and 1 to scores log Σ_k c_ik exp(z_k · h_i / τ), [B, V], and divergences [B].

        These are sums over concepts, and constant in the means, since all have length 1.

        Args:
          rows: number of each row in the whole batch, int32 [B]: its noise then derives from that alone.
          noise: what is drawn otherwise, of deviation σ0, [B, K, D].
        """
        assignment = self.assignment(train=train)
        mean, log_variance = self.encode(x, assignment, train=train, rows=rows)
        code = mean
        if train:
            if noise is None:
                noise = self.prior_std * normal_rows(self.make_rng("dropout"), mean.shape, rows)
            code = mean + noise * jnp.exp(0.5 * log_variance)
        cosine = jnp.einsum("bkd,vd->bkv", unit_rows(code), unit_rows(self.items))
        scores = jax.nn.logsumexp(assignment.T + cosine / self.temperature, axis=1)
        kl = 0.5 * jnp.sum(jnp.exp(log_variance) - 1.0 - log_variance, axis=(1, 2))
        return Reconstruction(scores, kl)
