"""Behavior sequence transformer (Chen et al., DLP-KDD 2019, arXiv:1905.06874)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import SelfAttention
from jaxrec.nn.layers.behaviours import TABLE_INIT, AgeEmbedding, Columns, ItemEmbedding, real
from jaxrec.nn.layers.dense import Dense
from jaxrec.nn.layers.dropout import Bits, Dropout, threefry_bits
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import Activation, Tower, mlp_fields
from jaxrec.types import Array

INIT = nn.initializers.glorot_uniform()


class BST(nn.Module):
    """Transformer blocks over the history and the target, in both directions, and an MLP over all tokens.

    A block is LN(x + MH(x)), then LN(x + W₂ LeakyReLU(W₁ x + b₁) + b₂), with dropout before either sum.
    Padding is hidden from attention, and its tokens come out as zeros.

    Departs from the paper: projections of the attention have biases.

    Shape names: B batch, L history, F features, D width of a token, age included.

    Fields:
      items: columns of ids that describe an item; the first tells padding (0) in a history.
      age_dim: width of the vector of a behaviour's age, the paper's position; the target's age is 0. None:
        the order of the history plays no part but in the MLP.
      num_blocks, num_heads, inner_dim (None: 4 · D): of the blocks; num_heads divides D.
      concatenate: True feeds all tokens to the MLP side by side, which fixes L; False the mean of all real.
      block_dropout: rate in the blocks. dims and the rest: of the MLP, see `MLP`.
    """

    items: tuple[Categorical, ...]
    age_dim: int | None = 16
    num_blocks: int = 1
    num_heads: int = 8
    inner_dim: int | None = None
    concatenate: bool = True
    block_dropout: float = 0.2
    dims: Sequence[int] = (1024, 512, 256)
    activation: Activation = nn.leaky_relu
    dropout: float = 0.2
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits
    table_init: nn.initializers.Initializer = TABLE_INIT

    histories = ("history",)

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
        x = jnp.concatenate([embed(history), embed(target)[:, None]], axis=1)
        if self.age_dim is not None:
            ages = None if history_age is None else jnp.pad(history_age, ((0, 0), (0, 1)))
            x = jnp.concatenate([x, AgeEmbedding(self.age_dim, name="age")(ages, mask)], axis=-1)
        for i in range(self.num_blocks):
            x = self._block(x, mask, str(i), train)
        x = jnp.where(mask[..., None], x, 0.0)
        self.sow("intermediates", "tokens", x)
        if self.concatenate:
            pooled = x.reshape(len(x), -1)
        else:
            pooled = x.sum(axis=1) / mask.sum(axis=1, keepdims=True)
        parts = [pooled] if features is None else [features, pooled]
        return Tower(self.dims, **mlp_fields(self), name="tower")(
            jnp.concatenate(parts, axis=-1), train=train
        )

    def _block(self, x: Array, mask: Array, name: str, train: bool) -> Array:
        dim = x.shape[-1]
        visible = jnp.broadcast_to(mask[:, None], (*mask.shape, mask.shape[-1]))
        attention = SelfAttention(self.num_heads, kernel_init=INIT, bits=self.bits, name=f"attention_{name}")
        drop = Dropout(self.block_dropout, self.bits)
        x = nn.LayerNorm(name=f"norm_a_{name}")(x + drop(attention(x, visible, train=train), train=train))
        inner = nn.leaky_relu(Dense(self.inner_dim or 4 * dim, kernel_init=INIT, name=f"inner_{name}")(x))
        outer = Dense(dim, kernel_init=INIT, name=f"outer_{name}")(inner)
        drop = Dropout(self.block_dropout, self.bits)
        return nn.LayerNorm(name=f"norm_b_{name}")(x + drop(outer, train=train))
