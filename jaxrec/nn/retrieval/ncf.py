"""Neural collaborative filtering: GMF, MLP and NeuMF (He et al., WWW 2017, arXiv:1708.05031, section 3).

The authors' settings halve the width of the MLP from layer to layer; "predictive factors" is the width of the
last. Scores of pairs that go through an MLP are no dot products: `all_scores` makes those of all items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.embedding import lookup, pad_row
from jaxrec.nn.layers.pairs import check_sizes
from jaxrec.types import Array, Context, Variables


class GMF(nn.Module):
    """Generalised matrix factorisation, h · (p_u * q_i) + b: each factor of the product has a weight.

    Shape names: B batch, N items of each user, D dim, U users, I items.

    Fields:
      num_users, num_items: U and I; both tables have a row of padding in front.
      init_std: of normal initial vectors, as in the authors' code.
    """

    num_users: int
    num_items: int
    dim: int = 8
    init_std: float = 0.01

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.output = nn.Dense(1, kernel_init=nn.initializers.lecun_uniform())

    def features(self, user: Array, item: Array) -> Array:
        """What the output layer reads, p_u * q_i: [B], [B, N] → [B, N, D]."""
        return lookup(self.user_embedding, user)[:, None] * lookup(self.item_embedding, item)

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]."""
        return self.output(self.features(user, item))[..., 0]

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def vectors(self, context: Context) -> tuple[Array, Array]:
        """Vectors of users, h * p_u [U + 1, D], and items [I + 1, D]. Their products lack the bias."""
        self.output(jnp.zeros((1, self.dim)))  # so that its parameters are bound
        weight = self.output.variables["params"]["kernel"][:, 0]
        return self.user_embedding * weight, self.item_embedding


class MLPPairs(nn.Module):
    """The MLP of the paper: layers of halving width on the two vectors side by side, then a linear output.

    Shape names: as of `GMF`; E width of an embedding, H widths of the layers.

    Fields:
      dim: E. The authors' is half the width of their first layer, which is the pair [p_u, q_i] itself.
      hidden_dims: H, of the layers after that; the last is the number of predictive factors. None at all is
        MLP-0, a linear function of the two vectors.
      dropout: of what each layer reads, from the "dropout" stream, as in RecBole; the authors have none.
    """

    num_users: int
    num_items: int
    dim: int = 16
    hidden_dims: tuple[int, ...] = (16, 8)
    init_std: float = 0.01
    dropout: float = 0.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        check_sizes(num_users=self.num_users, num_items=self.num_items, dim=self.dim)
        check_sizes(**{f"hidden_dims[{i}]": dim for i, dim in enumerate(self.hidden_dims)})
        drawn = pad_row(nn.initializers.normal(self.init_std))
        self.user_embedding = self.param("user_embedding", drawn, (self.num_users + 1, self.dim))
        self.item_embedding = self.param("item_embedding", drawn, (self.num_items + 1, self.dim))
        self.noise = Dropout(self.dropout, self.bits)
        self.layers = [
            nn.Dense(dim, kernel_init=nn.initializers.glorot_uniform(), name=f"layer_{i}")
            for i, dim in enumerate(self.hidden_dims)
        ]
        self.output = nn.Dense(1, kernel_init=nn.initializers.lecun_uniform())

    def features(self, user: Array, item: Array, *, train: bool, rows: Array | None = None) -> Array:
        """The last hidden layer: [B], [B, N] → [B, N, H_last]."""
        users, items = lookup(self.user_embedding, user)[:, None], lookup(self.item_embedding, item)
        x = jnp.concatenate([jnp.broadcast_to(users, items.shape), items], axis=-1)
        for layer in self.layers:
            x = nn.relu(layer(self.noise(x, train=train, rows=rows)))
        return x

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. rows [B]: numbers that dropout derives from."""
        return self.output(self.features(user, item, train=train, rows=rows))[..., 0]

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N]."""
        return lookup(self.user_embedding, user), lookup(self.item_embedding, item)

    def all_scores(self, user: Array, context: Context) -> Array:
        """Scores of every id, padding first: [B] → [B, I + 1]."""
        return self(user, every_item(user, self.num_items), context, train=False)


class NeuMF(nn.Module):
    """GMF and the MLP, each with tables of its own, under one output layer; `pretrained` starts it from both.

    Fields:
      dim: width of GMF. mlp_dim, hidden_dims, dropout: of the MLP. The defaults are the authors' with eight
        predictive factors, layers [64, 32, 16, 8].
    """

    num_users: int
    num_items: int
    dim: int = 8
    mlp_dim: int = 32
    hidden_dims: tuple[int, ...] = (32, 16, 8)
    init_std: float = 0.01
    dropout: float = 0.0
    bits: Bits = threefry_bits

    def setup(self) -> None:
        check_sizes(mlp_dim=self.mlp_dim)
        self.gmf = GMF(self.num_users, self.num_items, self.dim, self.init_std)
        self.mlp = MLPPairs(
            num_users=self.num_users,
            num_items=self.num_items,
            dim=self.mlp_dim,
            hidden_dims=self.hidden_dims,
            init_std=self.init_std,
            dropout=self.dropout,
            bits=self.bits,
        )
        self.output = nn.Dense(1, kernel_init=nn.initializers.lecun_uniform())

    def __call__(
        self, user: Array, item: Array, context: Context, *, rows: Array | None = None, train: bool
    ) -> Array:
        """Scores of items [B, N] for users [B]: [B, N]. rows [B]: numbers that dropout derives from."""
        product = self.gmf.features(user, item)
        hidden = self.mlp.features(user, item, train=train, rows=rows)
        return self.output(jnp.concatenate([product, hidden], axis=-1))[..., 0]

    def penalised(self, user: Array, item: Array) -> tuple[Array, ...]:
        """Rows of users [B] and items [B, N] in the tables of both branches."""
        return self.gmf.penalised(user, item) + self.mlp.penalised(user, item)

    def all_scores(self, user: Array, context: Context) -> Array:
        """Scores of every id, padding first: [B] → [B, I + 1]."""
        return self(user, every_item(user, self.num_items), context, train=False)


def every_item(user: Array, num_items: int) -> Array:
    """The ids 0..num_items for each user: int32 [B, num_items + 1]."""
    return jnp.broadcast_to(jnp.arange(num_items + 1, dtype=jnp.int32), (user.shape[0], num_items + 1))


def pretrained(gmf: Variables, mlp: Variables, *, alpha: float = 0.5) -> dict[str, Any]:
    """Variables of a `NeuMF` whose scores are alpha times those of a GMF and 1 - alpha times an MLP's.

    Section 3.4.1. The branches' tables and layers are taken over, and the output layer is
    [alpha h_gmf, (1 - alpha) h_mlp], with its bias alike, as in the authors' code for alpha = 0.5. The paper
    then trains by plain SGD, since Adam would need the branches' moments; the authors' example command keeps
    Adam.

    Raises:
      ValueError: alpha is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must be in 0..1")
    parts = [dict(variables["params"]) for variables in (gmf, mlp)]
    outputs: list[Mapping[str, Any]] = [part.pop("output") for part in parts]
    weights = (alpha, 1 - alpha)
    scaled = [jax.tree.map(lambda x, w=w: w * x, o) for w, o in zip(weights, outputs, strict=True)]
    kernel = jnp.concatenate([output["kernel"] for output in scaled])
    bias = scaled[0]["bias"] + scaled[1]["bias"]
    return {"params": {"gmf": parts[0], "mlp": parts[1], "output": {"kernel": kernel, "bias": bias}}}
