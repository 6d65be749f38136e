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
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.attention import SelfAttention
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.retrieval.field_pairs import FieldPairs
from jaxrec.nn.retrieval.two_tower import read
from jaxrec.packing import window
from jaxrec.types import Array, Context

LISTS = ("disliked", "shown")  # of users, beside what they clicked


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
        real = jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)
        tokens = tokens + jnp.concatenate([table[:1], jnp.flip(table[1 : length + 1], axis=0)])
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


class DFNPairs(FieldPairs):
    """A `DFN` of features of users and items, whose clicks are a user's items of training.

    An item's vector is the sum of those of its fields, and the other fields are those of the user and of the
    candidate. The linear part reads a learned number of each value.

    The context has two more lists of items of each user: disliked [N] with disliked_start, disliked_length
    [U], and alike shown, of items that were shown and not clicked; the most recent are last. In training the
    observed item is left out of the clicks, and all candidates of a row are left out of the other two, which
    would say what their label is.

    Fields besides those of `FieldPairs`, of which `model` is the `DFN` and all fields have its width:
      max_feedback: items of the two lists that are read, the last ones; 0: none, where nobody has any.
    """

    max_feedback: int = 30

    def __post_init__(self) -> None:
        for field in (*self.user_fields, *self.item_fields):
            if not isinstance(field, Categorical):
                raise ValueError(f"{field.name}: is no category, and DFN reads nothing else; leave it out")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        if self.max_feedback < 0:
            raise ValueError(f"max_feedback={self.max_feedback}: must be at least 0")
        fields = [field for field in (*self.user_fields, *self.item_fields) if isinstance(field, Categorical)]
        single = tuple(field._replace(dim=1) for field in fields)
        self.wide = FeatureEmbedding(single, nn.initializers.normal(self.init_std))

    def __call__(self, user: Array, item: Array, context: Context, *, train: bool) -> Array:
        """Logits of items [B, N] for users [B]: [B, N]. In training the first item of a row is observed."""
        model: Any = self.model
        size, count = item.shape
        of_user = jnp.stack(self.field_vectors(self.user_fields, user, context), axis=1)
        of_item = jnp.stack(self.field_vectors(self.item_fields, item.reshape(-1), context), axis=1)
        fields = jnp.concatenate([jnp.repeat(of_user, count, axis=0), of_item], axis=1)  # [B · N, M, D]
        lists = [self.past(user, item, context, train)]
        lists += [self._listed(name, user, item, context, train) for name in LISTS]
        clicks, disliked, shown = (
            (jnp.repeat(self._items(ids, context), count, axis=0), jnp.repeat(ids != 0, count, axis=0))
            for ids in lists
        )
        wide = self._linear(user, item, context)
        logits = model(fields, of_item.sum(axis=1), clicks, disliked, shown, wide=wide, train=train)
        return logits.reshape(size, count)

    def _items(self, ids: Array, context: Context) -> Array:
        """Vectors of items: the sum of those of their fields, [...] → [..., D]."""
        found = self.field_vectors(self.item_fields, ids, context)
        return sum(found[1:], found[0])

    def _listed(self, name: str, user: Array, item: Array, context: Context, train: bool) -> Array:
        """The last items of a list of users, [B, L], without the candidates [B, N] in training."""
        number = jnp.maximum(user - 1, 0)
        length = jnp.where(user > 0, context[f"{name}_length"][number], 0)
        end = context[f"{name}_start"][number] + length
        found = window(context[name], end, length, self.max_feedback or 1)
        if not self.max_feedback:
            return jnp.zeros_like(found)
        own = (found[:, :, None] == item[:, None, :]).any(axis=-1)
        return jnp.where(own, 0, found) if train else found

    def _linear(self, user: Array, item: Array, context: Context) -> Array:
        """The number of each field's value: [B · N, M]."""
        found = []
        for fields, rows in (
            (self.user_fields, jnp.repeat(user, item.shape[1])),
            (self.item_fields, item.reshape(-1)),
        ):
            columns = {field.name: read(context, field, field.name, rows) for field in fields}
            numbers = self.wide.vectors(columns, columns)
            found += [numbers[field.name] for field in fields]
        return jnp.concatenate(found, axis=-1)
