"""A training run: phases of epochs, selection on validation, early stopping, checkpoints, logs.

Several seeds run at once along a leading axis of the state. Each seed keeps the parameters of its own best
validation epoch and stops improving when its own patience is spent; the run ends when all have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax
from tqdm import tqdm

from jaxrec.train import parallel
from jaxrec.train.accumulate import accumulated
from jaxrec.train.arguments import check_arguments, check_folder, check_minutes
from jaxrec.train.checkpoint import CHECKPOINTS, Checkpoints, held, keep_vocabulary, vocabulary_digest
from jaxrec.train.compiled import Compiled
from jaxrec.train.divergence import Diverged
from jaxrec.train.epoch import Plan
from jaxrec.train.initial import MakeInitial, Marks
from jaxrec.train.interrupt import deferred_interrupt
from jaxrec.train.logs import TRAINING_FORMAT, Logs, check_tensorboard, write_training
from jaxrec.train.memory import WORTH_SAYING, estimate_memory
from jaxrec.train.profile import Profile
from jaxrec.train.run import Fitted, Phase, Run, Selection
from jaxrec.train.state import TrainState
from jaxrec.train.trial import Trial, replay
from jaxrec.types import Context, Variables

__all__ = ["Compiled", "Fitted", "Phase", "Selection", "fit"]


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
    accumulate_steps: int = 1,
    save_every: int = 1,
    progress: bool = True,
    stop_after: int | None = None,
    minutes: float | None = None,
    accept_changed_code: bool = False,
    start_from: str | Path | None = None,
    initial: Variables | MakeInitial | None = None,
    newly_initialised: Marks = (),
    carry: Callable[[TrainState, Sequence[int]], TrainState] | None = None,
    trial: Trial | None = None,
    tensorboard: bool = False,
    profile: str | Path | None = None,
) -> Fitted:
    """Trains `phases` one after the other and returns each seed's best parameters.

    context: columns that live on the device. num_devices: that share each batch, of all processes together
    (`jaxrec.launch`). workdir: checkpoints and logs; a run that finds its own checkpoint there goes on from
    it, to the same bits. description: identifies the run, together with what
    this function adds to it: seeds, phases, selection and the rules of its ranking, the size of steps, the
    columns' checksums, settings of JAX, names of losses. The learning rate, which no function shows, is the
    caller's to name.
    vocabulary: raw ids of what the model numbers, kept in workdir (`train.checkpoint.keep_vocabulary`).
    calls: compiled calls an epoch is cut into. accumulate_steps: parts in which a step goes through its
    batch, for less memory and the same result (`train.accumulate`). save_every: epochs between checkpoints;
    the last epoch is always saved. stop_after: leave after so many epochs of this process, with the state
    saved. minutes: end after the epoch in which the run, all its processes together and compilation counted,
    has taken so long. It selects from the same epochs as without a limit, those that `selection.every` names;
    that last one is evaluated too only if none of them has come yet, or if `selection.keep` is "last". With
    more minutes the same run goes on, to the same bits. None: no limit.
    accept_changed_code: go on with a run that other code trained; `Fitted.made_by` then names both.
    start_from: the work directory of the same run with fewer epochs, whose state this one begins with.
    initial: variables {"params": …} that the run begins with in place of drawn ones, such as
    `Fitted.variables`: one set for all seeds, or behind a leading axis of seeds, in their order; or a
    function that makes them of drawn ones, such as one that keeps the drawn rows of new items.
    newly_initialised: which of them are drawn all the same and need not be given: prefixes of paths, such as
    ["params/head"], or a function from variables to a tree of bool.
    carry: (first state of all seeds, seeds) -> what it becomes, such as with moments that an optimiser had.
    trial: of a study of settings, which may end the run after any epoch; a member that diverges then has
    zeros as parameters, `diverged` in the history says so, and no error is raised.
    tensorboard: also write workdir/tensorboard, event files with the numbers of workdir/history.jsonl.
    profile: folder of a record of one epoch of this process, see `train.profile`; None: none.

    Raises:
      ImportError: tensorboard, and tensorboardX is not installed.
      ValueError: an argument that trains nothing or is out of range, an unknown selection metric, evaluation
        data that it is not defined for, or initial variables that are not the task's or not finite, all
        before the first step and before anything is written;
        another process holds workdir; the checkpoint in workdir belongs to another run or was made by other
        code; a loss, score or parameter that is not finite, with the step, the loss and the last checkpoint;
        the selection metric is NaN or infinite.
    """
    once = seeds if trial is None else sorted(set(seeds))
    check_arguments(
        phases, selection, once, num_devices, calls=calls, save_every=save_every, stop_after=stop_after
    )
    phases = [phase._replace(task=accumulated(phase.task, accumulate_steps)) for phase in phases]
    _print_memory(phases[0], tx, plan, context, len(seeds), wanted=progress)
    workdir, profiled = check_folder(workdir), Profile(profile, phases)
    _check_and_announce(phases, selection, minutes, trial, tensorboard=tensorboard)
    run = Run(
        phases, tx, plan, context, selection, seeds=[int(seed) for seed in seeds], num_devices=num_devices,
        calls=calls, initial=initial, newly_initialised=newly_initialised, carry=carry, trial=trial,
        minutes=minutes,
    )  # fmt: skip
    described = {**description, **run.description(context), "calls": calls}
    described |= _parts(vocabulary, trial, accumulate_steps)
    if not parallel.any_process((workdir / CHECKPOINTS).exists()):
        run.check_selection()
    with (
        held(workdir, described) as checkpoints,
        deferred_interrupt() as interrupted,
    ):
        _resume(run, checkpoints, start_from, accept_changed_code)
        _begin(run, workdir, vocabulary, progress=progress)
        epochs = _epochs(
            run, checkpoints, interrupted, profiled, save_every=save_every, stop_after=stop_after
        )
        _log(run, epochs, workdir, description, progress=progress, tensorboard=tensorboard)
    profiled.end()
    interrupted.end()
    return run.fitted()


def _print_memory(
    phase: Phase,
    tx: optax.GradientTransformation,
    plan: Plan,
    context: Context,
    seeds: int,
    *,
    wanted: bool,
) -> None:
    """Says what the run will hold on each device, where that is much."""
    if not (wanted and parallel.is_first()):
        return
    found = estimate_memory(phase.task, tx, plan, context, weighting=phase.weighting, seeds=seeds)
    if sum(found) >= WORTH_SAYING:
        print(f"memory: {found}", flush=True)


def _check_and_announce(
    phases: Sequence[Phase],
    selection: Selection,
    minutes: float | None,
    trial: Trial | None,
    *,
    tensorboard: bool,
) -> None:
    """Checks what is optional, and tells a trial what is about to be trained, which may end it here."""
    check_minutes(minutes)
    check_tensorboard(tensorboard)
    if trial is not None:
        parallel.check_one_process("a search of settings")
        trial.begin(selection.metric, selection.lower_is_better, sum(phase.epochs for phase in phases))


def _parts(
    vocabulary: Mapping[str, np.ndarray] | None, trial: Trial | None, accumulate_steps: int
) -> dict[str, Any]:
    """What a run's description says of its vocabulary, the numbers of a trial and parts of a batch, where
    there are any."""
    found: dict[str, Any] = {} if accumulate_steps == 1 else {"accumulate_steps": accumulate_steps}
    if trial is not None:
        found["numbers"] = {name: list(values) for name, values in trial.numbers.items()}
    if vocabulary is not None:
        found["vocabulary"] = vocabulary_digest(vocabulary)
    return found


def _resume(
    run: Run, checkpoints: Checkpoints, start_from: str | Path | None, accept_changed_code: bool
) -> None:
    """Goes on from the run's own checkpoint, else from a shorter run; begins anew where there is neither."""
    if checkpoints.latest() is not None:
        run.resume(checkpoints, accept_changed_code)
    elif start_from is not None:
        run.resume_shorter(Path(start_from), checkpoints.description, accept_changed_code)


