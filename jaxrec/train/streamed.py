"""A run over a stream of batches, with checkpoints at any step: for data that is read while it is trained on.

Checkpoints hold the state, whose step says where the stream goes on, and the sums of the epoch so far. Killed
and started again with the same arguments, a run ends with the same parameters as one that was not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.train import identity, parallel
from jaxrec.train.arguments import check_at_least_one, check_folder, check_optimiser, check_seeds
from jaxrec.train.checkpoint import Checkpoints, held
from jaxrec.train.divergence import all_finite
from jaxrec.train.state import TrainState, caught_up, create
from jaxrec.train.step import make_step
from jaxrec.train.stream import Source, StreamedEpoch
from jaxrec.types import Context, Task, Variables

Means = dict[str, float]


class Described(Source, Protocol):
    """A source that says which data and which order it has, in JSON types."""

    def description(self) -> dict[str, Any]: ...


class Streamed(NamedTuple):
    """The state after the last step, and of each epoch the means of its losses and what was measured.

    made_by: as of `run.Fitted`; code that goes on within an epoch stands there with that epoch.
    """

    state: TrainState
    history: list[dict[str, float]]
    made_by: Sequence[Mapping[str, Any]] = ()

    @property
    def variables(self) -> Variables:
        return self.state.variables


def fit_stream(
    task: Task,
    tx: optax.GradientTransformation,
    batches: Described,
    *,
    seed: int,
    workdir: str | Path,
    description: Mapping[str, Any],
    context: Context | None = None,
    weighting: Weighting | None = None,
    measure: Callable[[Variables], Mapping[str, float]] | None = None,
    save_every: int = 1000,
    num_devices: int = 1,
    prefetch: int = 4,
    threads: int = 1,
    stop_after: int | None = None,
    accept_changed_code: bool = False,
) -> Streamed:
    """Trains on all epochs of a source, one seed.

    batches: such as `ShardBatches`; its description is a part of the run's. context: columns that stay on the
    devices. measure: what the history holds of each epoch beside its losses, by the variables at its end.
    weighting: of the losses; None: their sum.
    save_every: steps between checkpoints; each epoch's last step is saved too. prefetch, threads: see
    `StreamedEpoch`. stop_after: leave after so many steps of this call, with the state saved.
    accept_changed_code: go on with a run that other code trained; `Streamed.made_by` then names both.

    Raises:
      ValueError: a number is out of range; the optimiser evaluates other parameters than it trains; a loss
        or a parameter is not finite; the checkpoint in workdir belongs to another run, such as over shards of
        other rows, or to a longer one, or was made by other code; as the source does while it reads.
    """
    check_seeds([seed])
    check_at_least_one("save_every", save_every)
    check_at_least_one("stop_after", stop_after, or_none=True)
    axis, workdir = parallel.axis_name(num_devices), check_folder(workdir)
    weighting = static() if weighting is None else weighting
    context = jax.tree.map(jnp.asarray, dict(context or {}))
    step = make_step(task, tx, weighting, axis)
    options: dict[str, int] = {"num_devices": num_devices, "prefetch": prefetch, "threads": threads}
    run = StreamedEpoch(step, batches, context, **options)
    # rows of sparse tables are up to date where an epoch ends, so that they can be measured
    finish = parallel.over_devices(functools.partial(caught_up, tx), num_devices, (0,))
    first, losses = _first_state(task, tx, weighting, batches, context, seed)
    state = parallel.replicate(first, num_devices)
    described = {**description, "seed": seed, "stream": batches.description(), "jax": identity.jax_settings()}
    described |= {"context": identity.columns(context), "losses": losses}
    with held(workdir, described) as stored:
        history: list[dict[str, float]] = []
        sums: Means = {}
        found = stored.check()
        made_by = identity.code_of_run(stored.folder, found, accept=accept_changed_code)
        if found is not None:
            arrays, position = stored.restore(parallel.storable(state, num_devices))
            state = parallel.replicate(arrays, num_devices)
            history, sums = list(position["history"]), dict(position["sums"])
            identity.check_length(stored.folder, _step(state, num_devices), len(batches), "steps")
        done, begun = _step(state, num_devices), _step(state, num_devices)
        while done < len(batches) and (stop_after is None or done < begun + stop_after):
            left = batches.num_steps - done % batches.num_steps
            count = min(save_every, left, *([] if stop_after is None else [begun + stop_after - done]))
            state, means = run(state, count)
            _check_finite(means, parallel.unreplicate(state.params, num_devices), done, stored)
            sums = {name: sums.get(name, 0.0) + count * value for name, value in means.items()}
            done += count
            if done % batches.num_steps == 0:
                state = finish(state)
                variables = parallel.unreplicate(state, num_devices).variables
                measured = {} if measure is None else {n: float(v) for n, v in measure(variables).items()}
                history.append({**{n: value / batches.num_steps for n, value in sums.items()}, **measured})
                sums = {}
            kept = jax.tree.map(jnp.copy, parallel.storable(state, num_devices))
            stored.save(done, kept, {"history": history, "sums": sums, "made_by": made_by})
    return Streamed(parallel.unreplicate(state, num_devices), history, made_by)


def _first_state(
    task: Task,
    tx: optax.GradientTransformation,
    weighting: Weighting,
    batches: Source,
    context: Context,
    seed: int,
) -> tuple[TrainState, list[str]]:
    """The state before the first step, whose optimiser is checked, and the names of the losses."""
    examples, columns = parallel.from_parts(batches[0], batches.processes)
    seen = {**context, **columns}
    state = jax.jit(functools.partial(create, task, tx, weighting))(jax.random.key(seed), examples, seen)
    check_optimiser(state.opt_state)
    return state, identity.losses(task, examples, seen)


def _step(state: TrainState, num_devices: int) -> int:
    return int(parallel.unreplicate(state.step, num_devices))


def _check_finite(means: Means, params: Any, done: int, stored: Checkpoints) -> None:
    bad = sorted(name for name, value in means.items() if not np.isfinite(value))
    if not bad and not all_finite(params):
        raise ValueError(
            f"some steps after {done:,}: some parameters are NaN or infinite, though the losses are finite: "
            f"training diverged; lower the learning rate. {stored.describe_last()}"
        )
    if bad:
        raise ValueError(
            f"a step after {done:,}: {', '.join(bad)} is not finite: training diverged; lower the learning "
            f"rate. {stored.describe_last()}"
        )
