"""A user's own file or data frame as what a public source gives: sequences of events, sessions, or a split
labelled table, and new rows as a trained model reads them.

A source is a path (CSV, TSV, JSON lines, each also `.gz`, or Parquet), a mapping of columns to arrays or
lists, or a data frame of pandas, polars, pyarrow or another library; a data frame needs a `name`. All forms
pass the same checks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.cells import BadCell, parse_integer
from jaxrec.data.delimited import file_suffix
from jaxrec.data.events.event_files import read_events
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.features import (
    Category,
    Encoders,
    FeatureSpec,
    Number,
    Tags,
    encode,
    fit_encoders,
)
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random, split_in_time_order
from jaxrec.data.tables.rows import Rows, read_rows
from jaxrec.data.typed_sources import Source, is_path, name_source
from jaxrec.data.vocab import is_text

Kind = Literal["label", "categorical", "numeric", "time"]


class Labelled(NamedTuple):
    """Labelled rows, and what was learned to encode them. kinds: what each raw column is used as.

    With `encoders`, `encode_rows` makes of new raw rows what a model trained on `split` reads.
    """

    split: ImpressionSplit
    encoders: Encoders
    kinds: Mapping[str, Kind]


def load_events(
    source: Source,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    k_core: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Sequences:
    """The events of a file or data frame, as sequences of users.

    user, item, time: names of columns; time None: the order of the rows is the order in time. A line file
    (`.txt`, a user a line) has no columns and no times. k_core: users and items with fewer events are taken
    out until none is left; 0: all stay. name: of the data set, by default the file's; a data frame needs one.
    delimiter, columns: of a CSV file, and its columns if it has no header. real_ids: ids that look like a
    missing value but are real, such as "NA".

    Raises:
      ValueError: as the reader of the form; FileNotFoundError: there is no such file.
    """
    if is_path(source) and file_suffix(source) == ".txt":
        asked = {"k_core": k_core, "delimiter": delimiter, "columns": columns, "real_ids": real_ids}
        given = ", ".join(f"{option}={value!r}" for option, value in asked.items() if value)
        if given:
            raise ValueError(f"{source}: {given}: a line file is taken as it is; give a CSV file")
        return read_sequences(source, name=name)
    return load_interactions(
        source,
        user=user,
        item=item,
        time=time,
        k_core=k_core,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    ).to_sequences()


def load_interactions(
    source: Source,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    k_core: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Interactions:
    """The events of a file or data frame in its order; value: a column of numbers, such as ratings.

    Others, and what raises: as of `load_events`.
    """
    events = read_events(
        source,
        user=user,
        item=item,
        time=time,
        value=value,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    )
    return events.k_core(k_core) if k_core else events


def load_sessions(
    source: Source,
    *,
    session: str = "session",
    item: str = "item",
    time: str = "time",
    test: float = 0.1,
    short: Literal["error", "leave out"] = "error",
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Sessions:
    """The click sessions of a file or data frame: the last ones to end are tested, every prefix of each.

    test: their share. short: what happens to sessions of one click, which have nothing to predict. Others: as
    of `load_events`.

    Raises:
      ValueError: as the reader of the form; a session of one click (short="error"); no session is left for
        one of the parts.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test}: must lie between 0 and 1")
    if short not in ("error", "leave out"):
        raise ValueError(f"short={short!r}: must be 'error' or 'leave out'")
    clicks = read_events(
        source,
        user=session,
        item=item,
        time=time,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    ).to_sequences()
    assert clicks.times is not None
    where = source if is_path(source) else f"data frame {name}"
    long = np.flatnonzero(clicks.lengths >= 2)
    if short == "error" and len(long) < clicks.num_users:
        raise ValueError(
            f"{where}: {clicks.num_users - len(long):,} of {clicks.num_users:,} sessions have one click, and "
            'so nothing to predict; take them out, or say short="leave out"'
        )
    last = clicks.times[clicks.offsets[1:] - 1][long]
    order = long[np.argsort(last, kind="stable")]
    cut = len(order) - round(len(order) * test)
    if cut < 1 or cut == len(order):
        raise ValueError(f"{where}: {len(order):,} sessions, of which test={test} leaves a part empty")
    training = [clicks.user_items(number) for number in order[:cut]]
    tested = [clicks.user_items(number) for number in order[cut:]]
    prefixes = [row[:length] for row in tested for length in range(len(row) - 1, 0, -1)]
    targets = [row[length] for row in tested for length in range(len(row) - 1, 0, -1)]
    return Sessions.from_arrays(
        clicks.name,
        train_items=np.concatenate(training),
        train_offsets=np.cumsum([0, *map(len, training)]),
        test_items=np.concatenate(prefixes),
        test_offsets=np.cumsum([0, *map(len, prefixes)]),
        test_target=np.asarray(targets),
    )


def load_labelled(
    source: Source,
    *,
    labels: Sequence[str],
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    time: str | None = None,
    split: Literal["random", "time"] = "random",
    min_count: int = 1,
    seed: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
) -> ImpressionSplit:
    """The labelled rows of a file or data frame, 80/10/10 for training, validation and test.

    Arguments and what raises: as of `read_labelled`, which gives the encoders too.
    """
    return read_labelled(
        source,
        labels=labels,
        categorical=categorical,
        numeric=numeric,
        time=time,
        split=split,
        min_count=min_count,
        seed=seed,
        name=name,
        delimiter=delimiter,
    ).split


