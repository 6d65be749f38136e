"""A training run: phases of epochs, selection on validation, early stopping, checkpoints, logs.

Several seeds run at once along a leading axis of the state. Each seed keeps the parameters of its own best
validation epoch and stops improving when its own patience is spent; the run ends when all have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.train import parallel
from jaxrec.train.checkpoint import Checkpoints, keep_vocabulary
from jaxrec.train.epoch import Plan, make_epoch
from jaxrec.train.evaluate import Measure, Summarise, check_finite, ranking_metrics
from jaxrec.train.logs import Logs
from jaxrec.train.state import TrainState, create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Task, Variables


class Phase(NamedTuple):
    """Epochs trained on one task. refresh: see `train.epoch.make_epoch`."""

    name: str
    task: Task
    epochs: int
    weighting: Weighting = static()
    refresh: Callable[[Variables, Context], Context] | None = None


class Selection(NamedTuple):
    """Which epoch's parameters are kept: the best by `metric` of the validation queries.

    measure: see `train.evaluate.Measure`; queries: its columns [batches, B] on the host; summarise: what it
    measured, as named numbers; every: epochs between evaluations; patience: evaluations without improvement
    after which a seed stops, None for never; lower_is_better: the metric is an error.
    """

    measure: Measure
    queries: Mapping[str, np.ndarray]
    metric: str = "ndcg@20"
    summarise: Summarise = ranking_metrics()
    every: int = 1
    patience: int | None = None
    lower_is_better: bool = False


class Fitted(NamedTuple):
    """Each seed's best variables (leading seeds axis), the history, and what the run took."""

    variables: Variables
    history: list[dict[str, Any]]
    best_epoch: list[int]
    best_value: list[float]
    steps: int
    seconds: float
    compile_seconds: float


class Compiled:
    """A function compiled for the shapes of its first call; other shapes are an error, not a new trace."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn, self.seconds = fn, 0.0
        self._program: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._program is None:
            start = time.perf_counter()
            self._program = self.fn.lower(*args).compile()  # type: ignore[attr-defined]
            self.seconds = time.perf_counter() - start
        return self._program(*args)


def fit(
    phases: Sequence[Phase],
    tx: optax.GradientTransformation,
    plan: Plan,
    context: Context,
    selection: Selection,
    *,
    seeds: Sequence[int],
    workdir: str | Path,
    description: Mapping[str, Any],
    vocabulary: Mapping[str, np.ndarray] | None = None,
    num_devices: int = 1,
    calls: int = 1,
    save_every: int = 1,
    progress: bool = True,
    stop_after: int | None = None,
) -> Fitted:
    """Trains `phases` one after the other and returns each seed's best parameters.

    context: columns that live on the device. workdir: checkpoints and logs; a run that finds its own
    checkpoint there goes on from it, to the same bits. description: identifies the run.
    vocabulary: raw ids of what the model numbers, kept in workdir (`train.checkpoint.keep_vocabulary`).
    calls: compiled calls an epoch is cut into. save_every: epochs between checkpoints; the last epoch is
    always saved. stop_after: leave after so many epochs of this process, with the state saved.

    Raises:
      ValueError: no seed, no epoch, no evaluation within the epochs, an unknown selection metric; a loss or
        score that is not finite; the checkpoint in workdir belongs to another run.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)}: expected at least one, and no seed twice")
    total = sum(phase.epochs for phase in phases)
    if total < 1:
        raise ValueError("the phases have no epoch to train")
    if selection.every > total:
        raise ValueError(
            f"selection.every={selection.every}: the phases have {total} epochs, so nothing would be "
            "selected; evaluate at least once"
        )
    run = _Run(phases, tx, plan, context, selection, list(seeds), num_devices, calls)
    described = {**description, "seeds": list(seeds), "phases": [[p.name, p.epochs] for p in phases]}
    described["calls"] = calls
    workdir = Path(workdir)
    if vocabulary is not None:
        described["vocabulary"] = keep_vocabulary(workdir, vocabulary)
    with Checkpoints(workdir / "checkpoints", described) as checkpoints:
        if checkpoints.latest() is not None:
            run.load(*checkpoints.restore(run.arrays()))
        logs = Logs(workdir, run.history)
        first = len(run.history)
        bar = tqdm(total=total, initial=first, disable=not progress, unit="epoch", dynamic_ncols=True)
        try:
            while len(run.history) < total and not run.stopped():
                entry = run.epoch()
                logs.write(entry)
                bar.update()
                bar.set_postfix_str(_postfix(entry, selection.metric))
                done = len(run.history)
                last = (
                    done == total or run.stopped() or (stop_after is not None and done - first >= stop_after)
                )
                if last or done % save_every == 0:
                    checkpoints.save(done, run.arrays(), run.position())
                if last:
                    break
        finally:
            bar.close()
            logs.close()
    return run.fitted()


