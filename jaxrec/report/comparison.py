"""Results compared in pairs, by the values of each user or group that are stored beside them.

Two results can be compared if they were measured on the same cases under the same protocol; otherwise the
error names what differs. The statistics are those of `report.paired`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.report import paired, values
from jaxrec.report.results import STUDIES, Record, read_result
from jaxrec.types import GroupSums, Protocol, Ranks

MIN_SEEDS = 3  # fewer say little about how much training varies
TOLERANCE = 2e-5  # of a metric, between its value in the result file and the one from the values of each user
ON_TEST = " on test"  # the end of a selection that read the test split
_RANK_METRIC = re.compile(r"(hit|recall|ndcg|mrr)(?:@([1-9]\d*))?")


class Row(NamedTuple):
    """A result with the values that belong to it. name: the model's, with what tells it from other rows."""

    name: str
    path: Path
    record: Record
    kept: values.Kept


class Columns(NamedTuple):
    """A row's metrics as sums over users or groups. S seeds, G users.

    cases: {name of a column: what has to agree with another result}; users: ids, [G]; sums: {metric: [S, G]};
    weights: {metric: [G]}. A metric is sums.sum(-1) / weights.sum().
    """

    cases: Mapping[str, np.ndarray]
    users: np.ndarray
    sums: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]


class Difference(NamedTuple):
    """A metric of two rows: their means over seeds, the interval of second − first, and p-values.

    p: of this comparison by itself; corrected: for the number of comparisons made together (Holm).
    """

    metric: str
    first: str
    second: str
    means: tuple[float, float]
    interval: tuple[float, float]
    p: float
    corrected: float


class Comparison(NamedTuple):
    """Differences with what has to be said about them.

    level: of the intervals, and 1 − that of the tests. users: the number of users or groups. notes: sentences
    on seeds, and on metrics that could not be compared.
    """

    dataset: str
    differences: tuple[Difference, ...]
    level: float
    users: int
    notes: tuple[str, ...]


def read_rows(paths: Sequence[str | Path]) -> list[Row]:
    """Reads results with their values.

    paths: result files, folders of trained runs, of which it is the run's own result, or other folders, of
    which it is every result below.

    Raises:
      ValueError: no result at a path, the same result twice, a corrupt file, or a result without values.
    """
    files = [file for path in paths for file in find_results(Path(path))]
    repeated = {str(file) for file in files if files.count(file) > 1}
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))}: named twice; name each result once")
    records = [read_result(file) for file in files]
    names = [record.result.model + f" [{record.variant}]" * bool(record.variant) for record in records]
    if len(set(names)) < len(names):
        names = [f"{record.result.experiment}/{name}" for record, name in zip(records, names, strict=True)]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    kept = [values.read_values(file, record.values) for file, record in zip(files, records, strict=True)]
    return [Row(*parts) for parts in zip(names, files, records, kept, strict=True)]


