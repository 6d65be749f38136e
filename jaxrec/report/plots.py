"""Curves of training runs as PNG files, all in one style. Needs matplotlib: the extra `plots`.

Lines of one plot differ by colour, dashes and markers. Epochs are counted from 0, as in history.jsonl.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrec.report.curves import COLOURS, Band, Curve, History, best_points, curve_of
from jaxrec.report.results import write_atomically
from jaxrec.report.words import capital, in_words, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9d9d9",
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "legend.frameon": False,
}


def metric_curve(
    runs: Mapping[str, History],
    metric: str,
    path: str | Path,
    *,
    title: str = "",
    dataset: str = "",
    best: Mapping[str, Sequence[int]] | None = None,
    band: Band = "range",
    label: str = "",
) -> Path:
    """Plots a metric against the epoch, one line per run, and returns the PNG's path.

    Args:
      runs: history of each run by its name, such as `{"sasrec-ce": fitted.history}`. The epoch is the entry
        `epoch`, or else the index in the history. An epoch without the metric (not evaluated) has no point.
        Of several seeds the line is their mean, with a band around it.
      metric: the entry to plot, such as `valid/ndcg@10`.
      title, dataset: of the plot's heading; without a title the metric in words.
      best: epochs whose parameters were kept, one per seed and run, which are marked on the seeds' own
        values; below 0 for none.
      band: "range", from the lowest seed to the highest, or "deviations", ± two standard deviations
        (divisor n).
      label: of the vertical axis; without one the metric's short name.

    Raises:
      ValueError: no epoch of any run has the metric.
      ImportError: matplotlib is not installed.
    """
    curves = {name: curve_of(history, metric, band=band) for name, history in runs.items()}
    if not any(curve.epoch for curve in curves.values()):
        known = sorted({name for history in runs.values() for entry in history for name in entry} - {"epoch"})
        raise ValueError(f"{metric!r}: no epoch of any run has it: choose one of {known}")
    figure, axes = _new_figure()
    with _style():
        for number, (name, curve) in enumerate(curves.items()):
            _draw(axes, name, curve, number)
        marked = [
            _mark_best(axes, runs[name], metric, epochs, list(curves).index(name))
            for name, epochs in (best or {}).items()
        ]
        heading = title or capital(in_words(metric))
        _label(axes, heading + f"\n{dataset}" * bool(dataset), curves)
        _note(figure, curves, band, best=any(marked))
        axes.set_ylabel(label or short(metric))
        return _save(figure, path)


def mean_curve(
    runs: Mapping[str, History], metric: str, path: str | Path, *, label: str = "", **options: Any
) -> Path:
    """`metric_curve` with a band of two standard deviations, as papers draw many runs."""
    return metric_curve(runs, metric, path, band="deviations", label=label, **options)


def loss_curve(
    runs: Mapping[str, History],
    path: str | Path,
    *,
    prefix: str = "loss",
    title: str = "",
    dataset: str = "",
) -> Path:
    """Plots every loss (entries whose name starts with `prefix`) of every run, as `metric_curve` does."""
    names = sorted(
        {name for run in runs.values() for entry in run for name in entry if name.startswith(prefix)}
    )
    lines = {
        run if len(names) == 1 else f"{run}: {name}": [
            {"epoch": entry.get("epoch", i), prefix: entry[name]}
            for i, entry in enumerate(runs[run])
            if name in entry
        ]
        for run in runs
        for name in names
    }
    return metric_curve(
        lines or runs, prefix, path, title=title or "Training loss", dataset=dataset, label="loss"
    )


def reliability_diagram(
    curves: Mapping[str, Any], path: str | Path, *, title: str = "", dataset: str = ""
) -> Path:
    """Plots the share of positives against the mean prediction of each bin, and the diagonal; the PNG's path.

    Args:
      curves: by name, mean predictions, shares of positives and numbers of examples of each bin, [3, bins],
        or of several seeds [3, S, bins], each of which has a line. Bins without examples have no
        point.
      title, dataset: of the plot's heading.

    Raises:
      ValueError: no bin has an example.
      ImportError: matplotlib is not installed.
    """
    found = {name: _bins_of(curve) for name, curve in curves.items()}
    points = [point for bins in found.values() for seed in bins for point in seed]
    if not points:
        raise ValueError(f"curves {', '.join(curves) or '(none)'}: no bin has an example")
    figure, axes = _new_figure()
    from matplotlib.ticker import AutoLocator

    axes.xaxis.set_major_locator(AutoLocator())
    with _style():
        end = max(max(point) for point in points)
        axes.plot([0, end], [0, end], color="#808080", linewidth=1.0, label="calibrated")
        for number, (name, seeds) in enumerate(found.items()):
            colour = COLOURS[number % len(COLOURS)]
            for seed in seeds:
                axes.plot(
                    *zip(*seed, strict=True),
                    color=colour,
                    linestyle=DASHES[number % len(DASHES)],
                    marker=MARKERS[number % len(MARKERS)],
                    label=name if seed is seeds[0] else "_",
                )
        axes.set_title((title or "Reliability") + f"\n{dataset}" * bool(dataset))
        axes.set_xlabel("mean predicted probability")
        axes.set_ylabel("share of positives")
        axes.legend(loc="upper left")
        if (count := max(map(len, found.values()))) > 1:
            figure.supxlabel(f"a line for each of {count} seeds", fontsize=10)
        return _save(figure, path)


def _bins_of(curve: Any) -> list[list[tuple[float, float]]]:
    """Points of the bins with examples, for each seed."""
    predicted, observed, count = (np.atleast_2d(part) for part in curve)
    return [
        [(float(x), float(y)) for x, y, n in zip(*seed, strict=True) if n > 0]
        for seed in zip(predicted, observed, count, strict=True)
    ]


def _draw(axes: Axes, name: str, curve: Curve, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(
        curve.epoch,
        curve.mean,
        label=name,
        color=colour,
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)] if len(curve.epoch) <= 25 else "",
    )
    if curve.num_seeds > 1:
        axes.fill_between(curve.epoch, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _mark_best(axes: Axes, history: History, metric: str, epochs: Sequence[int], number: int) -> bool:
    """A ring around the kept epoch of each seed; whether there is one."""
    points = best_points(history, metric, epochs)
    if points:
        axes.scatter(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            s=70,
            facecolors="none",
            edgecolors=COLOURS[number % len(COLOURS)],
            linewidths=1.8,
            zorder=3,
        )
    return bool(points)


def _label(axes: Axes, title: str, curves: Mapping[str, Curve]) -> None:
    """Title, axis of epochs, and a legend where there are several lines."""
    axes.set_title(title)
    axes.set_xlabel("epoch")
    if len(curves) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _note(figure: Figure, curves: Mapping[str, Curve], band: Band, *, best: bool) -> None:
    """What the band and the rings mean, below the plot."""
    notes = []
    seeds = max(curve.num_seeds for curve in curves.values())
    if seeds > 1:
        around = "lowest to highest" if band == "range" else "± two standard deviations"
        notes.append(f"line: mean of {seeds} seeds; band: {around}")
    if best:
        notes.append("ring: best epoch" + (" of each seed" if seeds > 1 else ""))
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=10)


def _save(figure: Figure, path: str | Path) -> Path:
    """Writes the PNG atomically."""
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return path


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def _new_figure() -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'jaxrec[plots]'") from error
    with _style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes
