"""Models of items alone: taught by pairs of items that users have, ranked by the items of a history.

A pair (q, i) says that i goes with q. Negatives are drawn once for a whole batch, as PinSage draws them (Ying
et al., KDD 2018, arXiv:1806.01973, section 3.3), so that scores are one matrix product.

Examples: example [B], numbers of pairs, and mask [B], False in a padded tail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses, packing, sampling
from jaxrec.segments import rows_by_id
from jaxrec.tasks.encoder import only_params
from jaxrec.types import SHARED, Array, Batch, Context, Key, Retriever, Task, Variables

# (key, numbers of pairs [B], context) -> queries [B], items [B], whether there is such a pair [B]
Draw = Callable[[Key, Array, Context], tuple[Array, Array, Array]]
# (variables of a model, context) -> {"queries": [V, D], "items": [V, D]}, final vectors of all ids
Finish = Callable[[Variables, Context], Variables]


def consecutive(key: Key, number: Array, context: Context) -> tuple[Array, Array, Array]:
    """The pairs of the columns `before` and `after`, int32 [P] (`data.events.neighbourhoods`)."""
    return context["before"][number], context["after"][number], jnp.ones(number.shape, bool)


def of_one_user(key: Key, number: Array, context: Context) -> tuple[Array, Array, Array]:
    """The item of an interaction, and another one of its user, drawn uniformly; none of a user of one item.

    For an interaction matrix, whose users' items have no order: the columns are those of
    `protocols.retrieval.resident`.
    """
    user = context["pair_user"][number]
    first, count = context["excluded_start"][user], context["excluded_length"][user]
    drawn = jax.random.randint(key, number.shape, 0, jnp.maximum(count - 1, 1))
    other = first + drawn + (first + drawn >= number)
    real = count > 1
    return context["pair_item"][jnp.where(real, other, number)], context["pair_item"][number], real


def item_pairs(
    model: Any,
    *,
    num_items: int,
    draw: Draw = consecutive,
    loss: Callable[..., Array] = losses.hinge,
    negatives: int = 500,
    hard: int = 0,
) -> Task:
    """The task of scoring the item that goes with a query above sampled ones; predict gives its scores [B].

    Losses: "pairs". Negatives are uniform over all items and, with `hard`, of each query's own.

    Args:
      model: with `vectors(context)` -> (of queries, of items), [V, D] each, whose products are scores.
      draw: which pair an example is.
      loss: of scores (pos [B], neg [B, N]), with `where` and `axis_name`; with hard negatives also
        `accidental`, True where there is no more of them.
      negatives: N, drawn once for a batch.
      hard: further ones that are drawn for each query out of its row of the column "hard" [I + 1, W], items
        that are related to it and not closest (`neighbourhoods.hard_items`), without the pair's own.

    Raises:
      ValueError: negatives is below 1, or hard negative. When variables are made: the model has some other
        than parameters.
    """
    if negatives < 1:
        raise ValueError(f"negatives={negatives}: must be at least 1")
    if hard < 0:
        raise ValueError(f"hard={hard}: must be at least 0")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        pair_key, negative_key = jax.random.split(key)
        query, item, real = draw(pair_key, examples["example"], context)
        drawn, _ = sampling.uniform(negative_key, (negatives,), num_items=num_items)
        batch = {
            "query": query,
            "item": item,
            "mask": examples["mask"] & real,
            SHARED: {**context, "negatives": drawn},
        }
        if hard:
            lists, hard_key = jnp.asarray(context["hard"])[query], jax.random.fold_in(negative_key, 1)
            batch["hard"], _ = sampling.rank_window(
                hard_key, lists, item[:, None], number=hard, first=1, last=lists.shape[1]
            )
        return batch

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch[SHARED], method="vectors"), "item_pairs")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        queries, items = model.apply(variables, batch[SHARED], method="vectors")
        asked = rows_by_id(queries, batch["query"])
        pos = jnp.sum(asked * rows_by_id(items, batch["item"]), axis=-1)
        neg = asked @ rows_by_id(items, batch[SHARED]["negatives"]).T
        options: dict[str, Array] = {}
        if hard:
            own = jnp.einsum("bd,bhd->bh", asked, rows_by_id(items, batch["hard"]))
            missing = jnp.concatenate([jnp.zeros(neg.shape, bool), batch["hard"] == 0], axis=1)
            neg, options = jnp.concatenate([neg, own], axis=1), {"accidental": missing}
        return {"pairs": loss(pos, neg, where=batch["mask"], axis_name=axis_name, **options)}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        queries, items = model.apply(variables, batch[SHARED], method="vectors")
        return jnp.sum(queries[batch["query"]] * items[batch["item"]], axis=-1)

    return Task(prepare, init, value, predict)


# --- ranking -------------------------------------------------------------------------------------------


def by_history(last: int) -> Retriever:
    """Ranks by the mean of the vectors of the last items of a history, whoever's; variables as of `Finish`.

    last: how many items are read, at most. An empty history scores all items 0.

    Raises:
      ValueError: last is below 1.
    """
    if last < 1:
        raise ValueError(f"last={last}: must be at least 1")
    return Retriever(functools.partial(_mean_of_last, last=last), _item_vectors)


def _mean_of_last(
    variables: Variables, queries: Mapping[str, Array], context: Context, *, last: int
) -> Array:
    length = jnp.minimum(queries["length"], last)
    end = jnp.asarray(context["start"])[queries["user"]] + queries["length"]
    ids = packing.window(jnp.asarray(context["items"]), end, length, last)  # [B, last]
    vectors = jnp.where((ids > 0)[..., None], jnp.asarray(variables["queries"])[ids], 0.0)
    return vectors.sum(axis=1) / jnp.maximum(length, 1)[:, None]


def _item_vectors(variables: Variables) -> Array:
    return jnp.asarray(variables["items"])
