"""Session-based recommendation: each prefix of a session predicts the click that came next.

The unit of a batch is a prefix, as in STAMP, NARM and SR-GNN; `tasks.next_item` on the same columns makes it
a session, whose prefixes a causal encoder reads all at once. The model is an encoder as there. Both see the
same examples an epoch, except that here every click of a session longer than `max_len` is a target.

Context columns (`jaxrec.data.events.sessions`): items [N], start [R], session [M], prefix [M].
Examples: example [B], a prefix each, and mask [B], False in a padded tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxrec import losses, packing
from jaxrec.tasks.encoder import Encoder, check_keywords, numbered, only_params, refuse_times
from jaxrec.tasks.next_item import item_table
from jaxrec.tasks.objectives import Objective, draw_nothing
from jaxrec.types import Array, Batch, Context, Key, Retriever, Task, Variables


def sigmoid_softmax(block: int = 4096) -> Objective:
    """STAMP's objective as printed (`losses.sigmoid_softmax`), over all items in blocks."""

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets = batch["targets"]
        return losses.sigmoid_softmax(
            hidden, table, targets, where=targets != 0, block=block, axis_name=axis_name
        )

    return Objective(draw_nothing, loss, "sigmoid", "sigmoid softmax")


def next_click(
    model: Encoder, objective: Objective, *, last_only: bool = False, batch_size: int | None = None
) -> Task:
    """The task of predicting the click after a prefix, from its last `model.max_len` clicks.

    objective: how the state after the prefix [B, D] is scored against the target. last_only: the module
    takes `last_only=True` and then encodes the last slot alone (STAMP, whose slots cost a prefix each).
    batch_size: the loss is a sum over prefixes divided by it, also where a batch has fewer; None: a mean over
    the prefixes of each batch.

    Raises:
      ValueError: the encoder reads times: sessions have none here; it does not take `train`, or has no item
        table. When variables are made: it has some other than parameters.
    """
    refuse_times(model, "next_click")
    check_keywords(model, "train")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        session, length = (context[name][examples["example"]] for name in ("session", "prefix"))
        length = jnp.where(examples["mask"], length, 0)
        end = context["start"][session] + length
        return {
            "items": packing.window(context["items"], end, length, model.max_len),
            "targets": jnp.where(examples["mask"], context["items"][end], 0),
            "row": jnp.arange(end.shape[0], dtype=jnp.int32),
            **objective.draw(key, session, context),
        }

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["items"][:1], train=False), "next_click")

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        state = encode(model, variables, batch["items"], last_only, row=batch["row"], key=key)
        value = objective.loss(state, item_table(model, variables), batch, axis_name)
        return {"next_click": losses.fullness(batch["targets"] != 0, batch_size, axis_name) * value}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return encode(model, variables, batch["items"], last_only)

    return Task(prepare, init, loss, predict)


def encode(
    model: Encoder,
    variables: Variables,
    items: Array,
    last_only: bool = False,
    *,
    row: Array | None = None,
    key: Key | None = None,
) -> Array:
    """The state after the last click of each right-aligned row: ids [B, L] → [B, D].

    last_only: as of `next_click`. row, key: numbers of the batch's rows, and the key that dropout derives
    from; without a key there is none.
    """
    options: dict[str, Any] = {"last_only": True} if last_only else {}
    if key is None:
        return model.apply(variables, items, train=False, **options)[:, -1]
    if row is not None:
        options |= numbered(model, row)
    return model.apply(variables, items, train=True, rngs={"dropout": key}, **options)[:, -1]


def retriever(model: Encoder, *, last_only: bool = False) -> Retriever:
    """The model as full ranking sees it: a query is a row and the number of clicks read of it."""

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        length = jnp.where(queries["mask"], queries["length"], 0)
        end = context["start"][queries["user"]] + length
        return encode(
            model, variables, packing.window(context["items"], end, length, model.max_len), last_only
        )

    return Retriever(query, lambda variables: item_table(model, variables))
