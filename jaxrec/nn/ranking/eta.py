"""End-to-end target attention over a long history (Chen et al., 2021, arXiv:2108.04468).

The behaviours to attend to are those whose hashed vectors are nearest to the target's. Codes are made from
the embeddings of the step at hand, so there is no second stage to train and no index to keep fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.hashing import hamming, nearest, simhash
from jaxrec.nn.layers.id_columns import (
    TABLE_INIT,
    AgeEmbedding,
    Columns,
    ItemEmbedding,
    column,
    over_blocks,
    real,
    take,
)
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.layers.target_attention import TargetAttention
from jaxrec.types import Array


class ETA(nn.Module):
    """Hamming search, target attention over what it found and over the short history, and an MLP over all.

    The random directions are drawn once with the parameters and stand in the collection "constants", as
    `rotations` [D, m]: saved with the model, never trained.

    Shape names: B batch, L long history, S short history, F features, D width of an item, m bits.

    Fields:
      items: columns of ids that describe an item; the first tells padding (0) in a history.
      k: behaviours that the search returns, if there are as many.
      num_bits: m; None: 2 · D, beyond which the paper finds little gain.
      block: events of the long history that are hashed at a time, so that memory grows with B × L, not × D;
        None: all.
      age_dim: width of the vector of a behaviour's age beside it in the long attention; None: no ages.
      short_ages: whether behaviours of the short history have such a vector too, from the same table.
      num_heads, attention_dim: of both attentions, see `TargetAttention`.
      exact, short: other modules in the place of these two, see `SIM`.
      dims, mlp: of the MLP, see `Tower`.
    """

    items: tuple[Categorical, ...]
    k: int = 48
    num_bits: int | None = None
    block: int | None = 1024
    age_dim: int | None = None
    short_ages: bool = False
    num_heads: int = 1
    attention_dim: int | None = None
    exact: nn.Module | None = None
    short: nn.Module | None = None
    dims: Sequence[int] = (512, 128, 64)
    mlp: Callable[..., nn.Module] = MLP
    table_init: nn.initializers.Initializer = TABLE_INIT

    histories = ("long", "short")

    def __post_init__(self) -> None:
        if self.num_bits is not None and self.num_bits < 1:
            raise ValueError(f"num_bits={self.num_bits}: a code needs at least 1 bit")
        super().__post_init__()

    @property
    def aged(self) -> tuple[str, ...]:
        """Histories whose ages it reads."""
        return () if self.age_dim is None else self.histories if self.short_ages else self.histories[:1]

    @nn.compact
    def __call__(
        self,
        target: Columns,
        long: Columns,
        short: Columns,
        features: Array | None = None,
        long_age: Array | None = None,
        short_mask: Array | None = None,
        short_age: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Maps columns of ids [B], [B, L] and [B, S] to a logit [B].

        Args:
          features: of user and context, [B, F].
          long_age: seconds between behaviours and request, int32 [B, L]; needed with `age_dim`.
          short_mask: which of the short history counts, [B, S]; None: all but padding.
          short_age: as long_age, int32 [B, S]; needed with `age_dim` and `short_ages`.
        """
        embed = ItemEmbedding(self.items, self.table_init, name="items")
        item, mask = embed(target), real(long, self.items)
        shape = (item.shape[-1], self.num_bits or 2 * item.shape[-1])
        rotations = self.variable(
            "constants", "rotations", lambda: jax.random.normal(self.make_rng("params"), shape)
        ).value
        read, code = embed.reader(), simhash(item, rotations)[:, None]

        def far(events: Columns) -> tuple[tuple[()], Array]:
            return (), hamming(simhash(read(events), rotations), code)

        events = {item.name: column(long, item.name) for item in self.items}
        _, distances = over_blocks(far, events, self.block)
        slots, found, distances = nearest(distances, mask, shape[1], self.k)
        self.sow("intermediates", "distances", distances)
        self.sow("intermediates", "found", (slots, found))

        chosen, latest = embed(take(long, slots)), embed(short)  # [B, k, D], [B, S, D]
        short_mask = real(short, self.items) if short_mask is None else short_mask
        if self.age_dim is not None:
            age = AgeEmbedding(self.age_dim, name="age")
            chosen = jnp.concatenate([chosen, age(long_age, found, slots)], axis=-1)
            if self.short_ages:
                latest = jnp.concatenate([latest, age(short_age, short_mask)], axis=-1)
        exact = self.exact or TargetAttention(self.num_heads, self.attention_dim, name="long_attention")
        recent = self.short or TargetAttention(self.num_heads, self.attention_dim, name="short_attention")
        interests = (
            recent(item, latest, short_mask, train=train),
            exact(item, chosen, found, train=train),
        )
        self.sow("intermediates", "interests", interests)
        x = jnp.concatenate([*([] if features is None else [features]), item, *interests], axis=-1)
        return Tower(self.dims, mlp=self.mlp, name="tower")(x, train=train)
