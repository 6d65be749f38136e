"""Descriptions of the data sets of a source, and checks of what was parsed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from jaxrec.data.events.interactions import Statistics
from jaxrec.data.store import File
from jaxrec.data.tables.impressions import Impressions


class Expected(NamedTuple):
    """The counts a data set must have: one that differs is not the data set of the published numbers."""

    users: int
    items: int
    interactions: int
    first: str | None = None
    last: str | None = None
    repeat_users: int = 0


class Dataset(NamedTuple):
    """A data set of a source. files: each file it needs, as alternatives of which the first found is read."""

    name: str
    files: tuple[tuple[File, ...], ...]
    expected: Expected


class LabelledTable(NamedTuple):
    """A labelled table of a source. positives: {task: number of positives} that it must have."""

    name: str
    files: tuple[tuple[File, ...], ...]
    positives: Mapping[str, int]


class SessionLog(NamedTuple):
    """A set of sessions of a source. expected: the `SessionStatistics` that it must have."""

    name: str
    files: tuple[tuple[File, ...], ...]
    expected: Mapping[str, int]


class RatingSet(NamedTuple):
    """Ratings with content of a source. ratings: {state: number of ratings} that it must have."""

    name: str
    files: tuple[tuple[File, ...], ...]
    ratings: Mapping[str, int]


Named = TypeVar("Named", Dataset, LabelledTable, SessionLog, RatingSet)


def find_by_name(datasets: Iterable[Named], name: str) -> Named:
    """The data set of this name; ValueError naming the nearest and all names."""
    named = {dataset.name: dataset for dataset in datasets}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"data set {name!r}: unknown{hint}; one of {', '.join(named)}")
    return named[name]


def check_statistics(name: str, found: Statistics, expected: Expected) -> None:
    """Raises ValueError unless the parsed data have the expected counts."""
    for field, value in zip(Expected._fields, expected, strict=True):
        if getattr(found, field) != value:
            raise ValueError(
                f"{name}: {field} = {getattr(found, field)}, expected {value}; the parser or file is wrong"
            )


def check_positives(impressions: Impressions, table: LabelledTable) -> None:
    """Raises ValueError unless each task has the expected number of positives."""
    for task, positives in table.positives.items():
        found = int(impressions.labels[task].sum())
        if found != positives:
            raise ValueError(
                f"{impressions.name}: {found:,} rows with {task} = 1, expected {positives:,}; the parser or "
                "file is wrong"
            )
