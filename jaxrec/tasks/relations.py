"""Relations between items as a second loss: RCF (Xin et al., SIGIR 2019, arXiv:1904.12796, section 3.4).

Items that share a value of an attribute, such as a genre, are related by it. Context columns are those of
`data.item_attributes.relation_columns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses, sampling
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

NAMES = ("first", "kind", "value", "second", "unrelated", "has_relation")


def with_relations(task: Task, model: Any, *, num_items: int) -> Task:
    """A task of pairs that also tells related items from others; the loss "relation" is added to its own.

    For the observed item i of each example one of its values is drawn uniformly, then another item j with
    this value, and one k without it: -log σ(f(i, j) - f(i, k)), averaged over the examples with such items
    (equation 10, of which a step has one triple an example).

    Args:
      task: whose batches have the observed "item" [B] and "mask" [B], such as `tasks.pairs.pairwise`.
      model: with `relation(first, kind, value, second)` -> scores f, such as `nn.retrieval.rcf.RCF`.
    """

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        own_key, relation_key = jax.random.split(key)
        batch = task.prepare(own_key, examples, context)
        drawn = draw_relations(relation_key, batch["item"], context, num_items=num_items)
        return {**batch, **dict(zip(NAMES, drawn, strict=True))}

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found, updates = task.losses(variables, batch, key, axis_name)
        ends = jnp.stack([batch["second"], batch["unrelated"]], axis=1)
        of = (batch[name][:, None] for name in ("first", "kind", "value"))
        scores = model.apply(variables, *of, ends, method="relation")  # [B, 2]
        where = batch["mask"] & batch["has_relation"]
        relation = losses.bpr(scores[:, 0], scores[:, 1:], where=where, axis_name=axis_name)
        return {**found, "relation": relation}, updates

    return Task(prepare, task.init, value, task.predict)


def draw_relations(key: Key, item: Array, context: Context, *, num_items: int) -> tuple[Array, ...]:
    """A relation of each item [B]: itself, number of the attribute from 1, value, a related item, an
    unrelated one, and whether it has one at all. Ids are 1 where it has none."""
    which, other, unrelated = jax.random.split(key, 3)
    number = context["related_value"][item]  # [B, T, M]
    slots = number.shape[2]
    count = context["related_count"][number]
    usable = ((number > 0) & (count > 1) & (count < num_items)).reshape(len(item), -1)
    options = usable.sum(axis=1)
    chosen = jax.random.randint(which, options.shape, 0, jnp.maximum(options, 1))
    at = jnp.argmax(jnp.cumsum(usable, axis=1) > chosen[:, None], axis=1)
    has, kind = options > 0, at // slots

    def pick(column: Array) -> Array:
        return column[jnp.arange(len(item)), kind, at % slots]

    number, value, place = (
        pick(column[item])
        for column in (context["related_value"], context["attributes"], context["related_place"])
    )
    number = jnp.where(has, number, 0)
    start, count = context["related_start"][number], context["related_count"][number]
    drawn = jax.random.randint(other, number.shape, 0, jnp.maximum(count - 1, 1))
    second = context["related_item"][start + drawn + (drawn >= place) * (count > 1)]
    ids, _ = sampling.uniform_excluding_flat(
        unrelated,
        num_items=num_items,
        excluded=context["related_item"],
        start=start,
        count=count,
        width=num_items - 1,
    )

    def known(column: Array) -> Array:
        return jnp.where(has, column, 1)

    return known(item), known(kind + 1), known(value), known(second), known(ids), has
