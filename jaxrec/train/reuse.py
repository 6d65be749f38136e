"""A work directory that holds many runs: a folder a configuration, and in it a folder a set of seeds.

    workdir/<hash of the settings>/seeds-0-1-epochs-20/checkpoints, history.jsonl, …

An experiment that is run again with more seeds, or for more epochs, trains what is missing and takes the rest
from there, and says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxrec.train import identity
from jaxrec.train.arguments import check_seeds
from jaxrec.train.checkpoint import CHECKPOINTS, stored
from jaxrec.train.epoch import Plan
from jaxrec.train.fit import fit
from jaxrec.train.identity import epoch_names
from jaxrec.train.initial import MakeInitial, Marks, check_initial, pick_seeds
from jaxrec.train.memory import drawn_variables
from jaxrec.train.run import Fitted, Phase, Selection
from jaxrec.types import Context, Variables


def fit_reusing(
    phases: Sequence[Phase],
    tx: optax.GradientTransformation,
    plan: Plan,
    context: Context,
    selection: Selection,
    *,
    seeds: Sequence[int],
    workdir: str | Path,
    description: Mapping[str, Any],
    progress: bool = True,
    initial: Variables | MakeInitial | None = None,
    newly_initialised: Marks = (),
    **options: Any,
) -> Fitted:
    """`train.fit.fit` in a work directory of many runs. options: its other arguments.

    initial: of `fit`, where with an axis of seeds in the order of `seeds`.

    trial: in `options`, trains in workdir itself, as `fit` does.

    description: the settings; each set of them has a folder of its own below workdir. What stands under the
    name `epochs`, on any level, does not count, since the phases say it: the same settings with more epochs
    go on from where the shorter run ended, and seeds that were trained already are not trained again. That
    the steps do not depend on the number of epochs (a schedule, say) is the caller's to know: such a schedule
    belongs in the description.

    Raises:
      ValueError: as `fit`; a run of these settings was trained on other data or by other code.
    """
    if options.get("trial") is not None:  # its members are no seeds, and nothing is reused
        given: dict[str, Any] = {
            "workdir": workdir,
            "description": description,
            "progress": progress,
            **options,
        }
        given |= {"initial": initial, "newly_initialised": newly_initialised}
        return fit(phases, tx, plan, context, selection, seeds=seeds, **given)
    check_seeds(seeds)
    settings = _without_epochs(json.loads(json.dumps(description)))
    folder = Path(workdir) / configuration_hash(settings)
    _refuse_old_layout(Path(workdir))
    wanted = [[phase.name, phase.epochs] for phase in phases]
    numbers = [int(seed) for seed in seeds]
    checked = None
    if initial is not None and not callable(initial):
        drawn = drawn_variables(phases[0].task, plan, context)
        checked = check_initial(initial, newly_initialised, drawn, len(numbers))
    by_seed = callable(initial) or (checked is not None and checked.by_seed)
    groups = _groups(folder, wanted, numbers, whole=by_seed)
    parts = []
    for group in groups:
        if progress and group.said:
            print(f"{folder}: {group.said}", flush=True)
        fitted = fit(
            phases,
            tx,
            plan,
            context,
            selection,
            seeds=group.seeds,
            workdir=folder / group.name,
            description=settings,
            progress=progress,
            start_from=group.start_from,
            initial=pick_seeds(initial, checked, numbers, group.seeds),
            newly_initialised=newly_initialised,
            **options,
        )
        parts.append(_select_seeds(fitted, group.seeds, group.used))
    return _merge(parts, [seed for group in groups for seed in group.used], list(seeds))


def configuration_hash(settings: Mapping[str, Any]) -> str:
    """8 hex digits of settings (JSON types) and of the settings of JAX that decide random bits and floats."""
    text = json.dumps([settings, identity.jax_settings()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class _Group(NamedTuple):
    """Seeds that are trained together. used: those of them that were requested; start_from: a shorter run."""

    seeds: list[int]
    used: list[int]
    name: str
    start_from: Path | None = None
    said: str = ""


class _Found(NamedTuple):
    """A run in the folder of a configuration."""

    folder: Path
    seeds: list[int]
    done: int
    phases: list[list[Any]]


def _groups(folder: Path, wanted: list[list[Any]], seeds: list[int], *, whole: bool) -> list[_Group]:
    """How to come by all seeds: finished or begun runs, longer versions of shorter runs, and new ones.

    whole: True leaves out runs that have other seeds too, whose initial variables nobody knows here.
    """
    found = sorted(_runs(folder), key=lambda run: (-len(run.seeds), run.seeds))
    left, groups = list(seeds), []
    total = len(epoch_names(wanted))
    for run in found:  # of just these epochs
        used = [seed for seed in left if seed in run.seeds]
        all_wanted = set(run.seeds) <= set(left)
        if used and run.phases == wanted and (all_wanted or (run.done == total and not whole)):
            said = "" if run.seeds == seeds else f"seeds {_shown(used)} are taken from {run.folder.name}"
            groups.append(_Group(run.seeds, used, run.folder.name, said=said))
            left = [seed for seed in left if seed not in used]
    begun = epoch_names(wanted)
    for run in sorted(found, key=lambda run: -run.done):  # of fewer epochs
        shorter = run.done < total and epoch_names(run.phases)[: run.done] == begun[: run.done]
        if run.phases != wanted and shorter and set(run.seeds) <= set(left):
            said = f"seeds {_shown(run.seeds)} go on from epoch {run.done} of {run.folder.name}"
            groups.append(_Group(run.seeds, run.seeds, _name(run.seeds, wanted), run.folder, said))
            left = [seed for seed in left if seed not in run.seeds]
    if left:
        said = f"seeds {_shown(left)} are trained" if groups else ""
        groups.append(_Group(left, left, _name(left, wanted), said=said))
    return groups


def _runs(folder: Path) -> list[_Found]:
    runs = []
    for path in sorted(folder.glob("seeds-*-epochs-*")):
        kept = stored(path / CHECKPOINTS)
        if kept is not None:
            done = len(kept.position["history"])
            runs.append(_Found(path, kept.description["seeds"], done, kept.description["phases"]))
    return runs


def _name(seeds: Sequence[int], phases: Sequence[Sequence[Any]]) -> str:
    """Of a run's folder: phases that are cut otherwise are other runs, whatever their sum."""
    numbers = "-".join(str(seed) for seed in seeds)
    if len(numbers) > 100:  # a file name has its limits
        numbers = f"{len(seeds)}-of-{hashlib.sha256(numbers.encode()).hexdigest()[:8]}"
    return f"seeds-{numbers}-epochs-{'+'.join(str(epochs) for _, epochs in phases)}"