def _epochs(
    run: Run,
    checkpoints: Checkpoints,
    interrupted: Callable[[], bool],
    profiled: Profile,
    *,
    save_every: int,
    stop_after: int | None,
) -> Iterator[dict[str, Any]]:
    """Trains until the run is complete or interrupted, its trial ends it, or `stop_after` epochs are done
    here; saves, and gives each entry.
    """
    leave_at = None if stop_after is None else len(run.history) + stop_after
    trial = run.trial
    left = trial is not None and not replay(trial, run.history, run.compile_seconds, run.complete())
    while not run.complete() and not left:
        try:
            with profiled.epoch(len(run.history)):
                entry = run.epoch()
        except Diverged as error:
            raise ValueError(f"{error}. {checkpoints.describe_last()}") from None
        yield entry
        done = len(run.history)
        left = parallel.any_process(interrupted()) or (leave_at is not None and done >= leave_at)
        if trial is not None:
            left |= not trial.watch(entry, run.seconds + run.compile_seconds, run.complete())
        if left or run.complete() or done % save_every == 0:
            checkpoints.save(done, run.arrays(), run.position())


def _begin(run: Run, workdir: Path, vocabulary: Mapping[str, np.ndarray] | None, *, progress: bool) -> None:
    """Checks what is left to train, or says that nothing is; keeps the raw ids."""
    if not run.complete():
        run.check_selection()
    elif progress and parallel.is_first():
        _print_complete(run, workdir)
    if vocabulary is not None and parallel.is_first():
        keep_vocabulary(workdir, vocabulary)


