"""What a folder says of its run: a work directory of training, or the folder of a finished run.

    history.jsonl, training.json    written while a model is trained (`train.logs`); of a finished run they
                                    lie beside run.json, or below training/
    run.json                        of a finished run: test metrics, protocol, settings, provenance
    results/*/*/*.json              of a finished run: its own result and those of its baselines
    gates.json                      how much each task uses each expert, see `Gates`

What a folder lacks is left out, and `RunParts.missing` says so in a sentence each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.report.results import Record, read_results
from jaxrec.report.slices import Slices, slices_of_metrics

HISTORY, TRAINING, RUN, GATES, RESULTS = "history.jsonl", "training.json", "run.json", "gates.json", "results"
BELOW = "training"  # where a finished run keeps its work directory
REMEDY = "train again, or copy the folder again if this is a copy"


class Gates(NamedTuple):
    """Mean weights of experts.

    of: the examples that they were measured on, in words. shares: {gate: {row: one list of shares per seed}},
    such as {"gates": {"click": [[0.2, 0.8], [0.3, 0.7]]}}; the shares of a list add up to 1.
    """

    of: str
    shares: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


class RunParts(NamedTuple):
    """A run as its folder has it.

    name: of the model; dataset: "" if unknown. history: entries of history.jsonl, [] without one. best_epoch:
    of each seed, counted from 0, -1 for none; [] if unknown. metric: that chose it. phases: names and planned
    epochs. complete: None if unknown. metrics: of test queries, a value per seed; baselines: those of methods
    that the run was compared with. made_by: manifests (`provenance.manifest`). seconds, compile_seconds: None
    if unknown. missing: sentences.
    """

    name: str
    dataset: str = ""
    seeds: Sequence[int] = ()
    history: Sequence[Mapping[str, Any]] = ()
    best_epoch: Sequence[int] = ()
    metric: str = ""
    lower_is_better: bool = False
    phases: Sequence[tuple[str, int]] = ()
    complete: bool | None = None
    metrics: Mapping[str, Sequence[float]] = {}
    baselines: Mapping[str, Mapping[str, Sequence[float]]] = {}
    slices: Slices | None = None
    gates: Gates | None = None
    settings: Mapping[str, Any] = {}
    protocol: Mapping[str, Any] = {}
    made_by: Sequence[Mapping[str, Any]] = ()
    seconds: float | None = None
    compile_seconds: float | None = None
    missing: Sequence[str] = ()


def read_run(folder: str | Path) -> RunParts:
    """The parts of a run that a folder holds.

    Raises:
      ValueError: there is no such folder, it holds no run or several, or a file of it is damaged.
    """
    folder = Path(folder)
    finished = _json(folder / RUN)
    trained = _training_folder(folder, required=finished is None)
    missing: list[str] = []
    history = [] if trained is None else read_history(trained / HISTORY)
    training = {} if trained is None else _json(trained / TRAINING) or {}
    if trained is None:
        missing.append(f"Curves: the folder has no {HISTORY}, which training writes.")
    elif not training:
        missing.append(
            f"Best epochs, settings and provenance of training: the folder has no {TRAINING}, which older "
            "versions did not write; the command that trained it writes one without training again."
        )
    parts = _of_training(_name_of(folder), history, training)
    if finished is None:
        missing.append(
            f"Test metrics: this is a folder of training; results have them, and finished runs ({RUN})."
        )
    else:
        parts = _of_finished(parts, finished, _results(folder, finished))
    _check_seeds(folder, parts)
    slices = slices_of_metrics(parts.metrics)
    if slices is None and parts.metrics:
        missing.append("Slices by history length and item popularity: they were not measured.")
    gates = _gates(folder, trained)
    return parts._replace(slices=slices, gates=gates, missing=tuple(missing))


def read_history(path: Path) -> list[dict[str, Any]]:
    """The entries of history.jsonl. A last line without its end, of a run that is being trained, is left out.

    Raises:
      ValueError: a line is not that of an epoch.
    """
    text = path.read_text(encoding="utf-8")
    entries = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is damaged ({error}); {REMEDY}") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("epoch"), int):
            raise ValueError(
                f"{path}: line {number} is no epoch of a run: it has no number 'epoch'; {REMEDY}"
            )
        entries.append(entry)
    return entries


def _training_folder(folder: Path, *, required: bool) -> Path | None:
    """The folder with history.jsonl: this one, or the only one below it."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name a run, such as --run runs/mine")
    if (folder / HISTORY).is_file():
        return folder
    found = sorted(path.parent for path in (folder if required else folder / BELOW).rglob(HISTORY))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"{folder}: holds {len(found)} runs ({names}{more}); name one of them with --run")
    if required:
        raise ValueError(f"{folder}: holds neither {HISTORY} nor {RUN}: no run was trained into it")
    return None


