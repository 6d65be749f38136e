"""What is found against what it costs, as a PNG file. Needs matplotlib: the extra `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from jaxrec.report.curves import COLOURS
from jaxrec.report.plots import DASHES, MARKERS, _new_figure, _save, _style


def tradeoff_curve(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    title: str,
    cost: str,
    value: str,
    scale: Literal["log", "linear"] = "log",
) -> Path:
    """Plots points (cost, value) of each method and returns the PNG's path.

    Args:
      lines: the points of each method by its name; they are joined in the order of their cost.
      title, cost, value: of the plot and of its axes. scale: of the axis of the cost.

    Raises:
      ValueError: there is no point, or on a logarithmic axis a cost is not above 0.
      ImportError: matplotlib is not installed.
    """
    costs = [point[0] for points in lines.values() for point in points]
    if not costs or (scale == "log" and min(costs) <= 0):
        raise ValueError(
            f"costs {costs}: there must be one at least, and all must be above 0 where scale='log'"
        )
    figure, axes = _new_figure()
    with _style():
        for number, (name, points) in enumerate(lines.items()):
            axes.plot(
                *zip(*sorted(points), strict=True),
                label=name,
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)],
            )
        axes.set_xscale(scale)
        axes.set_title(title)
        axes.set_xlabel(cost)
        axes.set_ylabel(value)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _save(figure, path)
