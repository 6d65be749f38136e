"""Next-item prediction that also learns from explicit feedback: what users liked, and what they rejected.

Context: the columns of `tasks.next_item`, and `kind` int32 [N], of each event: 1 liked, -1 disliked, 0
neither. A term of the batch compares the state after each event with later events of the same user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.packing import Packing
from jaxrec.segments import rows_by_id
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_item import encode, item_table, lay_out, next_item
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

# (hidden [R, L, D], table [V, D], batch, axis_name) -> this device's share of the loss
Term = Callable[[Array, Array, Batch, str | None], Array]


def next_item_with_feedback(
    model: Encoder,
    objective: Objective,
    term: Term | None,
    *,
    window: int = 10,
    past: bool = False,
    least_kind: int = -1,
    packed: Packing | None = None,
) -> Task:
    """`next_item` with a second loss, "feedback".

    Batch columns besides those of `next_item`: `kind`, of each target, [R, L], and `window` and
    `window_kind`, ids and kinds of the events that the term compares a state with, [R, L, W]; 0 where there
    is none. They are events of training, as the targets are. The term also gets `window_vectors`, the item
    vectors of the window, [R, L, W, D].

    Args:
      term: the second loss, such as `pair()`; None: there is none.
      window: the number of events after a state, the target first.
      past: True takes the events up to the state in place of those after it, and holds their vectors
        constant, as the state has read them.
      least_kind: targets of a smaller kind are none for the objective: -1 has all, 0 leaves out disliked
        ones, 1 has liked ones alone.
      packed: as of `next_item`.

    Raises:
      ValueError: window is below 1 or least_kind not -1, 0 or 1; as `next_item`; while tracing: the context
        has no column `kind`.
    """
    if window < 1 or least_kind not in (-1, 0, 1):
        raise ValueError(f"window={window}, least_kind={least_kind}: must be at least 1, and -1, 0 or 1")
    base = next_item(model, objective, packed=packed)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        if "kind" not in context:
            raise ValueError("the data have no column 'kind': add it with protocols.feedback.with_kinds")
        batch = base.prepare(key, examples, context)
        items, kinds = context["items"], context["kind"]
        user, last = examples["example"], items.shape[0] - 1
        inputs = jnp.maximum(context["length"][user] - 1, 0)
        lengths = jnp.where(examples["mask"], jnp.minimum(inputs, model.max_len), 0)
        slots = lay_out(examples, lengths, packed, model.max_len)
        real = slots.segments > 0
        start = context["start"][user][slots.sequence]
        index = start + (inputs - lengths)[slots.sequence] + slots.event
        steps = -jnp.arange(window) if past else 1 + jnp.arange(window)
        compared = index[..., None] + steps
        end = start + context["length"][user][slots.sequence]
        inside = real[..., None] & (compared >= start[..., None]) & (compared < end[..., None])
        compared = jnp.clip(compared, 0, last)
        return {
            **batch,
            "kind": jnp.where(real, kinds[jnp.clip(index + 1, 0, last)], 0),
            "window": jnp.where(inside, items[compared], 0),
            "window_kind": jnp.where(inside, kinds[compared], 0),
        }

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden, table = encode(model, variables, batch, key), item_table(model, variables)
        learned = jnp.where(batch["kind"] >= least_kind, batch["targets"], 0)
        found = {"next_item": objective.loss(hidden, table, {**batch, "targets": learned}, axis_name)}
        if term is not None:
            vectors = vectors_of(table, batch["window"])
            vectors = jax.lax.stop_gradient(vectors) if past else vectors
            found["feedback"] = term(hidden, table, {**batch, "window_vectors": vectors}, axis_name)
        return found, {}

    return Task(prepare, base.init, loss, base.predict)


def pair(*, temperature: float = 0.2) -> Term:
    """`losses.feedback_pair` of a state and the liked and disliked items of its window.

    Raises ValueError for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")

    def term(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        return losses.feedback_pair(hidden, temperature=temperature, axis_name=axis_name, **lists_of(batch))

    return term


def margins(*, liked_margin: float = 0.8, disliked_margin: float = 0.2) -> Term:
    """`losses.feedback_margins` of a state and the liked and disliked items of its window.

    Raises ValueError for a margin outside -1..1.
    """
    losses.check_cosine_margins(liked_margin=liked_margin, disliked_margin=disliked_margin)

    def term(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        return losses.feedback_margins(
            hidden,
            liked_margin=liked_margin,
            disliked_margin=disliked_margin,
            axis_name=axis_name,
            **lists_of(batch),
        )

    return term


def not_to_recommend(*, block: int = 4096) -> Term:
    """`losses.not_to_recommend` of the targets that are disliked. With `least_kind` 0 the objective has the
    others, as in the paper."""

    def term(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        return losses.not_to_recommend(
            hidden,
            table,
            batch["targets"],
            where=(batch["targets"] != 0) & (batch["kind"] < 0),
            block=block,
            axis_name=axis_name,
        )

    return term


def vectors_of(table: Array, ids: Array) -> Array:
    """Item vectors, [V, D] and int32 [...] → [..., D]; of padding that of id 0, NaN of an id that is none."""
    vectors = rows_by_id(table, ids, clip=True)
    return losses.nan_outside(vectors, ids[..., None], table.shape[0], where=ids[..., None] != 0)


def lists_of(batch: Batch) -> dict[str, Array]:
    """Arguments of the losses of lists: the liked and the disliked items of each state's window."""
    kind, vectors = batch["window_kind"], batch["window_vectors"]
    return {
        "liked": vectors,
        "disliked": vectors,
        "liked_where": kind > 0,
        "disliked_where": kind < 0,
        "where": batch["items"] != 0,
    }
