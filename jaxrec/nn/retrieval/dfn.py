"""Deep Feedback Network: clicks, dislikes and items that were shown but not clicked, together.

Xie et al., IJCAI 2020, doi:10.24963/ijcai.2020/349, section 3. Implicit negatives are noisy: attention finds
those that resemble dislikes, and those that resemble clicks. The authors' released code differs from the
paper, which is followed here: it sums the outputs of attention in place of their mean, with a feed-forward
layer behind whose bias padding adds too, and it gives the target no position.

Ours, where the paper leaves it open: attention weights of external feedback are a softmax, as a ratio of
outputs of an MLP may be negative; the deep part reads the fields' vectors side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import SelfAttention
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.types import Array


class Feedback(nn.Module):
    """Internal feedback interaction: the target and a sequence attend to each other, and are averaged.

    The target is first, with position 0; positions count from the most recent item, which is last in the
    sequence, so that padding on the left changes none.
    """

    num_heads: int
    max_len: int

    @nn.compact
    def __call__(self, target: Array, items: Array, mask: Array) -> Array:
        """Maps a target [B, D] and items [B, L, D] with their mask [B, L] to [B, D]."""
        length = items.shape[1]
        if length > self.max_len:
            raise ValueError(f"items: {length} of them, but max_len={self.max_len}; cut off the oldest")
        table = self.param("positions", nn.initializers.normal(0.02), (self.max_len + 1, items.shape[-1]))
        tokens = jnp.concatenate([target[:, None], jnp.where(mask[..., None], items, 0.0)], axis=1)
        places = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(length, 0, -1)])
        real = jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)
        tokens = tokens + table[places]
        visible = jnp.broadcast_to(real[:, None], (*real.shape, real.shape[1]))
        mixed = SelfAttention(self.num_heads, kernel_init=nn.initializers.glorot_uniform(), name="attention")(
            tokens, visible, train=False
        )
        total = jnp.sum(jnp.where(real[..., None], mixed, 0.0), axis=1)
        return total / jnp.sum(real, axis=1, keepdims=True)


class External(nn.Module):
    """External feedback interaction: raw items by how much each resembles a denoised vector.

    f(a, b) = MLP([a, b, a - b, a * b]), of two layers; no real item gives zero.
    """

    dim: int

    @nn.compact
    def __call__(self, query: Array, items: Array, mask: Array) -> tuple[Array, Array]:
        """Maps a query [B, D] and items [B, L, D] with their mask to [B, D] and the weights [B, L]."""
        items = jnp.where(mask[..., None], items, 0.0)
        query = jnp.broadcast_to(query[:, None], items.shape)
        inputs = jnp.concatenate([query, items, query - items, query * items], axis=-1)
        scores = nn.Dense(1, name="score")(nn.relu(nn.Dense(self.dim, name="hidden")(inputs)))[..., 0]
        scores = jnp.where(mask, scores, -jnp.inf)
        top = jnp.max(scores, axis=-1, keepdims=True)
        mass = jnp.where(
            mask, jnp.exp(jnp.where(mask, scores - jnp.where(jnp.isfinite(top), top, 0.0), 0.0)), 0.0
        )
        weights = mass / jnp.maximum(jnp.sum(mass, axis=-1, keepdims=True), 1e-30)
        return jnp.einsum("bl,bld->bd", weights, items), weights


class DFN(nn.Module):
    """Five vectors of feedback as fields beside the others, under a linear part, an FM and a deep part.

    Shape names: B batch, M other fields, D dim, L items of a sequence. All vectors have the same width.

    Fields:
      num_heads: of internal attention. max_len: longest sequence. attention_dim: of external attention.
      deep_dims: of the deep part.
    """

    num_heads: int = 4
    max_len: int = 30
    attention_dim: int = 32
    deep_dims: Sequence[int] = (32, 16)

    def setup(self) -> None:
        self.inner = {
            name: Feedback(self.num_heads, self.max_len) for name in ("clicks", "dislikes", "unclicked")
        }
        self.like_clicks = External(self.attention_dim)
        self.like_dislikes = External(self.attention_dim)
        self.deep = MLP(self.deep_dims)
        self.output = Tower(())

    def __call__(
        self,
        fields: Array,
        target: Array,
        clicks: tuple[Array, Array],
        dislikes: tuple[Array, Array],
        unclicked: tuple[Array, Array],
        *,
        wide: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Maps other fields [B, M, D], a target [B, D] and three sequences to a logit [B].

        clicks, dislikes, unclicked: vectors [B, L, D] and their mask [B, L], most recent last.
        wide: numbers that the linear part reads, such as a weight looked up for each id, [B, W]; None: it
        reads none.
        """
        feedback = jnp.stack(self.feedback(target, clicks, dislikes, unclicked), axis=1)
        vectors = jnp.concatenate([fields, feedback], axis=1)  # [B, M + 5, D]
        total = jnp.sum(vectors, axis=1)
        pairwise = 0.5 * (jnp.square(total) - jnp.sum(jnp.square(vectors), axis=1))
        deep = self.deep(vectors.reshape(vectors.shape[0], -1), train=train)
        parts = [pairwise, deep] if wide is None else [wide, pairwise, deep]
        return self.output(jnp.concatenate(parts, axis=-1))

    def feedback(
        self,
        target: Array,
        clicks: tuple[Array, Array],
        dislikes: tuple[Array, Array],
        unclicked: tuple[Array, Array],
    ) -> tuple[Array, Array, Array, Array, Array]:
        """f_c, f_d, f_u, f_uc and f_ud, [B, D] each."""
        liked = self.inner["clicks"](target, *clicks)
        disliked = self.inner["dislikes"](target, *dislikes)
        ignored = self.inner["unclicked"](target, *unclicked)
        missed, _ = self.like_clicks(liked, *unclicked)
        avoided, _ = self.like_dislikes(disliked, *unclicked)
        return liked, disliked, ignored, missed, avoided
