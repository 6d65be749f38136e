"""Refuses features that leak a label: a label among the features makes every model look perfect."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxrec.data.cells import DECIMAL
from jaxrec.data.tables.features import FIRST_VALUE, Field

if TYPE_CHECKING:
    from jaxrec.data.tables.impressions import Impressions

MAX_CHANCE = 1e-9  # a pattern less probable than this is not explained by an independent feature
MAX_ROWS = 1_000_000  # training rows that are read
_TRUTH = dict.fromkeys(("true", "t", "yes", "y"), "1") | dict.fromkeys(("false", "f", "no", "n"), "0")


def check_leakage(impressions: Impressions, train_rows: np.ndarray, *, allow: Sequence[str] = ()) -> None:
    """Raises ValueError naming the first feature that leaks a label in the training rows of its task.

    A feature leaks a label if it has its name, equals it (as a number, as text, or up to its scale),
    determines it (each value occurs with one label only), or, being a number, separates the classes by one
    threshold or has the same order as a regression label. Missing counts as a value.
    The last three need support: for a feature independent of the label the probability of the pattern must be
    below 1e-9. A value that occurs once, or in one group only (where the table has groups), is no evidence,
    so row numbers pass, and so do a user's columns if a user's label hardly changes.
    Of more than a million training rows, a million evenly spaced ones are read.

    allow: features that are not checked.
    """
    names = {field.name for field in impressions.fields}
    unknown = sorted(set(allow) - names)
    if unknown:
        raise ValueError(f"allow={list(allow)}: {unknown} are no features of {impressions.name}")
    rows = np.asarray(train_rows)
    if rows.size > MAX_ROWS:
        rows = rows[np.linspace(0, rows.size - 1, MAX_ROWS).astype(np.int64)]
    groups = np.arange(rows.size) if impressions.group is None else impressions.group[rows]
    everywhere = np.ones(rows.size, bool)
    inside = {
        task: impressions.spaces[task][rows] if task in impressions.spaces else everywhere
        for task in impressions.tasks
    }
    for field in impressions.fields:
        if field.name in allow:
            continue
        column = impressions.columns[field.name][rows]
        keys = _value_keys(column)
        for task, label in impressions.labels.items():
            where = inside[task]
            seen = _Observed(
                column=column[where], keys=keys[where], label=label[rows[where]], groups=groups[where]
            )
            how = _describe_leak(field, task=task, seen=seen, real=task in impressions.regression)
            if how:
                raise ValueError(
                    f"{impressions.name}: feature {field.name!r} {how} {task!r} in the training rows; "
                    f"take it out, or, if it is known before the label, name it in allow=({field.name!r},) "
                    f"(--allow {field.name})"
                )


class _Observed(NamedTuple):
    """A feature and a label in the training rows. keys: an integer for each distinct value of the feature."""

    column: np.ndarray
    keys: np.ndarray
    label: np.ndarray
    groups: np.ndarray


def _describe_leak(field: Field, task: str, seen: _Observed, real: bool) -> str | None:
    """How a feature leaks a label; None if it does not. real: the label is that of a regression."""
    if field.name == task:
        return "is named like the label"
    classes, target = np.unique(seen.label, return_inverse=True)
    if classes.size < 2:
        return None  # nothing to leak
    if _equals_label(field, seen):
        return "equals the label"
    if _determines_label(seen.keys, target, seen.groups):
        return "determines the label"
    if field.kind == "numeric" and not real and _separates_label(seen.column, target, seen.groups):
        return "separates the label"
    if field.kind == "numeric" and real and _orders_label(seen.keys, target, seen.groups):
        return "has the order of the label"
    if field.kind == "numeric" and not real and _is_scaled_label(seen):
        return "equals, up to its scale, the label"
    return None


def _value_keys(column: np.ndarray) -> np.ndarray:
    """An integer for each distinct value of a column: ids themselves, several ids by a 64-bit hash."""
    if column.ndim == 1 and column.dtype == np.int32:
        return column
    if column.ndim == 2:
        factors = np.random.default_rng(0).integers(1, 2**62, column.shape[1]) * 2 + 1
        column = (column.astype(np.int64) * factors).sum(axis=1)  # the overflow is wanted: it is a hash
    return np.unique(column, return_inverse=True)[1]


def _equals_label(field: Field, seen: _Observed) -> bool:
    """Whether a feature is a copy of the label, as a number or as text such as "1"."""
    column, label = seen.column, seen.label
    if field.kind == "multi":
        return False
    if field.kind == "numeric":
        return np.array_equal(column, label)
    if column.min() < FIRST_VALUE or _as_label(field.raw[column[0] - FIRST_VALUE]) != label[0]:
        return False
    ids, place = np.unique(column, return_inverse=True)
    return np.array_equal(
        np.array([_as_label(value) for value in field.raw[ids - FIRST_VALUE]])[place], label
    )


def _is_scaled_label(seen: _Observed) -> bool:
    """Whether a number has two values, the larger where the label is 1: a standardised copy."""
    high = seen.column == seen.column.max()
    return np.array_equal(high, seen.label == 1) and np.unique(seen.column).size == 2


def _as_label(value: object) -> float:
    """The label that a raw value means, such as 1 for "yes"; NaN if it means none."""
    text = _TRUTH.get(str(value).strip().lower(), str(value).strip())
    return float(np.float32(text)) if re.fullmatch(DECIMAL, text) else math.nan


def _determines_label(keys: np.ndarray, target: np.ndarray, groups: np.ndarray) -> bool:
    first = np.empty(keys.max() + 1, target.dtype)
    first[keys[::-1]] = target[::-1]  # the label of each value's first row
    if (first[keys] != target).any():
        return False
    once = np.unique(keys.astype(np.int64) * (int(groups.max()) + 1) + groups, return_index=True)[1]
    keys, target = keys[once], target[once]  # a value counts once per group
    sizes, how_often = np.unique(np.bincount(keys), return_counts=True)
    shares, classes = np.unique(np.bincount(target) / target.size, return_counts=True)
    with np.errstate(divide="ignore"):
        pure = np.log(
            (classes * shares ** sizes[:, None]).sum(axis=1)
        )  # probability that n occurrences agree
    return bool((how_often * pure)[sizes > 1].sum() < math.log(MAX_CHANCE))


def _orders_label(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> bool:
    """Whether x has the order of y, or the reverse; both are ranks of distinct values."""
    if not any((np.diff(y[np.lexsort((sign * y, x))]) * sign >= 0).all() for sign in (1, -1)):
        return False
    once = np.unique(groups, return_index=True)[1]
    ties = sum(math.lgamma(count + 1) for ids in (x, y) for count in np.bincount(ids[once]))
    return math.log(2) + ties - math.lgamma(once.size + 1) < math.log(MAX_CHANCE)


def _separates_label(x: np.ndarray, target: np.ndarray, groups: np.ndarray) -> bool:
    low, high = x[target == 0], x[target == 1]
    if not (low.max() < high.min() or high.max() < low.min()):
        return False
    sizes = [np.unique(groups[target == label]).size for label in (0, 1)]
    ways = math.lgamma(sum(sizes) + 1) - sum(math.lgamma(size + 1) for size in sizes)
    return math.log(2) - ways < math.log(MAX_CHANCE)
