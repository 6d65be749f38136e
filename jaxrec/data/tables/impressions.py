"""Labelled tables: features and one or more labels, for click prediction and multi-task learning.

Columns have the names of a training batch: features their own, labels `label/<task>`, sample spaces
`space/<task>`, and `group` for metrics per user or session.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.features import Field, decode
from jaxrec.data.tables.leakage import check_leakage
from jaxrec.data.validation import check_count, check_dtype, check_name, check_seconds

RESERVED_NAMES = ("mask", "group", "user")  # names that batches use for other columns


@dataclasses.dataclass(frozen=True, eq=False)
class Impressions:
    """N rows of features and labels. Raises ValueError on bad columns, naming the column and the rule.

    columns: {feature: int32 [N] | int32 [N, L], padded with 0 | float32 [N]}, described by `fields`.
    labels: {task: float32 [N]}, 0 or 1, or any finite number for the tasks in `regression`.
    spaces: {task: bool [N]}, sample spaces: the rows where a task has a label, such as clicked ones; a task
    without one has labels in all rows.
    group: user or session of each row, for metrics per group, int32 [N] >= 0. time: seconds, int64 [N].
    """

    name: str
    columns: Mapping[str, np.ndarray]
    fields: tuple[Field, ...]
    labels: Mapping[str, np.ndarray]
    spaces: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    group: np.ndarray | None = None
    time: np.ndarray | None = None
    regression: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [field.name for field in self.fields]
        if not names or sorted(names) != sorted(self.columns):
            raise ValueError(
                f"{self.name}: fields {names} and columns {list(self.columns)}: one field for each column"
            )
        if not self.labels:
            raise ValueError(f"{self.name}: there is no label; at least one task is needed")
        for kind, given in (("spaces", self.spaces), ("regression", self.regression)):
            strange = sorted(set(given) - set(self.labels))
            if strange:
                raise ValueError(f"{self.name}: {kind} of {strange}: no such task; tasks: {self.tasks}")
        for name in [*names, *self.labels]:
            if name in RESERVED_NAMES or "/" in name:
                raise ValueError(
                    f"{self.name}: {name!r} is a name that batches use for another column; rename it"
                )
        check_count(self.num_rows, f"{self.name}: rows")
        for field in self.fields:
            self._check_feature(field, self.columns[field.name])
        self._check_vocabularies()
        for task, label in self.labels.items():
            self._check_label(task, label)
        for task, space in self.spaces.items():
            self._check_column(f"space/{task}", space, np.bool_)
            if not space.any():
                raise ValueError(f"{self.name}: space/{task}: no row is in it, so the task has no label")
        if self.group is not None:
            self._check_column("group", self.group, np.int32)
            if self.group.min() < 0:
                raise ValueError(f"{self.name}: group {self.group.min()}: must not be negative")
        if self.time is not None:
            self._check_column("time", self.time, np.int64)
            check_seconds(self.time, f"{self.name}: time")

    def _check_column(self, what: str, column: np.ndarray, dtype: type, ndim: int = 1) -> None:
        check_dtype(column, dtype=dtype, where=f"{self.name}: {what}", ndim=ndim)
        if len(column) != self.num_rows:
            raise ValueError(f"{self.name}: {what} has {len(column):,} rows, the labels {self.num_rows:,}")

    def _check_finite(self, what: str, column: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            raise ValueError(
                f"{self.name}: {what}: {column[bad[0]]} at row {bad[0]} ({bad.size:,} such) is not finite"
            )

    def _check_feature(self, field: Field, column: np.ndarray) -> None:
        if field.kind == "numeric":
            self._check_column(field.name, column, np.float32)
            return self._check_finite(field.name, column)
        several = field.kind == "multi"
        self._check_column(field.name, column=column, dtype=np.int32, ndim=2 if several else 1)
        least = 0 if several else 1
        bad = np.argwhere((column < least) | (column >= field.vocab_size))
        if bad.size:
            raise ValueError(
                f"{self.name}: {field.name}: id {column[tuple(bad[0])]} at row {bad[0][0]} ({len(bad):,} "
                f"such) is outside {least}..{field.vocab_size - 1}; known values start at 3"
            )
        if several and not (column > 0).any(axis=1).all():
            row = int((column > 0).any(axis=1).argmin())
            raise ValueError(f"{self.name}: {field.name}: row {row} is all padding; give it id 1 (missing)")
        return None

    def _check_vocabularies(self) -> None:
        sizes: dict[str, int] = {}
        for field in self.fields:
            if (
                field.kind != "numeric"
                and sizes.setdefault(field.vocabulary, field.vocab_size) != field.vocab_size
            ):
                raise ValueError(
                    f"{self.name}: {field.name}: vocab_size {field.vocab_size}, but other fields of the "
                    f"vocabulary {field.vocabulary!r} have {sizes[field.vocabulary]}; they must agree"
                )

    def _check_label(self, task: str, label: np.ndarray) -> None:
        self._check_column(f"label/{task}", label, np.float32)
        self._check_finite(f"label/{task}", label)
        if task not in self.regression:
            bad = np.flatnonzero((label != 0) & (label != 1))
            if bad.size:
                raise ValueError(
                    f"{self.name}: label/{task}: {label[bad[0]]} at row {bad[0]} ({bad.size:,} such) is "
                    f"neither 0 nor 1; a task of real numbers is named in regression=({task!r},)"
                )

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.labels.values())))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def columns_for_training(self) -> dict[str, np.ndarray]:
        """All rows as a flat dict of columns, to keep on the device."""
        columns = dict(self.columns)
        columns |= {f"label/{task}": label for task, label in self.labels.items()}
        columns |= {f"space/{task}": space for task, space in self.spaces.items()}
        return columns if self.group is None else columns | {"group": self.group}

    def batched(self, indices: np.ndarray, batch_size: int, *, multiple: int = 1) -> dict[str, np.ndarray]:
        """The rows `indices` in batches of one shape: each column [batches, batch_size, ...], and `mask`.

        The last batch is padded with zeros, mask False; the number of batches is rounded up to `multiple`
        (devices).
        """
        if batch_size < 1 or multiple < 1:
            raise ValueError(f"batch_size={batch_size}, multiple={multiple}: must be at least 1")
        rows = check_row_indices(f"{self.name}: indices", indices, self.num_rows)
        batches = -(-len(rows) // (batch_size * multiple)) * multiple
        size = batches * batch_size

        def shape(column: np.ndarray) -> np.ndarray:
            out = np.zeros((size, *column.shape[1:]), column.dtype)
            out[: len(rows)] = column[rows]
            return out.reshape(batches, batch_size, *column.shape[1:])

        columns = {name: shape(column) for name, column in self.columns_for_training().items()}
        return columns | {"mask": (np.arange(size) < len(rows)).reshape(batches, batch_size)}

    def split(
        self,
        train: np.ndarray,
        validation: np.ndarray,
        test: np.ndarray,
        *,
        rule: str = "given rows",
        allow: Sequence[str] = (),
    ) -> ImpressionSplit:
        """Splits the table by row indices of three parts that do not overlap.

        allow: features that may determine a label.

        Raises ValueError for an empty part, overlapping parts, and features that leak a label (see
        `leakage.check_leakage`).
        """
        return ImpressionSplit(
            self, train=train, validation=validation, test=test, rule=rule, allow=tuple(allow)
        )

    def as_ctr_cvr(self, click: str, conversion: str) -> Impressions:
        """The same rows with the tasks of a funnel: ctr, cvr on clicked rows only, and ctcvr on all.

        click, conversion: tasks of this table, both labelled on every row; a conversion implies a click.
        """
        for task in (click, conversion):
            if task not in self.labels or task in self.spaces or task in self.regression:
                raise ValueError(f"{self.name}: {task!r} is no task with labels 0 and 1 on every row")
        clicked, converted = self.labels[click], self.labels[conversion]
        bad = np.flatnonzero(converted > clicked)
        if bad.size:
            raise ValueError(
                f"{self.name}: row {bad[0]} ({bad.size:,} such) has {conversion} = 1 and {click} = 0; "
                "correct the labels or remove these rows"
            )
        labels = {"ctr": clicked, "cvr": converted, "ctcvr": converted}
        return dataclasses.replace(self, labels=labels, spaces={"cvr": clicked > 0}, regression=())

    def raw_values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Raw values of a categorical feature in the given rows."""
        fields = {field.name: field for field in self.fields}
        if name not in fields:
            raise ValueError(f"{self.name}: {name!r} is no feature; features: {', '.join(fields)}")
        return decode(fields[name], self.columns[name][rows])


