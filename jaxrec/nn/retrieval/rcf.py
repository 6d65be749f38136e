"""RCF: attention over relations between items, and over items inside each (Xin et al., SIGIR 2019).

"Relational Collaborative Filtering: Modeling Multiple Item Relations for Recommendation", arXiv:1904.12796,
sections 3.2 and 3.3. Departs from the authors' code: an empty list of items contributes 0, where theirs
attends to a slot of padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec import packing
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Context


def smoothed_softmax(logits: Array, where: Array, power: float) -> Array:
    """exp(b_j) / (Σ_j exp b_j)^power over the last axis (equation 5), 0 outside `where`: [..., L].

    power 1 is the softmax. Computed from differences to the largest, so nothing overflows that the result
    does not.
    """
    largest = jnp.max(logits, axis=-1, keepdims=True, where=where, initial=-1e30)
    largest = jax.lax.stop_gradient(jnp.where(where.any(axis=-1, keepdims=True), largest, 0.0))
    shares = jnp.where(where, jnp.exp(jnp.where(where, logits - largest, 0.0)), 0.0)
    total = jnp.sum(shares, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1.0)
    return shares / total**power * jnp.exp((1 - power) * largest)


def row_of_value(value: Array, before: Array, size: Array) -> Array:
    """Rows of values 1..size in a table of all attributes, behind `before` others: 0 of 0, else -1."""
    row = jnp.where(value > 0, value + before, 0)
    return jnp.where((value >= 0) & (value <= size), row, -1)


class RCF(nn.Module):
    """Scores MLP(μ ⊙ q_i), where μ is the user's vector and what its items tell of the candidate i.

    A past item has relation t > 0 with a candidate once for each value of attribute t, such as a genre, that
    both have; items without any such value have relation 0 with it. The candidate itself is left out of the
    user's items, so that nothing is told of itself in training.

    Shape names: B batch, N candidates of each user, L past items read, T attributes, M values of one,
    U users, I items, D dim.

    Fields:
      num_users, num_items: U and I.
      num_values: of each attribute; values are numbered from 1 within it.
      max_history: L, items of a user that are read, the last of its training part.
      attention_dim: hidden width of both attentions; hidden_dims: of the MLP.
      power: ρ, the smoothing of the attention inside a relation.
      items_at_once: candidates that `all_scores` scores together, which bounds memory.
    """

    num_users: int
    num_items: int
    num_values: tuple[int, ...]
    dim: int = 64
    max_history: int = 50
    attention_dim: int = 32
    hidden_dims: tuple[int, ...] = (64,)
    power: float = 0.5
    items_at_once: int = 64
    activation: Callable[[Array], Array] = nn.relu

    def setup(self) -> None:
        check_sizes(
            num_users=self.num_users, num_items=self.num_items, dim=self.dim, max_history=self.max_history
        )
        if not 0 <= self.power <= 1:
            raise ValueError(f"power={self.power}: must be in 0..1")
        drawn = pad_row(nn.initializers.normal(0.01))
        tables = {"user": self.num_users, "item": self.num_items, "value": sum(self.num_values)}
        self.user_embedding, self.item_embedding, self.value_embedding = (
            self.param(f"{name}_embedding", drawn, (rows + 1, self.dim)) for name, rows in tables.items()
        )
        types = len(self.num_values) + 1
        self.type_embedding = self.param("types", nn.initializers.normal(0.01), (types, self.dim))
        self.type_hidden = nn.Dense(self.attention_dim)
        self.type_logit = nn.Dense(1, use_bias=False)
        self.of_target, self.of_item, self.of_value = (
            nn.Dense(self.attention_dim, use_bias=False) for _ in range(3)
        )
        self.item_logit = nn.Dense(1, use_bias=False)
        self.hidden = [nn.Dense(width) for width in self.hidden_dims]
        self.output = nn.Dense(1, use_bias=False)  # a bias would cancel in the loss

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for users [B]: [B, N].

        context: items [E], start [U], length [U], and "attributes", int32 [I + 1, T, M], 0 where an item has
        fewer values.
        """
        known = user > 0
        number = jnp.where(known, user - 1, 0)
        length = jnp.where(known, context["length"][number], 0)
        history = packing.window(
            context["items"], context["start"][number] + length, length, self.max_history
        )  # [B, L]
        vector = lookup(self.user_embedding, user)
        weight = self._relation_weights(vector)  # [B, T + 1]
        every = jnp.repeat(history, item.shape[1], axis=0)
        told = self._told(every, item.reshape(-1), context["attributes"])  # [B · N, T + 1, D]
        told = told.reshape(*item.shape, *told.shape[1:])
        mixed = vector[:, None] + jnp.einsum("bt,bntd->bnd", weight, told)
        x = mixed * lookup(self.item_embedding, item)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.output(x)[..., 0]

    def all_scores(self, user: Array, context: Context) -> Array:
        """Scores of all items, the padding in front: [B, I + 1]."""
        found: Any = self.unbind()
        module, variables = found

        def one(item: Array) -> Array:
            candidate = jnp.broadcast_to(item, (user.shape[0], 1))
            return module.apply(variables, user, candidate, context, train=False)[:, 0]

        return jax.lax.map(one, jnp.arange(self.num_items + 1), batch_size=self.items_at_once).T

    def penalised(self, user: Array, item: Array) -> tuple[Array, Array]:
        """Rows of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def relation(self, first: Array, kind: Array, value: Array, second: Array) -> Array:
        """DistMult's score q_first · diag(x_kind + z_value) · q_second of related items, [...] (equation 9).

        kind: number of the attribute, from 1. value: its value, from 1, numbered within the attribute.
        """
        sizes = jnp.array(self.num_values, jnp.int32)[kind - 1]
        numbered = row_of_value(value, self._before()[kind - 1], sizes)
        of = rows_by_id(self.type_embedding, kind) + lookup(self.value_embedding, numbered)
        ends = lookup(self.item_embedding, first), lookup(self.item_embedding, second)
        return jnp.sum(ends[0] * of * ends[1], axis=-1)

    def _before(self) -> Array:
        """How many values the attributes before each one have, [T]."""
        return jnp.array([sum(self.num_values[:t]) for t in range(len(self.num_values))], jnp.int32)

    def _relation_weights(self, vector: Array) -> Array:
        """How much each relation counts for users [B, D] (equation 3): [B, T + 1], of sum 1."""
        hidden = nn.relu(self.type_hidden(vector[:, None] * self.type_embedding))
        return nn.softmax(self.type_logit(hidden)[..., 0], axis=-1)

    def _told(self, history: Array, item: Array, attributes: Array) -> Array:
        """Weighted sums of past items [B, L] by their relation with candidates [B]: [B, T + 1, D]."""
        real = (history > 0) & (history != item[:, None])
        wanted, had = attributes[item], attributes[history]  # [B, T, M], [B, L, T, M]
        shared = (had[:, :, :, None] == wanted[:, None, :, :, None]).any(axis=-1) & (wanted > 0)[:, None]
        shared = shared & real[:, :, None, None]  # [B, L, T, M], by the candidate's values
        rows = lookup(self.item_embedding, history)  # [B, L, D]
        base = self.of_item(rows) + self.of_target(lookup(self.item_embedding, item))[:, None]  # [B, L, A]
        sizes = jnp.array(self.num_values, jnp.int32)[:, None]
        values = lookup(self.value_embedding, row_of_value(wanted, self._before()[:, None], sizes))
        hidden = nn.tanh(base[:, :, None, None] + self.of_value(values)[:, None])  # [B, L, T, M, A]
        logits = jnp.moveaxis(self.item_logit(hidden)[..., 0], 1, -2)  # [B, T, L, M]
        where = jnp.moveaxis(shared, 1, -2)
        flat = (*logits.shape[:2], -1)
        by_value = smoothed_softmax(logits.reshape(flat), where.reshape(flat), self.power)
        related = jnp.einsum("btlm,bld->btd", by_value.reshape(logits.shape), rows)
        others = real & ~shared.any(axis=(2, 3))
        latent = smoothed_softmax(self.item_logit(nn.tanh(base))[..., 0], others, self.power)
        return jnp.concatenate([jnp.einsum("bl,bld->bd", latent, rows)[:, None], related], axis=1)
