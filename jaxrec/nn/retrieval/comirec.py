"""ComiRec: several interests a user (Cen et al., KDD 2020, arXiv:2005.09347, section 3.2 and 3.3).

Departs from the paper: positions count from the most recent event, as rows are right-aligned.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row, slots
from jaxrec.nn.layers.interests import SIZES, UserVectors, nearest, of_items, placed, weights_over
from jaxrec.nn.layers.pairs import check_fields, unit
from jaxrec.nn.layers.routing import Over, route
from jaxrec.types import Array, Interests


class ComiRecDR(nn.Module):
    """Dynamic routing with a transform of each position and interest, so that order counts.

    Shape names: B batch, L slots, K interests, D dim, V vocab_size.

    Fields besides the sizes:
      iterations: of routing, whose logits start at 0; over: of `routing.route`.
      num_users, user_dim, profile, hidden_dims, normalised, item_std, dtype: as of `ComiRecSA`.
    """

    num_items: int
    dim: int = 64
    max_len: int = 20
    num_interests: int = 4
    iterations: int = 3
    over: Over = "interests"
    num_users: int = 0
    user_dim: int | None = None
    profile: tuple[tuple[int, int], ...] = ()
    hidden_dims: tuple[int, ...] = ()
    normalised: bool = False
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        init = nn.initializers.normal(self.item_std)
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        shape = (self.max_len, self.num_interests * self.dim, self.dim)
        self.transform = self.param("transform", nn.initializers.normal(self.dim**-0.5), shape)
        self.user = UserVectors(
            self.dim,
            self.num_users,
            self.hidden_dims,
            self.normalised,
            self.dtype,
            self.user_dim,
            self.profile,
        )

    def __call__(
        self, items: Array, *, train: bool, rows: Array | None = None, users: Array | None = None
    ) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to K interests. users: ids [B], where `num_users` is not 0.

        rows, train: ignored; there is no dropout.
        """
        del train, rows
        batch, length = items.shape
        x = lookup(self.item_embedding, items)
        x = x if self.dtype is None else x.astype(self.dtype)
        slots(length, self.max_len)  # refuses longer rows
        transform = self.transform[self.max_len - length :].astype(x.dtype)
        pairs = jnp.einsum("bld,led->ble", x, transform).reshape(batch, length, self.num_interests, self.dim)
        found = route(
            pairs,
            jnp.zeros((1, 1, self.num_interests)),
            items != 0,
            iterations=self.iterations,
            over=self.over,
        )
        return of_items(items, self.user(found, users), users=users)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return unit(self.item_embedding) if self.normalised else self.item_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The interest nearest to the target [B, D], which alone learns from it: [B, D] (equation 5)."""
        return nearest(interests, target)


class ComiRecSA(nn.Module):
    """Self-attention: interest k is Σ a_ki e_i, a = softmax over events of W_2 tanh(W_1 (e_i + p_i)).

    Shape names: B batch, L slots, K interests, D dim, V vocab_size.

    Fields besides the sizes:
      hidden_dim: rows of W_1; None: 4 D, as in the paper.
      positions: whether there are p_i; the summed e_i are those without.
      num_users, user_dim, profile, hidden_dims: of `UserVectors`; the paper has none of them.
      normalised: vectors of users and items have length 1.
      item_std: of the normal initialisation of item vectors. dtype: of the computation.
    """

    num_items: int
    dim: int = 64
    max_len: int = 20
    num_interests: int = 4
    hidden_dim: int | None = None
    positions: bool = True
    num_users: int = 0
    user_dim: int | None = None
    profile: tuple[tuple[int, int], ...] = ()
    hidden_dims: tuple[int, ...] = ()
    normalised: bool = False
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        init = nn.initializers.normal(self.item_std)
        self.item_embedding = self.param("item_embedding", pad_row(init), (self.num_items + 1, self.dim))
        if self.positions:
            self.position_embedding = self.param("position_embedding", init, (self.max_len, self.dim))
        width = 4 * self.dim if self.hidden_dim is None else self.hidden_dim
        self.hidden = Dense(width, use_bias=False, dtype=self.dtype)
        self.heads = Dense(self.num_interests, use_bias=False, dtype=self.dtype)
        self.user = UserVectors(
            self.dim,
            self.num_users,
            self.hidden_dims,
            self.normalised,
            self.dtype,
            self.user_dim,
            self.profile,
        )

    def __call__(
        self, items: Array, *, train: bool, rows: Array | None = None, users: Array | None = None
    ) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to K interests. users: ids [B], where `num_users` is not 0.

        rows, train: ignored; there is no dropout.
        """
        del train, rows
        x = lookup(self.item_embedding, items)
        x = x if self.dtype is None else x.astype(self.dtype)
        keys = placed(x, self.position_embedding) if self.positions else x
        scores = self.heads(jnp.tanh(self.hidden(keys)))  # [B, L, K]
        weights = weights_over(scores, (items != 0)[..., None], axis=1)
        return of_items(items, self.user(jnp.einsum("blk,bld->bkd", weights, x), users), users=users)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        return unit(self.item_embedding) if self.normalised else self.item_embedding

    def readout(self, interests: Interests, target: Array) -> Array:
        """The interest nearest to the target [B, D], which alone learns from it: [B, D] (equation 5)."""
        return nearest(interests, target)
