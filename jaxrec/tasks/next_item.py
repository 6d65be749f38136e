"""Next-item prediction: every event of a user's training sequence predicts the one after it.

The encoder is any module with `__call__(items, *, positions, segments, train) -> hidden [B, L, D]` and a
method `item_table() -> [vocab_size, D]`: SASRec, GRU4Rec and their kin; `tasks.encoder` says all that it gets
and must not do, and tries it. Users may share packed rows (`jaxrec.packing`), where the encoder can be packed
(`can_be_packed`): outputs and losses equal those of the padded form.

An encoder whose `reads_times` is true (HSTU) also gets `times` and `target_times` [B, L], in training and
in ranking: seconds of each event, and of the event after it, which is when its prediction is needed, as in
HSTU's research code. In evaluation that is the time of the target: a server knows it, since it is now.

Context columns (`jaxrec.data.events.batching.next_item_columns`): items [N], start [U], length [U], seconds
[N] if times are read, excluded [M], excluded_start [U], excluded_length [U]. Examples: example [B], a user
each, and mask [B] (False in a padded tail).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxrec import packing
from jaxrec.packing import Packing
from jaxrec.tasks.encoder import Encoder as Encoder
from jaxrec.tasks.encoder import check_encoder, layout_columns, numbered, only_params, takes
from jaxrec.tasks.encoder import reads_times as reads_times
from jaxrec.tasks.encoder import refuse_times as refuse_times
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Retriever, Task, Variables

GIVEN = ("times", "target_times", "at")  # columns of a batch that an encoder gets where they are there
ATTEMPTS = 16  # draws of a step's shortened sequences until they fit the packed rows

Shorten = Callable[[Key, Array], Array]  # (key, True where there is an event [B, L]) -> which stay [B, L]


def encode(model: Encoder, variables: Variables, batch: Batch, key: Key | None) -> Array:
    """Hidden states [R, L, D] of packed or padded rows.

    A row's dropout derives from the key and the row's number, so it does not depend on which device
    computes it. key None switches dropout off. Of an encoder that takes `at`, a batch with that column
    [Q] gives the states of those slots alone, [Q, D].

    Raises:
      ValueError: the encoder reads times and the batch has none, so that all would count as equal.
    """
    if reads_times(model) and "times" not in batch:
        raise ValueError(
            "the encoder reads times and the batch has none: make it by next_item or its retriever, or use "
            "an encoder without times, such as HSTU with time_bias=False"
        )
    columns = layout_columns(model, batch) | {n: batch[n] for n in GIVEN if n in batch}
    if key is None:
        return model.apply(variables, batch["items"], **columns, train=False)
    rngs = {"dropout": key}
    columns |= numbered(model, batch["row"])
    return model.apply(variables, batch["items"], **columns, train=True, rngs=rngs)


def item_table(model: Encoder, variables: Variables) -> Array:
    """The table that scores are taken against, [vocab_size, D]."""
    return model.apply(variables, method="item_table")


def next_item(
    model: Encoder,
    objective: Objective,
    *,
    packed: Packing | None = None,
    shorten: Shorten | None = None,
) -> Task:
    """The task of predicting the next item at every event.

    packed: packed rows that users share; None pads every user to `model.max_len`, which any encoder can read.
    shorten: takes events out of the inputs of a step, such as `augment.stochastic_length`. The others stay in
      order and move together; the target of each remains the event that followed it. Examples of such a
      step carry no placement: it is made of what is left, and drawn again should that not fit the packed
      rows. If it never fits, the loss is NaN, which stops training with an error.

    Raises:
      ValueError: the encoder does not keep to the contract (`check_encoder`); while tracing: it reads
        times and the data set has none.
    """
    check_encoder(model, packed)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        user = examples["example"]
        inputs = jnp.maximum(context["length"][user] - 1, 0)
        lengths = jnp.where(examples["mask"], jnp.minimum(inputs, model.max_len), 0)
        first = context["start"][user] + inputs - lengths
        rest: dict[str, Array] = {}
        if shorten is None:
            slots = lay_out(examples, lengths, packed, model.max_len)
            event = slots.event
        else:
            key, short_key = jax.random.split(key)
            slots, event, fits = lay_out_shortened(short_key, lengths, shorten, packed, model.max_len)
            rest["fits"] = jnp.broadcast_to(fits, slots.segments.shape[:1])
        real = slots.segments > 0
        index = jnp.where(real, first[slots.sequence] + event, 0)
        column = context["items"]
        targets = jnp.where(real, column[jnp.minimum(index + 1, column.shape[0] - 1)], 0)
        return {
            "items": jnp.where(real, column[index], 0),
            "targets": targets,
            "positions": slots.positions,
            "segments": slots.segments,
            "row": jnp.arange(real.shape[0], dtype=jnp.int32),
            **(read_times(context, index, real) if reads_times(model) else {}),
            **rest,
            **objective.draw(key, user[slots.sequence], context),
        }

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["items"][:1, : model.max_len], train=False), "next_item")

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden = encode(model, variables, batch, key)
        value = objective.loss(hidden, item_table(model, variables), batch, axis_name)
        return {"next_item": value if shorten is None else jnp.where(batch["fits"][0], value, jnp.nan)}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return encode(model, variables, batch, None)

    return Task(prepare, init, loss, predict)


def lay_out(
    placed: Mapping[str, Array], lengths: Array, packed: Packing | None, max_len: int
) -> packing.Slots:
    """Slots of a batch of sequences: padded, or packed as the columns `row` and `slot` place each."""
    if packed is None:
        return packing.padded(lengths, max_len=max_len)
    placement = packing.Placement(placed["row"], placed["slot"])
    return packing.spread(placement, lengths, rows=packed.rows, width=packed.width, max_len=max_len)


def lay_out_shortened(
    key: Key, lengths: Array, shorten: Shorten, packed: Packing | None, max_len: int
) -> tuple[packing.Slots, Array, Array]:
    """Slots of sequences [B] that lose some events, the event in each slot, and whether all fit, []."""
    real = jnp.arange(max_len) < lengths[:, None]

    def draw(attempt: Array) -> tuple[Array, packing.Slots, Array]:
        kept = shorten(jax.random.fold_in(key, attempt), real) & real
        left = kept.sum(axis=1, dtype=jnp.int32)
        if packed is None:
            return kept, packing.padded(left, max_len=max_len), jnp.array(True)
        placement = packing.place(left, rows=packed.rows, width=packed.width)
        slots = packing.spread(placement, left, rows=packed.rows, width=packed.width, max_len=max_len)
        return kept, slots, packing.fits(placement, left, packed.rows)

    def again(carry: tuple[Array, tuple[Array, packing.Slots, Array]]) -> Array:
        return ~carry[1][2] & (carry[0] < ATTEMPTS)

    first = (jnp.int32(0), draw(jnp.int32(0)))
    _, (kept, slots, fits) = jax.lax.while_loop(again, lambda c: (c[0] + 1, draw(c[0] + 1)), first)
    order = jnp.argsort(~kept, axis=1, stable=True).astype(jnp.int32)  # the events that stay come first
    return slots, order[slots.sequence, slots.event], fits


def read_times(context: Context, index: Array, real: Array) -> dict[str, Array]:
    """`times` and `target_times` of slots that hold the events `index`, 0 where nothing is real, all [R, L].

    Raises:
      ValueError: the data set has no times.
    """
    if "seconds" not in context:
        raise ValueError(
            "the encoder reads times and the data set has none (no column 'seconds'): use an encoder without "
            "times, such as HSTU with time_bias=False"
        )
    seconds = context["seconds"]
    after = seconds[jnp.minimum(index + 1, seconds.shape[0] - 1)]
    return {"times": jnp.where(real, seconds[index], 0), "target_times": jnp.where(real, after, 0)}


def query_batch(
    queries: Mapping[str, Array],
    context: Context,
    packed: Packing | None,
    max_len: int,
    *,
    times: bool = False,
) -> Batch:
    """The encoder's input for evaluation queries: the `length` events before each target.

    queries: user, length, mask [B], and row, slot [B] if packed. times: whether to add those of events, and
    of the target after the last one.
    """
    slots, index = query_events(queries, context, packed, max_len)
    real = slots.segments > 0
    items = jnp.where(real, context["items"][index], 0)
    batch = {"items": items, "positions": slots.positions, "segments": slots.segments}
    return batch | read_times(context, index, real) if times else batch


def query_events(
    queries: Mapping[str, Array], context: Context, packed: Packing | None, max_len: int
) -> tuple[packing.Slots, Array]:
    """The slots of evaluation queries, and the event in each as an index into the columns, int32 [R, L]."""
    lengths = jnp.where(queries["mask"], jnp.minimum(queries["length"], max_len), 0)
    first = context["start"][queries["user"]] + queries["length"] - lengths
    slots = lay_out(queries, lengths, packed, max_len)
    return slots, jnp.where(slots.segments > 0, first[slots.sequence] + slots.event, 0)


def last_hidden(hidden: Array, queries: Mapping[str, Array], packed: Packing | None, max_len: int) -> Array:
    """Each query's hidden state at its last event, [B, D], from those of all slots.

    A packed query without events has no slot, and a state of zeros; padded, it has what the encoder says of
    an empty row.
    """
    at, known = last_slots(queries, packed, max_len)
    return jnp.where(known[:, None], hidden.reshape(-1, hidden.shape[-1])[at], 0)


def last_slots(queries: Mapping[str, Array], packed: Packing | None, max_len: int) -> tuple[Array, Array]:
    """The slot of each query's last event, int32 [B], and whether it has one, bool [B].

    Slots are numbered row after row. Padded, every query has one, the last of its row.
    """
    mask = queries["mask"]
    if packed is None:
        return max_len * jnp.arange(mask.shape[0], dtype=jnp.int32) + (max_len - 1), jnp.ones_like(mask)
    lengths = jnp.where(mask, jnp.minimum(queries["length"], max_len), 0)
    last = queries["row"] * packed.width + queries["slot"] + lengths - 1
    return jnp.clip(last, 0, packed.rows * packed.width - 1), lengths > 0


def num_parameters(variables: Variables) -> int:
    """How many numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def retriever(model: Encoder, packed: Packing | None = None) -> Retriever:
    """The model as full ranking sees it: a query's vector is the hidden state at its last event.

    An encoder that reads times gets them here as in training.

    packed: packed rows that queries share; None pads each to `model.max_len`.

    Raises:
      ValueError: the encoder mixes users that share a row (`check_encoder`).
    """
    if packed is not None:
        check_encoder(model, packed, causal=False)

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        batch = query_batch(queries, context, packed, model.max_len, times=reads_times(model))
        if not takes(model, "at"):
            return last_hidden(encode(model, variables, batch, None), queries, packed, model.max_len)
        at, known = last_slots(queries, packed, model.max_len)
        return jnp.where(known[:, None], encode(model, variables, {**batch, "at": at}, None), 0)

    return Retriever(query, lambda variables: item_table(model, variables))
