"""Next-item prediction: every event of a user's training sequence predicts the one after it.

The encoder is any module with `__call__(items, *, positions, segments, train) -> hidden [B, L, D]` and a
method `item_table() -> [vocab_size, D]`: SASRec, GRU4Rec and their kin. Users share rows by default
(`jaxrec.packing`); outputs and losses equal those of the padded form.

Context columns (`jaxrec.data.batching.next_item_columns`): items [N], start [U], length [U],
excluded [M], excluded_start [U], excluded_length [U]. Rows: user [B], mask [B] (False in a padded tail).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxrec import losses, packing, sampling
from jaxrec.types import Array, Batch, Context, Key, Retriever, Task, Variables


class Encoder(Protocol):
    """What the tasks ask of a sequence encoder (a Linen module)."""

    @property
    def max_len(self) -> int: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


class Rows(NamedTuple):
    """A fixed number of packed rows of `width` slots; see `packing.rows_needed`."""

    rows: int
    width: int


class Objective(NamedTuple):
    """How hidden states are scored against targets.

    draw(key, users, context) -> extra columns of the batch, where users are [R, L] indices of users;
    loss(hidden [R, L, D], table [V, D], batch, axis_name) -> this device's share of the loss.
    """

    draw: Callable[[Key, Array, Context], Mapping[str, Array]]
    loss: Callable[..., Array]


def encode(model: Encoder, variables: Variables, batch: Batch, key: Key | None) -> Array:
    """Hidden states [R, L, D] of packed or padded rows.

    A row's dropout derives from the key and the row's number, so it does not depend on which device
    computes it. key None switches dropout off.
    """
    columns = {"positions": batch["positions"], "segments": batch["segments"]}
    if key is None:
        return model.apply(variables, batch["items"], **columns, train=False)
    rngs = {"dropout": key}
    return model.apply(variables, batch["items"], **columns, rows=batch["row"], train=True, rngs=rngs)


def item_table(model: Encoder, variables: Variables) -> Array:
    """The table that scores are taken against, [vocab_size, D]."""
    return model.apply(variables, method="item_table")


def sampled_bce(num_items: int, excluded_width: int) -> Objective:
    """Binary cross-entropy with one negative an event, uniform over the items a user has not used.

    num_items: largest item id; excluded_width: most distinct items of any user.
    """

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        negatives, _ = sampling.uniform_excluding_flat(
            key,
            num_items=num_items,
            excluded=context["excluded"],
            start=context["excluded_start"][users],
            count=context["excluded_length"][users],
            width=excluded_width,
        )
        return {"negatives": negatives}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        scores = jnp.einsum(
            "...d,...kd->...k", hidden, table[jnp.stack([batch["targets"], batch["negatives"]], -1)]
        )
        return losses.bce(scores[..., 0], scores[..., 1], where=batch["targets"] > 0, axis_name=axis_name)

    return Objective(draw, loss)


def full_softmax(block: int = 4096) -> Objective:
    """Cross-entropy over all items, computed in blocks of items."""

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        where = batch["targets"] > 0
        return losses.softmax_cross_entropy(
            hidden, table, batch["targets"], where=where, block=block, axis_name=axis_name
        )

    return Objective(lambda key, users, context: {}, loss)


def sampled_softmax(num_samples: int, table: sampling.Popularity) -> Objective:
    """Cross-entropy over the target and `num_samples` items that the whole batch shares.

    table: the distribution samples are drawn from; scores are corrected by its log-probabilities (logQ),
    and a sample that is the target is left out.
    """

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        samples, _ = sampling.popularity(key, (num_samples,), table)
        return {"samples": jnp.broadcast_to(samples, (users.shape[0], num_samples))}

    def loss(hidden: Array, items: Array, batch: Batch, axis_name: str | None) -> Array:
        samples, targets = batch["samples"][0], batch["targets"]
        real = targets > 0
        return losses.sampled_softmax(
            jnp.einsum("...d,...d->...", hidden, items[targets]),
            hidden @ items[samples].T,
            pos_log_prob=jnp.where(real, table.log_prob[targets], 0),  # padding is never drawn: log 0
            neg_log_prob=table.log_prob[samples],
            accidental=samples == targets[..., None],
            where=real,
            axis_name=axis_name,
        )

    return Objective(draw, loss)


def next_item(model: Encoder, objective: Objective, *, packed: Rows | None = None) -> Task:
    """The task of predicting the next item at every event.

    packed: rows that users share; None pads every user to `model.max_len`.
    """

    def prepare(key: Key, rows: Mapping[str, Array], context: Context) -> Batch:
        user = rows["user"]
        inputs = jnp.maximum(context["length"][user] - 1, 0)
        lengths = jnp.where(rows["mask"], jnp.minimum(inputs, model.max_len), 0)
        first = context["start"][user] + inputs - lengths
        slots = lay_out(rows, lengths, packed, model.max_len)
        real = slots.segments > 0
        index = jnp.where(real, first[slots.sequence] + slots.event, 0)
        column = context["items"]
        targets = jnp.where(real, column[jnp.minimum(index + 1, column.shape[0] - 1)], 0)
        return {
            "items": jnp.where(real, column[index], 0),
            "targets": targets,
            "positions": slots.positions,
            "segments": slots.segments,
            "row": jnp.arange(real.shape[0], dtype=jnp.int32),
            **objective.draw(key, user[slots.sequence], context),
        }

    def init(key: Key, batch: Batch) -> Variables:
        return model.init(key, batch["items"][:1, : model.max_len], train=False)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden = encode(model, variables, batch, key)
        return {"next_item": objective.loss(hidden, item_table(model, variables), batch, axis_name)}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return encode(model, variables, batch, None)

    return Task(prepare, init, loss, predict)


def lay_out(rows: Mapping[str, Array], lengths: Array, packed: Rows | None, max_len: int) -> packing.Slots:
    """Slots of a batch of sequences, packed where the step's rows carry a placement, else padded."""
    if packed is None:
        return packing.padded(lengths, max_len=max_len)
    placement = packing.Placement(rows["row"], rows["slot"])
    return packing.spread(placement, lengths, rows=packed.rows, width=packed.width, max_len=max_len)