def _shown(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)


def _refuse_old_layout(workdir: Path) -> None:
    if (workdir / CHECKPOINTS).is_dir():
        raise ValueError(
            f"{workdir}: holds a run of an older version of jaxrec, whose checkpoints do not say which code "
            "trained them, so it cannot be continued; move it away or choose another --workdir"
        )


def _without_epochs(value: Any) -> Any:
    """JSON without what stands under the name `epochs`."""
    if isinstance(value, dict):
        return {name: _without_epochs(part) for name, part in value.items() if name != "epochs"}
    return [_without_epochs(part) for part in value] if isinstance(value, list) else value


def _select_seeds(fitted: Fitted, seeds: Sequence[int], used: Sequence[int]) -> Fitted:
    """The part of a run that belongs to some of its seeds."""
    if list(seeds) == list(used):
        return fitted
    at = [list(seeds).index(seed) for seed in used]
    return fitted._replace(
        variables=jax.tree.map(lambda x: x[np.array(at)], fitted.variables),
        history=[_pick(entry, at) for entry in fitted.history],
        best_epoch=[fitted.best_epoch[i] for i in at],
        best_value=[fitted.best_value[i] for i in at],
    )


def _pick(entry: Mapping[str, Any], at: Sequence[int]) -> dict[str, Any]:
    return {n: [value[i] for i in at] if isinstance(value, list) else value for n, value in entry.items()}


def _merge(parts: Sequence[Fitted], trained: Sequence[int], seeds: Sequence[int]) -> Fitted:
    """One run of several, its seeds in the given order. Where one ended earlier, its history has NaN."""
    if len(parts) == 1 and list(trained) == list(seeds):
        return parts[0]
    order = [list(trained).index(int(seed)) for seed in seeds]
    longest = max(parts, key=lambda part: len(part.history))
    history = []
    for number, entry in enumerate(longest.history):
        merged: dict[str, Any] = {}
        for name, value in entry.items():
            if not isinstance(value, list):
                merged[name] = value
                continue
            entries = [part.history[number] if number < len(part.history) else {} for part in parts]
            sizes = [len(part.best_epoch) for part in parts]
            filled = [e.get(name) or [float("nan")] * n for e, n in zip(entries, sizes, strict=True)]
            merged[name] = [np.concatenate(filled).tolist()[i] for i in order]
        history.append(merged)
    made_by: list[Mapping[str, Any]] = []
    for part in parts:
        made_by += [entry for entry in part.made_by if entry not in made_by]
    best_epochs = [epoch for part in parts for epoch in part.best_epoch]
    best_values = [value for part in parts for value in part.best_value]
    return Fitted(
        variables=jax.tree.map(
            lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[np.array(order)],
            *[part.variables for part in parts],
        ),
        history=history,
        best_epoch=[best_epochs[i] for i in order],
        best_value=[best_values[i] for i in order],
        steps=max(part.steps for part in parts),
        seconds=sum(part.seconds for part in parts),
        compile_seconds=sum(part.compile_seconds for part in parts),
        made_by=made_by,
    )
