"""Items and actions generated in turn: retrieval and ranking from one pass over each user's events.

The framing of HSTU (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2). Two losses: `retrieval`, of the
next item where its action is positive, and `ranking`, of the action that followed each item, the item itself
seen.

The model is a module such as `nn.sequential.hstu_generative.GenerativeHSTU`: `__call__(items, actions, *,
times, segments, rows, train) -> {"hidden": [B, L, D], "action": [B, L, A]}`, and `item_table() -> [V, D]`.

Context columns: those of `tasks.next_item`, and actions [N], int32: 1..A, 0 where it is not known. Rows: as
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from jaxrec import losses
from jaxrec.tasks.next_item import Encoder, Objective, Rows, item_table, lay_out, read_times
from jaxrec.types import Array, Batch, Context, Key, Task, Variables


def generative(
    model: Encoder,
    objective: Objective,
    *,
    positive: Sequence[int],
    packed: Rows | None = None,
    times: bool = False,
) -> Task:
    """The task of predicting every action and every positive next item.

    Each user's last `model.max_len` training events are read, the very last one too: its action is a label.

    objective: of retrieval, such as `next_item.uniform_softmax`. positive: actions whose items are worth
    retrieving, such as ratings (4, 5). packed, times: as of `next_item`; rows place all events that are read.

    Raises:
      ValueError: no action is positive, or one of them is not 1 or more; times, which the data set lacks.
    """
    if not positive or min(positive) < 1:
        raise ValueError(f"positive={tuple(positive)}: name at least one action, each 1 or more")

    def prepare(key: Key, rows: Mapping[str, Array], context: Context) -> Batch:
        user = rows["user"]
        known = context["length"][user]
        lengths = jnp.where(rows["mask"], jnp.minimum(known, model.max_len), 0)
        slots = lay_out(rows, lengths, packed, model.max_len)
        real = slots.segments > 0
        first = context["start"][user] + known - lengths
        index = jnp.where(real, first[slots.sequence] + slots.event, 0)
        items = jnp.where(real, context["items"][index], 0)
        actions = jnp.where(real, context["actions"][index], 0)
        return {
            "items": items,
            "actions": actions,
            "targets": next_positive(items, actions, positive, slots.segments),
            "segments": slots.segments,
            "row": jnp.arange(real.shape[0], dtype=jnp.int32),
            **({"times": read_times(context, index, real)["times"]} if times else {}),
            **objective.draw(key, user[slots.sequence], context),
        }

    def outputs(variables: Variables, batch: Batch, key: Key | None) -> dict[str, Array]:
        columns: dict[str, Any] = {"segments": batch["segments"], "times": batch.get("times")}
        if key is None:
            return model.apply(variables, batch["items"], batch["actions"], **columns, train=False)
        columns |= {"rows": batch["row"], "rngs": {"dropout": key}}
        return model.apply(variables, batch["items"], batch["actions"], **columns, train=True)

    def init(key: Key, batch: Batch) -> Variables:
        some = (slice(1), slice(model.max_len))
        return model.init(key, batch["items"][some], batch["actions"][some], train=False)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found, actions = outputs(variables, batch, key), batch["actions"]
        labels = jnp.maximum(actions - 1, 0)
        wrong = optax.softmax_cross_entropy_with_integer_labels(found["action"], labels)
        table = item_table(model, variables)
        return {
            "retrieval": objective.loss(found["hidden"], table, batch, axis_name),
            "ranking": losses.masked_mean(wrong, actions > 0, axis_name),
        }, {}

    return Task(prepare, init, loss, lambda variables, batch: outputs(variables, batch, None))


def next_positive(items: Array, actions: Array, positive: Sequence[int], segments: Array) -> Array:
    """Targets of retrieval: the item of a user's next event where its action is positive, else 0, [B, L].

    An event whose own action is not known (0) retrieves nothing.

    segments: numbers of the users that share a row, [B, L].

    >>> one = jnp.ones((1, 4), jnp.int32)
    >>> next_positive(jnp.array([[5, 6, 7, 8]]), jnp.array([[1, 2, 0, 2]]), (2,), one).tolist()
    [[6, 0, 0, 0]]
    """

    def after(column: Array) -> Array:
        return jnp.pad(column[:, 1:], ((0, 0), (0, 1)))

    wanted = jnp.isin(after(actions), jnp.array(tuple(positive))) & (actions != 0) & (items != 0)
    return jnp.where(wanted & (after(segments) == segments), after(items), 0)
