"""MeLU: a rating from what is known of the user and the item (Lee et al., KDD 2019, arXiv:1908.00413, 3.1).

No ids of users or items are read, so that new ones can be rated. The embeddings of all columns, items first,
are followed by fully connected layers and one linear output, the decision layers. `tasks.meta` adapts these
to a user's few ratings and leaves the embeddings alone.

Departs from the paper: it does not say how parameters begin; here as in its code, which is PyTorch's default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.content import Column, Content, centred
from jaxrec.types import Array


class MeLU(nn.Module):
    """Embeddings of content, and decision layers with ReLU; the output is a rating, in stars.

    Fields:
      items, users: columns that are read. dim: width of the vector of a column.
      dims: widths of the hidden decision layers.

    Shape names: N items of a user, A values of a set, F = (columns of items and users) · dim. Leading axes
    are free.
    """

    items: tuple[Column, ...]
    users: tuple[Column, ...]
    dim: int = 32
    dims: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        if any(dim < 1 for dim in self.dims):
            raise ValueError(f"dims={tuple(self.dims)}: each layer needs a width of at least 1")
        super().__post_init__()

    def setup(self) -> None:
        self.item_content = Content(self.items, self.dim)
        self.user_content = Content(self.users, self.dim)
        widths = ((len(self.items) + len(self.users)) * self.dim, *self.dims)
        init = {width: {"kernel_init": centred(width), "bias_init": centred(width)} for width in widths}
        self.layer = [nn.Dense(dim, **init[width]) for width, dim in zip(widths[:-1], self.dims, strict=True)]
        self.out = nn.Dense(1, **init[widths[-1]])

    @property
    def decision_layers(self) -> tuple[str, ...]:
        """Names of the parameters that `decide` reads."""
        return (*(f"layer_{i}" for i in range(len(self.dims))), "out")

    def __call__(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """Maps columns of items [..., N] (sets [..., N, A]) and of their users [...] to ratings [..., N]."""
        return self.decide(self.embed(items, users))

    def embed(self, items: Mapping[str, Array], users: Mapping[str, Array]) -> Array:
        """What the decision layers read, [..., N, F]."""
        item = self.item_content(items)
        user = self.user_content(users)[..., None, :]
        return jnp.concatenate([item, jnp.broadcast_to(user, (*item.shape[:-1], user.shape[-1]))], axis=-1)

    def decide(self, x: Array) -> Array:
        """Maps [..., F] to ratings [...]."""
        for layer in self.layer:
            x = nn.relu(layer(x))
        return self.out(x)[..., 0]