def query_batch(queries: Mapping[str, Array], context: Context, packed: Rows | None, max_len: int) -> Batch:
    """The encoder's input for evaluation queries: the `length` events before each target.

    queries: user, length, mask [B], and row, slot [B] if packed.
    """
    lengths = jnp.where(queries["mask"], jnp.minimum(queries["length"], max_len), 0)
    first = context["start"][queries["user"]] + queries["length"] - lengths
    slots = lay_out(queries, lengths, packed, max_len)
    real = slots.segments > 0
    items = context["items"][jnp.where(real, first[slots.sequence] + slots.event, 0)]
    return {"items": jnp.where(real, items, 0), "positions": slots.positions, "segments": slots.segments}


def last_hidden(hidden: Array, queries: Mapping[str, Array], packed: Rows | None, max_len: int) -> Array:
    """Each query's hidden state at its last event, [B, D], from those of all slots."""
    if packed is None:
        return hidden[:, -1]
    lengths = jnp.minimum(queries["length"], max_len)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat[jnp.clip(queries["row"] * packed.width + queries["slot"] + lengths - 1, 0, flat.shape[0] - 1)]


def num_parameters(variables: Variables) -> int:
    """How many numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def retriever(model: Encoder, packed: Rows | None = None) -> Retriever:
    """The model as full ranking sees it: a query's vector is the hidden state at its last event."""

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        hidden = encode(model, variables, query_batch(queries, context, packed, model.max_len), None)
        return last_hidden(hidden, queries, packed, model.max_len)

    return Retriever(query, lambda variables: item_table(model, variables))