@dataclasses.dataclass(frozen=True, eq=False)
class ImpressionSplit:
    """Row indices of training, validation and test; made by `Impressions.split`.

    Tasks with a single class in a part are named on stderr when the split is made (`single_classes`).
    """

    impressions: Impressions
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    rule: str
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where, count = f"{self.impressions.name} ({self.rule})", self.impressions.num_rows
        check_parts(where, {"train": self.train, "validation": self.validation, "test": self.test}, count)
        check_leakage(self.impressions, self.train, allow=self.allow)
        if self.single_classes():
            print(f"note: {where}: {self._describe_single_classes()}", file=sys.stderr)

    def single_classes(self) -> dict[str, dict[str, float | None]]:
        """{task: {part: its only label, None if the task has no row}}, without regression tasks.

        Such a task teaches nothing in training, and has no AUC in validation or test.
        """
        table, found = self.impressions, {}
        for task in table.tasks:
            if task in table.regression:
                continue
            only: dict[str, float | None] = {}
            for part, rows in (("train", self.train), ("validation", self.validation), ("test", self.test)):
                inside = rows[table.spaces[task][rows]] if task in table.spaces else rows
                labels = table.labels[task][inside]
                if not labels.size or labels.min() == labels.max():
                    only[part] = float(labels[0]) if labels.size else None
            if only:
                found[task] = only
        return found

    def check_classes(self, tasks: Sequence[str] | None = None) -> None:
        """Raises ValueError naming each of `tasks` (None: all) that has a single class in a part."""
        chosen = self.impressions.tasks if tasks is None else tasks
        if any(task in chosen for task in self.single_classes()):
            raise ValueError(
                f"{self.impressions.name} ({self.rule}): {self._describe_single_classes(chosen)}: choose "
                "other shares, limits or tasks, or take more rows"
            )

    def _describe_single_classes(self, tasks: Sequence[str] | None = None) -> str:
        texts = [
            f"task {task!r} "
            + ("has no row" if label is None else f"is {label:g} in every row")
            + f" of {part}"
            for task, only in self.single_classes().items()
            if tasks is None or task in tasks
            for part, label in only.items()
        ]
        return "; ".join(texts)

    def as_ctr_cvr(self, click: str, conversion: str) -> ImpressionSplit:
        """The same split with the tasks of a funnel, see `Impressions.as_ctr_cvr`."""
        return dataclasses.replace(self, impressions=self.impressions.as_ctr_cvr(click, conversion))


