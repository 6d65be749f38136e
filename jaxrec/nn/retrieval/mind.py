"""MIND: interests by behaviour-to-interest routing (Li et al., CIKM 2019, arXiv:1904.08030, section 4).

Departs from the paper: its equation 5 normalises the weights over events; here, as its text and algorithm
say, each event shares its weight among the interests. Routing logits are drawn anew for each example in
training, and are fixed by position and interest otherwise, so that a served list does not change by chance.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.embedding import lookup, pad_row, slots
from jaxrec.nn.layers.interests import SIZES, UserVectors, attended, nearest, of_items
from jaxrec.nn.layers.pairs import check_fields, unit
from jaxrec.nn.layers.routing import Over, route
from jaxrec.types import Array, Interests


class MIND(nn.Module):
    """K' interests of a user of n events, K' = max(1, min(K, ⌊log₂ n⌋)), and label-aware attention to them.

    Shape names: B batch, L slots, K interests, D dim, V vocab_size, n fields of side information.

    An item's vector is the mean of the embeddings of its id and of the values of its fields, those without a
    value (id 0) left out. The ids of the fields are the variable "side" [V, n] of the collection "constants",
    which training leaves alone: it starts as zeros and is given (`initial` of `train.fit.fit`); its row 0 has
    to be zero.

    Fields besides the sizes:
      side_sizes: how many values each field has, ids from 1; (): no side information.
      iterations: of routing. sigma: standard deviation of the routing logits, routing_seed: of the fixed
        ones. redraw: False uses the fixed ones in training too.
      adaptive: False: all K interests of every user.
      over: of `routing.route`.
      power: p of the label-aware attention softmax(p V e); 0 is the mean, and None the limit of large p: the
        nearest interest alone, which converged fastest in the paper. printed: softmax((V e)^p) as the paper
        writes it, which needs a whole p.
      num_users, user_dim, profile, hidden_dims: of `UserVectors`, the user profile. normalised: vectors of
        users and items have length 1.
      item_std: of the normal initialisation of item vectors. dtype: of the computation.
    """

    num_items: int
    dim: int = 64
    max_len: int = 50
    num_interests: int = 5
    side_sizes: tuple[int, ...] = ()
    iterations: int = 3
    sigma: float = 1.0
    routing_seed: int = 0
    redraw: bool = True
    adaptive: bool = True
    over: Over = "interests"
    power: float | None = None
    printed: bool = False
    num_users: int = 0
    user_dim: int | None = None
    profile: tuple[tuple[int, int], ...] = ()
    hidden_dims: tuple[int, ...] = ()
    normalised: bool = False
    item_std: float = 0.05
    dtype: Any = None

    def setup(self) -> None:
        check_fields(self, SIZES)
        if self.power is not None and not self.power >= 0:
            raise ValueError(f"power={self.power}: must be at least 0, or None for the nearest interest")
        if self.printed and (self.power is None or self.power != int(self.power)):
            raise ValueError(f"power={self.power}: printed=True needs a whole number, as products may be < 0")
        init = pad_row(nn.initializers.normal(self.item_std))
        self.item_embedding = self.param("item_embedding", init, (self.num_items + 1, self.dim))
        self.side_embeddings = [
            self.param(f"side_embedding_{field}", init, (size + 1, self.dim))
            for field, size in enumerate(self.side_sizes)
        ]
        if self.side_sizes:
            shape = (self.num_items + 1, len(self.side_sizes))
            self.side = self.variable("constants", "side", lambda: jnp.zeros(shape, jnp.int32))
        self.shared = Dense(self.dim, use_bias=False, dtype=self.dtype)
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
        self,
        items: Array,
        *,
        train: bool,
        rows: Array | None = None,
        users: Array | None = None,
        logits: Array | None = None,
    ) -> Interests:
        """Maps ids of items, 0 = padding, [B, L] to K interests.

        Args:
          rows: number of each row, from which routing logits derive in training, [B]; None: 0 .. B - 1.
          users: ids [B], where `num_users` is not 0.
          logits: at the start of routing, [B, L, K]; None: drawn as described.
        """
        mask = items != 0
        x = self.vectors(items)
        x = x if self.dtype is None else x.astype(self.dtype)
        active = self.active(mask.sum(axis=-1)) if self.adaptive else None
        found = route(
            self.shared(x),
            self.logits(items, train, rows) if logits is None else logits,
            mask,
            iterations=self.iterations,
            over=self.over,
            active=active,
        )
        return of_items(items, self.user(found, users), active, users)

    def active(self, count: Array) -> Array:
        """Which interests users of so many events [B] have, bool [B, K]."""
        k = jnp.arange(self.num_interests)
        return (k == 0) | (count[:, None] >= 2.0 ** (k + 1))

    def logits(self, items: Array, train: bool, rows: Array | None) -> Array:
        """Routing logits at the start, [B, L, K] or, where they are fixed, [1, L, K]."""
        slots(items.shape[1], self.max_len)  # refuses longer rows
        shape = (self.max_len, self.num_interests)
        if train and self.redraw and self.has_rng("dropout"):
            key = self.make_rng("dropout")
            rows = jnp.arange(items.shape[0]) if rows is None else rows
            drawn = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape))(rows)
        else:
            drawn = jax.random.normal(jax.random.key(self.routing_seed), shape)[None]
        return self.sigma * drawn[:, self.max_len - items.shape[1] :]

    def vectors(self, items: Array) -> Array:
        """Vectors of items, [...] → [..., D]."""
        own = lookup(self.item_embedding, items)
        if not self.side_sizes:
            return own
        fields = jnp.asarray(self.side.value)[items]
        parts = [own, *(lookup(table, fields[..., s]) for s, table in enumerate(self.side_embeddings))]
        real = jnp.concatenate([(items != 0)[..., None], fields != 0], axis=-1)
        total = jnp.einsum("...s,...sd->...d", real.astype(own.dtype), jnp.stack(parts, axis=-2))
        return total / jnp.maximum(real.sum(axis=-1, keepdims=True), 1)

    def item_table(self) -> Array:
        """Vectors of all ids, padding first: [V, D]."""
        table = self.vectors(jnp.arange(self.num_items + 1)) if self.side_sizes else self.item_embedding
        return unit(table) if self.normalised else table

    def readout(self, interests: Interests, target: Array) -> Array:
        """Label-aware attention of a target [B, D] to the interests, [B, D] (section 4.4)."""
        if self.power is None:
            return nearest(interests, target)
        return attended(interests, target, self.power, printed=self.printed)
