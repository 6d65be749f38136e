"""Neural multi-task recommendation from cascading behaviours (Gao et al., ICDE 2019, arXiv:1809.08161).

The paper gives the previous behaviour's prediction to the next one. Whether that is the logit or the
probability is a field; the logit is the default, because a probability adds at most 1 to a score and its
gradient vanishes where it is sure. The loss is a weighted sum over behaviours of the cross-entropy of
each on its own positives and sampled negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class NMTR(nn.Module):
    """One interaction function a behaviour over shared user and item vectors, added up along the cascade.

    Fields:
      num_behaviours: in the order in which they happen (view, cart, purchase); the last one ranks.
      product: whether the element-wise product of user and item is read (generalised matrix factorisation).
      mlp_dims: of an MLP over user and item side by side; () has none. Both together are the paper's NeuMF.
      pass_probability: True adds the previous behaviour's probability to the next score, False its logit.
      mlp: builds the MLPs, see `Tower`.

    Shape names: B batch, D vector width, R behaviours.
    """

    num_behaviours: int
    product: bool = True
    mlp_dims: Sequence[int] = (64, 32, 16)
    pass_probability: bool = False
    mlp: Callable[..., nn.Module] = MLP

    def __post_init__(self) -> None:
        if not self.product and not self.mlp_dims:
            raise ValueError("product=False and mlp_dims=(): nothing is left to score with; set one of them")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps user and item vectors [B, 2, D] to one logit a behaviour [B, R], each with those before it.

        Raises:
          ValueError: x is not a pair of vectors (`FeatureEmbedding.stacked` gives one for two fields).
        """
        if x.ndim != 3 or x.shape[1] != 2:
            raise ValueError(f"x of shape {x.shape}: expected [B, 2, D], the vectors of user and item")
        parts = []
        if self.product:
            product = x[:, None, 0] * x[:, None, 1]
            parts.append(jnp.broadcast_to(product, (x.shape[0], self.num_behaviours, x.shape[2])))
        if self.mlp_dims:
            mlps = bank(self.mlp, self.num_behaviours)(self.mlp_dims, name="mlps")
            parts.append(mlps(x.reshape(x.shape[0], -1), train=train))
        joined = jnp.concatenate(parts, axis=-1)  # [B, R, …]
        scores = bank(Tower, self.num_behaviours, in_axes=1)(name="heads")(joined)
        return _add_probabilities(scores) if self.pass_probability else jnp.cumsum(scores, axis=1)


def _add_probabilities(scores: Array) -> Array:
    """Adds to each score [B, R] the probability before it: s₁, s₂ + σ(s₁), s₃ + σ(s₂ + σ(s₁)), …"""

    def step(before: Array, score: Array) -> tuple[Array, Array]:
        logit = score + before
        return nn.sigmoid(logit), logit

    return jax.lax.scan(step, jnp.zeros_like(scores[:, 0]), scores.T)[1].T
