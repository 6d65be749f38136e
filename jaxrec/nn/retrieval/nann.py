"""NANN's scorer: an item attends to the user's behaviours (Chen et al., CIKM 2022, arXiv:2202.10226).

The score s_u(e_v) reads an item through its vector e_v alone, so that items lie in a space in which a graph
of them can be built, whoever the user is. The attention is what no inner product of two vectors can say.

Departs from the paper: ids are the only features, and there is no batch norm. `products` adds e_v's products
with the user's vectors to what the score net reads, which helps where there are few examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.nn.layers.target_attention import masked_softmax
from jaxrec.types import Array


class Read(NamedTuple):
    """What the user net makes of a history, once for all items.

    behaviours: [B, L, D]. mask: which of them are real, bool [B, L]. mean: of the real ones, the user's
    vector, [B, D]; 0 without any.
    """

    behaviours: Array
    mask: Array
    mean: Array


class NANN(nn.Module):
    """Scores of items by a user net, an item net, attention of the item, and a score net.

        h_j = user net(x_j)   e_v = item net(x_v)   a = Σ_j softmax_j(W e_v·h_j / √D) h_j
        s_u(e_v) = score net([mean of h, a, e_v])

    The order of a history changes nothing. Without an event mean and attention are 0.

    Shape names: B batch, L history, M items of each query, D width of e_v, V vocab_size.

    Fields:
      dim: width of the vectors x of ids. max_len: events of a history, the most recent ones.
      user_dims, item_dims: widths of the user net and of the item net, whose last layers are linear and
        equally wide: D. score_dims: of the hidden layers of the score net.
      products: whether the score net reads e_v ⊙ mean and e_v ⊙ a too.
      mlp: builds the nets, but for their last layers. item_std: of the normal initialisation of x.
    """

    num_items: int
    dim: int = 64
    max_len: int = 50
    user_dims: tuple[int, ...] = (64, 64)
    item_dims: tuple[int, ...] = (64, 64, 64)
    score_dims: tuple[int, ...] = (128, 64, 32)
    products: bool = False
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=PReLU)
    item_std: float = 0.05

    def setup(self) -> None:
        check_sizes(num_items=self.num_items, dim=self.dim, max_len=self.max_len)
        if not self.user_dims or not self.item_dims or self.user_dims[-1] != self.item_dims[-1]:
            raise ValueError(
                f"user_dims={self.user_dims}, item_dims={self.item_dims}: both need a layer, and last ones "
                "of equal width, since items attend to behaviours"
            )
        init = pad_row(nn.initializers.normal(self.item_std))
        self.item_embedding = self.param("item_embedding", init, (self.num_items + 1, self.dim))
        self.user_net, self.user_out = self.mlp(self.user_dims[:-1]), Dense(self.user_dims[-1])
        self.item_net, self.item_out = self.mlp(self.item_dims[:-1]), Dense(self.item_dims[-1])
        self.query = Dense(self.item_dims[-1], use_bias=False)
        self.score_net = Tower(self.score_dims, mlp=self.mlp)

    def __call__(self, items: Array, candidates: Array, *, train: bool = False) -> Array:
        """Maps histories of ids, 0 = padding, [B, L] and ids of items [B, M] to scores [B, M]."""
        return self.score(self.read(items, train=train), self.vectors(candidates, train=train), train=train)

    def read(self, items: Array, *, train: bool = False) -> Read:
        """The user's part of the scores of a history [B, L]."""
        mask = items != 0
        x = lookup(self.item_embedding, items.reshape(-1))
        behaviours = self.user_out(self.user_net(x, train=train)).reshape(*items.shape, -1)
        behaviours = jnp.where(mask[..., None], behaviours, 0.0)
        number = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        return Read(behaviours, mask, behaviours.sum(axis=1) / number)

    def vectors(self, ids: Array, *, train: bool = False) -> Array:
        """e_v of ids, [...] → [..., D]."""
        x = lookup(self.item_embedding, ids.reshape(-1))
        return self.item_out(self.item_net(x, train=train)).reshape(*ids.shape, -1)

    def item_table(self, *, train: bool = False) -> Array:
        """e_v of all ids, padding first: [V, D]."""
        return self.vectors(jnp.arange(self.num_items + 1), train=train)

    def score(self, user: Read, vectors: Array, *, train: bool = False) -> Array:
        """s_u(e_v) of items' vectors [B, M, D]: [B, M]."""
        logits = jnp.einsum("bmd,bld->bml", self.query(vectors), user.behaviours)
        weights = masked_softmax(logits / math.sqrt(vectors.shape[-1]), user.mask[:, None])
        attended = jnp.einsum("bml,bld->bmd", weights, user.behaviours)
        mean = jnp.broadcast_to(user.mean[:, None], vectors.shape)
        parts = [mean, attended, vectors]
        if self.products:
            parts += [vectors * mean, vectors * attended]
        x = jnp.concatenate(parts, axis=-1)
        return self.score_net(x.reshape(-1, x.shape[-1]), train=train).reshape(x.shape[:-1])
