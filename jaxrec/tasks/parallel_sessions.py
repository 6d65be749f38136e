"""Sessions read in parallel, an event a step, with a state that is carried on: how GRU4Rec is trained.

Each of B lanes holds a session; a step reads one event of each, and predicts the one behind. The recurrent
state of a lane goes from step to step as a collection of the variables, "lanes", and starts from zero where a
session does. It is a constant of the step, so that gradients reach back one event, as in the authors' code.
`next_item` is the ordinary way, whole sessions with gradients through all of them; objectives serve both.

Context columns: items [N] and start [S], a session's first event; what else an objective reads. Examples, of
`jaxrec.data.events.parallel_sessions`: session [B], event [B] within it, mask [B] (False in a lane without
session).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxrec.tasks.encoder import Encoder, numbered, only_params
from jaxrec.tasks.next_item import item_table
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

LANES = "lanes"  # the collection of the carried state


class Recurrent(Encoder, Protocol):
    """What the task needs of an encoder in addition to what `next_item` does.

    start(lanes) -> state with leading axis lanes, all zeros;
    step(items [B], state, *, rows, train) -> (hidden [B, D], state).
    """

    @property
    def start(self) -> Callable[[int], Array]: ...


def parallel_sessions(model: Recurrent, objective: Objective) -> Task:
    """The task of predicting the next item of B sessions at once; predict gives hidden states [B, D].

    The loss is the sum over lanes divided by B, also where lanes are empty at the end of an epoch: such steps
    weigh less, as in the authors' code.
    """

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        session, event, mask = examples["session"], examples["event"], examples["mask"]
        index = jnp.where(mask, context["start"][session] + event, 0)
        items, last = context["items"], context["items"].shape[0] - 1
        return {
            "items": jnp.where(mask, items[index], 0),
            "targets": jnp.where(mask, items[jnp.minimum(index + 1, last)], 0)[:, None],
            "reset": event == 0,
            "row": jnp.arange(mask.shape[0], dtype=jnp.int32),
            **objective.draw(key, session[:, None], context),
        }

    def init(key: Key, batch: Batch) -> Variables:
        variables = only_params(model.init(key, batch["items"][:1, None], train=False), "parallel_sessions")
        return {**variables, LANES: {"state": model.start(batch["items"].shape[0])}}

    def advance(
        variables: Variables, batch: Batch, key: Key | None, axis_name: str | None = None
    ) -> tuple[Array, Array]:
        state = own_lanes(variables[LANES]["state"], axis_name)
        keep = ~batch["reset"].reshape(-1, *[1] * (state.ndim - 1))
        state = jnp.where(keep, jax.lax.stop_gradient(state), 0.0)
        noise = {"train": False} if key is None else {"train": True, "rngs": {"dropout": key}}
        parts = {"params": variables["params"]}
        numbers = numbered(model, batch["row"], "step")
        return model.apply(parts, batch["items"], state, **numbers, method="step", **noise)

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden, state = advance(variables, batch, key, axis_name)
        value = objective.loss(hidden[:, None], item_table(model, variables), batch, axis_name)
        live, lanes = jnp.sum(batch["targets"] != 0), batch["items"].shape[0]
        if axis_name is not None:
            live, lanes = jax.lax.psum(live, axis_name), lanes * jax.lax.axis_size(axis_name)
            state = jax.lax.all_gather(state, axis_name, tiled=True)
        return {"next_item": value * live / lanes}, {LANES: {"state": state}}

    def predict(variables: Variables, batch: Batch) -> Array:
        return advance(variables, batch, None)[0]

    return Task(prepare, init, loss, predict)


def own_lanes(state: Array, axis_name: str | None) -> Array:
    """This device's part of the state of all lanes, which every device holds."""
    if axis_name is None:
        return state
    size = state.shape[0] // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(state, jax.lax.axis_index(axis_name) * size, size)
