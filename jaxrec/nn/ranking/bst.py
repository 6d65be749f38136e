"""Behavior sequence transformer (Chen et al., DLP-KDD 2019, arXiv:1905.06874)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import SelfAttention
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.id_columns import TABLE_INIT, AgeEmbedding, Columns, ItemEmbedding, real
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()
Pooling = Literal["mean", "sum", "target"]


class BST(nn.Module):
    """Transformer blocks over the history and the target, in both directions, and an MLP over all tokens.

    A block is LN(x + MH(x)), then LN(x + W₂ LeakyReLU(W₁ x + b₁) + b₂), with dropout before either sum.
    Padding is hidden from attention, and its tokens come out as zeros.

    Departs from the paper: projections of the attention have biases.

    Shape names: B batch, L history, F features, D width of a token, age and position included.

    Fields:
      items: columns of ids that describe an item; the first tells padding (0) in a history.
      age_dim: width of the vector of a behaviour's age, the paper's position; the target's age is 0. None:
        the order of the history plays no part but in the MLP.
      num_blocks, num_heads, inner_dim (None: 4 · D): of the blocks; num_heads divides D.
      concatenate: True feeds all tokens to the MLP side by side, which fixes L; False what `pooling` says.
      block_dropout: rate in the blocks, whose random bits are `bits`.
      dims, mlp: of the MLP, see `Tower`.
      pooling: the "mean" or "sum" of all real tokens, or the "target" token alone.

    Further fields, FuxiCTR's:
      position_dim: width of a learned vector of each slot, which fixes L; None: there is none.
      causal: whether tokens see none that come after them. residual, layer_norm: whether blocks have them.
      norm_epsilon: what layer norm adds to variances, 1e-5 there.
      keep_padding: whether tokens of padding see themselves too, and reach the MLP if it reads all of them.
      target_in_tower: whether the MLP reads the target's vectors as they are, too, after the features.
      attention_dropout: rate of the attention weights.
    """

    items: tuple[Categorical, ...]
    age_dim: int | None = 16
    num_blocks: int = 1
    num_heads: int = 8
    inner_dim: int | None = None
    concatenate: bool = True
    block_dropout: float = 0.2
    dims: Sequence[int] = (1024, 512, 256)
    mlp: Callable[..., nn.Module] = Factory(MLP, activation=nn.leaky_relu, dropout=0.2)
    bits: Bits = threefry_bits
    table_init: nn.initializers.Initializer = TABLE_INIT
    pooling: Pooling = "mean"
    position_dim: int | None = None
    causal: bool = False
    residual: bool = True
    layer_norm: bool = True
    norm_epsilon: float = 1e-6
    keep_padding: bool = False
    target_in_tower: bool = False
    attention_dropout: float = 0.0

    histories = ("history",)

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling={self.pooling!r}: must be one of {get_args(Pooling)}")
        if self.num_blocks < 0:
            raise ValueError(f"num_blocks={self.num_blocks}: must be at least 0")
        super().__post_init__()

    @property
    def aged(self) -> tuple[str, ...]:
        """Histories whose ages it reads."""
        return () if self.age_dim is None else self.histories

    @nn.compact
    def __call__(
        self,
        target: Columns,
        history: Columns,
        features: Array | None = None,
        history_age: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Maps columns of ids [B] and [B, L] to a logit [B].

        Args:
          features: of user and context, [B, F].
          history_age: seconds between behaviours and request, int32 [B, L]; needed with `age_dim`.
        """
        embed = ItemEmbedding(self.items, self.table_init, name="items")
        past = real(history, self.items)
        mask = jnp.pad(past, ((0, 0), (0, 1)), constant_values=True)  # the target comes last
        item = embed(target)
        x = jnp.concatenate([embed(history), item[:, None]], axis=1)
        if self.age_dim is not None:
            ages = None if history_age is None else jnp.pad(history_age, ((0, 0), (0, 1)))
            x = jnp.concatenate([x, AgeEmbedding(self.age_dim, name="age")(ages, mask)], axis=-1)
        if self.position_dim is not None:
            positions = self.param("positions", self.table_init, (x.shape[1], self.position_dim))
            positions = jnp.broadcast_to(positions, (*x.shape[:2], self.position_dim))
            x = jnp.concatenate([x, positions], axis=-1)
        visible = visible_tokens(mask, causal=self.causal, see_themselves=self.keep_padding)
        for i in range(self.num_blocks):
            x = self._block(x, visible, str(i), train)
        x = x if self.keep_padding else jnp.where(mask[..., None], x, 0.0)
        self.sow("intermediates", "tokens", x)
        parts = [] if features is None else [features]
        parts += [item] if self.target_in_tower else []
        parts.append(self._pooled(x, mask))
        return Tower(self.dims, mlp=self.mlp, name="tower")(jnp.concatenate(parts, axis=-1), train=train)

    def _pooled(self, x: Array, mask: Array) -> Array:
        """What the MLP reads of the tokens [B, L + 1, D]."""
        if self.concatenate:
            return x.reshape(x.shape[0], -1)
        if self.pooling == "target":
            return x[:, -1]
        total = jnp.where(mask[..., None], x, 0.0).sum(axis=1)
        return total / mask.sum(axis=1, keepdims=True) if self.pooling == "mean" else total

    def _block(self, x: Array, visible: Array, name: str, train: bool) -> Array:
        dim = x.shape[-1]
        attention = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            kernel_init=INIT,
            bits=self.bits,
            name=f"attention_{name}",
        )
        x = self._added(x, attention(x, visible, train=train), f"norm_a_{name}", train)
        inner = nn.leaky_relu(Dense(self.inner_dim or 4 * dim, kernel_init=INIT, name=f"inner_{name}")(x))
        outer = Dense(dim, kernel_init=INIT, name=f"outer_{name}")(inner)
        return self._added(x, outer, f"norm_b_{name}", train)

    def _added(self, x: Array, change: Array, norm: str, train: bool) -> Array:
        """LN(x + change), with dropout of the change."""
        change = Dropout(self.block_dropout, self.bits)(change, train=train)
        x = x + change if self.residual else change
        if not self.layer_norm:
            return x
        return nn.LayerNorm(self.norm_epsilon, use_fast_variance=False, name=norm)(x)


def visible_tokens(mask: Array, *, causal: bool, see_themselves: bool) -> Array:
    """Which tokens a token sees, bool [B, T, T], of those that are real, bool [B, T].

    causal: only those up to itself. see_themselves: itself even if it is padding.
    """
    visible = jnp.broadcast_to(mask[:, None], (*mask.shape, mask.shape[-1]))
    if see_themselves:
        visible = visible | jnp.eye(mask.shape[-1], dtype=bool)
    return jnp.tril(visible) if causal else visible
