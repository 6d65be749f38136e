"""Click prediction after a history, gathered on the device; the losses of DIN, DIEN, SIM and MIMN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.data.tables.click_histories import SHARED
from jaxrec.tasks.multitask import Model, Target, multitask
from jaxrec.types import Array, Batch, Context, Key, Outputs, Task, Variables

HISTORY, NEGATIVE = "history_", "negative_"


class Regularised(NamedTuple):
    """A table under mini-batch aware regularisation, see `losses.mini_batch_aware`.

    table: finds it in the parameters, [V, D]. columns: those of a batch that read it, ids [B] or [B, L].
    counts: training examples that hold each id, [V].
    """

    table: Callable[[Variables], Array]
    columns: tuple[str, ...]
    counts: Array


def behaviours(rows: Mapping[str, Array], shared: Context, length: int) -> Batch:
    """Columns of click impressions: the target, the `length` events before it, and what is known of both.

    Args:
      rows: user, item, start, end, int32 [B]; the history is events start .. end - 1. time: of the row, in
        seconds, int32 [B], if there are times. Others pass through.
      shared: {"events": int32 [N], "items": {name: [V + 1]}, "users": {name: [U + 1]}}; columns of several
        ids a row are [V + 1, A] or [U + 1, A]. "times": of the events, in seconds, int32 [N], if known.
      length: L; of a longer history the last L events are read.

    Returns:
      The row's columns but start, end and time; a column of each name of users [B]; for item and each name of
      items the target's [B] and `history_<name>` [B, L], right-aligned, 0 where there is no event. Of several
      ids a row: [B, A], and [B, L, A] in histories. With times of rows and events also `history_age`, the
      seconds from an event to the row, int32 [B, L], 0 where there is no event.
    """
    at = rows["end"][:, None] - length + jnp.arange(length)
    there, at = at >= rows["start"][:, None], jnp.maximum(at, 0)
    history = jnp.where(there, rows_of(shared["events"], at), 0)
    batch = {name: column for name, column in rows.items() if name not in ("start", "end", "time")}
    batch[f"{HISTORY}item"] = history
    if "times" in shared and "time" in rows:
        batch[f"{HISTORY}age"] = jnp.where(there, rows["time"][:, None] - shared["times"][at], 0)
    for name, column in shared["users"].items():
        batch[name] = rows_of(column, rows["user"])
    for name, column in shared["items"].items():
        batch[name] = rows_of(column, rows["item"])
        batch[f"{HISTORY}{name}"] = rows_of(column, history)
    return batch


def rows_of(column: Array, ids: Array) -> Array:
    """Rows of a column; of an id that it does not have NaN or, of whole numbers, -1, which no table has."""
    outside = jnp.nan if jnp.issubdtype(column.dtype, jnp.floating) else -1
    return jnp.asarray(column).at[ids].get(mode="fill", fill_value=outside, wrap_negative_indices=False)


def other_events(key: Key, batch: Batch, shared: Context, num_items: int) -> Batch:
    """`negative_<name>` [B, L] beside each history column: uniform items other than the event (DIEN)."""
    history = batch[f"{HISTORY}item"]
    step = jax.random.randint(key, history.shape, 1, num_items)  # 1..V - 1, so never back to the event
    negative = jnp.where(history > 0, (history - 1 + step) % num_items + 1, 0)
    found = {f"{NEGATIVE}item": negative}
    return found | {
        f"{NEGATIVE}{name}": rows_of(column, negative) for name, column in shared["items"].items()
    }


def ctr(
    module: Model,
    *,
    length: int,
    num_items: int,
    auxiliary: bool = False,
    search: bool = False,
    memory: bool = False,
    regularised: Sequence[Regularised] = (),
) -> Task:
    """Clicks as one task over `data.behaviours.Clicks.columns()`: the loss "click", and what is asked beside.

    module: called as module(batch, train=…), with the columns of `behaviours`; gives a logit [B] or, with
    `auxiliary`, `search` or `memory`, in training a dict whose "click" it is, such as DIEN's. predict always
    gives logits [B], of a batch made by `behaviours`.
    length: events of a history. auxiliary: adds "next_behaviour", telling events from others drawn uniformly.
    search: adds "search", the cross-entropy of the output "search", as of SIM's search unit.
    memory: adds "memory_utilisation" of the output "usage", as of MIMN.
    regularised: adds "mini_batch_aware", the sum over these tables.

    Raises:
      ValueError: length < 1, or auxiliary with fewer than two items.
    """
    if length < 1 or (auxiliary and num_items < 2):
        raise ValueError(
            f"length={length}, num_items={num_items}: must be at least 1, and 2 items to draw from"
        )

    def next_behaviour(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        where = outputs["steps"]
        pos, neg = outputs["next"], outputs["negative"]
        return losses.next_behaviour(pos, neg, where=where, examples=batch["mask"], axis_name=axis_name)

    def memory_utilisation(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        return losses.memory_utilisation(outputs["usage"], where=batch["mask"], axis_name=axis_name)

    named = auxiliary or search or memory
    targets = [Target("click", "click" if named else None, "label/click")]
    targets += [Target("search", "search", "label/click")] if search else []
    terms = {"next_behaviour": next_behaviour} if auxiliary else {}
    terms |= {"memory_utilisation": memory_utilisation} if memory else {}
    base = multitask(module, targets, terms=terms)

    def prepare(key: Key, rows: Mapping[str, Array], context: Context) -> Batch:
        shared = context[SHARED]
        read = {name: column[rows["user"]] for name, column in context.items() if name != SHARED}
        batch = {**behaviours(read, shared, length), "mask": rows["mask"]}
        return {**batch, **other_events(key, batch, shared, num_items)} if auxiliary else batch

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found, updates = base.losses(variables, batch, key, axis_name)
        if regularised:
            found["mini_batch_aware"] = sum(
                (_of_table(each, variables, batch, axis_name) for each in regularised), jnp.zeros(())
            )
        return found, updates

    return base._replace(prepare=prepare, losses=loss)


def _of_table(each: Regularised, variables: Variables, batch: Batch, axis_name: str | None) -> Array:
    real = batch["mask"]
    read = [jnp.where(real.reshape(-1, *[1] * (batch[c].ndim - 1)), batch[c], 0) for c in each.columns]
    ids = jnp.concatenate([column.reshape(-1) for column in read])
    return losses.mini_batch_aware(each.table(variables), ids, each.counts, axis_name=axis_name)
