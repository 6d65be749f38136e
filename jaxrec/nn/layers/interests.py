"""Parts of models of several vectors a user: which are active, what a target reads, the last layers.

Shape names: B batch, L slots, K interests, D dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row, slots
from jaxrec.nn.layers.pairs import unit
from jaxrec.types import Array, Interests

SIZES = ("num_items", "dim", "max_len", "num_interests")  # fields that are at least 1: `pairs.check_fields`
HIDDEN = -1e30  # score of a slot or interest without weight; finite, so that no gradient becomes NaN


def placed(x: Array, table: Array) -> Array:
    """Vectors of right-aligned rows [B, L, D] and those of their positions, from a table [max_len, D]."""
    first = table.shape[0] - x.shape[1]
    slots(x.shape[1], table.shape[0])  # refuses longer rows
    return x + table[first:].astype(x.dtype)


def of_items(
    items: Array, vectors: Array, active: Array | None = None, users: Array | None = None
) -> Interests:
    """Interests [B, K, D] of rows of items [B, L]: those of an empty row are 0, and its first is active.

    active: which ones of a row with events are, [B, K]; None: all. users: ids [B], 0 = unknown, or with
    further features [B, n]; a known user without events has the vectors that follow from the user alone.
    """
    filled = (items != 0).any(axis=-1)[:, None]
    filled = filled if users is None else filled | (users.reshape(users.shape[0], -1)[:, :1] != 0)
    first = jnp.arange(vectors.shape[1]) == 0
    kept = filled if active is None else filled & active
    vectors = jnp.where(kept[..., None], vectors, jnp.zeros_like(vectors))
    return Interests(vectors, jnp.broadcast_to(kept | (~filled & first), vectors.shape[:2]))


def weights_over(scores: Array, mask: Array, axis: int) -> Array:
    """Softmax along an axis over what the mask shows; 0 elsewhere, and everywhere where it shows nothing."""
    shown = jnp.where(mask, scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), HIDDEN)
    return jnp.where(mask, jax.nn.softmax(shown, axis=axis), 0.0).astype(scores.dtype)


def products(interests: Interests, target: Array) -> Array:
    """Dot products of each interest with a target [B, D], `HIDDEN` where inactive: [B, K]."""
    found = jnp.einsum("bkd,bd->bk", interests.vectors, target)
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    return jnp.where(interests.active, found, HIDDEN)


def nearest(interests: Interests, target: Array) -> Array:
    """The active interest of the largest product with the target [B, D], the first of equal ones: [B, D]."""
    best = jnp.argmax(products(interests, target), axis=-1)
    chosen = jax.nn.one_hot(best, interests.active.shape[1], dtype=interests.vectors.dtype)
    return jnp.einsum("bk,bkd->bd", chosen, interests.vectors)


def attended(interests: Interests, target: Array, power: float = 1.0, *, printed: bool = False) -> Array:
    """Mean of the active interests, weighted by the softmax of products with the target, times p: [B, D].

    power: p. printed: the products to the power p, which has to be a whole number, in place of times p.
    """
    scores = products(interests, target)
    if printed:
        scores = jnp.where(interests.active, scores, 0.0) ** int(power)
    else:
        scores = power * scores
    weights = weights_over(scores, interests.active, axis=-1)
    return jnp.einsum("bk,bkd->bd", weights.astype(interests.vectors.dtype), interests.vectors)


class UserVectors(nn.Module):
    """Interests and the user's embedding through ReLU layers and a linear one; the same for every interest.

    Fields:
      dim: D. num_users: of the table of user embeddings; 0: no user is read. hidden_dims: of ReLU layers.
        Without users and hidden layers the interests stay as they are.
      user_dim: width of the user embeddings; None: D. profile: of further features of users, how many values
        each has, ids from 1, and the width of its embeddings.
      normalised: scaled to length 1, so that a product with a vector of that length is a cosine.
    """

    dim: int
    num_users: int = 0
    hidden_dims: Sequence[int] = ()
    normalised: bool = False
    dtype: Any = None
    user_dim: int | None = None
    profile: tuple[tuple[int, int], ...] = ()

    @nn.compact
    def __call__(self, vectors: Array, users: Array | None = None) -> Array:
        """Maps interests [B, K, D] and ids of users [B], 0 = unknown, to [B, K, D].

        users: with a profile [B, 1 + features], the user's id first.

        Raises:
          ValueError: there are users and no table of them, or the other way round; a profile without its
            features.
        """
        if (users is None) != (self.num_users == 0):
            given = "none are" if users is None else "some are"
            raise ValueError(
                f"users: {given} given to a model with num_users={self.num_users}; give users [B] with their "
                "number, or neither"
            )
        if users is not None:
            own = self._embedded(users)[:, None].astype(vectors.dtype)
            own = jnp.broadcast_to(own, (*vectors.shape[:-1], own.shape[-1]))
            vectors = jnp.concatenate([own, vectors], axis=-1)
        for i, width in enumerate(self.hidden_dims):
            vectors = nn.relu(Dense(width, dtype=self.dtype, name=f"hidden_{i}")(vectors))
        if self.num_users or self.hidden_dims:
            vectors = Dense(self.dim, use_bias=False, dtype=self.dtype, name="output")(vectors)
        return unit(vectors) if self.normalised else vectors

    def _embedded(self, users: Array) -> Array:
        """Embeddings of users and of the features of their profile, side by side."""
        columns = users.reshape(users.shape[0], -1)
        if columns.shape[1] != 1 + len(self.profile) or users.ndim > 2:
            raise ValueError(
                f"users: {list(users.shape)}, expected [B] or, with a profile of {len(self.profile)} "
                f"features, [B, {1 + len(self.profile)}]"
            )
        init = pad_row(nn.initializers.normal(0.05))
        width = self.dim if self.user_dim is None else self.user_dim
        names = ("user_embedding", *(f"profile_embedding_{field}" for field in range(len(self.profile))))
        found = []
        for place, (name, (size, dim)) in enumerate(
            zip(names, ((self.num_users, width), *self.profile), strict=True)
        ):
            found.append(lookup(self.param(name, init, (size + 1, dim)), columns[:, place]))
        return jnp.concatenate(found, axis=-1)
