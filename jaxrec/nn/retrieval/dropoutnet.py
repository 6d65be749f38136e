"""DropoutNet: vectors from factors and content (Volkovs, Yu and Poutanen, NeurIPS 2017, section 4).

A tower of users and one of items read the vectors of a trained factor model beside content. Factors that are
0 stand for a user or an item without interactions, whose new vector then depends on content alone.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.types import Array, Context


class FactorTower(nn.Module):
    """Linear → batch norm → tanh for each hidden width, then a linear layer.

    Batch norm is that of the authors' code, whose running statistics keep 0.99 of their value at a step and
    whose variance has 0.001 added.
    """

    hidden_dims: tuple[int, ...]
    dim: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, factors: Array, content: Array | None, *, train: bool) -> Array:
        """Maps factors [..., K] and content [..., F], None for none, to vectors [..., dim]."""
        x = factors if content is None else jnp.concatenate([factors, content], axis=-1)
        init = nn.initializers.glorot_uniform()
        for i, width in enumerate(self.hidden_dims):
            x = nn.Dense(width, kernel_init=init, name=f"layer_{i}")(x)
            x = nn.BatchNorm(
                not train,
                momentum=0.99,
                epsilon=1e-3,
                axis_name=self.axis_name,
                use_fast_variance=False,
                name=f"norm_{i}",
            )(x)
            x = nn.tanh(x)
        return nn.Dense(self.dim, kernel_init=init, name="output")(x)


class DropoutNet(nn.Module):
    """Scores f_u(U_u, Φ_u) · f_v(V_v, Φ_v) of the factors U, V of a trained model and contents Φ.

    Shape names: B batch, K width of the factors, F and G widths of the content of items and of users, U
    users, I items. A side without content has None in its place.

    Fields:
      hidden_dims: widths of the hidden layers of both towers; (): both are linear.
      dim: of the new vectors; the authors' is that of the factors.
      axis_name: of the devices whose batches share their statistics; None: each device has its own.
    """

    hidden_dims: tuple[int, ...] = (200,)
    dim: int = 200
    axis_name: str | None = None

    def setup(self) -> None:
        check_sizes(dim=self.dim, **{f"hidden_dims[{i}]": width for i, width in enumerate(self.hidden_dims)})
        self.user_tower = FactorTower(self.hidden_dims, self.dim, self.axis_name)
        self.item_tower = FactorTower(self.hidden_dims, self.dim, self.axis_name)

    def __call__(
        self,
        user_factors: Array,
        item_factors: Array,
        user_content: Array | None = None,
        item_content: Array | None = None,
        *,
        train: bool,
    ) -> Array:
        """Scores of pairs, from factors [B, K] twice and contents [B, G] and [B, F]: [B]."""
        users = self.user_tower(user_factors, user_content, train=train)
        items = self.item_tower(item_factors, item_content, train=train)
        return jnp.sum(users * items, axis=-1)

    def users(self, factors: Array, content: Array | None = None) -> Array:
        """Vectors of users [..., dim]. Factors of 0: from content alone; after a few interactions the mean of
        the items' factors stands for a user's (section 4.2)."""
        return self.user_tower(factors, content, train=False)

    def items(self, factors: Array, content: Array | None = None) -> Array:
        """Vectors of items [..., dim], as `users`."""
        return self.item_tower(factors, content, train=False)

    def new_items(self, content: Array, factors: int) -> Array:
        """Vectors of items without interactions, [..., F] → [..., dim]. factors: width K of the factors."""
        return self.items(jnp.zeros((*content.shape[:-1], factors), content.dtype), content)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of all users [U + 1, dim] and items [I + 1, dim].

        context: user_factors [U + 1, K], item_factors [I + 1, K] and, where there is such content,
        user_content [U + 1, G], item_content [I + 1, F]; see `tasks.dropoutnet.columns`.
        """
        users = self.users(context["user_factors"], context.get("user_content"))
        items = self.items(context["item_factors"], context.get("item_content"))
        return users, items
