"""Curves of training runs as PNG files. Needs matplotlib: the extra `plots`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]  # one mapping per epoch: {"epoch": …, "loss": …, "ndcg@10": …}


def metric_curve(runs: Mapping[str, History], metric: str, path: str | Path) -> Path:
    """Plots a metric against the epoch, one line per run, and returns the PNG's path.

    Args:
      runs: history of each run by its name, such as `{"seed 0": …}`. The epoch is the entry `epoch`, or else
        the index in the history. An epoch without the metric (not evaluated) has no point.
      metric: the entry to plot, such as `ndcg@10`.

    Raises:
      ValueError: no epoch of any run has the metric.
      ImportError: matplotlib is not installed.
    """
    return _plot_lines(
        {name: _points(history, metric) for name, history in runs.items()}, name=metric, path=path, runs=runs
    )


def mean_curve(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, path: str | Path, *, label: str = ""
) -> Path:
    """Plots a metric's mean over seeds against the epoch, ± two standard deviations, one line per model.

    Args:
      runs: the epochs of each model, {"epoch": …, metric: one value per seed}.
      label: of the vertical axis; by default the metric.

    Raises:
      ValueError: no epoch of any model has the metric.
      ImportError: matplotlib is not installed.
    """
    if not any(metric in epoch for epochs in runs.values() for epoch in epochs):
        raise ValueError(f"{metric!r}: no epoch of any run has it")
    figure = _new_figure()
    axes = figure.subplots()
    for name, epochs in runs.items():
        kept = [epoch for epoch in epochs if metric in epoch]
        x = [epoch["epoch"] for epoch in kept]
        mean = [statistics.fmean(epoch[metric]) for epoch in kept]
        band = [2 * statistics.pstdev(epoch[metric]) for epoch in kept]
        axes.plot(x, mean, label=name)
        low, high = zip(*((m - b, m + b) for m, b in zip(mean, band, strict=True)), strict=True)
        axes.fill_between(x, low, high, alpha=0.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label or metric)
    axes.legend()
    return _save(figure, path)


def loss_curve(runs: Mapping[str, History], path: str | Path, *, prefix: str = "loss") -> Path:
    """Plots every loss (entries whose name starts with `prefix`) of every run, as `metric_curve` does."""
    names = {
        name for history in runs.values() for epoch in history for name in epoch if name.startswith(prefix)
    }
    lines = {}
    for run, history in runs.items():
        for name in sorted(names):
            label = run if len(names) == 1 else f"{run}: {name}"
            lines[label] = _points(history, name)
    return _plot_lines(lines, name=prefix, path=path, runs=runs)


def _points(history: History, name: str) -> list[tuple[float, float]]:
    return [(epoch.get("epoch", i), epoch[name]) for i, epoch in enumerate(history) if name in epoch]


def _plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    name: str,
    path: str | Path,
    runs: Mapping[str, History],
) -> Path:
    if not any(lines.values()):
        known = sorted(
            {entry for history in runs.values() for epoch in history for entry in epoch} - {"epoch"}
        )
        raise ValueError(f"{name!r}: no epoch of any run has it: choose one of {known}")
    figure = _new_figure()
    axes = figure.subplots()
    for label, points in lines.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=".")
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.legend()
    return _save(figure, path)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    return path


def _new_figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'jaxrec[plots]'") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
