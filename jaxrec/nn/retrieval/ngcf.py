"""NGCF: propagation with transforms and products of neighbours (Wang et al., SIGIR 2019, arXiv:1905.08108).

Section 2.2 and equation 7. Departs from the paper: the regulariser has the embeddings alone, no weights of
layers. Messages are dropped as units of a layer's output, as in the authors' code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, counter_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes, products, unit
from jaxrec.nn.layers.propagation import drop_nodes, propagate, symmetric
from jaxrec.types import Array, Context


class NGCF(nn.Module):
    """Scores are dot products of the embeddings and all layers side by side, each layer of length 1.

    With L = D^-1/2 A D^-1/2 a layer is activation(W1 (E + L E) + W2 (L E ⊙ E)).

    Shape names: B batch, N items of each user, D dim + Σ hidden_dims, U users, I items.

    Fields:
      num_users, num_items: U and I; both tables have a row of padding in front.
      dim: width of the embeddings; hidden_dims: of each layer.
      node_dropout: share of nodes whose messages are dropped in training, drawn for each layer.
      message_dropout: share of units of a layer's output that are dropped in training.
      use_bias: biases of both transforms, as in public codes.
      read_unit: layers read the one before at length 1, as in RecBole, where the paper's read its output.
    """

    num_users: int
    num_items: int
    dim: int = 64
    hidden_dims: tuple[int, ...] = (64, 64, 64)
    node_dropout: float = 0.0
    message_dropout: float = 0.1
    use_bias: bool = False
    read_unit: bool = False
    activation: Callable[[Array], Array] = functools.partial(nn.leaky_relu, negative_slope=0.2)
    bits: Bits = counter_bits

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        drawn = pad_row(nn.initializers.xavier_uniform())
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        make = functools.partial(
            nn.Dense, use_bias=self.use_bias, kernel_init=nn.initializers.xavier_uniform()
        )
        self.sums = [make(width) for width in self.hidden_dims]
        self.products = [make(width) for width in self.hidden_dims]
        self.drop = Dropout(self.message_dropout, self.bits)

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. context: "graph", a `data.events.graph.Graph`."""
        users, items = self._propagated(context, train)
        return products(lookup(users, user), lookup(items, item))

    def penalised(self, user: Array, item: Array) -> tuple[Array, Array]:
        """Rows of the tables, before propagation, of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users [U + 1, D] and items [I + 1, D]."""
        return self._propagated(context, train=False)

    def _propagated(self, context: Context, train: bool) -> tuple[Array, Array]:
        graph = context["graph"]
        messages = symmetric(graph)
        rows = self.user_embedding, self.item_embedding
        layers = [rows]
        for transform, of_products in zip(self.sums, self.products, strict=True):
            sent = rows
            if train and self.node_dropout:
                users, items = (
                    drop_nodes(self.make_rng("dropout"), side, self.node_dropout) for side in rows
                )
                sent = users, items
            received = propagate(graph, messages, *sent)
            users, items = (
                self.drop(self.activation(transform(own + others) + of_products(others * own)), train=train)
                for own, others in zip(rows, received, strict=True)
            )
            layers.append((unit(users), unit(items)))
            rows = layers[-1] if self.read_unit else (users, items)
        users, items = (jnp.concatenate(side, axis=1) for side in zip(*layers, strict=True))
        return users, items
