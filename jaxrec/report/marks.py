"""The best baseline of a table of results, and the rows that beat it.

A baseline is a row that is not trained (`Result.baseline`). The other rows are compared on one metric with
the best baseline that was measured like them: by the same protocol on the same test cases. A row beats it if
it is better by more than the interval of the difference. What the interval covers depends on what is stored
beside both results:

    values of each user                  users and seeds, as in `jaxrec compare` with that baseline and metric
    the same, where the row has one seed users
    no values, three seeds or more each  seeds
    no values, fewer seeds               the row is not compared

p-values are corrected for the number of rows that are compared in the table (Holm), and are those of
`paired.limit`: a table takes some milliseconds, where draws would take more than a second.

The best baseline is the one of the best mean on the very test queries. Of several that are equally good this
is a lucky one, so a row is marked rather too seldom than too often.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.report import comparison, paired, values
from jaxrec.report.results import Record, mean_and_std, read_result
from jaxrec.report.sentences import metric_phrase, model_label
from jaxrec.report.words import capital, has_direction, lower_is_better

COLUMN = "best baseline"
BEST, BEATEN, BY_USERS, BY_SEEDS = "this row", "beaten", "beaten (users)", "beaten (seeds)"
LEVEL = 0.95

# Settings of stored results that change the test cases, and what a result without the setting has. Results
# with values of each user have a digest of their cases instead.
CASES = {"order": "time"}

_MEANINGS = {
    BEATEN: "better than the best baseline by more than the interval of the difference over users and seeds.",
    BY_USERS: "better by more than the interval over users alone, since the row has one seed; another "
    "training may differ by more.",
    BY_SEEDS: "better by more than the interval over seeds alone, since values of each user are not stored "
    "beside both rows; other users may give another difference.",
}
IN_README = (
    f"Best baseline: {BEST} is the best of its table that is not trained; {BEATEN}: better than that one by "
    "more than the interval ([comparing.md](docs/comparing.md))."
)
_ON_TEST = "parameters chosen on test"
_ALONE = "no baseline is measured like that"
_OTHER_CASES = "other test cases"
_NO_METRIC = "the metric is not measured"
_TOO_FEW = (
    "no values of each user are stored beside both rows, and one of them has fewer than "
    f"{comparison.MIN_SEEDS} seeds"
)


class Marks(NamedTuple):
    """What is said of the rows of a table. cells: one a row, "" for no mark, () where no row can be
    marked; lines: sentences for below the table.
    """

    cells: tuple[str, ...]
    lines: tuple[str, ...]


class _Compared(NamedTuple):
    """A row against the best baseline. p: before correction; better: whether its mean is; mark: its own if it
    beats the baseline.
    """

    p: float
    better: bool
    mark: str


def find_marks(records: Sequence[Record], metric: str) -> Marks:
    """The marks of the rows of a table, by one metric, and the sentences that explain them.

    Raises:
      ValueError: a file of values that is missing, damaged, or not that of its result.
    """
    if all(record.result.protocol.split == "none" for record in records):
        return Marks((), ())  # times, which no baseline is read against
    baselines = [i for i, record in enumerate(records) if record.result.baseline]
    if not baselines:
        return Marks((), ("No row is a baseline (a method that is not trained), so no row is marked.",))
    if not has_direction(metric):
        name = metric_phrase(metric)
        return Marks((), (f"Neither a larger nor a smaller {name} is the better one, so no row is marked.",))
    groups = _measured_alike(records)
    best_of = [_best([i for i in rows if i in baselines], records, metric) for rows in groups]
    bests = [best for best in best_of if best is not None]
    if not bests:
        return Marks((), (f"No baseline has {metric_phrase(metric)}, so no row is marked.",))
    found: dict[int, _Compared | str] = {}
    for rows, best in zip(groups, best_of, strict=True):
        for i in set(rows).difference(baselines):
            found[i] = _ALONE if best is None else _compare(records[best], records[i], metric)
    compared = {i: result for i, result in sorted(found.items()) if isinstance(result, _Compared)}
    corrected = paired.holm(np.array([result.p for result in compared.values()]))
    cells = [BEST if i in bests else "" for i in range(len(records))]
    for (i, result), p in zip(compared.items(), corrected, strict=True):
        if result.better and p <= 1 - LEVEL:
            cells[i] = result.mark
    reasons = {i: reason for i, reason in sorted(found.items()) if isinstance(reason, str)}
    lines = [
        *_baseline_lines(records, metric, groups, bests),
        *_legend(cells, len(compared)),
        *_not_compared(records, reasons),
    ]
    return Marks(tuple(cells), tuple(lines))


def _measured_alike(records: Sequence[Record]) -> list[list[int]]:
    """Numbers of the rows that were measured by the same protocol on the same test cases, a list for each.

    Where the rows of a protocol are known to have several sets of test cases, those without values of each
    user, of which none is known, are a list of their own.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, record in enumerate(records):
        protocol, config = record.result.protocol, record.result.config
        settings = (config.get(name, usual) for name, usual in CASES.items())
        key = (protocol.split, protocol.candidates, protocol.seen, protocol.ties, *settings)
        groups.setdefault(key, []).append(i)
    alike: list[list[int]] = []
    for rows in groups.values():
        by_cases: dict[str, list[int]] = {}
        for i in rows:
            by_cases.setdefault(records[i].values.get("cases", ""), []).append(i)
        alike += by_cases.values() if len(by_cases.keys() - {""}) > 1 else [rows]
    return alike