def _name_of(folder: Path) -> str:
    """A name for a work directory: its row's, if it lies in folders like ROW/HASH/seeds-0-epochs-3."""
    path = folder.resolve()
    return path.parents[1].name if path.name.startswith("seeds-") else path.name


def _of_training(name: str, history: list[dict[str, Any]], training: Mapping[str, Any]) -> RunParts:
    settings = training.get("settings", {})
    lists = [value for entry in history[:1] for value in entry.values() if isinstance(value, list)]
    return RunParts(
        name=str(settings.get("row") or settings.get("model") or name),
        dataset=_dataset(settings),
        seeds=tuple(training.get("seeds", range(len(lists[0]) if lists else 0))),
        history=history,
        best_epoch=tuple(training.get("best_epoch", ())),
        metric=training.get("metric", ""),
        lower_is_better=training.get("lower_is_better", False),
        phases=tuple((name, epochs) for name, epochs in training.get("phases", ())),
        complete=training.get("complete"),
        settings=settings,
        made_by=tuple(training.get("made_by", ())),
        seconds=training.get("seconds"),
        compile_seconds=training.get("compile_seconds"),
    )


def _of_finished(parts: RunParts, run: Mapping[str, Any], results: Sequence[Record]) -> RunParts:
    """The parts with what run.json adds: it knows the model, its test and its data."""
    try:
        own = [record.result for record in results if record.result.model == run["name"]]
        others = {r.result.model: r.result.metrics for r in results if r.result.model != run["name"]}
        metric = str(run["protocol"].get("selection", ""))
        return parts._replace(
            name=run["name"],
            dataset=own[0].dataset if own else str(run["data"].get("file", "")),
            seeds=tuple(run["seeds"]),
            metric=parts.metric or ("" if metric == "none" else metric),
            metrics=run["metrics"],
            baselines=others,
            settings=run["settings"],
            protocol=run["protocol"],
            made_by=parts.made_by or ([run["made_by"]] if run["made_by"] else []),
            seconds=parts.seconds if parts.seconds is not None or not own else own[0].seconds,
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{RUN}: lacks {error}, so it was changed; {REMEDY}") from None


def _results(folder: Path, run: Mapping[str, Any]) -> list[Record]:
    """Results beside run.json, of the same seeds."""
    return [r for r in read_results(folder / RESULTS) if list(r.result.seeds) == list(run.get("seeds", []))]


def _check_seeds(folder: Path, parts: RunParts) -> None:
    """Raises ValueError if a history has other seeds than the run."""
    for entry in parts.history:
        for name, value in entry.items():
            if isinstance(value, list) and len(value) != len(parts.seeds):
                raise ValueError(
                    f"{folder}: {HISTORY} has {len(value)} values of {name!r} in epoch {entry['epoch']} for "
                    f"{len(parts.seeds)} seeds: it belongs to another run; {REMEDY}"
                )


def _gates(folder: Path, trained: Path | None) -> Gates | None:
    for path in (folder / GATES, *([] if trained is None else [trained / GATES])):
        if (found := _json(path)) is not None:
            try:
                return Gates(str(found["of"]), found["shares"])
            except KeyError as error:
                raise ValueError(f"{path}: lacks {error}; {REMEDY}") from None
    return None


def _dataset(settings: Mapping[str, Any]) -> str:
    """The name of the data set among settings, "" if there is none."""
    for name in ("dataset", "data", "group"):
        found = settings.get(name)
        if isinstance(found, Mapping):
            found = found.get("file")
        if found:
            return str(found)
    return ""


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None if there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}); {REMEDY}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is no JSON object; {REMEDY}")
    return found
