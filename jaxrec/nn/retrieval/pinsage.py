"""PinSage: convolutions over the items that random walks visit most (Ying et al., KDD 2018).

arXiv:1806.01973, algorithms 1 and 2, over neighbourhoods of items by walks in which users are only stepping
stones (`data.events.neighbourhoods`).

Departs from the paper: vectors of items have a table (ids) beside features, for data that have ids alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes, products, unit
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Context


class Convolve(nn.Module):
    """One convolution (algorithm 1): unit vectors of activation(W [neighbours, own] + w)."""

    dim: int
    hidden_dim: int

    @nn.compact
    def __call__(self, rows: Array, neighbours: Array, weight: Array) -> Array:
        """Convolves rows [S, D] for the first R of them: neighbours, weight [R, T] → [R, dim].

        neighbours: numbers of rows. weight: at least 0, and 0 where there is no neighbour; the weighted mean
        of nothing is 0.
        """
        sent = nn.relu(nn.Dense(self.hidden_dim, name="neighbour")(rows))
        sums = jnp.einsum("rt,rtd->rd", weight, rows_by_id(sent, neighbours))
        total = weight.sum(axis=1, keepdims=True)
        pooled = jnp.where(total > 0, sums / jnp.where(total > 0, total, 1), 0)
        own = rows[: neighbours.shape[0]]
        return unit(nn.relu(nn.Dense(self.dim, name="own")(jnp.concatenate([pooled, own], axis=1))))


class PinSage(nn.Module):
    """Vectors of items, of which the dot product scores how well one follows another.

    As a model of pairs the "user" of a pair is the item that is asked about: pairs are (q, i), items alike,
    and num_users is num_items.

    Shape names: B batch, N candidates of each query, D dim, I items, F features, T neighbours.

    Fields:
      num_items: I.
      hidden_dim: width of what neighbours send. num_layers: convolutions.
      feature_dim: F, of context["features"] [I + 1, F], which a linear layer adds to the table; 0: none.
        Several: widths of features that stand side by side there, each with a layer of its own.
      head: linear layers G1, G2 behind the convolutions; False: the projection is added instead (DGL).
      item_bias: adds a bias of each item to a pair's score (DGL).
    """

    num_items: int
    dim: int = 64
    hidden_dim: int = 64
    num_layers: int = 2
    feature_dim: int | tuple[int, ...] = 0
    head: bool = True
    item_bias: bool = False
    init_std: float = 0.1

    def setup(self) -> None:
        check_sizes(
            num_items=self.num_items, dim=self.dim, hidden_dim=self.hidden_dim, num_layers=self.num_layers
        )
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        if isinstance(self.feature_dim, tuple):
            check_sizes(**{f"feature_dim[{i}]": width for i, width in enumerate(self.feature_dim)})
            self.several = [nn.Dense(self.dim, name=f"feature_{i}") for i in range(len(self.feature_dim))]
        elif self.feature_dim:
            self.feature = nn.Dense(self.dim)
        self.layers = [Convolve(self.dim, self.hidden_dim) for _ in range(self.num_layers)]
        if self.head:
            self.inner, self.outer = nn.Dense(self.dim), nn.Dense(self.dim, use_bias=False)
        if self.item_bias:
            self.item_biases = self.param("item_bias", nn.initializers.zeros, (self.num_items + 1, 1))

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for queries, which are items [B]: [B, N].

        context: "neighbours", a `data.events.neighbourhoods.Neighbourhoods`, and "features" if they are read.
        """
        vectors = self.represent(context)
        scores = products(lookup(vectors, user), lookup(vectors, item))
        if self.item_bias:
            scores = scores + lookup(self.item_biases, user) + lookup(self.item_biases, item)[..., 0]
        return scores

    def penalised(self, user: Array, item: Array) -> tuple[Array, Array]:
        """Rows of the table of queries [B] and items [B, N]."""
        return lookup(self.item_embedding, user), lookup(self.item_embedding, item)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of queries and of items, both [I + 1, D]; with a bias of items [z, 1] and [z, b].

        Their products lack the bias of the query, which ranks nothing.
        """
        found = self.represent(context)
        if not self.item_bias:
            return found, found
        ones = jnp.ones((found.shape[0], 1), found.dtype)
        return jnp.concatenate([found, ones], axis=1), jnp.concatenate([found, self.item_biases], axis=1)

    def represent(self, context: Context) -> Array:
        """Vectors of all items [I + 1, D]."""
        table = context["neighbours"].item, context["neighbours"].weight
        ids = jnp.arange(self.num_items + 1)
        return self.convolved(ids, context.get("features"), (table,) * self.num_layers)

    def convolved(self, ids: Array, features: Array | None, blocks: Sequence[tuple[Array, Array]]) -> Array:
        """Vectors of the first of the items with these ids [S] (algorithm 2): [R, D].

        features: of these items [S, F]. blocks: for each convolution neighbours and weights [R_k, T]; it
        reads the rows of the one before, in its order, and makes the first R_k of them.
        """
        first = self.project(ids, features)
        rows = first
        for layer, block in zip(self.layers, blocks, strict=True):
            rows = layer(rows, *block)
        if self.head:
            return self.outer(nn.relu(self.inner(rows)))
        return first[: rows.shape[0]] + rows

    def project(self, ids: Array, features: Array | None) -> Array:
        """What the first convolution reads of items [S]: [S, D]."""
        rows = lookup(self.item_embedding, ids)
        if isinstance(self.feature_dim, tuple):
            assert features is not None
            first = 0
            for layer, width in zip(self.several, self.feature_dim, strict=True):
                rows = rows + layer(features[:, first : first + width])
                first += width
        elif self.feature_dim:
            rows = rows + self.feature(features)
        return rows
