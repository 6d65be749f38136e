"""Search-based interest model (Pi et al., CIKM 2020, arXiv:2006.05639).

Two stages: a search unit picks the k behaviours of a long history that matter for the target, an exact unit
attends to these. The loss is the sum of the cross-entropies of both outputs (section 3, equation 6), the
search's with weight 0 in hard search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrec.nn.layers.behaviours import (
    TABLE_INIT,
    AgeEmbedding,
    Columns,
    ItemEmbedding,
    column,
    over_blocks,
    real,
    take,
)
from jaxrec.nn.layers.dropout import Bits, threefry_bits
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import Activation, Tower, mlp_fields
from jaxrec.nn.layers.target_attention import INIT, TargetAttention, top_k
from jaxrec.types import Array


class SoftSearch(nn.Module):
    """Relevance by inner product, r_i = (W_b e_i)·(W_a e_a), and U_r = Σ r_i e_i, without any softmax.

    W_b is applied to the query, so that no projection of the history is ever formed.
    """

    dim: int

    @nn.compact
    def __call__(self, target: Array) -> Array:
        """Maps e_a [B, D] to W_bᵀ W_a e_a [B, D], with which `relevance` scores events."""
        width = target.shape[-1]
        asked = target @ self.param("target_kernel", INIT, (width, self.dim))
        return asked @ self.param("behaviour_kernel", INIT, (width, self.dim)).T


def relevance(asked: Array, history: Array, mask: Array) -> tuple[Array, Array]:
    """Maps [B, D], [B, L, D] and bool [B, L] to U_r [B, D] and scores r [B, L], 0 where masked."""
    scores = jnp.where(mask, jnp.einsum("bd,bld->bl", asked, history), 0.0)
    return jnp.einsum("bl,bld->bd", scores, history), scores


class SIM(nn.Module):
    """Search, exact attention over what it found, the short-term interest, and an MLP over all.

    Shape names: B batch, L long history, S short history, F features, D width of an item, k found behaviours.

    Fields:
      items: columns of ids that describe an item; the first tells padding (0) in a history.
      k: behaviours that the search returns, if there are as many.
      category: the one of `items` whose ids must equal the target's, hard search, of which the most recent k
        are taken. Nothing but these k is looked up in a table. None: soft search.
      search_dim: of W_a and W_b. own_tables: False lets soft search share the tables of the exact unit.
      features_in_search: whether the output of soft search reads the features too; the paper's does not.
      padding_score: what padding competes with in soft search. -inf never lets it in while a real behaviour
        is left; 0 (FuxiCTR) lets it push out behaviours of negative score.
      block: events of the long history that soft search holds vectors of at a time, so that memory grows with
        B × L × 1, not × D; None: all.
      age_dim: width of the vector of a behaviour's age beside it in the exact unit; None: no ages.
      exact: reads what was found; None: `TargetAttention` with `num_heads` in the paper's form. short: the
        same for the short history, such as `Pooled(ActivationUnit())` (DIN). Any module will do that is
        called as (target [B, D], history [B, k, D + age_dim], mask [B, k], train=…), the oldest event first.
      dims: hidden layers of each of the two MLPs; the rest: see `MLP`.
    """

    items: tuple[Categorical, ...]
    k: int = 50
    category: str | None = None
    search_dim: int = 64
    own_tables: bool = True
    features_in_search: bool = False
    padding_score: float = -math.inf
    block: int | None = 1024
    age_dim: int | None = None
    num_heads: int = 1
    exact: nn.Module | None = None
    short: nn.Module | None = None
    dims: Sequence[int] = (200, 80)
    activation: Activation = nn.relu
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | None = None
    bits: Bits = threefry_bits
    table_init: nn.initializers.Initializer = TABLE_INIT

    histories = ("long", "short")

    def __post_init__(self) -> None:
        names = [item.name for item in self.items]
        if self.category is not None and self.category not in names:
            raise ValueError(f"category={self.category!r}: hard search needs one of items={names}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        target: Columns,
        long: Columns,
        short: Columns,
        features: Array | None = None,
        long_age: Array | None = None,
        short_mask: Array | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Maps columns of ids [B], [B, L] and [B, S] to logits [B]: "ctr" and, of soft search, "search".

        Args:
          features: of user and context, [B, F].
          long_age: seconds between behaviours and request, int32 [B, L]; needed with `age_dim`.
          short_mask: which of the short history counts, [B, S]; None: all but padding.
        """
        mlp, context = mlp_fields(self), [] if features is None else [features]
        embed = ItemEmbedding(self.items, self.table_init, name="items")
        item, mask, outputs = embed(target), real(long, self.items), {}
        if self.category is not None:
            same = column(long, self.category) == column(target, self.category)[:, None]
            slots, found = top_k(jnp.zeros(mask.shape), mask & same, self.k)
        else:
            search = (
                ItemEmbedding(self.items, self.table_init, name="search_items") if self.own_tables else embed
            )
            query = search(target)
            asked, read = SoftSearch(self.search_dim, name="search")(query), search.reader()

            def scored(events: Columns) -> tuple[Array, Array]:
                return relevance(asked, read(events), real(events, self.items))

            events = {item.name: column(long, item.name) for item in self.items}
            pooled, scores = over_blocks(scored, events, self.block)
            self.sow("intermediates", "search_scores", scores)
            seen = jnp.concatenate([*(context if self.features_in_search else []), query, pooled], axis=-1)
            outputs["search"] = Tower(self.dims, **mlp, name="search_tower")(seen, train=train)
            slots, found = top_k(scores, mask, self.k, padding_score=self.padding_score)
        self.sow("intermediates", "found", (slots, found))

        chosen = embed(take(long, slots))  # [B, k, D]
        if self.age_dim is not None:
            ages = AgeEmbedding(self.age_dim, name="age")(long_age, found, slots)
            chosen = jnp.concatenate([chosen, ages], axis=-1)
        plain: dict[str, Any] = {"num_heads": self.num_heads, "project_values": False, "scale": False}
        exact = self.exact or TargetAttention(**plain, name="long_attention")
        recent = self.short or TargetAttention(**plain, name="short_attention")
        short_mask = real(short, self.items) if short_mask is None else short_mask
        interests = [
            recent(item, embed(short), short_mask, train=train),
            exact(item, chosen, found, train=train),
        ]
        self.sow("intermediates", "interests", tuple(interests))
        x = jnp.concatenate([*context, item, *interests], axis=-1)
        return {"ctr": Tower(self.dims, **mlp, name="tower")(x, train=train), **outputs}
