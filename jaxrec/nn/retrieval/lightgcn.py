"""LightGCN: propagated embeddings without transforms (He et al., SIGIR 2020, arXiv:2002.02126, section 3).

Initial vectors are normal with deviation 0.1, as in the authors' PyTorch code; the paper has Xavier's. The
weights of layers are given, not learned, as in the paper's experiments.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.data.events.graph import Graph
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes, products
from jaxrec.nn.layers.propagation import Messages, drop_edges, propagate, symmetric
from jaxrec.types import Array, Context

Rows = tuple[Array, Array]  # of users and of items


class LightGCN(nn.Module):
    """Scores are dot products of weighted sums of propagated layers; no layer is plain matrix factorisation.

    Shape names: B batch, N items of each user, D dim, U users, I items.

    Fields:
      num_users, num_items: U and I; both tables have a row of padding in front.
      num_layers: how often embeddings are propagated; 0: matrix factorisation.
      layer_weights: of the embeddings and each layer, num_layers + 1 of them; None: the mean.
      edge_dropout: share of messages that are dropped in training, drawn once a step for all layers.
      init_std: of normal initial vectors.
    """

    num_users: int
    num_items: int
    dim: int = 64
    num_layers: int = 3
    layer_weights: tuple[float, ...] | None = None
    edge_dropout: float = 0.0
    init_std: float = 0.1

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        if self.num_layers < 0:
            raise ValueError(f"num_layers={self.num_layers}: must be at least 0")
        if self.layer_weights is not None and len(self.layer_weights) != self.num_layers + 1:
            raise ValueError(
                f"layer_weights={self.layer_weights}: must be {self.num_layers + 1} numbers, of embeddings "
                f"and each of {self.num_layers} layers"
            )
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. context: "graph", a `data.events.graph.Graph`."""
        users, items = self._propagated(context, train)
        return products(lookup(users, user), lookup(items, item))

    def penalised(self, user: Array, item: Array) -> tuple[Array, Array]:
        """Rows of the tables, before propagation, of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Propagated vectors of users [U + 1, D] and items [I + 1, D]."""
        return self._propagated(context, train=False)

    def _propagated(self, context: Context, train: bool) -> tuple[Array, Array]:
        if not self.num_layers and self.layer_weights is None:
            return self.user_embedding, self.item_embedding
        graph = context["graph"]
        messages = symmetric(graph)
        if train and self.edge_dropout:
            messages = drop_edges(self.make_rng("dropout"), graph, messages, self.edge_dropout)
        weights = self.layer_weights or (1 / (self.num_layers + 1),) * (self.num_layers + 1)
        return combine_layers(graph, messages, weights, self.user_embedding, self.item_embedding)


def combine_layers(
    graph: Graph,
    messages: Messages,
    weights: tuple[float, ...],
    users: Array,
    items: Array,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Σ_k weights[k] · A^k of tables [U + 1, D] and [I + 1, D] (equations 4 and 8); with an axis name of a
    device's rows, as `propagate`."""

    def layer(carry: tuple[Rows, Rows], weight: Array) -> tuple[tuple[Rows, Rows], None]:
        rows, sums = carry
        rows = propagate(graph, messages, *rows, axis_name)
        return (rows, (sums[0] + weight * rows[0], sums[1] + weight * rows[1])), None

    start = (users, items), (weights[0] * users, weights[0] * items)
    (_, sums), _ = jax.lax.scan(layer, start, jnp.array(weights[1:], users.dtype), unroll=True)
    return sums
