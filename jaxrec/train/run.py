"""The moving parts of a training run: its state, its compiled programs, its history, its best parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import provenance
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.report.curves import loss_names
from jaxrec.train import divergence, identity, parallel
from jaxrec.train.arguments import check_optimiser
from jaxrec.train.checkpoint import CHECKPOINTS, Checkpoints, stored
from jaxrec.train.compiled import Compiled
from jaxrec.train.epoch import Plan, make_epoch
from jaxrec.train.evaluate import CompiledMeasure
from jaxrec.train.identity import epoch_names
from jaxrec.train.initial import Initial, MakeInitial, Marks, check_initial, check_marks, description
from jaxrec.train.memory import drawn_variables
from jaxrec.train.state import TrainState, caught_up, create
from jaxrec.train.step import make_step
from jaxrec.train.trial import Trial, mark_undefined, put_numbers, zero_diverged
from jaxrec.types import Array, Context, Evaluation, Task, Variables


class Phase(NamedTuple):
    """Epochs trained on one task. refresh: see `train.epoch.make_epoch`."""

    name: str
    task: Task
    epochs: int
    weighting: Weighting = static()
    refresh: Callable[[Variables, Context], Context] | None = None


class Selection(NamedTuple):
    """Which epoch's parameters are kept: the best by `metric` of an evaluation on the validation queries.

    every: epochs between evaluations; patience: evaluations without improvement after which a seed stops,
    None for never; lower_is_better: the metric is an error. keep: "last" keeps the parameters of the last
    epoch instead, whatever their metric, as where there is no validation part; then patience must be None.
    """

    evaluation: Evaluation
    metric: str
    every: int = 1
    patience: int | None = None
    lower_is_better: bool = False
    keep: Literal["best", "last"] = "best"


class Fitted(NamedTuple):
    """Each seed's best variables (leading seeds axis), the history, and what the run took.

    made_by: manifests (`provenance.manifest`) of the code that trained it, each with its `first_epoch`; the
    last one, beginning behind the last epoch, is that of code which only read the finished run.
    """

    variables: Variables
    history: list[dict[str, Any]]
    best_epoch: list[int]
    best_value: list[float]
    steps: int
    seconds: float
    compile_seconds: float
    made_by: Sequence[Mapping[str, Any]] = ()


class Run:
    """What `train.fit.fit` moves forward, an epoch at a time."""

    def __init__(
        self,
        phases: Sequence[Phase],
        tx: optax.GradientTransformation,
        plan: Plan,
        context: Context,
        selection: Selection,
        *,
        seeds: list[int],
        num_devices: int,
        calls: int,
        initial: Variables | MakeInitial | None = None,
        newly_initialised: Marks = (),
        carry: Callable[[TrainState, Sequence[int]], TrainState] | None = None,
        minutes: float | None = None,
        trial: Trial | None = None,
    ) -> None:
        self.phases, self.tx, self.plan, self.selection = phases, tx, plan, selection
        self.seeds, self.num_devices, self.calls = seeds, num_devices, calls
        self.axis, self.trial = parallel.axis_name(num_devices), trial
        self.shared = {} if trial is None else trial.programs
        self.context = parallel.replicate(dict(context), num_devices)
        self.history: list[dict[str, Any]] = []
        self.worst = float("inf") if selection.lower_is_better else -float("inf")
        self._select_nothing()
        self.seconds, self.compile_seconds = 0.0, 0.0
        self.limit = float("inf") if minutes is None else 60 * minutes
        self.made_by: list[dict[str, Any]] = [{"first_epoch": 0, **provenance.manifest()}]

        self.initial: Initial | None = None
        check_marks(initial, newly_initialised)
        if callable(initial):
            initial = initial(self._first_state(context).variables, seeds)
        if initial is not None:
            drawn = drawn_variables(phases[0].task, plan, context)
            self.initial = check_initial(initial, newly_initialised, drawn, len(seeds))
        state = self._first_state(context)
        state = state if carry is None else carry(state, seeds)
        check_optimiser(state.opt_state)
        self.best = parallel.replicate(jax.tree.map(jnp.array, state.variables), num_devices)
        self.state = parallel.replicate(state, num_devices)
        self.programs = self.shared.setdefault("epochs", [self._epoch_program(phase) for phase in phases])
        measure = CompiledMeasure(selection.evaluation.measure, num_devices)
        self.measure = self.shared.setdefault("measure", measure)
        self.queries = self.measure.placed(selection.evaluation.queries)
        kept = Compiled(parallel.over_devices(parallel.pick_by_seed, num_devices, (0, 0, None)))
        self.keep = self.shared.setdefault("keep", kept)

    def _first_state(self, context: Context) -> TrainState:
        """The state of every seed before the first step."""
        phase, plan = self.phases[0], self.plan

        def create_one(key: Array, given: Mapping[str, Array], columns: Context) -> TrainState:
            drawn, _ = plan.draw(key, columns)
            examples = jax.tree.map(lambda x: x[0], drawn)
            return create(phase.task, self.tx, phase.weighting, key, examples, columns, given)

        keys = jax.vmap(jax.random.key)(jnp.array(self.seeds, jnp.uint32))
        if self.initial is not None and self.initial.by_seed:
            start = jax.jit(parallel.over_seeds(create_one, mapped=2))
        else:
            start = self.shared.setdefault("start", jax.jit(parallel.over_seeds(create_one)))
        given = {} if self.initial is None else dict(self.initial.values)
        state: TrainState = start(keys, given, dict(context))
        return state if self.trial is None else put_numbers(state, self.trial)

    def _epoch_program(self, phase: Phase) -> Compiled:
        step = make_step(phase.task, self.tx, phase.weighting, self.axis)
        finish = lambda state: caught_up(self.tx, state)  # noqa: E731
        run = make_epoch(step, self.plan, calls=self.calls, refresh=phase.refresh, finish=finish)
        seeds = parallel.over_seeds(run, carried=True)
        return Compiled(parallel.over_devices(seeds, self.num_devices, (0, 0, None, None)))

    def description(self, context: Context) -> dict[str, Any]:
        """What identifies this run, as far as it can be seen from here."""
        selection = self.selection
        compared = ("metric", "lower_is_better", "every", "patience", "keep")[
            : 4 + (selection.keep == "last")
        ]
        return {
            "seeds": self.seeds,
            "phases": [[phase.name, phase.epochs] for phase in self.phases],
            "fit": {
                "selection": {name: getattr(selection, name) for name in compared},
                **identity.ranking_rules(selection.evaluation.protocol),
                "steps": identity.steps(self.plan, context),
                "context": identity.columns(context),
                "queries": identity.columns(selection.evaluation.queries),
                "jax": identity.jax_settings(),
                **({} if self.initial is None else {"initial": description(self.initial, len(self.seeds))}),
            },
        }

    def check_selection(self) -> None:
        """Compiles the evaluation and checks the names of its metrics, computed from values that are all 1.

        Raises:
          ValueError: the selection metric is not among them, or is not defined for the queries.
        """
        before = self._compiling()
        values = self.measure.compile(self.state.variables, self.queries, self.context)
        ones = np.ones(values.shape[1:], values.dtype)
        names = self._numbers(ones).keys()
        self.compile_seconds += parallel.from_first(self._compiling() - before)
        if self.selection.metric not in names:
            raise ValueError(f"selection metric {self.selection.metric!r} is not among {sorted(names)}")

    def _numbers(self, values: np.ndarray) -> dict[str, float]:
        evaluation = self.selection.evaluation
        return evaluation.summarise(values, evaluation.queries)

    def resume(self, checkpoints: Checkpoints, accept_changed_code: bool) -> None:
        """Goes on from the last checkpoint."""
        position = checkpoints.check()
        assert position is not None
        self.made_by = identity.code_of_run(checkpoints.folder, position, accept=accept_changed_code)
        self._check_losses(checkpoints.folder, position["history"])
        self.load(*checkpoints.restore(self.arrays()))

    def resume_shorter(self, folder: Path, described: Mapping[str, Any], accept_changed_code: bool) -> None:
        """Goes on from the last checkpoint of the same run with fewer epochs."""
        found = stored(folder / CHECKPOINTS)
        if found is None:
            raise ValueError(f"start_from={folder}: holds no checkpoint to start from")
        done = len(found.position["history"])
        if epoch_names(found.description["phases"])[:done] != epoch_names(described["phases"])[:done]:
            raise ValueError(
                f"start_from={folder}: its {done} epochs are of the phases {found.description['phases']}, "
                f"which are not how {described['phases']} begin"
            )
        with Checkpoints(
            folder / CHECKPOINTS, {**described, "phases": found.description["phases"]}
        ) as shorter:
            self.resume(shorter, accept_changed_code)

    def _check_losses(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        """Raises ValueError if the epochs of a stored history have other losses than these phases."""
        for number, phase in enumerate(self.phases):
            stored = next((entry for entry in history if entry["phase"] == phase.name), None)
            if stored is None:
                continue
            expected = self._losses(number)
            if {*expected} - stored.keys() or {*loss_names(stored)} - {*expected}:
                raise ValueError(
                    f"{folder}: the checkpoint was written by a run whose phase {phase.name!r} has the "
                    f"losses {sorted(loss_names(stored))}, this run has {expected}; use "
                    "the same task to continue it, or another --workdir"
                )

    def _losses(self, number: int) -> list[str]:
        """Names of the losses of a phase, from its shapes alone."""
        phase = self.phases[number]

        def losses(state: TrainState, context: Context) -> dict[str, Array]:
            one = jax.tree.map(lambda x: x[0], state)
            seen = context if phase.refresh is None else {**context, **phase.refresh(one.variables, context)}
            drawn, _ = self.plan.draw(one.key, context)
            batch = phase.task.prepare(one.key, jax.tree.map(lambda x: x[0], drawn), seen)
            return phase.task.losses(one.variables, batch, one.key)[0]

        plain = [parallel.unreplicate(tree, self.num_devices) for tree in (self.state, self.context)]
        return sorted(jax.eval_shape(losses, *plain))

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
        counts = divergence.taken(means)
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
        if self.trial is not None:
            self.state = zero_diverged(self.state, entry, self.num_devices)
        else:
            divergence.check_finite(number, entry, counts, weights)
        taken = parallel.from_first(self.seconds + self.compile_seconds + time.perf_counter() - start)
        ends = number + 1 == self.num_epochs or taken >= self.limit
        if (number + 1) % self.selection.every == 0 or (ends and self._needs_evaluation()):
            entry |= self._evaluate(number)
            if self.trial is not None:
                mark_undefined(entry, f"valid/{self.selection.metric}")
                entry["best_value"] = list(self.best_value)
        compiling = self._compiling() - compiled
        entry["train_seconds"] = parallel.from_first(trained)
        entry["seconds"] = parallel.from_first(time.perf_counter() - start - compiling)
        self.compile_seconds += parallel.from_first(compiling)
        self.seconds += entry["seconds"]
        self.history.append(entry)
        return entry

    def _needs_evaluation(self) -> bool:
        """Whether an end that is not due is evaluated: it is what is kept, or nothing was evaluated yet."""
        metric = f"valid/{self.selection.metric}"
        return self.selection.keep == "last" or not any(metric in entry for entry in self.history)

    def _forget_early_evaluation(self) -> None:
        """Undoes an evaluation that only an end brought: a run that goes on is as one that did not end."""
        if len(self.history) % self.selection.every:
            last = self.history[-1].items()
            self.history[-1] = {name: value for name, value in last if not name.startswith("valid/")}
            if len(self.history[-1]) < len(last):
                self._select_nothing()

    def _select_nothing(self) -> None:
        self.best_value, self.best_epoch = [self.worst] * len(self.seeds), [-1] * len(self.seeds)
        self.waited = [0] * len(self.seeds)

    def _compiling(self) -> float:
        """Seconds this process has spent compiling, which are counted apart."""
        return sum(p.seconds for p in self.programs) + self.measure.seconds + self.keep.seconds

    def _weights(self) -> list[int]:
        size = -(-self.plan.num_steps // self.calls)
        return [max(min(size, self.plan.num_steps - call * size), 0) for call in range(self.calls)]

    def _evaluate(self, number: int) -> dict[str, Any]:
        variables = self.state.variables
        values = self.measure(variables, self.queries, self.context)
        found = [self._numbers(of_seed) for of_seed in values]
        metric, patience = self.selection.metric, self.selection.patience
        if metric not in found[0]:
            raise ValueError(f"selection metric {metric!r} is not among {sorted(found[0])}")
        if self.trial is None and self.selection.keep == "best":
            divergence.check_metric(number, metric, [of_seed[metric] for of_seed in found])
        better = []
        for seed, of_seed in enumerate(found):
            value = of_seed[metric]
            spent = patience is not None and self.waited[seed] >= patience
            best = self.best_value[seed]
            ahead = value < best if self.selection.lower_is_better else value > best
            better.append(self.selection.keep == "last" or (not spent and ahead))
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

    @property
    def num_epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def complete(self) -> bool:
        """Whether all epochs are trained, every seed has spent its patience, or the time is up."""
        return len(self.history) >= self.num_epochs or self.stopped() or self.time_is_up()

    def time_is_up(self) -> bool:
        """Whether epochs, evaluations and compilation have taken as long as they may."""
        return bool(self.history) and self.seconds + self.compile_seconds >= self.limit

    def stopped(self) -> bool:
        patience = self.selection.patience
        return patience is not None and all(waited >= patience for waited in self.waited)

    def arrays(self) -> Any:
        """What a checkpoint holds, copied: the next step writes over the state's own buffers."""
        trees = {"state": self.state, "best": self.best}
        return jax.tree.map(jnp.copy, parallel.storable(trees, self.num_devices))

    def position(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_value": [None if np.isinf(v) else v for v in self.best_value],
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "made_by": self.made_by,
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
        if not self.complete():
            self._forget_early_evaluation()

    def fitted(self) -> Fitted:
        trees = {"state": self.state, "best": self.best}
        arrays = jax.tree.map(jnp.copy, parallel.unreplicate(trees, self.num_devices))
        never = [epoch < 0 for epoch in self.best_epoch]  # no evaluation yet, or none that was finite
        variables = arrays["best"]
        if any(never):
            variables = parallel.pick_by_seed(variables, arrays["state"].variables, jnp.array(never))
        return Fitted(
            variables=variables,
            history=self.history,
            best_epoch=self.best_epoch,
            best_value=self.best_value,
            steps=int(np.max(arrays["state"].step)),
            seconds=self.seconds,
            compile_seconds=self.compile_seconds,
            made_by=self.made_by,
        )
