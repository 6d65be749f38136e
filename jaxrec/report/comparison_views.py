"""A comparison of results as a table and as a picture. The picture needs matplotlib: the extra `plots`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from tabulate import tabulate

from jaxrec.report.comparison import Comparison, Difference
from jaxrec.report.results import write_atomically

PICTURES = (".png", ".svg", ".pdf")


def table(comparison: Comparison) -> str:
    """One line for each difference, and the notes below."""
    level = comparison.level
    rows = [
        [
            found.metric,
            found.first,
            found.second,
            *(f"{mean:.4f}" for mean in found.means),
            f"{found.means[1] - found.means[0]:+.4f}",
            f"{found.interval[0]:+.4f} to {found.interval[1]:+.4f}",
            format_p(found.p),
            format_p(found.corrected),
            verdict(found, level),
        ]
        for found in comparison.differences
    ]
    names = ["metric", "A", "B", "mean of A", "mean of B", "B - A", f"{100 * level:g} % interval"]
    columns = [*names, "p", "p corrected", "B is"]
    align = ["left"] * 3 + ["right"] * 6 + ["left"]
    text = tabulate(rows, headers=columns, tablefmt="pipe", colalign=align, disable_numparse=True)
    return "\n".join([text, "", *(f"- {note}" for note in (_method_note(comparison), *comparison.notes))])


def verdict(found: Difference, level: float) -> str:
    """What the corrected p-value says of the second row: "higher", "lower", or "" where it says neither."""
    if found.corrected > 1 - level:
        return ""
    return "higher" if found.means[1] > found.means[0] else "lower"


def format_p(p: float) -> str:
    """A p-value with three digits.

    >>> format_p(0.0123), format_p(0.0002)
    ('0.012', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def check_picture(path: str | Path) -> Path:
    """The path, whose name must be that of a picture (ValueError)."""
    path = Path(path)
    if path.suffix not in PICTURES:
        raise ValueError(f"{path}: a picture's name must end in one of {', '.join(PICTURES)}")
    return path


def plot(comparison: Comparison, path: str | Path) -> Path:
    """Draws every difference with its interval, a panel for each metric, and returns the path.

    A difference that the corrected p-value shows is filled, any other hollow. The file is written atomically.

    Raises:
      ValueError: a file name that ends in none of `PICTURES`.
      ImportError: matplotlib is not installed.
    """
    path = check_picture(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'jaxrec[plots]'") from error
    metrics = list(dict.fromkeys(found.metric for found in comparison.differences))
    by_metric = [[found for found in comparison.differences if found.metric == name] for name in metrics]
    height = sum(0.35 * len(found) + 0.75 for found in by_metric) + 0.6
    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    users = f"{comparison.users:,} users or groups"
    figure.suptitle(f"{comparison.dataset}: differences between models, {users}", fontsize="medium")
    panels = figure.subplots(
        len(metrics), 1, squeeze=False, height_ratios=[0.35 * len(found) + 0.75 for found in by_metric]
    )
    for axes, name, found in zip(panels[:, 0], metrics, by_metric, strict=True):
        difference = np.array([each.means[1] - each.means[0] for each in found])
        ends = np.array([each.interval for each in found]).T
        y = np.arange(len(found))[::-1]
        axes.hlines(y, *ends, color="tab:blue")
        shown = [bool(verdict(each, comparison.level)) for each in found]
        colors = ["tab:blue" if each else "white" for each in shown]
        axes.scatter(difference, y, c=colors, edgecolors="tab:blue", zorder=3)
        axes.axvline(0.0, color="gray", linewidth=0.8)
        axes.set_yticks(y, [f"{each.second} - {each.first}" for each in found])
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_title(name, loc="left", fontsize="medium")
    panels[-1, 0].set_xlabel(
        f"difference with {100 * comparison.level:g} % interval; filled: shown after correction"
    )
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return path


def _method_note(comparison: Comparison) -> str:
    count = len(comparison.differences)
    number = "one comparison" if count == 1 else f"{count} comparisons (Holm)"
    return (
        f"Means over seeds and {comparison.users:,} users or groups. Intervals are for one difference each; "
        f"the corrected p-value is for {number}, and B is higher or lower where it is at most "
        f"{1 - comparison.level:.2g}."
    )