def _best(rows: Sequence[int], records: Sequence[Record], metric: str) -> int | None:
    """The row with the best mean, the first of equal ones; None where none has the metric."""
    sign = -1 if lower_is_better(metric) else 1
    means = {i: sign * _mean(records[i], metric) for i in rows if metric in records[i].result.metrics}
    return max(means, key=means.__getitem__, default=None)


def _mean(record: Record, metric: str) -> float:
    return mean_and_std(record.result.metrics[metric]).mean


def _compare(best: Record, row: Record, metric: str) -> _Compared | str:
    """A row against the best baseline, or why it is not compared."""
    ours, theirs = row.result, best.result
    if metric not in ours.metrics:
        return _NO_METRIC
    if _chosen_on_test(row):
        return _ON_TEST
    p: float | str | None = None
    mark = BEATEN if len(ours.seeds) > 1 else BY_USERS
    if best.path is not None and row.path is not None and best.values and row.values:
        p = _p_over_users(best.path, best.values["sha256"], row.path, row.values["sha256"], metric)
    if isinstance(p, str):
        return p
    if p is None:
        if min(len(ours.seeds), len(theirs.seeds)) < comparison.MIN_SEEDS:
            return _TOO_FEW
        found = paired.over_seeds(theirs.metrics[metric], ours.metrics[metric])
        p, mark = float(paired.limit(found, level=LEVEL).p), BY_SEEDS
    gain = _mean(row, metric) - _mean(best, metric)
    return _Compared(p, (gain < 0) if lower_is_better(metric) else (gain > 0), mark)


@functools.lru_cache(maxsize=4096)
def _p_over_users(
    first: Path, first_hash: str, second: Path, second_hash: str, metric: str
) -> float | str | None:
    """The p-value over users and seeds of two results with values of the same cases; None where these do not
    give the metric, and a reason where they cannot be compared. The hashes are those of the values.
    """
    own, other = _columns(first, first_hash, metric), _columns(second, second_hash, metric)
    if own is None or other is None or len(own.users) < 2:
        return None
    weights = own.weights[metric]
    if not np.array_equal(weights, other.weights[metric]):
        return _OTHER_CASES
    return float(paired.limit(paired.spread(own.sums[metric], other.sums[metric], weights), level=LEVEL).p)


@functools.lru_cache(maxsize=2)  # the best baseline and the row that is compared with it
def _columns(path: Path, sha256: str, metric: str) -> comparison.Columns | None:
    """The metric of a result for each user; None where its values do not give it."""
    record = read_result(path)
    row = comparison.Row(model_label(record), path, record, values.read_values(path, record.values))
    columns = comparison.columns_of(row, [metric])
    return columns if metric in columns.sums else None


def _names(records: Sequence[Record], rows: Sequence[int]) -> str:
    return ", ".join(model_label(records[i]) for i in rows)


def _baseline_lines(
    records: Sequence[Record], metric: str, groups: Sequence[Sequence[int]], bests: Sequence[int]
) -> list[str]:
    """Which rows are baselines, which is the best, and where it is the best row of all."""
    name = metric_phrase(metric)
    baselines = [i for i, record in enumerate(records) if record.result.baseline]
    alike = " (each among the rows measured like it)" if len(bests) > 1 else ""
    if len(baselines) == len(records):
        return [f"The best row by {name} is a baseline, as all rows are: {_names(records, bests)}{alike}."]
    lines = [
        f"Best baseline by {name}: {_names(records, bests)}{alike}. Baselines are not trained; here they are "
        f"{_names(records, baselines)}."
    ]
    for rows in groups:
        fair = [i for i in rows if not _chosen_on_test(records[i])]
        best = _best(fair, records, metric)
        if best is None or best not in bests:
            continue
        aside = "" if len(fair) == len(rows) else "; rows chosen on test do not count"
        row = model_label(records[best])
        found = f"The best row by {name} is a baseline: {row}"
        if alike:
            found = f"{row}, a baseline, is the best by {name} of the rows measured like it"
        lines.insert(0, f"{found}{aside}.")
    return lines


def _chosen_on_test(record: Record) -> bool:
    return record.result.protocol.selection.endswith(comparison.ON_TEST)


def _legend(cells: Sequence[str], compared: int) -> list[str]:
    """What the marks in the table mean; [] where no row was compared."""
    if not compared:
        return []
    number = f"corrected for {compared} comparisons (Holm)" if compared > 1 else "of one comparison"
    interval = f"Intervals are {100 * LEVEL:g} %, {number}"
    lines = [f"{capital(mark)}: {text}" for mark, text in _MEANINGS.items() if mark in cells]
    if not lines:
        return [f"No row that is compared with it is better by more than the interval. {interval}."]
    lines[-1] += f" {interval}; rows that are compared and not marked do not beat it."
    return lines


def _not_compared(records: Sequence[Record], reasons: Mapping[int, str]) -> list[str]:
    """The rows that are not compared, a sentence for each reason."""
    groups: dict[str, list[int]] = {}
    for i, reason in reasons.items():
        groups.setdefault(reason, []).append(i)
    return [f"Not compared with it: {_names(records, rows)} ({why})." for why, rows in groups.items()]
