"""Search-based interest model (Pi et al., CIKM 2020, arXiv:2006.05639).

Two stages: a search unit picks the k behaviours of a long history that matter for the target, an exact unit
attends to these. The loss is the sum of the cross-entropies of both outputs (section 3, equation 6), the
search's with weight 0 in hard search.

Both are trained together or, as where an index of vectors is built in between, one after the other: the
search unit by its own loss, then everything else while it stays as it is.

    params = transfer(model.init(key, *inputs)["params"], pretrained["params"])
    kinds = jax.tree.map(lambda search: "frozen" if search else "own", of_search(params))
    tx = optax.partition({"own": optax.adam(1e-3), "frozen": optax.set_to_zero()}, kinds)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.features import Categorical
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
from jaxrec.nn.layers.target_attention import INIT, TargetAttention, top_k
from jaxrec.types import Array, Variables

SEARCH = ("search", "search_items", "search_tower")  # parameters of the search unit


class SoftSearch(nn.Module):
    """Relevance by inner product, r_i = (W_b e_i)·(W_a e_a), and U_r = Σ r_i e_i, without any softmax.

    W_b is applied to the query, so that no projection of the history is ever formed.
    """

    dim: int

    @nn.compact
    def __call__(self, target: Array) -> Array:
        """Maps e_a [B, D] to W_bᵀ W_a e_a [B, D], with which `relevance` scores events."""
        width = target.shape[-1]
        query = target @ self.param("target_kernel", INIT, (width, self.dim))
        return query @ self.param("behaviour_kernel", INIT, (width, self.dim)).T


def relevance(query: Array, history: Array, mask: Array) -> tuple[Array, Array]:
    """Maps [B, D], [B, L, D] and bool [B, L] to U_r [B, D] and scores r [B, L], 0 where masked."""
    scores = jnp.where(mask, jnp.einsum("bd,bld->bl", query, history), 0.0)
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
      short_ages: whether behaviours of the short history have such a vector too, from the same table.
      exact: reads what was found; None: `TargetAttention` with `num_heads` in the paper's form. short: the
        same for the short history, such as `Pooled(ActivationUnit())` (DIN). Any module will do that is
        called as (target [B, D], history [B, k, D + age_dim], mask [B, k], train=…), the oldest event first.
      dims: hidden layers of each of the two MLPs. mlp: builds both, see `Tower`.
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
    short_ages: bool = False
    num_heads: int = 1
    exact: nn.Module | None = None
    short: nn.Module | None = None
    dims: Sequence[int] = (200, 80)
    mlp: Callable[..., nn.Module] = MLP
    table_init: nn.initializers.Initializer = TABLE_INIT

    histories = ("long", "short")

    def __post_init__(self) -> None:
        names = [item.name for item in self.items]
        if self.category is not None and self.category not in names:
            raise ValueError(f"category={self.category!r}: hard search needs one of items={names}")
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
    ) -> dict[str, Array]:
        """Maps columns of ids [B], [B, L] and [B, S] to logits [B]: "ctr" and, of soft search, "search".

        Args:
          features: of user and context, [B, F].
          long_age: seconds between behaviours and request, int32 [B, L]; needed with `age_dim`.
          short_mask: which of the short history counts, [B, S]; None: all but padding.
          short_age: as long_age, int32 [B, S]; needed with `age_dim` and `short_ages`.
        """
        context = [] if features is None else [features]
        embed = ItemEmbedding(self.items, self.table_init, name="items")
        item, mask, outputs = embed(target), real(long, self.items), {}
        if self.category is not None:
            same = column(long, self.category) == column(target, self.category)[:, None]
            slots, found = top_k(jnp.zeros(mask.shape), mask & same, self.k)
        else:
            search = (
                ItemEmbedding(self.items, self.table_init, name="search_items") if self.own_tables else embed
            )
            own = search(target)
            query, read = SoftSearch(self.search_dim, name="search")(own), search.reader()

            def scored(events: Columns) -> tuple[Array, Array]:
                return relevance(query, read(events), real(events, self.items))

            events = {item.name: column(long, item.name) for item in self.items}
            pooled, scores = over_blocks(scored, events, self.block)
            self.sow("intermediates", "search_scores", scores)
            seen = jnp.concatenate([*(context if self.features_in_search else []), own, pooled], axis=-1)
            outputs["search"] = Tower(self.dims, mlp=self.mlp, name="search_tower")(seen, train=train)
            slots, found = top_k(scores, mask, self.k, padding_score=self.padding_score)
        self.sow("intermediates", "found", (slots, found))

        chosen, latest = embed(take(long, slots)), embed(short)  # [B, k, D], [B, S, D]
        short_mask = real(short, self.items) if short_mask is None else short_mask
        if self.age_dim is not None:
            age = AgeEmbedding(self.age_dim, name="age")
            chosen = jnp.concatenate([chosen, age(long_age, found, slots)], axis=-1)
            if self.short_ages:
                latest = jnp.concatenate([latest, age(short_age, short_mask)], axis=-1)
        plain: dict[str, Any] = {"num_heads": self.num_heads, "project_values": False, "scale": False}
        exact = self.exact or TargetAttention(**plain, name="long_attention")
        recent = self.short or TargetAttention(**plain, name="short_attention")
        interests = [
            recent(item, latest, short_mask, train=train),
            exact(item, chosen, found, train=train),
        ]
        self.sow("intermediates", "interests", tuple(interests))
        x = jnp.concatenate([*context, item, *interests], axis=-1)
        return {"ctr": Tower(self.dims, mlp=self.mlp, name="tower")(x, train=train), **outputs}


def of_search(params: Variables) -> Variables:
    """Which parameters the search unit of a SIM reads: a tree of bool like `params`, where it may lie deep.

    With `own_tables` these are its tables, W_a and W_b and its tower. Without, the tables of the exact unit
    are marked too, since the search would not stay the same without them: what is left to train is then the
    attentions, the vectors of ages and the tower on top.

    Batch statistics of the search's tower are no parameters. A frozen unit goes on updating them, which moves
    the output "search", never what is found.

    Raises:
      ValueError: there is no soft search.
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    read = set()
    for path in paths:
        if SEARCH[-1] in path:
            root = path[: path.index(SEARCH[-1])]
            own = any(other[: len(root) + 1] == (*root, "search_items") for other in paths)
            read |= {(*root, name) for name in (SEARCH if own else (*SEARCH, "items"))}
    if not read:
        raise ValueError(
            f"no {SEARCH[-1]!r} among the parameters: only a SIM with category=None has a search"
        )

    def is_read(path: tuple[Any, ...], _: Any) -> bool:
        names = _names(path)
        return any(names[: len(start)] == start for start in read)

    return jax.tree_util.tree_map_with_path(is_read, params)


def transfer(params: Variables, pretrained: Variables) -> Variables:
    """`params` with what the search unit reads, see `of_search`, from `pretrained`.

    Raises:
      ValueError: there is no soft search, or the two trees differ in it.
    """
    theirs = {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(pretrained)}
    marked = {
        _names(path) for path, read in jax.tree_util.tree_leaves_with_path(of_search(pretrained)) if read
    }

    def chosen(path: tuple[Any, ...], ours: Array, read: bool) -> Array:
        names = _names(path)
        if not read:
            return ours
        found = theirs[names].shape if names in marked else None
        if found != ours.shape:
            raise ValueError(
                f"{'/'.join(names)}: {ours.shape} here, {found or 'missing'} in the pre-trained search; both "
                "need the same items, search_dim, own_tables, features_in_search and dims"
            )
        return theirs[names]

    return jax.tree_util.tree_map_with_path(chosen, params, of_search(params))


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((part,), simple=True) for part in path)