def _log(
    run: Run,
    epochs: Iterator[dict[str, Any]],
    workdir: Path,
    settings: Mapping[str, Any],
    *,
    progress: bool,
    tensorboard: bool,
) -> None:
    """Goes through epochs with a progress bar, and writes them and the summary of the run to its logs, which
    the first of several processes has."""
    if not parallel.is_first():
        for _ in epochs:
            pass
        return
    logs = Logs(workdir, run.history, tensorboard=tensorboard)
    first = len(run.history)
    bar = tqdm(total=run.num_epochs, initial=first, disable=not progress, unit="epoch", dynamic_ncols=True)
    try:
        write_training(logs.folder, _training(run, settings))
        for entry in epochs:
            logs.write(entry)
            write_training(logs.folder, _training(run, settings))
            bar.update()
            bar.set_postfix_str(_postfix(entry, run.selection.metric) + _time_left(run))
    finally:
        bar.close()
        logs.close()


def _time_left(run: Run) -> str:
    """What is left of a limit in time, "" without one."""
    left = max(run.limit - run.seconds - run.compile_seconds, 0.0) / 60
    return f", {left:.1f} of {run.limit / 60:g} min left" if run.limit < float("inf") else ""


def _training(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What training.json holds, in JSON types; docs/running.md documents it. settings: the caller's."""
    selection = run.selection
    return {
        "format": TRAINING_FORMAT,
        "seeds": run.seeds,
        "metric": selection.metric,
        "lower_is_better": selection.lower_is_better,
        "phases": [[phase.name, phase.epochs] for phase in run.phases],
        "epochs": len(run.history),
        "complete": run.complete(),
        **{name: value for name, value in run.position().items() if name not in ("history", "waited")},
        "settings": dict(settings),
    }


def _print_complete(run: Run, workdir: Path) -> None:
    commits = " and ".join(dict.fromkeys(str(entry.get("commit")) for entry in run.made_by))
    print(f"{workdir}: found complete: trained by commit {commits}; nothing is trained again", flush=True)


def _postfix(entry: Mapping[str, Any], metric: str) -> str:
    parts = [f"loss {np.mean(entry['loss']):.4f}"]
    if f"valid/{metric}" in entry:
        parts.append(f"{metric} {np.mean(entry[f'valid/{metric}']):.4f}")
    return ", ".join(parts)
