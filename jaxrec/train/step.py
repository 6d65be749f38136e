"""One training step, written for one device with an optional axis of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim.loss_weighting import LossWeighting
from jaxrec.train.state import STEP, TrainState
from jaxrec.types import Array, Batch, Context, Task

Step = Callable[[TrainState, Mapping[str, Array], Context], tuple[TrainState, dict[str, Array]]]


def make_step(
    task: Task, tx: optax.GradientTransformation, weighting: LossWeighting, axis_name: str | None = None
) -> Step:
    """step(state, rows, context) -> (state, losses): losses raw by name, their weighted sum as "loss".

    With an axis name every device prepares the same global batch, takes its share of the leading axes,
    and sums gradients with the others: the result does not depend on the number of devices.
    """

    def step(
        state: TrainState, rows: Mapping[str, Array], context: Context
    ) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, STEP), state.step)
        prepare_key, loss_key = jax.random.split(step_key)
        batch = _share(task.prepare(prepare_key, rows, context), axis_name)

        def objective(params: Any) -> tuple[Array, tuple[Any, Any, dict[str, Array]]]:
            variables = {"params": params["model"], **state.collections}
            shares, updates = task.losses(variables, batch, loss_key, axis_name)
            losses = shares if axis_name is None else jax.lax.psum(shares, axis_name)
            total, remembered, _ = weighting.combine(params["weighting"], state.weighting, losses)
            share = total if axis_name is None else total / jax.lax.axis_size(axis_name)
            return share, (updates, remembered, {"loss": total, **losses})

        (_, (updates, remembered, logs)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        gradient = gradient if axis_name is None else jax.lax.psum(gradient, axis_name)
        change, opt_state = tx.update(gradient, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, change),
            collections={**state.collections, **updates},
            opt_state=opt_state,
            weighting=remembered,
        )
        return state, logs

    return step


def _share(batch: Batch, axis_name: str | None) -> Batch:
    """This device's part of each leading axis."""
    if axis_name is None:
        return batch
    devices, index = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def part(x: Array) -> Array:
        if x.shape[0] % devices:
            raise ValueError(
                f"a batch column of shape {x.shape} does not split over {devices} devices: "
                "choose a batch size and a number of packed rows that the number of devices divides"
            )
        size = x.shape[0] // devices
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)

    return jax.tree.map(part, batch)


def epoch_mean(logs: Mapping[str, Array], live: Array) -> dict[str, Array]:
    """Means over the steps of a scan that were run."""
    count = jnp.maximum(live.sum(), 1)
    return {name: jnp.where(live, value, 0).sum() / count for name, value in logs.items()}
