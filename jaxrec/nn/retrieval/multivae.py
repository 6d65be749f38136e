"""Mult-VAE and Mult-DAE (Liang, Krishnan, Hoffman and Jebara, WWW 2018, arXiv:1802.05814).

Auto-encoders of a user's row of the interaction matrix under a multinomial likelihood. A user has no
parameter: one who was not in training is encoded from the items of the row, as any other.

Departs from the authors' code: biases start at 0, theirs at draws of deviation 0.001.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.layers.pairs import check_sizes, unit
from jaxrec.types import Array


class Reconstruction(NamedTuple):
    """What an auto-encoder makes of rows: scores [B, V], logits of a softmax over items, column i for item i;
    kl: the divergence of each row's posterior from the prior in nats, [B], None if there is no posterior.
    """

    scores: Array
    kl: Array | None


class MultVAE(nn.Module):
    """A normal posterior of each user's code, from a row of 0 and 1, decoded to a score of every item.

    Shape names: B batch, V = num_items + 1 columns, of which column 0 is padding, D latent_dim.

    Fields:
      hidden_dims: widths of the encoder's hidden layers; the decoder has them in reverse order.
      dropout: of the row's entries.
      noise_std: factor of the posterior's standard deviation in training; 1 is the paper's, RecBole has 0.01.
    """

    num_items: int
    hidden_dims: tuple[int, ...] = (600,)
    latent_dim: int = 200
    dropout: float = 0.5
    noise_std: float = 1.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        check_sizes(num_items=self.num_items, latent_dim=self.latent_dim)
        self.encoder = MLP((*self.hidden_dims, 2 * self.latent_dim), nn.tanh, activate_last=False)
        self.decoder = MLP((*self.hidden_dims[::-1], self.num_items + 1), nn.tanh, activate_last=False)
        self.drop = Dropout(self.dropout, self.bits)

    def encode(self, x: Array, *, train: bool, rows: Array | None = None) -> tuple[Array, Array]:
        """Mean and log-variance of each row's posterior: [B, V] → [B, D] twice."""
        mean, log_variance = jnp.split(
            self.encoder(self.drop(unit_rows(x), train=train, rows=rows)), 2, axis=-1
        )
        return mean, log_variance

    def __call__(
        self, x: Array, *, train: bool, rows: Array | None = None, noise: Array | None = None
    ) -> Reconstruction:
        """Maps rows [B, V] of 0 and 1 to scores [B, V] and the divergence of each, [B].

        The code is the posterior's mean; in training a draw from it. Dropout and draws read the "dropout"
        stream.

        Args:
          rows: number of each row in the whole batch, int32 [B]: its noise then derives from that alone.
          noise: what is drawn otherwise, [B, D], in standard deviations of the posterior.
        """
        mean, log_variance = self.encode(x, train=train, rows=rows)
        code = mean
        if train:
            if noise is None:
                noise = self.noise_std * normal_rows(self.make_rng("dropout"), mean.shape, rows)
            code = mean + noise * jnp.exp(0.5 * log_variance)
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance, axis=-1)
        return Reconstruction(self.decoder(code), kl)


class MultDAE(nn.Module):
    """A denoising auto-encoder of a user's row: `MultVAE` with a code in place of a posterior.

    As in the authors' code the code itself has passed a tanh, and no hidden layer stands around it.
    """

    num_items: int
    hidden_dims: tuple[int, ...] = ()
    latent_dim: int = 200
    dropout: float = 0.5
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, x: Array, *, train: bool, rows: Array | None = None) -> Reconstruction:
        """Maps rows [B, V] of 0 and 1 to scores [B, V]. rows: as of `MultVAE`."""
        check_sizes(num_items=self.num_items, latent_dim=self.latent_dim)
        dims = (*self.hidden_dims, self.latent_dim, *self.hidden_dims[::-1], self.num_items + 1)
        noisy = Dropout(self.dropout, self.bits)(unit_rows(x), train=train, rows=rows)
        return Reconstruction(MLP(dims, nn.tanh, activate_last=False, name="layers")(noisy), None)


def unit_rows(x: Array) -> Array:
    """Rows of length 1, [..., V]: x / |x|; one shorter than 1e-6 is divided by 1e-6, so a row of 0 stays."""
    return unit(x, 1e-12)


def normal_rows(key: Array, shape: tuple[int, ...], rows: Array | None) -> Array:
    """Standard normal draws [B, …]; of rows [B] those that each one's number gives, in whatever batch."""
    if rows is None:
        return jax.random.normal(key, shape)
    return jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape[1:]))(rows)
