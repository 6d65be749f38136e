"""A run from its options to its folder: training, baselines, results, and what serving needs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import shlex
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec import config, provenance
from jaxrec.commands.training import counted
from jaxrec.commands.training.kinds import Kind, kind_of
from jaxrec.commands.training.models import check_read, overridden
from jaxrec.commands.training.options import UNFINISHED, described
from jaxrec.commands.training.prepared import BaselineRow, Prepared
from jaxrec.commands.training.source import Source, sha256_of
from jaxrec.commands.training.warm_start import TRAINING, initial_options
from jaxrec.protocols.gates import write_shares
from jaxrec.report import results
from jaxrec.report import tables as result_tables
from jaxrec.serve import content, modules, run_folder
from jaxrec.serve.modules import code_of
from jaxrec.serve.run_folder import RUN, Kept
from jaxrec.train.fit import Fitted
from jaxrec.train.results import keep_curves, origin, save_result
from jaxrec.train.trial import Trial
from jaxrec.tuning import budget, records, space
from jaxrec.tuning import options as sweep_options
from jaxrec.tuning.options import NOT_SEARCHED, OPTIONS
from jaxrec.tuning.reads import inspect, recorded
from jaxrec.tuning.search import chosen_settings

EXPERIMENT = "train"  # of the result files
SETTINGS, RESULTS = "settings.json", "results"
STUDY, TRIALS = "sweep.json", "trials"  # of a search of settings


class Command(NamedTuple):
    """What `jaxrec train` was asked for, with the data read, so that it can be trained more than once.

    model: as the user names it; entry: of `recipes`; options: see `models.options_type`.
    """

    model: str
    entry: Any
    options: Any
    source: Source
    kind: Kind
    data: Any


class Trained(NamedTuple):
    """A run that is trained and not tested. value: its validation metric, the mean over seeds; metric: its
    name. Metrics of `jaxrec train` are better when they are higher, but for "rmse" and "log_loss"."""

    value: float
    metric: str
    prepared: Prepared
    fitted: Fitted


def read_command(model: str, entry: Any, options: Any, source: Source) -> Command:
    """Reads and splits the data.

    Raises:
      ValueError: an option, a column or the data are wrong; FileNotFoundError: there is no such file.
    """
    config.check_devices(options.num_devices)
    counted.check_untrained(model, entry, options)
    kind = kind_of(entry, options)
    return Command(model, entry, options, source, kind, kind.read(options, source))


def train_once(
    command: Command, overrides: Mapping[str, Any] | None = None, *, workdir: str | Path, **fit: Any
) -> Trained:
    """Trains a command with other values of some options, and tests nothing: what a sweep calls for a trial.

    Args:
      command: of `read_command`; its data are read once for all calls.
      overrides: {option: value} of the recipe, the loss or the seeds, such as {"learning_rate": 3e-4}. Others
        are of the command or among `fit`.
      workdir: where checkpoints and history.jsonl are kept, `<hash of the settings>/seeds-…-epochs-…` below
        it: calls with equal settings and more epochs go on from there, equal calls train nothing again.
      fit: other arguments of `train.fit.fit`, in place of those of the options.

    Returns:
      `value` is the mean over seeds of each seed's best validation metric, see `Trained`.

    Raises:
      ValueError: an override is no such option, or no value for it, or the model does not read it; the model
        can't be built; training diverges.
    """
    options = overridden(command.entry, command.options, overrides or {})
    return _fit(command, options, _prepare_all_read(command, options), Path(workdir), **fit)


def _prepare(command: Command, options: Any, trial: Trial | None = None) -> Prepared:
    prepared = command.kind.prepare(command.model, command.entry, options, command.data, trial=trial)
    if prepared.module is not None:
        modules.describe(prepared.module)  # what can't be kept is refused before training
    return prepared


def _prepare_all_read(command: Command, options: Any) -> Prepared:
    """What `_prepare` makes. Raises ValueError for a changed setting of the recipe that nothing reads."""
    seen: set[str] = set()
    prepared = _prepare(command, recorded(options, seen))

    def by_training() -> set[str]:
        asked = sweep_options.without(options)
        return inspect(functools.partial(_train_trial, command), asked, options.seeds).reads

    check_read(command.model, command.entry, options, seen, by_training)
    return prepared


def _train_trial(command: Command, options: Any, trial: Trial) -> Fitted:
    """Trains a command with other options, as a trial of a search."""
    settings = settings_of(command.model, command.entry, options, command.source)
    given = fit_options(Path(options.run), settings, options)
    given |= {"seeds": trial.seeds, "trial": trial, "progress": False}
    prepared = _prepare(command, options, trial)
    found: Fitted = prepared.train(**given, **initial_options(prepared, command.model, "", trial.seeds))
    return found


def searched_options(command: Command, folder: Path) -> Any:
    """The options of a command with the settings that --sweep chooses on validation, see docs/tuning.md."""
    asked, names = command.options, [field.name for field in dataclasses.fields(command.entry.recipe)]
    names = [name for name in names if name not in NOT_SEARCHED]
    space.check_file(asked.sweep, (command.model,), type(asked), names)
    searched = space.read_space(asked.sweep, command.model, type(asked), names)

    left_out = (*searched.settings, *OPTIONS)
    settings = settings_of(command.model, command.entry, sweep_options.without(asked), command.source)
    settings = {name: value for name, value in settings.items() if name not in left_out}
    chosen = chosen_settings(
        functools.partial(_train_trial, command),
        sweep_options.without(asked),
        searched,
        path=folder / STUDY,
        folder=folder / TRIALS,
        folder_field="run",
        identity={"model": command.model, "settings": settings},
        seeds=asked.seeds[: asked.trial_seeds],
        limits=budget.limits(asked.trials, asked.budget),
        own=set(searched.settings),
        at_once=asked.trials_at_once,
        accept_changed_code=asked.accept_changed_code,
        name=command.model,
    )
    return asked if chosen is None else dataclasses.replace(asked, **chosen.settings)


def _fit(command: Command, options: Any, prepared: Prepared, workdir: Path, **fit: Any) -> Trained:
    settings = settings_of(command.model, command.entry, options, command.source)
    initial = initial_options(prepared, command.model, options.warm_start, options.seeds, grow=options.grow)
    fitted = prepared.train(**{**fit_options(workdir, settings, options), **initial, **fit})
    value = statistics.fmean(fitted.best_value)
    return Trained(value, prepared.protocol.selection, prepared, fitted)


def train_run(model: str, entry: Any, options: Any, source: Source) -> Kept:
    """Trains a model, measures it and the baselines, and keeps all in the folder `options.run`.

    Raises:
      ValueError: a setting, a column or the model is wrong, before anything is trained or written; the folder
        holds another run, or one that other code trained.
      OSError: a file can't be read or written.
    """
    config.check_folder("run", options.run)
    folder, settings = Path(options.run), settings_of(model, entry, options, source)
    if found_complete(folder, settings):
        kept = run_folder.read(folder)
        _check_code(folder, kept, accept=options.accept_changed_code)
        print(f"{folder}: found complete; nothing is trained again")
        return kept
    _check_writable(folder)
    command = read_command(model, entry, options, source)
    prepared = _prepare_all_read(command, options)  # checked before anything is written
    initial_options(prepared, model, options.warm_start, options.seeds, grow=options.grow)
    for note in prepared.notes:
        print(note, flush=True)
    with _naming_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        results.write_atomically(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
        if options.sweep:
            options = searched_options(command, folder)
            prepared, settings = _prepare(command, options), settings_of(model, entry, options, source)
        trained = _fit(command, options, prepared, folder / TRAINING)
        return finish(folder, prepared, trained.fitted, options, settings)


@contextlib.contextmanager
def _naming_folder(folder: Path) -> Iterator[None]:
    """Errors of the operating system that say in which run they happened, and what to do."""
    try:
        yield
    except OSError as error:
        where = "" if str(folder) in str(error) else f"{folder}: could not be written: "
        raise OSError(f"{where}{error}; {_remedy(error)}, then run the same command to continue") from error


def _remedy(error: OSError) -> str:
    return "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see that it can be written to"


def _check_writable(folder: Path) -> None:
    """Raises ValueError unless something can be written where the folder is or will be."""
    found = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.is_dir())
    try:
        tempfile.TemporaryDirectory(dir=found).cleanup()
    except OSError as error:
        raise ValueError(
            f"run={str(folder)!r}: nothing can be written in {found} ({error.strerror}); {_remedy(error)}, "
            "or name another folder"
        ) from None


def settings_of(model: str, entry: Any, options: Any, source: Source) -> dict[str, Any]:
    """What identifies a run, in JSON types: the model, its settings, and checksums of the data, of vectors
    and features and of the file of a module of one's own."""
    named = {"model": model, **described(options), "data": source.described}
    for option in ("item_vectors", "item_attributes", "user_features", "item_features", "user_labels"):
        if file := getattr(options, option, ""):
            named[f"{option}_sha256"] = sha256_of(option, Path(file))
    if own := getattr(entry, "own", ""):
        named |= {"module": own, "code": code_of(own.partition(":")[0])}
    found: dict[str, Any] = json.loads(json.dumps(named))
    return found