class SplitIndices(NamedTuple):
    """Ascending row indices of three parts, and how the split was made; needed to fit the encoders."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    rule: str


def split_at_random(count: int, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> SplitIndices:
    """Splits `count` rows at random; a share of 0 gives an empty part, to be filled from elsewhere."""
    _check_shares(validation, test)
    order = np.random.default_rng(seed).permutation(count)
    for_test, for_validation = round(count * test), round(count * validation)
    train, middle, last = np.split(order, [count - for_test - for_validation, count - for_test])
    rule = f"random {validation:g}/{test:g}, seed {seed}"
    return SplitIndices(train=np.sort(train), validation=np.sort(middle), test=np.sort(last), rule=rule)


def split_in_time_order(time: np.ndarray, *, validation: float = 0.1, test: float = 0.1) -> SplitIndices:
    """Splits by time (seconds, [N]): training, then validation, then test; equal times are in one part.

    A share of 0 gives an empty part, as in `split_at_random`.
    """
    _check_shares(validation, test)
    ordered = np.sort(time)
    count = len(ordered)

    def boundary(share: float) -> float:
        """The first time of the last `share` of the rows."""
        return ordered[min(count - 1, int(count * (1 - share)))] if share else math.inf

    second = boundary(test)
    first = boundary(validation + test) if validation else second
    return SplitIndices(
        train=np.flatnonzero(time < first),
        validation=np.flatnonzero((time >= first) & (time < second)),
        test=np.flatnonzero(time >= second),
        rule=f"time {first} {second}",
    )


def check_parts(where: str, parts: Mapping[str, np.ndarray], count: int) -> None:
    """Raises ValueError for a part that is empty, is no indices within 0..count - 1, or has a row twice or
    one that another part has."""
    part_of = np.zeros(count, np.int8)
    for number, (part, given) in enumerate(parts.items(), 1):
        rows = check_row_indices(f"{where}: {part}", given, count)
        taken = part_of[rows] != 0
        if taken.any():
            row = rows[taken.argmax()]
            raise ValueError(
                f"{where}: row {row} is in {part} and in {list(parts)[part_of[row] - 1]}; parts must not "
                "overlap"
            )
        part_of[rows] = number
        if (part_of == number).sum() != len(rows):
            raise ValueError(f"{where}: {part} holds a row twice")


def check_row_indices(where: str, rows: np.ndarray, count: int) -> np.ndarray:
    """The indices as an array; ValueError unless they are integers [n] within 0..count - 1, at least one."""
    rows = np.asarray(rows)
    if not rows.size:
        raise ValueError(f"{where}: it is empty; choose other shares or limits")
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= count:
        raise ValueError(f"{where}: expected integer row indices of rank 1 within 0..{count - 1}")
    return rows


def _check_shares(validation: float, test: float) -> None:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation}, test={test}: shares must not be negative and must leave some to train "
            "on"
        )
