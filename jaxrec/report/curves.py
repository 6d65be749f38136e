"""Curves of a history: means over seeds, bands, and the epochs that were kept; what all figures draw."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

# One mapping per epoch: {"epoch": …, "loss": number, or one number per seed, "ndcg@10": …}.
History = Sequence[Mapping[str, Any]]
Band = Literal["range", "deviations"]

# Those of Okabe and Ito (jfly.uni-koeln.de/color), which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


# Entries of a history besides the losses, weights and metrics; the last two are of searches of settings.
_NOT_LOSSES = ("epoch", "phase", "loss", "train_seconds", "seconds", "diverged", "best_value")


class Curve(NamedTuple):
    """One line: epochs, and of each the mean, lowest and highest value (or mean ± two deviations)."""

    epoch: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    num_seeds: int


def curve_of(history: History, metric: str, *, band: Band = "range") -> Curve:
    """Epochs, means over seeds and a band of a metric; empty lists where no epoch has it.

    A seed that ended earlier has NaN and is left out of its later epochs.

    >>> curve_of([{"loss": [1.0, 3.0]}, {}, {"loss": [2.0, 2.0]}], "loss")
    Curve(epoch=[0, 2], mean=[2.0, 2.0], low=[1.0, 2.0], high=[3.0, 2.0], num_seeds=2)
    """
    found: list[tuple[float, ...]] = []
    num_seeds = 1
    for index, entry in enumerate(history):
        if metric not in entry:
            continue
        value = entry[metric]
        values = list(value) if isinstance(value, Sequence) else [value]
        num_seeds = max(num_seeds, len(values))
        values = [value for value in values if not math.isnan(value)]
        if not values:
            continue
        mean = statistics.fmean(values)
        low, high = min(values), max(values)
        if band == "deviations":
            spread = 2 * statistics.pstdev(values)
            low, high = mean - spread, mean + spread
        found.append((entry.get("epoch", index), mean, low, high))
    epoch, means, lows, highs = (list(column) for column in zip(*found, strict=True)) if found else ([],) * 4
    return Curve(epoch, means, lows, highs, num_seeds)


def loss_names(names: Iterable[str]) -> list[str]:
    """Those names in an entry of a history that are losses before they are weighted, in their order.

    >>> loss_names(["epoch", "loss", "click", "weight/click", "valid/auc/click", "seconds"])
    ['click']
    """
    return [name for name in names if "/" not in name and name not in _NOT_LOSSES]


def best_points(history: History, metric: str, epochs: Sequence[int]) -> list[tuple[float, float]]:
    """Epoch and value of each seed in the epoch that was kept of it; without those that lack the metric.

    >>> best_points([{"auc": [0.5, 0.9]}, {"auc": [0.7, 0.8]}], "auc", [1, 0])
    [(1, 0.7), (0, 0.9)]
    """
    at = {entry.get("epoch", i): entry[metric] for i, entry in enumerate(history) if metric in entry}
    values = [(epoch, at[epoch], seed) for seed, epoch in enumerate(epochs) if epoch in at]
    return [(epoch, value[seed] if isinstance(value, Sequence) else value) for epoch, value, seed in values]