def find_results(path: Path) -> list[Path]:
    """The result files that a path stands for, see `read_rows`."""
    if path.is_file():
        return [path]
    run = path / "run.json"
    if run.is_file():
        try:
            name = json.loads(run.read_text(encoding="utf-8"))["name"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{run}: not the description of a run ({error}); train the run again") from error
        found = sorted((path / "results").glob(f"*/*/{name}.json"))
    else:
        found = sorted(file for file in path.rglob("*.json") if file.parent.name != STUDIES)
    if not found:
        what = "has no result file" if path.is_dir() else "no such file or folder"
        raise ValueError(f"{path}: {what}; name result files, folders of results or folders of trained runs")
    return found


def columns_of(row: Row, metrics: Sequence[str] = ()) -> Columns:
    """The metrics of a row that are means over its users or groups.

    metrics: those to compute; none means all.

    Raises:
      ValueError: a metric disagrees with the one in the result file, or the seeds do.
    """
    result, kept = row.record.result, row.kept
    if kept.seeds != result.seeds:
        raise ValueError(f"{row.path}: seeds {result.seeds}, and {kept.seeds} in its values; run it again")
    if isinstance(kept.values, Ranks):
        columns = _from_ranks(kept.values, list(metrics or result.metrics))
    else:
        columns = _from_sums(kept.values, metrics or list(kept.values.sums))
    for name, sums in columns.sums.items():
        again = sums.sum(axis=-1) / columns.weights[name].sum()
        if not np.allclose(again, result.metrics[name], rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError(
                f"{row.path}: {name} is {result.metrics[name]}, and {tuple(again.tolist())} by the values of "
                "each user; the metric or the file has changed, run the experiment again"
            )
    return columns


def compare(
    rows: Sequence[Row],
    *,
    metrics: Sequence[str] = (),
    all_pairs: bool = False,
    level: float = 0.95,
    draws: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compares rows with the first of them, or every two of them.

    Args:
      rows: at least two, as `read_rows` reads them.
      metrics: those to compare; none means all that all rows have. Each adds to the number of comparisons.
      all_pairs: every two rows instead of the first with each of the others.
      level: of the intervals, and 1 − the level of the tests.
      draws: of the bootstrap.
      seed: of these draws.

    Raises:
      ValueError: fewer than two rows, rows that differ in cases or protocol, or a metric that some row lacks.
    """
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} result: name at least two to compare")
    columns = [columns_of(row) for row in rows]
    for row, other in zip(rows[1:], columns[1:], strict=True):
        check_comparable(rows[0], columns[0], row, other)
    common = [name for name in columns[0].sums if all(name in other.sums for other in columns)]
    missing = [name for name in metrics if name not in common]
    if missing or not common:
        raise ValueError(
            f"metrics {missing or 'of all rows'}: no values of each user in every row; choose among {common}"
        )
    names = list(dict.fromkeys(metrics)) or common  # one named twice is one comparison
    weights = np.stack([columns[0].weights[name] for name in names])  # [M, G]
    sums = [np.stack([found.sums[name] for name in names]) for found in columns]  # [M, S, G] of each row
    pairs = list(itertools.combinations(range(len(rows)), 2)) if all_pairs else _with_first(len(rows))
    found = []
    for a, b in pairs:
        spread = paired.spread(sums[a], sums[b], weights)
        found.append((spread, paired.interval(spread, level=level, draws=draws, seed=seed)))
    corrected = paired.holm(np.stack([interval.p for _, interval in found]))  # [pairs, M]
    differences = [
        Difference(
            metric=name,
            first=rows[a].name,
            second=rows[b].name,
            means=(float(spread.first[m]), float(spread.second[m])),
            interval=(float(interval.low[m]), float(interval.high[m])),
            p=float(interval.p[m]),
            corrected=float(corrected[i, m]),
        )
        for m, name in enumerate(names)
        for i, ((a, b), (spread, interval)) in enumerate(zip(pairs, found, strict=True))
    ]
    notes = [*seed_notes(rows), *_left_out(rows, common)]
    dataset = rows[0].record.result.dataset
    return Comparison(dataset, tuple(differences), level, len(columns[0].users), tuple(notes))


def check_comparable(first: Row, own: Columns, second: Row, other: Columns) -> None:
    """Checks that two rows were measured on the same cases in the same way.

    Raises:
      ValueError: they were not; the message names what differs.
    """
    pair = f"{first.path} and {second.path} cannot be compared"
    a, b = first.record.result, second.record.result
    differing = [f"{name} {x!r} and {y!r}" for name, x, y in _settings(a.protocol, b.protocol) if x != y]
    if a.dataset != b.dataset:
        differing.insert(0, f"data set {a.dataset!r} and {b.dataset!r}")
    if differing:
        raise ValueError(f"{pair}: {'; '.join(differing)}; measure both in the same way")
    if own.cases.keys() != other.cases.keys():
        raise ValueError(
            f"{pair}: one has {', '.join(own.cases)}, the other {', '.join(other.cases)}; "
            "measure both by the same version of the experiment"
        )
    for name, column in own.cases.items():
        if difference := _first_difference(column, other.cases[name]):
            raise ValueError(f"{pair}: the test cases differ in {name}: {difference}; use the same split")
    for name in own.weights.keys() & other.weights.keys():
        if difference := _first_difference(own.weights[name], other.weights[name]):
            raise ValueError(
                f"{pair}: the weights of {name} differ: {difference}; measure both on the same examples"
            )


def seed_notes(rows: Sequence[Row]) -> list[str]:
    """What the seeds of these rows allow to say, a sentence for each thing."""
    notes = []
    trained = [row for row in rows if row.record.result.steps]
    one = [row.name for row in trained if len(row.kept.seeds) == 1]
    if one:
        notes.append(
            f"Too few seeds to speak of training (one): {', '.join(one)}. The intervals are those of "
            "these very parameters on other users; another training may differ by more."
        )
    few = [row.name for row in trained if 1 < len(row.kept.seeds) < MIN_SEEDS]
    if few:
        notes.append(
            f"Too few seeds to speak of training with confidence (two): {', '.join(few)}. Train "
            f"{MIN_SEEDS} or more, since two hardly show how much a metric varies."
        )
    if len(trained) > 1:
        same = len({row.kept.seeds for row in trained}) == 1
        numbers = "the same numbers in all rows" if same else "other numbers in some rows"
        notes.append(f"Users are paired. Seeds ({numbers}) are not: every training counts by itself.")
    return notes


def _from_ranks(ranks: Ranks, names: Sequence[str]) -> Columns:
    """Sums over users of the metrics that follow from a rank: hit, recall, ndcg and mrr."""
    users, start = np.unique(ranks.user, return_index=True)
    order = np.argsort(start)  # users in the order of the file, in which each one's queries are together
    users, start = users[order], start[order]
    gains = {name: gain for name in names if (gain := rank_gain(name, ranks.rank)) is not None}
    sums = {name: np.add.reduceat(gain, start, axis=1) for name, gain in gains.items()}
    counts = np.diff(np.append(start, len(ranks.user))).astype(np.float64)
    cases = {"user": ranks.user, "events before the target": ranks.position, "target": ranks.target}
    return Columns(cases, users, sums, dict.fromkeys(sums, counts))


def rank_gain(name: str, rank: np.ndarray) -> np.ndarray | None:
    """A metric by its name from 1-based ranks, as `jaxrec.metrics` defines it: [S, Q] → [S, Q].

    None for a name that is not that of a metric of one rank.

    A target that is not a candidate has the largest int32 as its rank, and 0 in every metric.
    """
    match = _RANK_METRIC.fullmatch(name)
    if match is None or (match[2] is None and match[1] != "mrr"):
        return None
    miss = np.iinfo(np.int32).max
    inside = rank <= min(int(match[2] or miss), miss - 1)
    gain = 1.0 / np.log2(1.0 + rank) if match[1] == "ndcg" else 1.0 / rank if match[1] == "mrr" else 1.0
    return np.where(inside, gain, 0.0)


def _from_sums(found: GroupSums, names: Sequence[str]) -> Columns:
    kept = [name for name in names if name in found.sums]
    sums = {name: found.sums[name].astype(np.float64) for name in kept}
    weights = {name: found.weights[name].astype(np.float64) for name in kept}
    labels = {f"labels of {task}": column for task, column in found.labels.items()}
    return Columns({"user or group": found.group, **labels}, found.group, sums, weights)


def _with_first(count: int) -> list[tuple[int, int]]:
    return [(0, other) for other in range(1, count)]


def _settings(a: Protocol, b: Protocol) -> list[tuple[str, object, object]]:
    """The parts of two protocols that have to agree: neither the loss nor cut-offs change a common metric."""
    parts: list[tuple[str, object, object]] = [
        (name, getattr(a, name), getattr(b, name)) for name in ("split", "candidates", "seen", "ties")
    ]
    if "none" not in (a.selection, b.selection):
        x, y = ("test" if p.selection.endswith(ON_TEST) else "validation" for p in (a, b))
        parts.append(("selection on", x, y))
    return parts


def _first_difference(a: np.ndarray, b: np.ndarray) -> str:
    """Where two columns differ first, in words; "" if they are equal."""
    if len(a) != len(b):
        return f"{len(a):,} and {len(b):,} of them"
    differing = np.flatnonzero(a != b)
    if not len(differing):
        return ""
    i = int(differing[0])
    return f"number {i} is {a[i]} and {b[i]} ({len(differing):,} of {len(a):,} differ)"


def _left_out(rows: Sequence[Row], common: Sequence[str]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.record.result.metrics if name not in common)
    if not names:
        return []
    return [f"Not compared, since not every row has them as means over users: {', '.join(names)}."]
