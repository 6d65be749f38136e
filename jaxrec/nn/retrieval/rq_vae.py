"""RQ-VAE: vectors of items as codes of a few levels (Rajput et al., NeurIPS 2023, arXiv:2305.05065, 3.1).

Residual quantisation (Lee et al., CVPR 2022, arXiv:2203.01941) in the latent space of an autoencoder: the
code of each level is the nearest row of its codebook to what earlier levels left over. Codebooks are
parameters; `tasks.rq_vae` begins them at k-means of a batch, as drawn ones leave most codes unused.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


class Levels(NamedTuple):
    """Residual quantisation of N vectors by L levels.

    codes: int32 [N, L]. residuals: what each level quantises, [L, N, D]; gradients pass to the vectors alone.
    chosen: rows of the codebooks, [L, N, D]; gradients pass to the codebooks.
    """

    codes: Array
    residuals: Array
    chosen: Array


class Reconstruction(NamedTuple):
    """What an RQ-VAE makes of N vectors.

    vectors: decoded, [N, E]. levels: of the latent vectors.
    """

    vectors: Array
    levels: Levels


def quantise(vectors: Array, codebooks: Array) -> Levels:
    """The nearest code of each level, the first of equal ones: [N, D] and [L, K, D]."""

    def level(left: Array, table: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        products = jnp.matmul(left, table.T, precision="highest")
        distance = jnp.sum(table**2, axis=1) - 2 * products
        code = jnp.argmin(jax.lax.stop_gradient(distance), axis=1).astype(jnp.int32)
        chosen = rows_by_id(table, code)
        return left - jax.lax.stop_gradient(chosen), (code, left, chosen)

    _, (codes, residuals, chosen) = jax.lax.scan(level, vectors, codebooks)
    return Levels(codes.T, residuals, chosen)


def straight_through(vectors: Array, quantised: Array) -> Array:
    """The quantised vectors, whose gradient goes to `vectors` unchanged."""
    return vectors + jax.lax.stop_gradient(quantised - vectors)


class RQVAE(nn.Module):
    """An autoencoder whose latent vectors are sums of one code of each level.

    Shape names: N vectors, E input_dim, D latent_dim, L levels, K num_codes.

    Fields:
      input_dim: width of the vectors. hidden_dims: ReLU layers of the encoder; the decoder has them the other
      way round. latent_dim, levels, num_codes: D, L and K.
    """

    input_dim: int
    hidden_dims: tuple[int, ...] = (512, 256, 128)
    latent_dim: int = 32
    levels: int = 3
    num_codes: int = 256

    def setup(self) -> None:
        names = ("input_dim", "latent_dim", "levels", "num_codes")
        check_sizes(**{name: getattr(self, name) for name in names})
        self.encoder = MLP((*self.hidden_dims, self.latent_dim), activate_last=False)
        self.decoder = MLP((*self.hidden_dims[::-1], self.input_dim), activate_last=False)
        shape = (self.levels, self.num_codes, self.latent_dim)
        self.codebooks = self.param("codebooks", nn.initializers.normal(self.latent_dim**-0.5), shape)

    def __call__(self, vectors: Array, *, train: bool = False) -> Reconstruction:
        """Maps [N, E] to their reconstruction. train: ignored."""
        latent = self.encoder(vectors)
        levels = quantise(latent, self.codebooks)
        return Reconstruction(self.decoder(straight_through(latent, levels.chosen.sum(axis=0))), levels)

    def encode(self, vectors: Array) -> Array:
        """Latent vectors, before quantisation: [N, E] → [N, D]."""
        return self.encoder(vectors)

    def codes(self, vectors: Array) -> Array:
        """Codes of vectors, [N, E] → int32 [N, L]."""
        return quantise(self.encoder(vectors), self.codebooks).codes

    def decode_levels(self, vectors: Array) -> Array:
        """Reconstructions by the first 0, 1 .. L levels, [N, E] → [L + 1, N, E]."""
        chosen = quantise(self.encoder(vectors), self.codebooks).chosen
        partial = jnp.cumsum(jnp.concatenate([jnp.zeros_like(chosen[:1]), chosen]), axis=0)
        return self.decoder(partial)
