"""The result file of a run, whose manifest is that of the code that trained it, and its plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec import provenance
from jaxrec.report import plots, results
from jaxrec.report.words import in_words, lower_is_better
from jaxrec.train import parallel
from jaxrec.train.fit import Fitted
from jaxrec.train.logs import TRAINING_FORMAT, Logs, write_training
from jaxrec.types import Protocol, Result, Tested


def save_result(
    folder: str,
    *,
    experiment: str,
    dataset: str,
    model: str,
    config: Mapping[str, Any],
    protocol: Protocol,
    seeds: Sequence[int],
    metrics: Sequence[Mapping[str, float]] | Tested,
    published: Mapping[str, float] | None = None,
    source: str = "",
    fitted: Fitted | None = None,
    note: str = "",
    incomparable: str = "",
    baseline: bool | None = None,
) -> Path:
    """Writes a result file and, if there is a training history, a plot of the validation metric next to it.

    metrics: of each seed; with a `Tested`, its values by user or group are stored beside the result too, and
    a reliability diagram of each task's probabilities is drawn.
    baseline: whether nothing was trained by gradient descent; None means that this is so without a training
        step. Weights that others trained are no baseline.

    Of several processes the first writes, and the others return when it has.

    The file's manifest is that of the code that trained; if several versions did, or another one evaluated,
    the manifest and the note name all of them.
    """
    manifest, remark = origin(fitted)
    steps = fitted.steps if fitted else 0
    tested = metrics if isinstance(metrics, Tested) else Tested(list(map(dict, metrics)))
    found, values = tested.metrics, tested.values
    result = Result(
        experiment=experiment,
        dataset=dataset,
        model=model,
        config=config,
        protocol=protocol,
        seeds=tuple(seeds),
        metrics={name: tuple(m[name] for m in found) for name in found[0]},
        published=published or {},
        source=source,
        steps=steps,
        seconds=fitted.seconds if fitted else 0.0,
        compile_seconds=fitted.compile_seconds if fitted else 0.0,
        note=". ".join(part for part in (note, remark) if part),
        incomparable=incomparable,
        baseline=steps == 0 if baseline is None else baseline,
    )
    if not parallel.is_first():
        parallel.wait_for_all(f"result {model}")
        return Path(folder, experiment, dataset, f"{model}.json")
    path = results.write_result(result, folder, manifest=manifest, values=values)
    parallel.wait_for_all(f"result {model}")
    metric = f"valid/{protocol.selection.removesuffix(' on test')}"
    if fitted and sum(metric in entry for entry in fitted.history) > 1:
        _plot(fitted, metric, result, path.with_suffix(".png"))
    for task, curve in tested.reliability.items():
        name = f"{path.stem}.reliability{f'-{task}' * (len(tested.reliability) > 1)}.png"
        _plot_reliability(result, task, curve, path.with_name(name))
    return path


def keep_curves(
    folder: str | Path, fitted: Fitted, *, seeds: Sequence[int], metric: str, settings: Mapping[str, Any]
) -> None:
    """Keeps history.jsonl and training.json of a finished run, its seeds in their order, in a folder.

    Seeds may have been trained apart; where one ended earlier, its later values are NaN.

    metric: of validation, which chose the epochs. settings: that identify the run.
    """
    write_training(
        folder,
        {
            "format": TRAINING_FORMAT,
            "seeds": list(seeds),
            "metric": metric,
            "lower_is_better": lower_is_better(metric),
            "phases": _phases(fitted.history),
            "epochs": len(fitted.history),
            "complete": True,
            "best_value": fitted.best_value,
            "best_epoch": fitted.best_epoch,
            "made_by": list(fitted.made_by),
            "seconds": fitted.seconds,
            "compile_seconds": fitted.compile_seconds,
            "settings": dict(settings),
        },
    )
    Logs(folder, fitted.history).close()


def _phases(history: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Names and trained epochs of the phases of a history."""
    names = [entry["phase"] for entry in history]
    return [[name, names.count(name)] for name in dict.fromkeys(names)]


def origin(fitted: Fitted | None) -> tuple[Mapping[str, Any], str]:
    """The manifest of a result, and its note on the code: "" if one version produced everything.

    The manifest is that of the code that trained last. If other versions contributed (began the training,
    trained other seeds, or only evaluated), it lists all as `made_by`. fitted=None: nothing was trained.
    """
    if fitted is None or not fitted.made_by:
        return provenance.manifest(), ""
    entries = fitted.made_by
    trained = [entry for entry in entries if entry["first_epoch"] < len(fitted.history)]
    manifest = {name: value for name, value in trained[-1].items() if name != "first_epoch"}
    if len(entries) == 1:
        return manifest, ""
    parts = ("first_epoch", "commit", "sources", "versions")
    manifest["made_by"] = [{name: entry.get(name) for name in parts} for entry in entries]
    if not any(provenance.code_differences(entries[0], entry) for entry in entries):
        return manifest, ""
    after = [entry for entry in entries if entry not in trained]
    remark = f"trained by commit {_commits(trained)}"
    return manifest, remark + (f", evaluated by {_commits(after)}, other code" if after else "")


def _commits(entries: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(str(entry.get("commit")) for entry in entries))


def _plot(fitted: Fitted, metric: str, result: Result, path: Path) -> None:
    """The curve of a validation metric, with the best epochs marked, if matplotlib is installed."""
    title = f"{result.model}: {in_words(metric)}"
    best = {result.model: fitted.best_epoch}
    runs = {result.model: fitted.history}
    try:
        plots.metric_curve(runs, metric, path, title=title, dataset=result.dataset, best=best)
    except ImportError as error:
        print(f"no plot of {metric}: {error}")


def _plot_reliability(result: Result, task: str, curve: Any, path: Path) -> None:
    """The reliability diagram of a task, if matplotlib is installed."""
    title = f"{result.model}: reliability of {task}"
    try:
        plots.reliability_diagram({result.model: curve}, path, title=title, dataset=result.dataset)
    except ImportError as error:
        print(f"no reliability diagram of {task}: {error}")
