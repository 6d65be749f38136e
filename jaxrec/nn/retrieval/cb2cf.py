"""CB2CF: vectors of new items in the space of a trained factor model, from their content.

Barkan, Koenigstein, Yogev and Katz, RecSys 2019, arXiv:1611.00384, whose several views of an item are joined
here before they are given. Layers as in irspack's form of it: dropout of what each hidden layer reads, a
linear layer and tanh; a linear layer at the end.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.types import Array, Context


class CB2CF(nn.Module):
    """A vector of each item f(Φ_i), for the factor model's vectors of users.

    Shape names: B batch, F width of the content, U users, I items.

    Fields:
      dim: of the factor model's vectors.
      hidden_dims: widths of the hidden layers; (): the map is linear.
      dropout: rate, from the "dropout" stream.
    """

    dim: int
    hidden_dims: tuple[int, ...] = (256,)
    dropout: float = 0.0
    bits: Bits = threefry_bits

    @nn.compact
    def __call__(self, content: Array, *, rows: Array | None = None, train: bool) -> Array:
        """Maps content [B, F] to vectors [B, dim]. rows [B]: numbers that dropout derives from."""
        check_sizes(dim=self.dim, **{f"hidden_dims[{i}]": width for i, width in enumerate(self.hidden_dims)})
        x = content
        for i, width in enumerate(self.hidden_dims):
            x = Dropout(self.dropout, self.bits)(x, train=train, rows=rows)
            x = nn.tanh(nn.Dense(width, name=f"layer_{i}")(x))
        return nn.Dense(self.dim, name="output")(x)

    def new_items(self, content: Array, factors: int) -> Array:
        """Vectors of items without interactions, [B, F] → [B, dim]. factors: not read."""
        return self(content, train=False)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """The factor model's users [U + 1, dim], and items [I + 1, dim]: the factor model's own vector of an
        item that has training events, f of its content for the others.

        context: user_teacher, item_teacher, item_count and item_content of `data.events.factor_columns`.
        """
        made = self(context["item_content"], train=False)
        items = jnp.where(context["item_count"][:, None] > 0, context["item_teacher"], made)
        return context["user_teacher"], items
