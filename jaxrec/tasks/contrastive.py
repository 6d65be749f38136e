"""Contrastive learning on two augmented views of each user's training sequence (CoSeRec, TiCoSeRec).

Three forms of a view's vector:
  flat    all hidden states of the padded form, one after the other, padding included: what the code of
          CoSeRec and TiCoSeRec computes (tests hold it to their numbers);
  mean    the mean over the view's events;
  last    the state at the view's last event.
The last two do not read padding, so views share packed rows. All are compared by plain dot products unless
`normalise` is set, as in that code.

Context: items [N], start [U], length [U]; `unaugmented` [U], True for users whose views are their own
sequence; `similar`, the best substitute of each item; and under the name given by `plans` what each view
needs to know of every user's times (`jaxrec.augment.views.plan_in_blocks`).
Examples: example [B], a user each, and mask [B].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import losses, packing
from jaxrec.augment.views import View
from jaxrec.packing import Packing
from jaxrec.segments import sum_by_id
from jaxrec.tasks.encoder import Encoder, check_encoder, only_params
from jaxrec.tasks.next_item import encode
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

ATTEMPTS = 16  # new draws of a step's views if they do not fit the packed rows, before giving up


class Views(NamedTuple):
    """Two ways to augment a sequence, each with the name of its plan in the context.

    width: longest training input of any user.
    """

    first: View
    second: View
    width: int
    plans: tuple[str, str] = ("plan", "plan")


class Pair(NamedTuple):
    """Both views of every user: items [2, B, max_len] right-aligned and lengths [2, B]."""

    items: Array
    length: Array


def draw_views(views: Views, key: Key, examples: Mapping[str, Array], context: Context) -> Pair:
    """Two independent views of each user's training input, which is the training events but the last.

    Masked examples have no events; an operator that inserts can still give their views some.
    """
    user = examples["example"]
    length = jnp.where(examples["mask"], jnp.maximum(context["length"][user] - 1, 0), 0)

    def one(view: View, plan: str, key: Key) -> tuple[Array, Array]:
        return view.apply(
            key,
            jax.tree.map(lambda column: column[user], context[plan]),
            context["items"],
            length,
            context["similar"],
            end=context["start"][user] + length,
            width=views.width,
            unaugmented=context["unaugmented"][user],
        )

    keys = jax.random.split(key)
    first = one(views.first, views.plans[0], keys[0])
    second = one(views.second, views.plans[1], keys[1])
    return Pair(jnp.stack([first[0], second[0]]), jnp.stack([first[1], second[1]]))


def flat(
    model: Encoder,
    views: Views,
    *,
    temperature: float = 1.0,
    normalise: bool = False,
    name: str = "contrastive",
) -> Task:
    """The flattened form, on padded views whose window is `model.max_len`. name: of the loss."""

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        pair = draw_views(views, key, examples, context)
        count = examples["example"].shape[0]
        return {
            "items": pair.items.swapaxes(0, 1),  # [B, 2, L]
            "row": jnp.arange(2 * count, dtype=jnp.int32).reshape(2, count).T,
            "mask": examples["mask"],
        }

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["items"][:1, 0], train=False), name)

    def vectors(variables: Variables, batch: Batch, key: Key | None) -> tuple[Array, Array]:
        count, _, length = batch["items"].shape
        slots = {
            "items": batch["items"].reshape(-1, length),
            "positions": jnp.broadcast_to(jnp.arange(length), (2 * count, length)),
            "segments": jnp.ones((2 * count, length), jnp.int32),
            "row": batch["row"].reshape(-1),
        }
        hidden = encode(model, variables, slots, key).reshape(count, 2, -1)
        return hidden[:, 0], hidden[:, 1]

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        first, second = vectors(variables, batch, key)
        value = losses.nt_xent(
            first,
            second,
            temperature=temperature,
            normalise=normalise,
            where=batch["mask"],
            axis_name=axis_name,
        )
        return {name: value}, {}

    return Task(prepare, init, loss, lambda variables, batch: vectors(variables, batch, None))


def mean_of_events(items: Array, event: Array, length: Array) -> Array:
    """Weights of a mean over the events that are not masked; event and length are 0-based and [R, L]."""
    del event, length
    return (items > 0).astype(jnp.float32)


def last_event(items: Array, event: Array, length: Array) -> Array:
    """Weight 1 at the last event."""
    del items
    return (event == length - 1).astype(jnp.float32)


def draw_packed_views(
    views: Views, key: Key, examples: Mapping[str, Array], context: Context, packed: Packing
) -> tuple[Array, Array, packing.Placement]:
    """Views [2 B, max_len] of users, their lengths [2 B] and places in packed rows.

    They are drawn again until they fit, up to ATTEMPTS times.
    """

    def draw(attempt: Array) -> tuple[Array, Array, packing.Placement]:
        pair = draw_views(views, jax.random.fold_in(key, attempt), examples, context)
        lengths = pair.length.reshape(-1)
        placement = packing.place(lengths, rows=packed.rows, width=packed.width)
        return pair.items.reshape(lengths.shape[0], -1), lengths, placement

    def again(carry: tuple[Array, tuple[Array, Array, packing.Placement]]) -> Array:
        attempt, (_, lengths, placement) = carry
        return ~packing.fits(placement, lengths, packed.rows) & (attempt < ATTEMPTS)

    _, drawn = jax.lax.while_loop(
        again, lambda carry: (carry[0] + 1, draw(carry[0] + 1)), (jnp.int32(0), draw(jnp.int32(0)))
    )
    return drawn


def pooled(
    model: Encoder,
    views: Views,
    *,
    packed: Packing,
    pool: Callable[[Array, Array, Array], Array] = mean_of_events,
    temperature: float = 1.0,
    normalise: bool = False,
    name: str = "contrastive",
) -> Task:
    """One vector a view, a weighted mean of its hidden states, with all views in packed rows.

    If the views of a step do not fit the packed rows, which `packing.rows_needed` makes as good as
    impossible, they are drawn again with the next key; if that fails too the loss is NaN, which stops
    training with an error.

    Raises:
      ValueError: the encoder mixes views that share a row (`check_encoder`).
    """
    check_encoder(model, packed, causal=False)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        count = examples["example"].shape[0]
        items, lengths, placement = draw_packed_views(views, key, examples, context, packed)
        slots = packing.spread(
            placement, lengths, rows=packed.rows, width=packed.width, max_len=model.max_len
        )
        real = slots.segments > 0
        slot = items.shape[1] - lengths[slots.sequence] + slots.event
        items = jnp.where(real, items[slots.sequence, jnp.where(real, slot, 0)], 0)
        weight = jnp.where(real, pool(items, slots.event, lengths[slots.sequence]), 0)
        total = sum_by_id(weight.reshape(-1), slots.sequence.reshape(-1), 2 * count)
        fits = packing.fits(placement, lengths, packed.rows)
        return {
            "items": items,
            "positions": slots.positions,
            "segments": slots.segments,
            "weight": weight
            / jnp.where(total > 0, total, 1.0)[slots.sequence]
            * jnp.where(fits, 1.0, jnp.nan),
            "row": jnp.arange(packed.rows, dtype=jnp.int32),
            "mask": jnp.broadcast_to(examples["mask"], (packed.rows, count)),
        }

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["items"][:1, : model.max_len], train=False), name)

    def vectors(variables: Variables, batch: Batch, key: Key | None, axis_name: str | None) -> Array:
        hidden = encode(model, variables, batch, key) * batch["weight"][..., None]
        count = batch["mask"].shape[1]
        flat_hidden = hidden.reshape(-1, hidden.shape[-1])
        z = sum_by_id(flat_hidden, batch["segments"].reshape(-1) - 1, 2 * count)
        z = z if axis_name is None else jax.lax.psum(z, axis_name)
        return z.reshape(2, count, -1)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        first, second = vectors(variables, batch, key, axis_name)
        value = losses.nt_xent(
            first, second, temperature=temperature, normalise=normalise, where=batch["mask"][0]
        )
        return {name: value if axis_name is None else value / jax.lax.axis_size(axis_name)}, {}

    return Task(prepare, init, loss, lambda variables, batch: vectors(variables, batch, None, None))
