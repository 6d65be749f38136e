"""Loads a user's own labelled rows like a public source, split and encoded, and encodes new rows alike.

    table = read_labelled("rows.csv", labels=["click"], categorical=["city"], numeric=["price"])
    table.split                                           # what training reads
    encode_rows(table.encoders, "new_rows.csv")           # what the trained model scores

Sources are those of own_files.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.cells import BadCell, parse_integer, quote
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
from jaxrec.data.tables.impressions import (
    Impressions,
    ImpressionSplit,
    SplitIndices,
    split_at_random,
    split_in_time_order,
)
from jaxrec.data.tables.rows import Rows, read_rows
from jaxrec.data.typed_sources import Source, describe_source, name_source
from jaxrec.data.vocab import is_text

Kind = Literal["label", "categorical", "numeric", "time"]


class Labelled(NamedTuple):
    """Labelled rows, and the encoders fitted on the training rows among them.

    kinds: what each raw column is used as. `encode_rows` with `encoders` makes of new raw rows what a model
    trained on `split` reads.
    """

    split: ImpressionSplit
    encoders: Encoders
    kinds: Mapping[str, Kind]


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
    allow: Sequence[str] = (),
) -> ImpressionSplit:
    """The labelled table of a file or data frame, split 80/10/10.

    Arguments and errors as of `read_labelled`, which gives the encoders, too.
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
        allow=allow,
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
    allow: Sequence[str] = (),
    both_classes: bool = False,
    before: Mapping[str, np.ndarray] | None = None,
) -> Labelled:
    """The labelled table of a file or data frame, split 80/10/10, with its encoders.

    Numbers are standardised by training rows, with an indicator of empty cells; a category that occurs in
    fewer than `min_count` training rows is out of vocabulary. Categories are text or integers; the integer 3
    and the text "3" are the same category.

    labels: columns of 0 and 1. split: at random by `seed`, or by the column `time` (seconds). name: of the
    data set, by default that of the file; a data frame needs one. delimiter: of a CSV file, one character;
    None: a tab for `.tsv`, a comma otherwise. allow: features that are not checked for leaking a label.
    both_classes: whether a label of one class in a part is refused, as training does; else it is noted.
    before: {categorical column: values whose ids stay}, as of `features.fit_encoders`.

    Raises:
      ValueError: as the reader of the form; no label, no feature, a column with two uses, a label that is
        missing, neither 0 nor 1, or the same in every row (with both_classes: of a part), split='time'
        without its column, or a feature that leaks a label.
      ImportError: without pyarrow, which all forms but JSON lines and mappings need.
    """
    name = name_source(source, name)
    where = describe_source(source, name)
    if not labels or not (categorical or numeric):
        raise ValueError(
            f"{where}: labels={list(labels)}, categorical={list(categorical)}, numeric={list(numeric)}: name "
            "at least one label and one feature"
        )
    used = [*labels, *categorical, *numeric, *([time] if time else [])]
    twice = sorted({column for column in used if used.count(column) > 1})
    if twice:
        raise ValueError(f"{where}: {', '.join(twice)}: is given two uses; a column has one")
    if split not in ("random", "time"):
        raise ValueError(f"split={split!r}: must be 'random' or 'time'")
    if split == "time" and time is None:
        raise ValueError(f"{where}: split='time' needs the column of times; name it with time=... (--time)")
    rows = read_rows(
        source,
        categorical=dict.fromkeys(categorical, "categorical"),
        numeric=dict.fromkeys(labels, "labels") | dict.fromkeys(numeric, "numeric"),
        time=time,
        name=name,
        delimiter=delimiter,
    )
    found = {label: _label(rows, label, where) for label in labels}
    parts = (
        split_at_random(rows.num_rows, seed=seed)
        if rows.time is None or split == "random"
        else split_in_time_order(rows.time)
    )
    if both_classes:
        _check_classes(found, parts, where)
    specs: list[FeatureSpec] = [Category(column, min_count=min_count) for column in categorical]
    specs += [Number(column, missing="indicator") for column in numeric]
    encoders = fit_encoders(specs, rows.columns, parts.train, before=before)
    table = Impressions(
        name=name.removesuffix(".gz"),
        columns=encode(encoders, rows.columns),
        fields=encoders.fields,
        labels=found,
        time=rows.time,
    )
    made = table.split(parts.train, parts.validation, parts.test, rule=parts.rule, allow=allow)
    return Labelled(made, encoders, _kinds(labels, categorical, numeric, time))


