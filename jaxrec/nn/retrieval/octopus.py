"""Octopus: as many vectors as a user's events need (Liu et al., SIGIR 2020, "Comprehensive and elastic user
representation for the generation of recommendation candidates").

There is no public code, and the paper's equations were not at hand: reconstructed from its abstract and notes
on it are the gradient of the assignment (straight through), the penalty, the optional projection and the
form of the quotas. The network that predicts the channel of the next item is left out: `quotas` takes its
probabilities.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.interests import HIDDEN, SIZES, nearest, of_items, weights_over
from jaxrec.nn.layers.pairs import check_fields
from jaxrec.types import Array, Interests


class Octopus(nn.Module):
    """Each event goes to one of K channels; those with events give an attention-weighted mean of them.

    Event t goes to the channel of the largest x_t·h_k, and u_k = Σ a_t x_t with a the softmax of x_t·h_k over
    the events of channel k. The h are orthonormal at the start and kept so by a penalty.

    Shape names: B batch, L slots, K channels, D dim, V vocab_size.

    Fields besides the sizes:
      penalty: weight of ‖H Hᵀ - I‖².
      projection: whether a linear layer, the same for all channels, follows.
      max_len: number of most recent events that training and ranking read; there is no other limit.
      item_std: of the normal initialisation of item vectors. dtype: of the computation.
    """

    num_items: int
    dim: int = 64
    max_len: int = 50
    num_interests: int = 16
    penalty: float = 1.0
    projection: bool = False
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        if self.num_interests > self.dim:
            raise ValueError(
                f"num_interests={self.num_interests}: must be at most dim={self.dim}, as they are orthogonal"
            )
        init = nn.initializers.normal(self.item_std)
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        shape = (self.num_interests, self.dim)
        self.channels = self.param("channels", nn.initializers.orthogonal(), shape)
        if self.projection:
            self.project = Dense(self.dim, use_bias=False, dtype=self.dtype)

    def __call__(self, items: Array, *, train: bool, rows: Array | None = None) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to K channels, of which those with events are active.

        rows, train: ignored; there is no dropout.
        """
        del train, rows
        x = lookup(self.item_embedding, items)
        x = x if self.dtype is None else x.astype(self.dtype)
        scores = x @ self.channels.astype(x.dtype).T  # [B, L, K]
        assigned = self.assigned(scores, items)
        soft = jax.nn.softmax(scores, axis=-1)
        through = assigned.astype(x.dtype) + soft - jax.lax.stop_gradient(soft)
        weights = weights_over(scores, assigned, axis=1) * through
        found = jnp.einsum("blk,bld->bkd", weights, x)
        found = self.project(found) if self.projection else found
        return of_items(items, found, assigned.any(axis=1))

    def assigned(self, scores: Array, items: Array) -> Array:
        """The channel of each event by its scores, one-hot, False on padding: bool [B, L, K]."""
        best = jnp.argmax(scores, axis=-1)
        return (jnp.arange(self.num_interests) == best[..., None]) & (items != 0)[..., None]

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return self.item_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The active channel nearest to the target [B, D]: [B, D]."""
        return nearest(interests, target)

    def penalties(self) -> dict[str, Array]:
        """ "orthogonal": λ ‖H Hᵀ - I‖², 0 at the start."""
        heads = self.channels.astype(jnp.float32)
        return {"orthogonal": self.penalty * jnp.sum((heads @ heads.T - jnp.eye(self.num_interests)) ** 2)}


def quotas(probability: Array, active: Array, total: int, *, alpha: float = 1.0) -> Array:
    """How many of `total` candidates each channel contributes: [B, K] → int32 [B, K], in all `total` a row.

    In proportion to probability^alpha of the active channels, rounded down; what is left goes to the largest
    remainders, of equal ones to the first. Inactive channels have none. alpha 0 shares equally; the larger
    it is, the more the best channel has.

    Raises:
      ValueError: total is below 1, or alpha negative.
    """
    if total < 1 or not alpha >= 0:
        raise ValueError(f"total={total}, alpha={alpha}: must be at least 1 and 0")
    sharpened = alpha * jnp.log(jnp.maximum(probability, 1e-30))
    exact = total * weights_over(sharpened, active, axis=-1)
    least = jnp.minimum(jnp.floor(exact), total)
    remainder = jnp.where(active, exact - least, HIDDEN)
    order = jnp.argsort(jnp.argsort(-remainder, axis=-1, stable=True), axis=-1)
    left = total - least.sum(axis=-1, keepdims=True)
    return (least + (order < left)).astype(jnp.int32)
