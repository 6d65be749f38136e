"""Observed pairs against sampled items, weighted against popularity or with popularity taken apart (CDAN).

Context columns: those of `tasks.pairs`, "items", "start" and "length" (`protocols.retrieval.resident`), and
"item_weight" [I + 1] (`losses.inverse_popularity`), "head" bool [I + 1] and "unexposed" [T], the ids that
stand for items without exposure, where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.tasks.encoder import only_params
from jaxrec.tasks.pairs import PairModel, Sampler, drawn_pairs
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

WEIGHT, HEAD, UNEXPOSED = "item_weight", "head", "unexposed"


def weighted_pairs(model: PairModel, *, sampler: Sampler, negatives: int = 64, weighted: bool = True) -> Task:
    """A softmax of the observed item against sampled ones, each pair with the weight of its item.

    The loss "pairs". weighted: False leaves out the weights, and the column of them.

    Raises:
      ValueError: negatives is below 1.
    """
    _check(negatives=negatives)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        return drawn_pairs(key, examples, context, sampler=sampler, negatives=negatives)

    def init(key: Key, batch: Batch) -> Variables:
        user, item = batch["user"][:1], batch["item"][:1, None]
        return only_params(model.init(key, user, item, batch[SHARED], train=False), "pairs")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        scores = model.apply(variables, batch["user"], _items(batch), batch[SHARED], train=True)
        return {"pairs": _softmax(scores, batch, weighted, axis_name)}, {}

    return Task(prepare, init, value, _predict(model))


def cdan(
    model: Any,
    *,
    sampler: Sampler,
    negatives: int = 64,
    unexposed: int = 256,
    temperature: float = 0.1,
    contrast: bool = True,
    weighted: bool = False,
    head_gradient: bool = False,
) -> Task:
    """CDAN's losses, each by its name; the task's weighting says how much each counts.

    "unbiased", "biased": the softmax of either tower's scores. "orthogonal": squared cosines of attribute and
    popularity. "popularity": InfoNCE of the popularity and the encoded statistics. "alignment": MMD of the
    attributes of the batch's head items and of unexposed items. "instance": InfoNCE of the attributes of two
    items of one user. The card's distillation from a ranking model has no teacher here and is left out.

    Args:
      model: such as `CDAN`, with its method `learn`.
      sampler: of the negatives; unexposed items are negatives only where it draws them.
      unexposed: how many unexposed items are drawn for each batch, and how many pairs of it are compared with
        them; the MMD needs hundreds.
      temperature: of InfoNCE.
      contrast: False takes the squared distance of the directions of popularity and statistics instead, the
        card's other form, which one direction for all items fulfils as well.
      weighted: whether pairs have the weights of their items in both towers. Without, a softmax against
        uniform items learns popularity whatever it is made of, so that the attribute has to hold it.
      head_gradient: whether the alignment moves head items, too; False stops its gradient there, so that
        head items do not drift towards the others.

    Raises:
      ValueError: a count is below 1, or the temperature is not positive.
    """
    _check(negatives=negatives, unexposed=unexposed)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        for_negatives, for_others = jax.random.split(key)
        batch = drawn_pairs(for_negatives, examples, context, sampler=sampler, negatives=negatives)
        return {**batch, **_draw_others(for_others, batch["user"] - 1, context, unexposed)}

    def init(key: Key, batch: Batch) -> Variables:
        found = model.init(
            key, batch["user"][:1], batch["item"][:1, None], batch["partner"][:1], batch["drawn"][:1],
            batch[SHARED], method="learn",
        )  # fmt: skip
        return only_params(found, "cdan")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        where = batch["mask"]
        parts = model.apply(
            variables, batch["user"], _items(batch), batch["partner"], batch["drawn"], batch[SHARED],
            method="learn",
        )  # fmt: skip
        of_head = parts.attribute if head_gradient else jax.lax.stop_gradient(parts.attribute)
        head = where & jnp.asarray(batch[SHARED][HEAD])[batch["item"]]
        other = where & (batch["partner"] != batch["item"])
        shared: Any = {"where": where, "axis_name": axis_name}
        return {
            "unbiased": _softmax(parts.unbiased, batch, weighted, axis_name),
            "biased": _softmax(parts.biased, batch, weighted, axis_name),
            "orthogonal": losses.squared_cosine(parts.attribute, parts.popularity, **shared),
            "popularity": _popularity(parts, batch["item"], temperature if contrast else None, **shared),
            "alignment": losses.mean_discrepancy(
                of_head, parts.unexposed, where_x=head, most=unexposed, axis_name=axis_name
            ),
            "instance": losses.info_nce(
                parts.attribute,
                parts.partner,
                temperature=temperature,
                ids=batch["user"],
                where=other,
                axis_name=axis_name,
            ),
        }, {}

    return Task(prepare, init, value, _predict(model))


def _draw_others(key: Key, user: Array, context: Context, unexposed: int) -> Batch:
    """An item of each user, from 0, "partner" [B], and unexposed items, "drawn" [unexposed]."""
    for_partner, for_unexposed = jax.random.split(key)
    length = jnp.asarray(context["length"])[user]
    place = jax.random.randint(for_partner, user.shape, 0, jnp.maximum(length, 1))
    ids = jnp.asarray(context[UNEXPOSED])
    return {
        "partner": jnp.asarray(context["items"])[jnp.asarray(context["start"])[user] + place],
        "drawn": ids[jax.random.randint(for_unexposed, (unexposed,), 0, ids.shape[0])],
    }


def _popularity(parts: Any, ids: Array, temperature: float | None, **shared: Any) -> Array:
    """InfoNCE of popularity and statistics; without a temperature the distance of their directions."""
    if temperature is None:
        return losses.direction_distance(parts.popularity, parts.statistics, **shared)
    return losses.info_nce(parts.popularity, parts.statistics, temperature=temperature, ids=ids, **shared)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: must be at least 1")


def _items(batch: Batch) -> Array:
    return jnp.concatenate([batch["item"][:, None], batch["negatives"]], axis=1)


def _softmax(scores: Array, batch: Batch, weighted: bool, axis_name: str | None) -> Array:
    return losses.sampled_softmax(
        scores[:, 0],
        scores[:, 1:],
        accidental=batch["negatives"] == batch["item"][:, None],
        where=batch["mask"],
        weight=jnp.asarray(batch[SHARED][WEIGHT])[batch["item"]] if weighted else None,
        axis_name=axis_name,
    )


def _predict(model: PairModel) -> Any:
    def predict(variables: Variables, batch: Batch) -> Array:
        scores = model.apply(variables, batch["user"], batch["item"][:, None], batch[SHARED], train=False)
        return scores[:, 0]

    return predict
