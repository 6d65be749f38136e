"""Click prediction after a history, gathered on the device, with whatever else a model is trained by.

A model's further losses are arguments of `ctr`, made of three parts, each optional: `columns` that are drawn
for a batch, `targets` with a label of their own, and `terms` of all outputs.

    DIN    ctr(module, length=50, loss=losses.focal)                        another loss of the click
    DIEN   ctr(module, length=50, columns=other_events(num_items), terms={"next_behaviour": next_behaviour})
    SIM    ctr(module, length=1000, targets=[Target("search", "search", LABEL)])
    MIMN   ctr(module, length=1000, terms={"memory_utilisation": memory_utilisation})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.data.tables.click_histories import SHARED
from jaxrec.tasks.multitask import Model, Target, Term, multitask, select_output
from jaxrec.types import HISTORY, Array, Batch, Context, Key, Outputs, Task, Variables

LABEL, NEGATIVE = "label/click", "negative_"

Columns = Callable[[Key, Batch, Context], Batch]  # (key, columns of `behaviours`, shared) -> further columns


class Regularised(NamedTuple):
    """A table under mini-batch aware regularisation, see `losses.mini_batch_aware`.

    table: finds it in the parameters, [V, D]. columns: those of a batch that read it, ids [B] or [B, L].
    counts: training examples that hold each id, [V].
    """

    table: Callable[[Variables], Array]
    columns: tuple[str, ...]
    counts: Array


def behaviours(examples: Mapping[str, Array], shared: Context, length: int) -> Batch:
    """Columns of click impressions: the target, the `length` events before it, and what is known of both.

    Args:
      examples: user, item, start, end, int32 [B]; the history is events start .. end - 1. time: of the
        impression, in seconds, int32 [B], if there are times. Others pass through.
      shared: {"events": int32 [N], "items": {name: [V + 1]}, "users": {name: [U + 1]}}; columns of several
        ids an entry are [V + 1, A] or [U + 1, A]. "times": of the events, in seconds, int32 [N], if known.
      length: L; of a longer history the last L events are read.

    Returns:
      The given columns but start, end and time; a column of each name of users [B]; for item and each name
      of items the target's [B] and `history_<name>` [B, L], right-aligned, 0 where there is no event. Of
      several ids an item: [B, A], and [B, L, A] in histories. With times of both also `history_age`, the
      seconds from an event to the impression, int32 [B, L], 0 where there is no event.
    """
    at = examples["end"][:, None] - length + jnp.arange(length)
    there, at = at >= examples["start"][:, None], jnp.maximum(at, 0)
    history = jnp.where(there, lookup(shared["events"], at), 0)
    batch = {name: column for name, column in examples.items() if name not in ("start", "end", "time")}
    batch[f"{HISTORY}item"] = history
    if "times" in shared and "time" in examples:
        batch[f"{HISTORY}age"] = jnp.where(there, examples["time"][:, None] - shared["times"][at], 0)
    for name, column in shared["users"].items():
        batch[name] = lookup(column, examples["user"])
    for name, column in shared["items"].items():
        batch[name] = lookup(column, examples["item"])
        batch[f"{HISTORY}{name}"] = lookup(column, history)
    return batch


def lookup(column: Array, ids: Array) -> Array:
    """Entries of a column by id. Of an id outside it: NaN or, of whole numbers, -1, which no table has."""
    outside = jnp.nan if jnp.issubdtype(column.dtype, jnp.floating) else -1
    return jnp.asarray(column).at[ids].get(mode="fill", fill_value=outside, wrap_negative_indices=False)


def other_events(num_items: int) -> Columns:
    """Columns `negative_<name>` [B, L] for each history column: uniform items other than the event (DIEN).

    Raises:
      ValueError: there are fewer than two items.
    """
    if num_items < 2:
        raise ValueError(f"num_items={num_items}: must be at least 2, an event's item and another one")

    def draw(key: Key, batch: Batch, shared: Context) -> Batch:
        history = batch[f"{HISTORY}item"]
        step = jax.random.randint(key, history.shape, 1, num_items)  # 1..V - 1, so never back to the event
        negative = jnp.where(history > 0, (history - 1 + step) % num_items + 1, 0)
        found = {f"{NEGATIVE}item": negative}
        return found | {
            f"{NEGATIVE}{name}": lookup(column, negative) for name, column in shared["items"].items()
        }

    return draw


def next_behaviour(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
    """DIEN's term (`losses.next_behaviour`), of the outputs "next", "negative" and "steps" [B, L]."""
    where = outputs["steps"]
    pos, neg = outputs["next"], outputs["negative"]
    return losses.next_behaviour(pos, neg, where=where, examples=batch["mask"], axis_name=axis_name)


def memory_utilisation(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
    """MIMN's term (`losses.memory_utilisation`), of the output "usage" [B, slots]."""
    return losses.memory_utilisation(outputs["usage"], where=batch["mask"], axis_name=axis_name)


def click_logit(outputs: Outputs) -> Array:
    """The logit of a click [B]: the outputs themselves or, of a dict, "click"."""
    return select_output(outputs, Target("click", "click" if isinstance(outputs, Mapping) else None, LABEL))


def ctr(
    module: Model,
    *,
    length: int,
    loss: Callable[..., Array] = losses.binary_cross_entropy,
    targets: Sequence[Target] = (),
    terms: Mapping[str, Term] | None = None,
    columns: Columns | None = None,
    regularised: Sequence[Regularised] = (),
) -> Task:
    """Clicks as one task over `Clicks.columns()`: the loss "click", and those given as arguments.

    module: called as module(batch, train=…), with the columns of `behaviours`; gives a logit [B] or, in
    training, a dict whose "click" it is, such as DIEN's. predict always gives logits [B], of a batch made by
    `behaviours`.
    length: events of a history.
    loss: of the click, called as loss(logits, labels, where=…, axis_name=…): `losses.focal` and its like.
    targets, terms: further losses, as of `multitask`.
    columns: further columns of a batch, drawn with the step's key, such as `other_events`.
    regularised: adds the loss "mini_batch_aware", the sum over these tables.

    Raises:
      ValueError: length < 1, or two losses of one name.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")
    if regularised and "mini_batch_aware" in {*(target.name for target in targets), *(terms or {})}:
        raise ValueError(
            "loss 'mini_batch_aware': stands for the regularised tables; give the other one another name"
        )
    base = multitask(module, [Target("click", click_logit, LABEL, loss), *targets], terms=terms)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        shared = context[SHARED]
        read = {name: column[examples["example"]] for name, column in context.items() if name != SHARED}
        batch = {**behaviours(read, shared, length), "mask": examples["mask"]}
        return batch if columns is None else {**batch, **columns(key, batch, shared)}

    def all_losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found, updates = base.losses(variables, batch, key, axis_name)
        if regularised:
            found["mini_batch_aware"] = sum(
                (_regularise(each, variables, batch, axis_name) for each in regularised), jnp.zeros(())
            )
        return found, updates

    return base._replace(prepare=prepare, losses=all_losses)


def _regularise(each: Regularised, variables: Variables, batch: Batch, axis_name: str | None) -> Array:
    real = batch["mask"]
    read = [jnp.where(real.reshape(-1, *[1] * (batch[c].ndim - 1)), batch[c], 0) for c in each.columns]
    ids = jnp.concatenate([column.reshape(-1) for column in read])
    return losses.mini_batch_aware(each.table(variables), ids, each.counts, axis_name=axis_name)
