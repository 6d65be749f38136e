"""Sessions read side by side, an event a step, with a state that is carried on: how GRU4Rec is trained.

Each of B lanes holds a session; a step reads one event of each, and predicts the one behind. The recurrent
state of a lane goes from step to step as a collection of the variables, "lanes", and starts from zero where a
session does. It is a constant of the step, so that gradients reach back one event, as in the authors' code.
`next_item` is the ordinary way, whole sessions with gradients through all of them; objectives serve both.

Context columns: items [N] and start [S], a session's first event; what else an objective reads. Rows, of
`jaxrec.data.events.parallel_sessions`: session [B], event [B] within it, mask [B] (False in a lane without
session).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses, sampling
from jaxrec.tasks.encoder import Encoder, numbered, only_params
from jaxrec.tasks.next_item import item_table
from jaxrec.tasks.objectives import Objective
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

LANES = "lanes"  # the collection of the carried state


class Recurrent(Encoder, Protocol):
    """What the task asks of an encoder beside what `next_item` does.

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

    def prepare(key: Key, rows: Mapping[str, Array], context: Context) -> Batch:
        session, event, mask = rows["session"], rows["event"], rows["mask"]
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
        rows = numbered(model, batch["row"], "step")
        return model.apply(parts, batch["items"], state, **rows, method="step", **noise)

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


class Negatives(NamedTuple):
    """What the targets of a batch are ranked against: the other targets of the batch, and samples.

    table: the distribution of samples, ∝ count^alpha. lowered: log-weights by item id that are subtracted
    from the scores of targets, and of samples, [vocab_size] each (logQ).
    """

    num_samples: int
    table: sampling.PopularityTable
    lowered: tuple[Array, Array]


def negatives(counts: np.ndarray, *, num_samples: int, alpha: float, logq: float = 0.0) -> Negatives:
    """Negatives as the authors' code of GRU4Rec has them; built on the host.

    Samples follow p(item) ∝ count^alpha. The logQ correction subtracts logq · log count from the scores of
    targets, and logq · alpha · log count from those of samples: the frequencies by which the two come, each
    up to a constant of its own, which the code leaves out as well.

    Args:
      counts: how often each item occurs in training, [vocab_size]; entry 0 (padding) is ignored.
      num_samples: drawn at every step, the same for all rows; 0 leaves the targets of the batch.
      alpha: 1 is popularity, 0 uniform over all items. With 0, items without a training event are drawn too
        and learn to score low; the code knows none of them, neither here nor in ranking.
      logq: 0 for no correction, 1 for all of it.

    Raises:
      ValueError: num_samples is negative, or logq outside 0..1; as `sampling.popularity_table`.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples={num_samples}: must be at least 0")
    if not 0 <= logq <= 1:
        raise ValueError(f"logq={logq}: must lie in 0..1")
    table = sampling.popularity_table(counts, alpha=alpha)
    known = np.maximum(np.asarray(counts, np.float64), 1.0)  # an item that never occurs is no target
    known[0] = 1.0
    lowered = logq * np.log(known)
    return Negatives(
        num_samples, table, (jnp.asarray(lowered, jnp.float32), jnp.asarray(alpha * lowered, jnp.float32))
    )


def shared_negatives(
    loss: Callable[..., Array],
    drawn: Negatives,
    *,
    activation: Callable[[Array], Array] | None = None,
    leave_out_hits: bool = False,
) -> Objective:
    """A loss of each target's score against those of all other targets of the batch and of shared samples.

    Args:
      loss: called as loss(pos [T], neg [T, N], accidental=…, where=…, axis_name=…): `losses.bpr_max`,
        `top1_max`, `top1`, `bpr`, `sampled_softmax` and their like.
      activation: of the scores, such as an ELU for BPR-max; it has to be monotone, as ranks are those of the
        scores without it.
      leave_out_hits: whether a negative that is the row's own target is left out. The authors' code keeps it.
    """

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        samples, _ = sampling.popularity(key, (drawn.num_samples,), drawn.table)
        return {"samples": jnp.broadcast_to(samples, (users.shape[0], drawn.num_samples))}

    def value(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets, samples = batch["targets"].reshape(-1), batch["samples"][0]
        first, every = 0, targets
        if axis_name is not None:  # the targets of all devices are negatives on each
            every = jax.lax.all_gather(targets, axis_name, tiled=True)
            first = jax.lax.axis_index(axis_name) * targets.shape[0]
        candidates = jnp.concatenate([every, samples])
        lowered = jnp.concatenate([drawn.lowered[0][every], drawn.lowered[1][samples]])
        scores = losses.dot_products(hidden.reshape(-1, hidden.shape[-1]), table[candidates]) - lowered
        known = min(table.shape[0], drawn.lowered[0].shape[0])
        used = (candidates != 0) & (targets != 0)[:, None]
        scores = losses.nan_outside(scores, candidates, known, where=used)
        scores = scores if activation is None else activation(scores)
        own = first + jnp.arange(targets.shape[0])
        accidental = (candidates == 0) | (jnp.arange(candidates.shape[0]) == own[:, None])
        if leave_out_hits:
            accidental = accidental | (candidates == targets[:, None])
        pos = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
        return loss(pos, scores, accidental=accidental, where=targets != 0, axis_name=axis_name)

    return Objective(draw, value)
