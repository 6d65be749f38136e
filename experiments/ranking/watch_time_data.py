"""Impressions with watch times for `watch_time`: synthetic ones with their truth, and hours of Steam."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.data.events.ratings import split_ratings
from jaxrec.data.sources import steam
from jaxrec.data.synthetic.watch_times import WatchTimes
from jaxrec.data.tables.duration_groups import duration_groups
from jaxrec.data.tables.impressions import split_at_random
from jaxrec.protocols import watch_time as protocol
from jaxrec.types import Tested

FEWEST = 5  # players of a game whose median hours stand for its length


class Setting(NamedTuple):
    """A data set, its sizes, and the answer where it is known."""

    data: protocol.Data
    num_users: int
    num_items: int
    made: WatchTimes | None = None
    best: np.ndarray | None = None  # median watch times of the test part given interest and duration


def synthetic(made: WatchTimes, name: str, groups: int, within: int, *, seed: int) -> Setting:
    """Generated impressions, split at random."""
    parts = split_at_random(len(made.watched), seed=seed)
    columns = {"user": made.user, "item": made.item, "duration": made.duration, "watch_time": made.watched}
    data = prepared(name, parts.rule, columns, parts[:3], groups, within)
    best = made.median_time()[parts.test]
    return Setting(data, made.num_users, made.num_items, made, best)


def steam_hours(groups: int, within: int, *, seed: int) -> Setting:
    """Hours played; a game's median hours in training stand for its length."""
    split = split_ratings(steam.load_interactions(), seed=seed)
    parts = (split.train, split.validation, split.test)
    sizes = np.cumsum([len(part.value) for part in parts])
    item = np.concatenate([part.item for part in parts])
    hours = np.concatenate([part.value for part in parts])
    median = np.full(split.train.num_items + 1, np.median(split.train.value))
    for game, count in enumerate(np.bincount(split.train.item)):
        if count >= FEWEST:
            median[game] = np.median(split.train.value[split.train.item == game])
    columns = {"item": item, "duration": median[item], "watch_time": hours}
    columns["user"] = np.concatenate([part.user for part in parts])
    rows = tuple(np.split(np.arange(len(hours)), sizes[:2]))
    data = prepared("steam-hours", split.rule, columns, rows, groups, within)  # type: ignore[arg-type]
    return Setting(data, split.train.num_users, split.train.num_items)


def prepared(
    name: str,
    rule: str,
    columns: Mapping[str, np.ndarray],
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    groups: int,
    within: int,
) -> protocol.Data:
    """The columns with groups of durations, which the training part makes; within: those of a metric."""
    of_train = [columns[column][parts[0]] for column in ("duration", "watch_time")]
    made, compared = (duration_groups(*of_train, num_groups=number) for number in (groups, within))
    return protocol.resident(name, rule, columns, parts, made, within=compared)


def tested(predicted: np.ndarray, setting: Setting) -> Tested:
    """The test of predicted watch times [S, batches, B], with what only a synthetic truth tells."""
    made, data = setting.made, setting.data
    tested = protocol.tested(data, predicted)
    if made is None or setting.best is None:
        return tested
    mask = data.test["mask"].reshape(-1)
    oracle = np.zeros(mask.shape)
    oracle[mask] = setting.best
    best = protocol.summarise(oracle, data.test)
    level = np.searchsorted(made.durations.astype(np.float32), data.test["duration"].reshape(-1)[mask])
    number = np.bincount(level, minlength=len(made.durations))
    trained = np.searchsorted(made.durations.astype(np.float32), data.columns["duration"])
    of_train = np.bincount(trained, minlength=len(number))
    z = statistics.NormalDist().inv_cdf(1 - 0.05 / (2 * len(number)))
    margin = z * np.sqrt((1 / number + 1 / of_train) / 12)  # 1 / 12: the variance of a quantile
    found = []
    for metrics, times in zip(tested.metrics, predicted, strict=True):
        quantile = made.quantile(times.reshape(-1)[mask], level)
        shift = np.abs(np.bincount(level, quantile, len(number)) / number - 0.5)
        outside = float((shift > margin).sum())
        known = {"quantile_shift": float(shift.max()), "quantile_outside": outside}
        found.append({**metrics, **known, "xauc/best": best["xauc"], "mae/best": best["mae"]})
    return tested._replace(metrics=found)
