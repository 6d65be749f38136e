"""Matrix factorisation of users and items, with or without biases.

Without biases and trained by `losses.bpr` it is BPR-MF (Rendle et al., UAI 2009, arXiv:1205.2618), whose own
learner has a bias of each item too. With both it is Koren, Bell and Volinsky, IEEE Computer 42(8), 2009,
equation 4, in the form of Rendle et al., RecSys 2020 (arXiv:2005.09683), where the global bias is learned.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes, products, unit
from jaxrec.types import Array, Context


class MF(nn.Module):
    """Scores p_u · q_i (+ b_i + b_u + b).

    Shape names: B batch, N items of each user, D dim, U users, I items.

    Fields:
      num_users, num_items: U and I; both tables have a row of padding in front.
      item_bias: adds a bias of each item.
      user_bias: adds a bias of each user and a global one. They change no ranking and cancel in losses of
        differences (BPR, softmax), but those of labelled pairs need them.
      cosine: scores are cosines of p_u and q_i (MF-CCL of SimpleX's paper).
      init_std: of normal initial vectors; biases start at 0.
      dropout: of the user's vector, from the "dropout" stream, as MF-CCL has it.
    """

    num_users: int
    num_items: int
    dim: int = 64
    item_bias: bool = False
    user_bias: bool = False
    cosine: bool = False
    init_std: float = 0.1
    dropout: float = 0.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        if self.cosine and (self.item_bias or self.user_bias):
            raise ValueError("cosine=True: biases are not defined beside cosines; leave them out")
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.noise = Dropout(self.dropout, self.bits)
        if self.item_bias:
            self.item_biases = self.param("item_bias", nn.initializers.zeros, (self.num_items + 1, 1))
        if self.user_bias:
            self.user_biases = self.param("user_bias", nn.initializers.zeros, (self.num_users + 1, 1))
            self.global_bias = self.param("bias", nn.initializers.zeros, (1,))

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. rows [B]: numbers that dropout derives from."""
        users, items = lookup(self.user_embedding, user), lookup(self.item_embedding, item)
        if self.cosine:
            users, items = unit(users), unit(items)
        scores = products(self.noise(users, train=train, rows=rows), items)
        if self.item_bias:
            scores = scores + lookup(self.item_biases, item)[..., 0]
        if self.user_bias:
            scores = scores + lookup(self.user_biases, user) + self.global_bias
        return scores

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N], biases included."""
        rows = [lookup(self.user_embedding, user), lookup(self.item_embedding, item)]
        if self.item_bias:
            rows.append(lookup(self.item_biases, item))
        if self.user_bias:
            rows.append(lookup(self.user_biases, user))
            rows.append(jnp.broadcast_to(self.global_bias, (user.shape[0], 1)))
        return tuple(rows)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users [U + 1, D] and items [I + 1, D]; with a bias of items [p_u, 1] and [q_i, b_i].

        Their products lack the biases of a user and the global one.
        """
        users, items = self.user_embedding, self.item_embedding
        if self.cosine:
            return unit(users), unit(items)
        if self.item_bias:
            users = jnp.concatenate([users, jnp.ones((users.shape[0], 1), users.dtype)], axis=1)
            items = jnp.concatenate([items, self.item_biases], axis=1)
        return users, items
