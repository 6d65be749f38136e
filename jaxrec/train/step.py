"""One training step: the batch as a whole, and the losses of a device's share of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim import sparse
from jaxrec.optim.loss_weighting import TaskLosses, Weighting
from jaxrec.train import parallel
from jaxrec.train.state import PROBES, STEP, WEIGHTING, TrainState
from jaxrec.types import Array, Batch, Context, Key, Task

Step = Callable[[TrainState, Mapping[str, Array], Context], tuple[TrainState, dict[str, Array]]]


def make_step(
    task: Task, tx: optax.GradientTransformation, weighting: Weighting, axis_name: str | None = None
) -> Step:
    """step(state, examples, context) -> (state, logs): losses raw by name, their weighted sum as "loss".

    Whatever the weighting does, one call of it gives the gradient and adds its scalars to the logs. With an
    axis name, inside `parallel.over_devices`, the global batch is that of one device; every device computes
    its share of the leading axes and sums gradients with the others, so the result does not depend on the
    number of devices.

    Of the tables that `tx` marks as sparse (`optim.sparse`), a step reads and writes the rows that its losses
    look up. They are traced twice then.

    Raises (while tracing):
      ValueError: the state was created for a weighting that learns or remembers something else; a sparse
        table is read as a whole, or not at all; the number of devices does not divide a batch.
    """

    def step(
        state: TrainState, examples: Mapping[str, Array], context: Context
    ) -> tuple[TrainState, dict[str, Array]]:
        _same_state(weighting, state)
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, STEP), state.step)
        prepare_key, loss_key = jax.random.split(step_key)
        batch = task.prepare(prepare_key, parallel.whole(examples, axis_name), context)
        return parallel.in_shares(update, axis_name)(batch, state, step_key, loss_key)

    def update(
        batch: Batch, state: TrainState, step_key: Key, loss_key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        def losses(params: Any, probes: Any) -> tuple[dict[str, Array], Any]:
            variables = {"params": params, **state.collections, **probes}
            return task.losses(variables, batch, loss_key, axis_name)

        def probes() -> dict[str, Any]:
            shapes = jax.eval_shape(task.init, loss_key, batch)
            found = {name: tree for name, tree in shapes.items() if name == PROBES}
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)

        of_rows = tx.rows(state.opt_state) if isinstance(tx, sparse.SparseTransformation) else None
        reads = sparse.read_rows(
            of_rows, state.params["model"], state.step, lambda model: losses(model, {}), axis_name
        )
        descent = weighting.gradient(
            TaskLosses(lambda params, probes: losses(reads.stand_ins(params), probes), probes),
            {**state.params, "model": reads.params},
            state.weighting,
            jax.random.fold_in(step_key, WEIGHTING),
            axis_name,
        )
        gradient = {**descent.gradient, "model": reads.dense(descent.gradient["model"])}
        params = sparse.hidden(state.params)
        change, opt_state = tx.update(gradient, state.opt_state, params)
        params = optax.apply_updates(params, change)
        model = reads.updated(of_rows, params["model"], descent.gradient["model"], state.step)
        state = state.replace(
            step=state.step + 1,
            params={**params, "model": model},
            collections={**state.collections, **descent.rest},
            opt_state=opt_state,
            weighting=descent.state,
        )
        return state, descent.logs

    return step


def _same_state(weighting: Weighting, state: TrainState) -> None:
    wanted: Any = jax.tree.structure(jax.eval_shape(weighting.init))
    found: Any = jax.tree.structure((state.params["weighting"], state.weighting))
    if wanted != found:
        raise ValueError(
            f"the state holds {found} for its loss weighting, this weighting needs {wanted}: create the "
            "state with it, and give all phases of a run the same one"
        )


def epoch_mean(logs: Mapping[str, Array], live: Array) -> dict[str, Array]:
    """Means over the steps of a scan that were run."""
    count = jnp.maximum(live.sum(), 1)
    return {name: jnp.where(live, value, 0).sum() / count for name, value in logs.items()}