def found_complete(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the finished run of these settings; False where none or only its beginning is.

    Raises:
      ValueError: it holds a run of other settings, or something else.
    """
    path, finished = folder / SETTINGS, (folder / RUN).exists()
    if not path.exists():
        if finished or (folder.is_dir() and any(folder.iterdir())):
            raise ValueError(
                f"run={str(folder)!r}: the folder has files, but no run of this command; name another"
            )
        return False
    before = _settings_in(path)
    may_differ = () if finished else UNFINISHED
    names = sorted({*before, *settings} - set(may_differ))
    differing = [n for n in names if before.get(n) != settings.get(n)]
    if differing:
        shown = "; ".join(f"{n}: {before.get(n)!r}, now {settings.get(n)!r}" for n in differing)
        what = "a finished run" if finished else "a run that was begun"
        raise ValueError(
            f"run={str(folder)!r}: holds {what} with other settings ({shown}); name another folder"
            + (", and --warm-start to start from this run" if finished else ", or remove this one")
        )
    return finished


def _check_code(folder: Path, kept: Kept, *, accept: bool) -> None:
    """Raises ValueError for a finished run that another jaxrec, or other versions of libraries, trained.

    The caller's own script is left out: it trains nothing, and a module of one's own is in the settings.
    accept: it is given back as it is.
    """

    def of_jaxrec(made_by: Mapping[str, Any]) -> dict[str, Any]:
        sources = made_by.get("sources") or {}
        return {**made_by, "sources": {"jaxrec": sources.get("jaxrec")}}

    differing = provenance.code_differences(of_jaxrec(kept.made_by), of_jaxrec(provenance.manifest()))
    if differing and not accept:
        raise ValueError(
            f"run={str(folder)!r}: holds a finished run of commit {kept.made_by.get('commit')}, and this is "
            f"other code: {'; '.join(differing)}; name another folder to train again, or give "
            "--accept-changed-code to have the run as it is"
        )


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}); remove the folder, or name another") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no settings of a run; name another folder")
    return found


def fit_options(workdir: Path, settings: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """Where and how a run is kept while it is trained, as `train.fit.fit` takes them."""
    left_out = ("seeds", "minutes", "warm_start", "data", "beyond", "calibrate", *OPTIONS)
    return {
        "seeds": options.seeds,
        "workdir": workdir,
        "description": {n: v for n, v in settings.items() if n not in left_out},
        "num_devices": options.num_devices,
        "accumulate_steps": options.accumulate_steps,
        "save_every": options.save_every,
        "minutes": options.minutes or None,
        "accept_changed_code": options.accept_changed_code,
        "profile": options.profile or None,
    }


def finish(
    folder: Path, prepared: Prepared, fitted: Fitted, options: Any, settings: Mapping[str, Any]
) -> Kept:
    """Tests the run and its baselines, writes their results and, last, the run; prints what came out."""
    if prepared.calibrate is not None:
        fitted = fitted._replace(variables=prepared.calibrate(fitted.variables))
    tested = prepared.test(fitted.variables)
    also = [] if prepared.also is None else prepared.also(fitted.variables)
    trained = {"config": settings, "fitted": fitted, "note": records.note(folder / STUDY, settings)}
    rows: list[tuple[BaselineRow, dict[str, Any]]] = [(row, {"config": {}}) for row in prepared.baselines()]
    rows += [(row, trained) for row in (BaselineRow(prepared.name, tested, prepared.protocol), *also)]
    for row, of_row in rows:
        save_result(
            str(folder / RESULTS),
            experiment=EXPERIMENT,
            dataset=row.dataset or prepared.dataset,
            model=row.name,
            protocol=row.protocol,
            metrics=row.metrics,
            seeds=options.seeds,
            **of_row,
        )
    chosen = prepared.protocol.selection
    keep_curves(folder, fitted, seeds=options.seeds, metric=chosen, settings=settings)
    if prepared.shares is not None and (found := prepared.shares(fitted.variables)):
        write_shares(folder, found, prepared.of)
    module, variables = kept_model(prepared, fitted)
    kept = Kept(
        name=prepared.name,
        module=module,
        variables=variables,
        seeds=tuple(options.seeds),
        protocol=prepared.protocol,
        metrics={name: tuple(of[name] for of in tested.metrics) for name in tested.metrics[0]},
        validation=validation_of(fitted),
        settings=settings,
        data=settings["data"],
        made_by=origin(fitted)[0],
        **prepared.kept,
    )
    if prepared.tower is not None:
        content.keep(folder, prepared.tower(jax.device_get(dict(fitted.variables))))
    run_folder.write(folder, kept)
    print(result_tables.all_tables(results.read_results(folder / RESULTS)))
    following = prepared.next_command.replace("RUN", shlex.quote(str(folder)), 1)
    print(f"\nthe run is in {folder}; next:\n  {following}")
    return kept


def kept_model(prepared: Prepared, fitted: Fitted) -> tuple[Any, dict[str, Any]]:
    """The module and its variables as host arrays, without collections that only its training has."""
    module: Any = prepared.module
    variables: Mapping[str, Any] = fitted.variables
    if prepared.finished is not None:
        module, variables = prepared.finished(fitted.variables)
    elif prepared.kept["kind"] in ("sequence", "session", "multi-interest") and prepared.shapes is not None:
        variables = {name: variables[name] for name in prepared.shapes({}) if name in variables}
    return module, jax.tree.map(np.asarray, jax.device_get(dict(variables)))


def validation_of(fitted: Fitted) -> dict[str, tuple[float, ...]]:
    """Each seed's validation metrics in its best epoch."""
    found: dict[str, tuple[float, ...]] = {}
    best = [fitted.history[max(epoch, 0)] for epoch in fitted.best_epoch]
    for name in best[0]:
        if name.startswith("valid/"):
            found[name.removeprefix("valid/")] = tuple(entry[name][i] for i, entry in enumerate(best))
    return found
