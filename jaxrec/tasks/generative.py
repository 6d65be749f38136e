"""Items and actions generated in turn: retrieval and ranking from one pass over each user's events.

The framing of HSTU (Zhai et al., ICML 2024, arXiv:2402.17152, section 2.2). Two losses: `retrieval`, of the
next item where its action is positive, and `ranking`, of the action that followed each item, the item itself
seen.

The model is a module such as `nn.sequential.hstu_generative.GenerativeHSTU`: `__call__(items, actions, *,
times, target_times, segments, rows, train) -> {"hidden": [B, L, D], "action": [B, L, A]}`, and
`item_table() -> [V, D]`. It gets times if its `reads_times` is true.

In evaluation `retriever` ranks all items after each query's events, and `windows` with `action_score` give
the score of many events of a user in one pass, each as if it were the candidate.

Context columns: those of `tasks.next_item`, and actions [N], int32: 1..A, 0 where it is not known. Examples:
as there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.packing import Packing
from jaxrec.segments import pick
from jaxrec.tasks.encoder import (
    Encoder,
    difference,
    layout_columns,
    numbered,
    once,
    only_params,
    probe_outputs,
    reads_times,
    refuse_future,
    refuse_mixed_users,
    refuse_packed,
    synthetic_probe,
    with_changed_ends,
)
from jaxrec.tasks.next_item import item_table, last_hidden, lay_out, query_events, read_times
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Retriever, Task, Variables


class ActionEncoder(Encoder, Protocol):
    """What the task needs of an encoder of items and actions (a Linen module)."""

    @property
    def num_actions(self) -> int: ...


def generative(
    model: ActionEncoder,
    objective: Objective,
    *,
    positive: Sequence[int],
    packed: Packing | None = None,
) -> Task:
    """The task of predicting every action and every positive next item.

    Each user's last `model.max_len` training events are read, the very last one too: its action is a label.

    objective: of retrieval, such as `objectives.uniform_softmax`. positive: actions whose items are worth
    retrieving, such as ratings (4, 5). packed: as of `next_item`, for all events
    that are read.

    Raises:
      ValueError: no action is positive, or one of them is none of the model's; max_len is 1, so that no event
        has a next one; the model reads times, which the data set lacks; it does not keep to
        the contract (`check_actions`).
    """
    if model.max_len < 2:
        raise ValueError(f"max_len={model.max_len}: must be at least 2, an event and the one after it")
    if not positive or min(positive) < 1 or max(positive) > model.num_actions:
        raise ValueError(
            f"positive={tuple(positive)}: name at least one action, each in 1..{model.num_actions} "
            "(num_actions)"
        )
    check_actions(model, packed)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        user = examples["example"]
        known = context["length"][user]
        lengths = jnp.where(examples["mask"], jnp.minimum(known, model.max_len), 0)
        slots = lay_out(examples, lengths, packed, model.max_len)
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
            **({"times": read_times(context, index, real)["times"]} if reads_times(model) else {}),
            **objective.draw(key, user[slots.sequence], context),
        }

    def init(key: Key, batch: Batch) -> Variables:
        some = (slice(1), slice(model.max_len))
        return only_params(
            model.init(key, batch["items"][some], batch["actions"][some], train=False), "generative"
        )

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found, actions = outputs(model, variables, batch, key), batch["actions"]
        labels, known = jnp.maximum(actions - 1, 0), actions != 0
        wrong = jax.nn.logsumexp(found["action"], axis=-1) - pick(found["action"], labels[..., None])[..., 0]
        wrong = losses.nan_outside(wrong, actions, model.num_actions + 1, where=known)
        table = item_table(model, variables)
        return {
            "retrieval": objective.loss(found["hidden"], table, batch, axis_name),
            "ranking": losses.masked_mean(wrong, known, axis_name),
        }, {}

    return Task(prepare, init, loss, lambda variables, batch: outputs(model, variables, batch, None))


def check_actions(model: ActionEncoder, packed: Packing | None = None) -> None:
    """Tries a model of items and actions on a few made-up events, as `encoder.check_encoder` does encoders.

    Raises:
      ValueError: outputs of users that share a row are not those of each alone, they hang on later events, or
        the logits of an action on that action; the model has variables other than parameters.
    """
    refuse_packed(model, packed)
    mixed, future, own, allowed = once(_tried, model, None if packed is None else packed.width)
    refuse_mixed_users(model, mixed, allowed)
    refuse_future(model, future, allowed)
    if own > allowed:
        raise ValueError(
            f"{type(model).__name__}: its logits of an event's action change with that action (by {own:.1%} "
            "of the largest), so training would show it the labels; let them read the item and earlier events"
        )


@functools.lru_cache(maxsize=128)
def _tried(model: ActionEncoder, width: int | None) -> tuple[float, float, float, float]:
    """How far outputs are from what they ought to be: packed, before a change, at the action that changed."""
    some = jnp.ones((1, model.max_len), jnp.int32)

    def init(key: Key) -> Variables:
        return only_params(model.init(key, some, some, train=False), type(model).__name__)

    num_items = jax.eval_shape(lambda key: item_table(model, init(key)), jax.random.key(0)).shape[0] - 1
    probe = synthetic_probe(model.max_len, width, num_items, model.num_actions)
    batches: dict[str, Batch] = {
        "later": with_changed_ends(probe, {"items": num_items, "actions": model.num_actions}),
        "acted": with_changed_ends(probe, {"actions": model.num_actions}),
    }
    if probe.packed is not None:
        batches["packed"] = probe.packed
    names = ("items", "actions", "segments", *(("times", "target_times") if reads_times(model) else ()))

    def run(variables: Variables, batch: Batch) -> dict[str, Array]:
        return outputs(model, variables, {name: batch[name] for name in names}, None)

    found, allowed = probe_outputs(type(model).__name__, init, run, batches)

    def halves(name: str, output: str) -> tuple[np.ndarray, np.ndarray]:
        before, after = np.split(found[name][output], 2)
        return before[probe.at[0]], after[probe.at[0]]

    future, mixed, ends = 0.0, 0.0, probe.last
    for output in ("hidden", "action"):
        before, after = halves("later", output)
        future = max(future, difference(before[~ends], after[~ends]))
        if "packed" in found:
            mixed = max(mixed, difference(before, found["packed"][output][probe.at[1]]))
    return mixed, future, difference(*halves("acted", "action")), allowed


def outputs(model: ActionEncoder, variables: Variables, batch: Batch, key: Key | None) -> dict[str, Array]:
    """What the model gives for a batch; key None switches dropout off."""
    columns: dict[str, Any] = layout_columns(model, batch)
    columns |= {name: batch.get(name) for name in ("times", "target_times")}
    if key is None:
        return model.apply(variables, batch["items"], batch["actions"], **columns, train=False)
    columns |= {**numbered(model, batch["row"]), "rngs": {"dropout": key}}
    return model.apply(variables, batch["items"], batch["actions"], **columns, train=True)


def retriever(model: ActionEncoder, packed: Packing | None = None) -> Retriever:
    """Retrieval as full ranking sees it: a query's vector is the state after its last event and action.

    It is a prediction for the time of the target, as in training for each event but a user's last. Of a long
    history the last max_len - 1 events are read: the target is then number max_len, the last that training
    has a target for. A query whose last action is not known (0) has the vector 0.

    packed: as of `next_item.retriever`.
    """
    longest = max(model.max_len - 1, 1)
    if packed is not None:
        check_actions(model, packed)

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        slots, index = query_events(queries, context, packed, longest)
        real = slots.segments > 0
        batch = {
            "items": jnp.where(real, context["items"][index], 0),
            "actions": jnp.where(real, context["actions"][index], 0),
            "segments": slots.segments,
            **(read_times(context, index, real) if reads_times(model) else {}),
        }
        hidden = outputs(model, variables, batch, None)["hidden"]
        return last_hidden(hidden, queries, packed, longest)

    return Retriever(query, lambda variables: item_table(model, variables))


def windows(model: ActionEncoder, columns: Batch, context: Context) -> Batch:
    """The model's input of windows: the last `model.max_len` of a user's first `end` events, right-aligned.

    columns: user, end, int32 [B], such as of `data.batching.event_windows`; others pass through.
    """
    end = columns["end"][:, None]
    event = end - model.max_len + jnp.arange(model.max_len)
    real = event >= 0
    index = jnp.where(real, context["start"][columns["user"]][:, None] + event, 0)
    return {
        **columns,
        "items": jnp.where(real, context["items"][index], 0),
        "actions": jnp.where(real, context["actions"][index], 0),
        **({"times": read_times(context, index, real)["times"]} if reads_times(model) else {}),
    }


def after_history(model: ActionEncoder, examples: Mapping[str, Array], shared: Context) -> Batch:
    """The model's input of candidates: the last max_len - 1 events before each, and it, [B, max_len].

    examples: item, start, end, int32 [B], of a candidate after the events start .. end - 1; time [B], in
    seconds, for a model that reads times. shared: events, actions, and times of them, int32 [N].
    """
    at = examples["end"][:, None] - model.max_len + 1 + jnp.arange(model.max_len)
    own = jnp.arange(model.max_len) == model.max_len - 1
    real = (at >= examples["start"][:, None]) & ~own
    at = jnp.where(real, at, 0)

    def filled(events: Array, candidate: Array) -> Array:
        return jnp.where(own, candidate[:, None], jnp.where(real, events[at], 0))

    items = examples["item"]
    batch = {"items": filled(shared["events"], items), "actions": filled(shared["actions"], items * 0)}
    if reads_times(model):
        batch["times"] = filled(shared["times"], examples["time"])
    return batch


def action_score(model: ActionEncoder, positive: Sequence[int]) -> Callable[[Variables, Batch], Array]:
    """Log-odds that the action of an event is positive, [B, L], of a batch made by `windows`.

    That of an event reads the events and actions before it, and its item: not its own action.

    Raises:
      ValueError: none of the model's actions is positive, or all are, or one of `positive` is none of them.
    """
    actions = range(1, model.num_actions + 1)
    others = [action for action in actions if action not in positive]
    if not positive or not others or not set(positive) <= set(actions):
        raise ValueError(
            f"positive={tuple(positive)}: name at least one of the actions 1..{model.num_actions} "
            "(num_actions), and not all of them"
        )

    def score(variables: Variables, batch: Batch) -> Array:
        logits = outputs(model, variables, batch, None)["action"]

        def total(actions: Sequence[int]) -> Array:
            return jax.nn.logsumexp(logits[..., jnp.array(actions) - 1], axis=-1)

        return total(sorted(set(positive))) - total(others)

    return score


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