class _Run:
    """The moving parts of `fit`."""

    def __init__(
        self,
        phases: Sequence[Phase],
        tx: optax.GradientTransformation,
        plan: Plan,
        context: Context,
        selection: Selection,
        seeds: list[int],
        num_devices: int,
        calls: int,
    ) -> None:
        self.phases, self.tx, self.plan, self.selection = phases, tx, plan, selection
        self.seeds, self.num_devices, self.calls = seeds, num_devices, calls
        self.axis = parallel.axis_name(num_devices)
        self.context = parallel.replicate(dict(context), num_devices)
        self.history: list[dict[str, Any]] = []
        self.worst = float("inf") if selection.lower_is_better else -float("inf")
        self.best_value = [self.worst] * len(seeds)
        self.best_epoch = [-1] * len(seeds)
        self.waited = [0] * len(seeds)
        self.seconds, self.compile_seconds = 0.0, 0.0

        def initial(key: Array, columns: Context) -> TrainState:
            rows, _ = plan.draw(key, columns)
            some = jax.tree.map(lambda x: x[0], rows)
            return create(phases[0].task, tx, phases[0].weighting, key, some, columns)

        keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
        state = jax.jit(parallel.over_seeds(initial))(keys, dict(context))
        self.best = parallel.replicate(jax.tree.map(jnp.array, state.variables), num_devices)
        self.state = parallel.replicate(state, num_devices)
        self.programs = [self._epoch_program(phase) for phase in phases]
        self.queries = parallel.split_leading(dict(selection.queries), num_devices)
        self.measure = CompiledMeasure(selection.measure, num_devices)

        def keep(best: Any, live: Any, better: Array) -> Any:
            return jax.tree.map(
                lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), b, a), best, live
            )

        self.keep = Compiled(parallel.over_devices(keep, num_devices, (0, 0, None)))

    def _epoch_program(self, phase: Phase) -> Compiled:
        step = make_step(phase.task, self.tx, phase.weighting, self.axis)
        run = make_epoch(step, self.plan, calls=self.calls, refresh=phase.refresh)
        return Compiled(parallel.over_devices(parallel.over_seeds(run), self.num_devices, (0, 0, None, None)))

    def epoch(self) -> dict[str, Any]:
        """Trains one epoch, evaluates if it is due, and returns the entry added to the history."""
        number = len(self.history)
        program = self.programs[self._phase(number)]
        start, compiled = time.perf_counter(), self._compiling()
        means = []
        for call in range(self.calls):
            self.state, logs = program(self.state, self.context, jnp.int32(number), jnp.int32(call))
            means.append(parallel.unreplicate(logs, self.num_devices))
        means = jax.device_get(means)
        trained = time.perf_counter() - start - (self._compiling() - compiled)
        weights = self._weights()
        entry: dict[str, Any] = {"epoch": number, "phase": self.phases[self._phase(number)].name}
        for name in means[0]:
            entry[name] = [float(v) for v in np.average([m[name] for m in means], axis=0, weights=weights)]
        if min(entry.pop("fits")) < 1:
            raise ValueError(
                f"epoch {number}: no order of the examples fits the packed rows; give more rows "
                "(packing.rows_needed with a larger `deviations`)"
            )
        for name, values in entry.items():
            if isinstance(values, list) and not np.isfinite(values).all():
                raise ValueError(
                    f"epoch {number}: loss {name!r} is {values}: training diverged; lower the learning rate, "
                    "or look at the last checkpoint, which is from before. Where it is so from the first "
                    "epoch, an id lies outside its table, or shortened rows never fit their packed rows"
                )
        if (number + 1) % self.selection.every == 0:
            entry |= self._evaluate(number)
        entry["train_seconds"] = trained
        entry["seconds"] = time.perf_counter() - start - (self._compiling() - compiled)
        self.compile_seconds += self._compiling() - compiled
        self.seconds += entry["seconds"]
        self.history.append(entry)
        return entry

    def _compiling(self) -> float:
        """Seconds this process has spent compiling, which are counted apart."""
        return sum(p.seconds for p in self.programs) + self.measure.seconds + self.keep.seconds

    def _weights(self) -> list[int]:
        size = -(-self.plan.num_steps // self.calls)
        return [max(min(size, self.plan.num_steps - call * size), 0) for call in range(self.calls)]

    def _evaluate(self, number: int) -> dict[str, Any]:
        variables = self.state.variables
        values = self.measure(variables, self.queries, self.context)
        found = [self.selection.summarise(v, self.selection.queries) for v in values]
        metric, patience = self.selection.metric, self.selection.patience
        if metric not in found[0]:
            raise ValueError(f"selection metric {metric!r} is not among {sorted(found[0])}")
        better = []
        for seed, of_seed in enumerate(found):
            value = of_seed[metric]
            spent = patience is not None and self.waited[seed] >= patience
            best = self.best_value[seed]
            ahead = value < best if self.selection.lower_is_better else value > best
            better.append(not spent and ahead)
            if better[-1]:
                self.best_value[seed], self.best_epoch[seed], self.waited[seed] = value, number, 0
            else:
                self.waited[seed] += 1
        if any(better):
            self.best = self.keep(self.best, variables, jnp.array(better))
        return {f"valid/{name}": [values[name] for values in found] for name in found[0]}

    def _phase(self, epoch: int) -> int:
        for number, phase in enumerate(self.phases):
            if epoch < phase.epochs:
                return number
            epoch -= phase.epochs
        raise IndexError(epoch)

    def stopped(self) -> bool:
        patience = self.selection.patience
        return patience is not None and all(waited >= patience for waited in self.waited)

    def arrays(self) -> Any:
        """What a checkpoint holds, copied: the next step writes over the state's own buffers."""
        return {
            "state": jax.tree.map(jnp.copy, parallel.unreplicate(self.state, self.num_devices)),
            "best": jax.tree.map(jnp.copy, parallel.unreplicate(self.best, self.num_devices)),
        }

    def position(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_value": [None if np.isinf(v) else v for v in self.best_value],
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
        }

    def load(self, arrays: Any, position: dict[str, Any]) -> None:
        self.state = parallel.replicate(arrays["state"], self.num_devices)
        self.best = parallel.replicate(arrays["best"], self.num_devices)
        self.history = position["history"]
        self.best_value = [self.worst if v is None else v for v in position["best_value"]]
        self.best_epoch, self.waited = position["best_epoch"], position["waited"]
        self.seconds, self.compile_seconds = position["seconds"], position["compile_seconds"]

    def fitted(self) -> Fitted:
        arrays = self.arrays()
        never = [epoch < 0 for epoch in self.best_epoch]
        variables = arrays["state"].variables if any(never) else arrays["best"]
        return Fitted(
            variables=variables,
            history=self.history,
            best_epoch=self.best_epoch,
            best_value=self.best_value,
            steps=int(np.max(arrays["state"].step)),
            seconds=self.seconds,
            compile_seconds=self.compile_seconds,
        )


class CompiledMeasure:
    """A measure over seeds and devices, compiled once: (variables, queries, context) -> [S, batches, B, …].

    variables have a leading seeds axis; queries are split over devices (`parallel.split_leading`).

    Raises:
      ValueError: a score was NaN or infinite.
    """

    def __init__(self, measure: Measure, num_devices: int) -> None:
        self.num_devices = num_devices
        fn = parallel.over_devices(parallel.over_seeds(measure), num_devices, (0, 0, 0), donate=False)
        self._program = Compiled(fn)

    @property
    def seconds(self) -> float:
        return self._program.seconds

    def __call__(self, variables: Variables, queries: Any, context: Any) -> np.ndarray:
        values, bad = jax.device_get(self._program(variables, queries, context))
        check_finite(bad, "evaluation")
        if self.num_devices == 1:
            return values
        return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1, *values.shape[3:])


def _postfix(entry: Mapping[str, Any], metric: str) -> str:
    parts = [f"loss {np.mean(entry['loss']):.4f}"]
    if f"valid/{metric}" in entry:
        parts.append(f"{metric} {np.mean(entry[f'valid/{metric}']):.4f}")
    return ", ".join(parts)
