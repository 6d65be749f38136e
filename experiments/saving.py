"""How every experiment stores what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import provenance
from jaxrec.report import plots, results
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol, Result


def save(
    folder: str,
    *,
    experiment: str,
    dataset: str,
    model: str,
    config: Mapping[str, Any],
    protocol: Protocol,
    seeds: Sequence[int],
    metrics: Sequence[Mapping[str, float]],
    published: Mapping[str, float] | None = None,
    source: str = "",
    fitted: Fitted | None = None,
    note: str = "",
    incomparable: str = "",
) -> Path:
    """Writes a result file and, where there is a history, the plot of the validation metric beside it.

    The file's manifest is that of the code that trained; where several did, or other code evaluated, it and
    the note name all of them.
    """
    made, said = origin(fitted)
    result = Result(
        experiment=experiment,
        dataset=dataset,
        model=model,
        config=config,
        protocol=protocol,
        seeds=tuple(seeds),
        metrics={name: tuple(m[name] for m in metrics) for name in metrics[0]},
        published=published or {},
        source=source,
        steps=fitted.steps if fitted else 0,
        seconds=fitted.seconds if fitted else 0.0,
        compile_seconds=fitted.compile_seconds if fitted else 0.0,
        note=". ".join(part for part in (note, said) if part),
        incomparable=incomparable,
    )
    path = results.write_result(result, folder, manifest=made)
    metric = f"valid/{protocol.selection.removesuffix(' on test')}"
    if fitted and sum(metric in entry for entry in fitted.history) > 1:
        _plot(fitted, metric, seeds, path.with_suffix(".png"))
    return path


def origin(fitted: Fitted | None) -> tuple[Mapping[str, Any], str]:
    """The manifest of a result, and what its note says of the code: "" where one version of it made all.

    The manifest is that of the code that trained last. Where others had a part (they began the training,
    trained other seeds, or only evaluated), it lists all as `made_by`. None: nothing was trained.
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
    said = f"trained by commit {_commits(trained)}"
    return manifest, said + (f", evaluated by {_commits(after)}, other code" if after else "")


def _commits(entries: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(str(entry.get("commit")) for entry in entries))


def means(found: Sequence[Mapping[str, float]]) -> str:
    """Each metric's mean over seeds, in a line.

    >>> means([{"auc": 0.5, "mse": 1.0}, {"auc": 0.6, "mse": 2.0}])
    'auc 0.5500, mse 1.5000'
    """
    return ", ".join(f"{name} {np.mean([m[name] for m in found]):.4f}" for name in found[0])


def _plot(fitted: Fitted, metric: str, seeds: Sequence[int], path: Path) -> None:
    runs = {
        f"seed {seed}": [
            {"epoch": entry["epoch"], metric: entry[metric][i]} for entry in fitted.history if metric in entry
        ]
        for i, seed in enumerate(seeds)
    }
    try:
        plots.metric_curve(runs, metric, path)
    except ImportError as error:
        print(f"no plot of {metric}: {error}")
