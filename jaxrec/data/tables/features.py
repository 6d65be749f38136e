"""Encodes raw columns as model inputs: `fit_encoders` reads training rows only, `encode` applies to all.

    encoders = fit_encoders((Category("city"), Tags("genres"), Number("price", log=True)), raw, split.train)
    columns = encode(encoders, raw)

Ids of categories: 0 padding (of `Tags` only), 1 missing, 2 out of vocabulary, 3.. the known values in
ascending order. A value that occurs in training rows never, or fewer than `min_count` times, is out of
vocabulary. With min_count=1 no training row has id 2, so its embedding stays as initialised; min_count=2
trains it on the rare values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxrec.data.tables.columns import Coded, RawColumn, as_coded, as_coded_lists, column_length
from jaxrec.data.vocab import Vocabulary, extend, is_text

PADDING, MISSING, UNKNOWN, FIRST_VALUE = 0, 1, 2, 3


class Category(NamedTuple):
    """One value per row, integer or text. column: name of the raw column, by default the feature's.

    vocabulary: features with the same one share their ids. missing: raw values that mean "unknown"; empty
    text always does.
    """

    name: str
    column: str = ""
    vocabulary: str = ""
    min_count: int = 1
    missing: tuple[int | str, ...] = ()


class Tags(NamedTuple):
    """Any number of values per row, otherwise as `Category`. A row without any has one id, 1 (missing).

    max_values: how many values of each row are kept, the first ones; None: as many as the longest training
    row has, and a longer row later is an error.
    """

    name: str
    column: str = ""
    vocabulary: str = ""
    min_count: int = 1
    missing: tuple[int | str, ...] = ()
    max_values: int | None = None


class Number(NamedTuple):
    """A number, NaN where missing. log: sign(x) log(1 + |x|) first. standardise: to mean 0, deviation 1.

    Mean and deviation are those of training rows; a constant column becomes 0.
    missing: "error" refuses missing values; "indicator" adds the feature `<name>_missing` (1 where missing)
    and replaces them by the training mean (0 if standardised).
    """

    name: str
    column: str = ""
    log: bool = False
    standardise: bool = True
    missing: Literal["error", "indicator"] = "error"


class Buckets(NamedTuple):
    """A number as a category: buckets of about equally many training rows, or between the given `edges`.

    Bucket k, id 3 + k, holds edges[k - 1] <= x < edges[k]; missing (NaN) has id 1. Equal quantiles are
    merged, so there may be fewer than `num_buckets`.
    """

    name: str
    column: str = ""
    num_buckets: int = 10
    edges: tuple[float, ...] = ()


FeatureSpec = Category | Tags | Number | Buckets


class Field(NamedTuple):
    """What a model needs to know of a column.

    kind: "categorical" int32 [N], "multi" int32 [N, L] padded with 0, or "numeric" float32 [N].
    vocab_size: largest id + 1, 0 for numbers. vocabulary: fields of the same one share ids ("" for numbers).
    raw: the raw values of ids 3, 4, ...; for buckets the lower edge of each; empty for numbers.
    """

    name: str
    kind: Literal["categorical", "multi", "numeric"]
    vocab_size: int
    vocabulary: str
    raw: np.ndarray


class Encoders(NamedTuple):
    """Everything learned from training rows. fields: in the order of the specs.

    scales: {number: (mean, deviation)} after the logarithm. widths: {tags: ids per row}.
    """

    specs: tuple[FeatureSpec, ...]
    fields: tuple[Field, ...]
    scales: Mapping[str, tuple[float, float]]
    widths: Mapping[str, int]


def fit_encoders(
    specs: Sequence[FeatureSpec],
    raw: Mapping[str, RawColumn],
    train_rows: np.ndarray,
    *,
    before: Mapping[str, np.ndarray] | None = None,
) -> Encoders:
    """Learns vocabularies, scales and bucket edges from the rows `train_rows` (indices [n]) of raw columns.

    before: {vocabulary: values that it begins with}, whose ids stay, whether a row has them or not; other
    values come behind them. Where nothing is given values ascend.

    Raises:
      ValueError: no columns or columns of unequal length, a feature without a name or two of one name, a
        category of floating-point type, a vocabulary without a known value or of another type than before,
        or a number that is infinite, or missing where that is refused.
    """
    names = [name for spec in specs for name in _feature_names(spec)]
    if not all(name.strip() for name in names):
        raise ValueError(f"features: {names}: each needs a name; an unnamed column is often a row index")
    twice = {name for name in names if names.count(name) > 1}
    if twice or not specs:
        raise ValueError(
            f"features: {', '.join(sorted(twice)) or 'none'} given; names must differ, at least one"
        )
    count = _length_of_all(specs, raw)
    train = np.zeros(count, bool)
    train[_check_train_rows(train_rows, count)] = True
    known = _vocabularies([s for s in specs if isinstance(s, Category | Tags)], raw, train)
    known |= {
        name: extend(Vocabulary(name, values), known[name]).raw
        for name, values in (before or {}).items()
        if name in known
    }
    fields: list[Field] = []
    scales, widths = {}, {}
    for spec in specs:
        if isinstance(spec, Category | Tags):
            values = known[spec.vocabulary or spec.name]
            kind: Literal["categorical", "multi"] = "categorical" if isinstance(spec, Category) else "multi"
            fields.append(
                Field(
                    spec.name,
                    kind=kind,
                    vocab_size=FIRST_VALUE + len(values),
                    vocabulary=spec.vocabulary or spec.name,
                    raw=values,
                )
            )
            if isinstance(spec, Tags):
                widths[spec.name] = _num_values(spec, raw, train)
        elif isinstance(spec, Buckets):
            lower = np.concatenate([[-np.inf], _edges(spec, _as_floats(spec, raw)[train])])
            fields.append(
                Field(
                    spec.name,
                    kind="categorical",
                    vocab_size=FIRST_VALUE + len(lower),
                    vocabulary=spec.name,
                    raw=lower,
                )
            )
        else:
            fields += [
                Field(name, kind="numeric", vocab_size=0, vocabulary="", raw=np.empty(0))
                for name in _feature_names(spec)
            ]
            scales[spec.name] = _scale(spec, _as_floats(spec, raw)[train])
    return Encoders(specs=tuple(specs), fields=tuple(fields), scales=scales, widths=widths)


def encode(encoders: Encoders, raw: Mapping[str, RawColumn]) -> dict[str, np.ndarray]:
    """Columns of `encoders.fields` for all rows of the raw columns. Raises as `fit_encoders` does."""
    _length_of_all(encoders.specs, raw)
    fields = {field.name: field for field in encoders.fields}
    columns: dict[str, np.ndarray] = {}
    for spec in encoders.specs:
        if isinstance(spec, Category):
            columns[spec.name] = _value_ids(spec, _coded_column(spec, raw), fields[spec.name].raw)
        elif isinstance(spec, Tags):
            columns[spec.name] = _padded_ids(
                spec, raw=raw, known=fields[spec.name].raw, width=encoders.widths[spec.name]
            )
        elif isinstance(spec, Buckets):
            x = _as_floats(spec, raw)
            bucket = np.searchsorted(fields[spec.name].raw[1:], x, side="right") + FIRST_VALUE
            columns[spec.name] = np.where(np.isnan(x), MISSING, bucket).astype(np.int32)
        else:
            x, (mean, deviation) = _as_floats(spec, raw), encoders.scales[spec.name]
            absent = np.isnan(x)
            x = np.where(absent, mean, x)
            columns[spec.name] = ((x - mean) / deviation if spec.standardise else x).astype(np.float32)
            if spec.missing == "indicator":
                columns[f"{spec.name}_missing"] = absent.astype(np.float32)
    return columns


def decode(field: Field, ids: object) -> np.ndarray:
    """Raw values of ids, dtype object; 0, 1 and 2 become "<padding>", "<missing>", "<unknown>"."""
    array = np.asarray(ids)
    bad = array[(array < 0) | (array >= field.vocab_size)]
    if bad.size:
        raise ValueError(f"{field.name}: id {bad[0]} is outside 0..{field.vocab_size - 1}")
    special = np.array(["<padding>", "<missing>", "<unknown>"], object)
    return np.concatenate([special, field.raw.astype(object)])[array]


def _feature_names(spec: FeatureSpec) -> tuple[str, ...]:
    indicator = isinstance(spec, Number) and spec.missing == "indicator"
    return (spec.name, f"{spec.name}_missing") if indicator else (spec.name,)


def _raw_column(spec: FeatureSpec, raw: Mapping[str, RawColumn]) -> RawColumn:
    name = spec.column or spec.name
    if name not in raw:
        raise ValueError(f"{spec.name}: there is no raw column {name!r} among {', '.join(map(repr, raw))}")
    return raw[name]


def _length_of_all(specs: Sequence[FeatureSpec], raw: Mapping[str, RawColumn]) -> int:
    lengths = {spec.name: column_length(_raw_column(spec, raw)) for spec in specs}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"raw columns: rows {lengths}; all must have the same number, at least one")
    return next(iter(lengths.values()))


def _coded_column(spec: Category, raw: Mapping[str, RawColumn]) -> Coded:
    return as_coded(spec.name, _raw_column(spec, raw), spec.missing)


def _coded_lists(spec: Tags, raw: Mapping[str, RawColumn]) -> tuple[Coded, np.ndarray]:
    return as_coded_lists(spec.name, _raw_column(spec, raw), spec.missing)


def _check_train_rows(rows: np.ndarray, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if not rows.size or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= count:
        raise ValueError(f"train_rows: expected at least one index, integers within 0..{count - 1}")
    return rows


def _vocabularies(
    specs: Sequence[Category | Tags], raw: Mapping[str, RawColumn], train: np.ndarray
) -> dict[str, np.ndarray]:
    """The known values of each vocabulary, ascending, from the training rows of all its columns."""
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    least: dict[str, int] = {}
    for spec in specs:
        name = spec.vocabulary or spec.name
        if not _is_whole(spec.min_count) or spec.min_count < 1:
            raise ValueError(f"{spec.name}: min_count={spec.min_count!r}: must be a whole number, at least 1")
        if least.setdefault(name, spec.min_count) != spec.min_count:
            raise ValueError(
                f"{spec.name}: min_count={spec.min_count}: must be the same ({least[name]}) for all features "
                f"of the vocabulary {name!r}"
            )
        if isinstance(spec, Tags):
            (codes, values), lengths = _coded_lists(spec, raw)
            codes = codes[np.repeat(train, lengths)]
        else:
            codes, values = _coded_column(spec, raw)
            codes = codes[train]
        seen.setdefault(name, []).append((values, np.bincount(codes[codes >= 0], minlength=len(values))))
    known = {}
    for name, parts in seen.items():
        if len({is_text(values) for values, _ in parts}) > 1:
            raise ValueError(
                f"vocabulary {name!r}: some columns hold text, others integers; convert them to one type"
            )
        values, place = np.unique(np.concatenate([values for values, _ in parts]), return_inverse=True)
        count = np.bincount(place, np.concatenate([counts for _, counts in parts]), minlength=len(values))
        known[name] = values[count >= least[name]]
        if not known[name].size:
            raise ValueError(
                f"vocabulary {name!r}: no value occurs {least[name]} times in the training rows; lower "
                "min_count or leave the feature out"
            )
    return known


def _value_ids(spec: Category | Tags, column: Coded, known: np.ndarray) -> np.ndarray:
    if is_text(column.values) != is_text(known):
        raise ValueError(
            f"{spec.name}: raw values of type {column.values.dtype}, those of the training rows were "
            f"{known.dtype}; convert one to the other"
        )
    order = np.argsort(known, kind="stable")  # ascending already, unless values came behind others
    place = order[np.minimum(np.searchsorted(known, column.values, sorter=order), len(known) - 1)]
    table = np.where(known[place] == column.values, place + FIRST_VALUE, UNKNOWN)
    return np.append(table, MISSING).astype(np.int32)[column.codes]  # code -1 is the last entry


def _num_values(spec: Tags, raw: Mapping[str, RawColumn], train: np.ndarray) -> int:
    """Number of ids per row of tags."""
    if spec.max_values is None:
        return int(_coded_lists(spec, raw)[1][train].max(initial=1))
    if not _is_whole(spec.max_values) or spec.max_values < 1:
        raise ValueError(f"{spec.name}: max_values={spec.max_values!r}: must be at least 1, or None for all")
    return int(spec.max_values)


def _padded_ids(spec: Tags, raw: Mapping[str, RawColumn], known: np.ndarray, width: int) -> np.ndarray:
    values, lengths = _coded_lists(spec, raw)
    longest = int(lengths.argmax())
    if spec.max_values is None and lengths[longest] > width:
        raise ValueError(
            f"{spec.name}: row {longest} has {lengths[longest]} values, the longest training row {width}; "
            "give max_values to keep only the first ones"
        )
    row = np.repeat(np.arange(len(lengths)), lengths)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = slot < width
    ids = np.full((len(lengths), width), PADDING, np.int32)
    ids[row[kept], slot[kept]] = _value_ids(spec, values, known)[kept]
    ids[lengths == 0, 0] = MISSING
    return ids


def _as_floats(spec: Number | Buckets, raw: Mapping[str, RawColumn]) -> np.ndarray:
    """A numeric column as float64, after the logarithm if there is one; NaN where missing, if allowed."""
    column = _raw_column(spec, raw)
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "fiub":
        raise ValueError(f"{spec.name}: expected an array of numbers, [N]; use Category or Tags for others")
    x = column.astype(np.float64)
    bad = np.flatnonzero(np.isinf(x))
    if bad.size:
        raise ValueError(f"{spec.name}: {x[bad[0]]} at row {bad[0]} is not finite; NaN stands for missing")
    if isinstance(spec, Buckets):
        return x
    if spec.missing not in ("error", "indicator"):
        raise ValueError(f"{spec.name}: missing={spec.missing!r}: must be 'error' or 'indicator'")
    absent = np.flatnonzero(np.isnan(x))
    if absent.size and spec.missing == "error":
        raise ValueError(
            f"{spec.name}: missing (NaN) at row {absent[0]} ({absent.size:,} such rows); use "
            "Number(missing='indicator'), or Buckets, which give missing values an id of their own"
        )
    return np.sign(x) * np.log1p(np.abs(x)) if spec.log else x


def _scale(spec: Number, x: np.ndarray) -> tuple[float, float]:
    x = _present(spec, x)
    if x.min() == x.max():  # rounding would leave a small deviation
        return float(x[0]), 1.0
    return float(x.mean()), float(x.std())


def _edges(spec: Buckets, x: np.ndarray) -> np.ndarray:
    if spec.edges:
        if not np.isfinite(spec.edges).all() or (np.diff(spec.edges) <= 0).any():
            raise ValueError(f"{spec.name}: edges={spec.edges}: must be finite and ascend")
        return np.array(spec.edges, np.float64)
    if not _is_whole(spec.num_buckets) or spec.num_buckets < 2:
        raise ValueError(f"{spec.name}: num_buckets={spec.num_buckets!r}: must be a whole number, at least 2")
    edges = np.unique(
        np.quantile(_present(spec, x), np.arange(1, spec.num_buckets) / spec.num_buckets, method="higher")
    )
    return edges[edges > np.nanmin(x)]  # an edge at the minimum would leave the first bucket empty


def _present(spec: Number | Buckets, x: np.ndarray) -> np.ndarray:
    x = x[~np.isnan(x)]
    if not x.size:
        raise ValueError(f"{spec.name}: every training row is missing; leave the feature out")
    return x


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
