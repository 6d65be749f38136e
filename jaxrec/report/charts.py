"""Line charts as inline SVG, for pages that need no library and nothing from the network.

A chart is 360 units wide, so that its text is readable on a narrow screen, and is drawn in the classes of the
page's style sheet (`line`, `band`, `best`, each with `s0`, `s1`, …), which sets the colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from jaxrec.report.curves import Curve

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 38  # margins
MARKED = 25  # epochs up to which each has a dot
Point = tuple[float, float]


def line_chart(
    curves: Mapping[str, Curve],
    *,
    identifier: str,
    title: str,
    description: str,
    best: Sequence[Point] = (),
    boundaries: Sequence[float] = (),
) -> str:
    """A chart of curves by name against the epoch.

    identifier: of the chart within its page. title, description: what a screen reader says. best: epochs and
    values that are marked by a ring. boundaries: epochs at which another phase of training begins.

    Raises:
      ValueError: no curve has a point.
    """
    epochs = [x for curve in curves.values() for x in curve.epoch]
    if not epochs:
        raise ValueError(f"{title}: no curve has a point")
    values = [y for curve in curves.values() for part in (curve.low, curve.high) for y in part]
    values += [y for _, y in best]
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    scale = _Scale(min(epochs), max(epochs), low, high)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{identifier}-t {identifier}-d">',
        f'<title id="{identifier}-t">{escape(title)}</title>',
        f'<desc id="{identifier}-d">{escape(description)}</desc>',
        *_axes(scale, ticks),
    ]
    for boundary in boundaries:
        x = f"{scale.x(boundary - 0.5):.1f}"
        parts.append(f'<line class="phase" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for number, curve in enumerate(curves.values()):
        parts += _curve(scale, curve, number)
    parts += [f'<circle class="best" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="5"/>' for x, y in best]
    return "\n".join([*parts, "</svg>"])


class _Scale:
    """Where epochs and values lie on the chart."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high

    def x(self, epoch: float) -> float:
        span = self.last - self.first
        part = (epoch - self.first) / span if span else 0.5
        return LEFT + 6 + part * (WIDTH - LEFT - RIGHT - 12)

    def y(self, value: float) -> float:
        span = self.high - self.low
        part = (value - self.low) / span if span else 0.5
        return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def _axes(scale: _Scale, ticks: Sequence[float]) -> list[str]:
    """Lines and numbers of both axes."""
    parts = []
    digits = _digits(ticks)
    for tick in ticks:
        y = f"{scale.y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick end" x="{LEFT - 6}" y="{y}" dy="0.35em">{_number(tick, digits)}</text>'
        )
    bottom = HEIGHT - BOTTOM
    for epoch in epoch_ticks(scale.first, scale.last):
        x = f"{scale.x(epoch):.1f}"
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 16}">{epoch}</text>')
    parts.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}">epoch</text>')
    return parts


def _curve(scale: _Scale, curve: Curve, number: int) -> list[str]:
    """A band over seeds, the line of their mean, and dots where there are few epochs."""
    parts, style = [], f"s{number % 6}"
    if curve.num_seeds > 1 and len(curve.epoch) > 1:
        there = list(zip(curve.epoch, curve.high, strict=True))
        back = list(zip(curve.epoch, curve.low, strict=True))
        parts.append(f'<polygon class="band {style}" points="{_points(scale, there + back[::-1])}"/>')
    line = list(zip(curve.epoch, curve.mean, strict=True))
    parts.append(f'<polyline class="line {style}" points="{_points(scale, line)}"/>')
    if len(line) <= MARKED:
        parts += [
            f'<circle class="dot {style}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.4"/>'
            for x, y in line
        ]
    return parts


def _points(scale: _Scale, points: Sequence[Point]) -> str:
    return " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)


def nice_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers at equal steps that enclose a range, about `most` of them.

    >>> nice_ticks(0.013, 0.042)
    [0.01, 0.02, 0.03, 0.04, 0.05]
    """
    if low == high:
        low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def epoch_ticks(first: float, last: float, *, most: int = 6) -> list[int]:
    """Whole epochs at equal steps within a range.

    >>> epoch_ticks(0, 123)
    [0, 25, 50, 75, 100]
    """
    steps = [
        int(factor * 10**power) for power in range(9) for factor in (1, 2, 2.5, 5) if power or factor != 2.5
    ]
    step = next(step for step in steps if (last - first) / step <= most - 1)
    return list(range(math.ceil(first / step) * step, math.floor(last) + 1, step))


def _digits(ticks: Sequence[float]) -> int:
    """Decimals that tell ticks apart."""
    step = ticks[1] - ticks[0]
    return next(digits for digits in range(16) if abs(round(step, digits) - step) < step * 1e-6)


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"