def read_labelled(
    source: Source,
    *,
    labels: Sequence[str],
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    time: str | None = None,
    split: Literal["random", "time"] = "random",
    min_count: int = 1,
    seed: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
) -> Labelled:
    """The labelled rows of a file or data frame, split 80/10/10, and the encoders fitted on training rows.

    Numbers are standardised by training rows, and have an indicator where cells are empty; a category that
    fewer than `min_count` training rows have is out of vocabulary. Categories are text or integers, which
    count as the text they are written as.

    labels: columns of 0 and 1. split: at random by `seed`, or by the column `time` (seconds). name: of the
    data set, by default the file's; a data frame needs one. delimiter: of a CSV file, one character.

    Raises:
      ValueError: as the reader; no label, no feature, a column with two uses, a label that is missing or
        neither 0 nor 1, split by time without its column, or a feature that gives a label away.
    """
    name = name_source(source, name)
    where = str(source) if is_path(source) else f"data frame {name}"
    if not labels or not (categorical or numeric):
        raise ValueError(
            f"{where}: labels={list(labels)}, categorical={list(categorical)}, numeric={list(numeric)}: name "
            "at least one label and one feature"
        )
    used = [*labels, *categorical, *numeric, *([time] if time else [])]
    twice = sorted({column for column in used if used.count(column) > 1})
    if twice:
        raise ValueError(f"{where}: {', '.join(twice)}: named for two uses; a column has one")
    if split not in ("random", "time"):
        raise ValueError(f"split={split!r}: must be 'random' or 'time'")
    if split == "time" and time is None:
        raise ValueError(f"{where}: split='time' needs the column of times; name it by time=")
    rows = read_rows(
        source,
        categorical=dict.fromkeys(categorical, "categorical"),
        numeric=dict.fromkeys(labels, "labels") | dict.fromkeys(numeric, "numeric"),
        time=time,
        name=name,
        delimiter=delimiter,
    )
    parts = (
        split_at_random(rows.num_rows, seed=seed)
        if rows.time is None or split == "random"
        else split_in_time_order(rows.time)
    )
    specs: list[FeatureSpec] = [Category(column, min_count=min_count) for column in categorical]
    specs += [Number(column, missing="indicator") for column in numeric]
    encoders = fit_encoders(specs, rows.columns, parts.train)
    table = Impressions(
        name=name.removesuffix(".gz"),
        columns=encode(encoders, rows.columns),
        fields=encoders.fields,
        labels={label: _label(rows, label) for label in labels},
        time=rows.time,
    )
    uses: tuple[tuple[Kind, Sequence[str]], ...] = (
        ("label", labels),
        ("categorical", categorical),
        ("numeric", numeric),
        ("time", [time] if time else []),
    )
    kinds = {column: kind for kind, columns in uses for column in columns}
    made = table.split(parts.train, parts.validation, parts.test, rule=parts.rule)
    return Labelled(made, encoders, kinds)


def encode_rows(
    encoders: Encoders,
    source: Source,
    categorical: Sequence[str] | None = None,
    numeric: Sequence[str] | None = None,
    *,
    name: str | None = None,
    delimiter: str | None = None,
) -> dict[str, np.ndarray]:
    """New raw rows as columns that a trained model reads, in the order of the source; no label is needed.

    A category that training rows did not have is out of vocabulary (id 2), an empty cell missing (id 1, or
    the number's indicator).

    categorical, numeric: the raw columns, for a check that they are those of the encoders; None: these. name:
    of a data frame, for errors. delimiter: of a CSV file.

    Raises:
      ValueError: a column that the encoders read is not there, or the check fails; encoders of several values
        a cell (`Tags`); as the reader of the form.
    """
    raw: dict[str, dict[str, str]] = {"categorical": {}, "numeric": {}}
    for spec in encoders.specs:
        if isinstance(spec, Tags):
            raise ValueError(
                f"{spec.name}: has several values a cell; encode raw columns with features.encode"
            )
        kind = "categorical" if isinstance(spec, Category) else "numeric"
        raw[kind][spec.column or spec.name] = kind
    for kind, given in (("categorical", categorical), ("numeric", numeric)):
        if given is not None and set(given) != set(raw[kind]):
            raise ValueError(
                f"{kind}={list(given)}: the encoders were fitted on {list(raw[kind])}; name these, or none"
            )
    rows = read_rows(
        source,
        categorical=raw["categorical"],
        numeric=raw["numeric"],
        name=name,
        delimiter=delimiter,
        remedy="a model trained with it needs it; add it",
    )
    known = {field.name: field.raw for field in encoders.fields}
    for spec in encoders.specs:
        if isinstance(spec, Category) and not is_text(known[spec.name]):
            column = spec.column or spec.name
            rows.columns[column] = _coded_integers(rows, column)
    return encode(encoders, rows.columns)


def _coded_integers(rows: Rows, name: str) -> Coded:
    """A column of text as the integers that it says, for encoders that were fitted on integers."""
    column = rows.columns[name]
    assert isinstance(column, Coded)
    values = np.zeros(len(column.values), np.int64)
    for code, text in enumerate(column.values.tolist()):
        try:
            values[code] = parse_integer(text)
        except (BadCell, OverflowError) as error:
            where = rows.place(int((column.codes == code).argmax()))
            raise ValueError(f"{where}: {name} {error}; it was integers in training") from None
    return Coded(column.codes, values)


def _label(rows: Rows, name: str) -> np.ndarray:
    """A column of 0 and 1, float32 [N]."""
    label = np.asarray(rows.columns[name])
    bad = np.flatnonzero((label != 0) & (label != 1))
    if bad.size:
        shown = "missing" if np.isnan(label[bad[0]]) else f"{label[bad[0]]:g}, neither 0 nor 1"
        raise ValueError(
            f"{rows.place(int(bad[0]))}: label {name} is {shown} ({bad.size:,} such); correct it, or take "
            "the row out"
        )
    return label