def _kinds(
    labels: Sequence[str], categorical: Sequence[str], numeric: Sequence[str], time: str | None
) -> dict[str, Kind]:
    """What each column is used as."""
    uses: tuple[tuple[Kind, Sequence[str]], ...] = (
        ("label", labels),
        ("categorical", categorical),
        ("numeric", numeric),
        ("time", [time] if time else []),
    )
    return {column: kind for kind, columns in uses for column in columns}


def encode_rows(
    encoders: Encoders,
    source: Source,
    *,
    unknown: Literal["map", "error"] = "map",
    name: str | None = None,
    delimiter: str | None = None,
) -> dict[str, np.ndarray]:
    """New raw rows of a file or data frame as a trained model reads them, in their order; no label is needed.

    Returns the columns of `encoders.fields`, each with as many rows as the source: an empty cell is missing
    (id 1, or the indicator of a number), and with unknown="map" a category that the encoders do not know is
    out of vocabulary (id 2). unknown="error" names the first such category instead, and counts them.

    name: of a data frame, for errors. delimiter: of a CSV file, one character.

    Raises:
      ValueError: a column that the encoders read is not there; encoders of several values per cell (`Tags`),
        or of one column both as categories and as numbers; an unknown category (unknown="error"); as the
        reader of the form.
      ImportError: without pyarrow, which all forms but JSON lines and mappings need.
    """
    if unknown not in ("map", "error"):
        raise ValueError(f"unknown={unknown!r}: must be 'map' or 'error'")
    raw: dict[str, dict[str, str]] = {"categorical": {}, "numeric": {}}
    for spec in encoders.specs:
        if isinstance(spec, Tags):
            raise ValueError(
                f"{spec.name}: has several values per cell; encode raw columns with features.encode"
            )
        kind = "categorical" if isinstance(spec, Category) else "numeric"
        raw[kind][spec.column or spec.name] = kind
    both = sorted(set(raw["categorical"]) & set(raw["numeric"]))
    if both:
        raise ValueError(
            f"{', '.join(both)}: is read as categories and as numbers; encode raw columns with "
            "features.encode"
        )
    rows = read_rows(
        source,
        categorical=raw["categorical"],
        numeric=raw["numeric"],
        name=name,
        delimiter=delimiter,
        remedy="the model was trained with it; add it to the rows",
    )
    known = {field.name: field.raw for field in encoders.fields}
    for spec in encoders.specs:
        if not isinstance(spec, Category):
            continue
        column = spec.column or spec.name
        if not is_text(known[spec.name]):
            rows.columns[column] = _coded_integers(rows, column)
        if unknown == "error":
            _check_known(rows, spec, known[spec.name])
    return encode(encoders, rows.columns)


def _check_known(rows: Rows, spec: Category, known: np.ndarray) -> None:
    """ValueError naming the first row whose category the encoders do not know."""
    column = rows.columns[spec.column or spec.name]
    assert isinstance(column, Coded)
    marks = [*spec.missing, *([""] if is_text(known) else [])]
    new = np.append(~np.isin(column.values, known) & ~np.isin(column.values, marks), False)
    bad = np.flatnonzero(new[column.codes])  # code -1, missing, is the last entry
    if bad.size:
        value = column.values[column.codes[bad[0]]]
        raise ValueError(
            f"{rows.place(int(bad[0]))}: {spec.name} {quote(str(value))} is a category that training did not "
            f"know ({bad.size:,} such rows); correct it, or give unknown='map', which encodes it as out of "
            "vocabulary"
        )


def _coded_integers(rows: Rows, name: str) -> Coded:
    """A column of text as the integers it spells, for encoders that were fitted on integers."""
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


def _label(rows: Rows, name: str, where: str) -> np.ndarray:
    """A column of 0 and 1, float32 [N]."""
    label = np.asarray(rows.columns[name])
    bad = np.flatnonzero((label != 0) & (label != 1))
    if bad.size:
        shown = "missing" if np.isnan(label[bad[0]]) else f"{label[bad[0]]:g}, neither 0 nor 1"
        raise ValueError(
            f"{rows.place(int(bad[0]))}: label {name} is {shown} ({bad.size:,} such rows); correct it, or "
            "remove the row"
        )
    if label.size and label.min() == label.max():
        raise ValueError(
            f"{where}: label {name} is {label[0]:g} in every row; name another, or take more rows"
        )
    return label


def _check_classes(labels: Mapping[str, np.ndarray], parts: SplitIndices, where: str) -> None:
    """Raises ValueError for a label of one class in a part, which can't be learned or has no AUC."""
    for name, label in labels.items():
        for part, rows in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
            found = label[rows]
            if found.size and found.min() == found.max():
                raise ValueError(
                    f"{where}: label {name} is {found[0]:g} in every row of {part} ({parts.rule}); name "
                    "another, split otherwise, or take more rows"
                )
