"""Tables in the two formats of FuxiCTR (Zhu et al., BARS, SIGIR 2022, arXiv:2205.09626).

A feature_map.json names labels and features: `categorical`, `numeric`, or a `sequence` of at most `max_len`
values, which may `share_embedding` with a categorical one. Parts are CSV files with a header, where `^`
separates the values of a sequence, or .npz files of columns that FuxiCTR has encoded (0: padding, missing).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrec.data.tables.columns import Coded, Ragged, RawColumn, as_coded
from jaxrec.data.tables.features import Category, FeatureSpec, Number, Tags, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit
from jaxrec.data.tables.table_reader import read_table

SEPARATOR = "^"
Keep = Literal["last", "first"]


class Feature(NamedTuple):
    """A feature of the map. size: its ids are below this, 0 for numbers. length: of a sequence, else 0."""

    name: str
    kind: Literal["categorical", "numeric", "sequence"]
    vocabulary: str
    size: int
    length: int


class FeatureMap(NamedTuple):
    """The content of a feature_map.json."""

    name: str
    labels: tuple[str, ...]
    features: tuple[Feature, ...]


def load(
    train: str | Path,
    validation: str | Path,
    test: str | Path,
    feature_map: str | Path,
    *,
    min_count: int = 1,
    keep: Keep = "last",
    group: str | None = None,
    missing: Literal["error", "indicator"] = "error",
) -> ImpressionSplit:
    """One task for each label of the map; parts are the three files, all CSV or all .npz.

    min_count: values rarer in training rows are out of vocabulary. keep: which `max_len` values of a longer
    sequence are kept; FuxiCTR keeps the last or, if it pads at the end, the first. group: categorical feature
    for metrics per group, such as the user. missing: of numbers, see `features.Number`.

    Columns are those of `features.encode`: the values of a sequence are in order and padded at the end; an
    empty one has id 1 (missing). Ids of .npz files are raw values, 0 is missing.

    Raises ValueError naming file, feature and rule for a malformed map or column.
    """
    if keep not in ("last", "first"):
        raise ValueError(f"keep={keep!r}: must be 'last' or 'first'")
    found = read_feature_map(feature_map)
    paths = [train, validation, test]
    packed = {_is_npz(path) for path in paths}
    if len(packed) > 1:
        raise ValueError(f"{', '.join(map(str, paths))}: some are .npz and some not; give files of one form")
    raw, sizes = _read_npz(paths, found) if packed.pop() else _read_csv(paths, found, keep)
    specs = [
        _as_feature_spec(feature, min_count=min_count, missing=missing, nothing=0 if _is_npz(train) else "")
        for feature in found.features
    ]
    first, second, third = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:2])
    encoders = fit_encoders(specs, raw, first)
    labels = {name: np.asarray(raw[name], np.float32) for name in found.labels}
    table = Impressions(
        f"fuxictr/{found.name}",
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels=labels,
        group=None if group is None else _group(group, found, raw),
    )
    return table.split(first, second, third, rule="the three files")


def _is_npz(path: str | Path) -> bool:
    return str(path).lower().endswith(".npz")


def read_feature_map(path: str | Path) -> FeatureMap:
    """Reads a feature_map.json. Features of type `meta` are not inputs and are left out.

    Raises ValueError naming file, feature and rule for anything else, such as the type `embedding`.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        labels = [str(name) for name in found["labels"]]
        specs = [(str(name), dict(spec)) for each in found["features"] for name, spec in each.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: {type(error).__name__} {error}; expected JSON {{'labels': [...], 'features': [{{name: "
            "{'type': ...}}, ...]}"
        ) from None
    features = [_parse_feature(path, name, spec) for name, spec in specs if spec.get("type") != "meta"]
    if not labels or not features:
        raise ValueError(f"{path}: labels {labels}, {len(features)} features: at least one of each is needed")
    both = [feature.name for feature in features if feature.name in labels]
    if both:
        raise ValueError(f"{path}: {both[0]}: is both a label and a feature, so it would leak; remove one")
    return FeatureMap(str(found.get("dataset_id", Path(path).stem)), tuple(labels), tuple(features))


def _parse_feature(path: str | Path, name: str, spec: Mapping[str, Any]) -> Feature:
    kind, size, length = spec.get("type"), spec.get("vocab_size", 0), spec.get("max_len", 0)
    if not name.strip():
        raise ValueError(f"{path}: {name!r}: a feature has no name, such as a row index; remove it")
    if kind not in ("categorical", "numeric", "sequence"):
        raise ValueError(
            f"{path}: {name}: type {kind!r}: expected categorical, numeric, sequence or meta; "
            "remove it from the map"
        )
    for what, value, read in (
        ("vocab_size", size, kind != "numeric"),
        ("max_len", length, kind == "sequence"),
    ):
        if read and (type(value) is not int or value < 1):
            raise ValueError(f"{path}: {name}: {what} {value!r}: expected an integer of at least 1")
    if kind == "numeric":
        return Feature(name, kind=kind, vocabulary="", size=0, length=0)
    vocabulary = spec.get("share_embedding") or name
    return Feature(
        name, kind=kind, vocabulary=str(vocabulary), size=size, length=length if kind == "sequence" else 0
    )


def _as_feature_spec(
    feature: Feature, min_count: int, missing: Literal["error", "indicator"], nothing: int | str
) -> FeatureSpec:
    name, vocabulary = feature.name, feature.vocabulary
    match feature.kind:
        case "numeric":
            return Number(name, missing=missing)
        case "categorical":
            return Category(name, vocabulary=vocabulary, min_count=min_count, missing=(nothing,))
        case "sequence":
            return Tags(
                name,
                vocabulary=vocabulary,
                min_count=min_count,
                missing=(nothing,),
                max_values=feature.length,
            )


def _names_of_kind(found: FeatureMap, kind: str) -> list[str]:
    return [feature.name for feature in found.features if feature.kind == kind]


def _read_csv(
    paths: Sequence[str | Path], found: FeatureMap, keep: Keep
) -> tuple[dict[str, RawColumn], list[int]]:
    raw, sizes = read_table(
        paths,
        categories=_names_of_kind(found, "categorical"),
        numbers=[*_names_of_kind(found, "numeric"), *found.labels],
        lists=dict.fromkeys(_names_of_kind(found, "sequence"), SEPARATOR),
    )
    for feature in found.features:
        column = raw[feature.name]
        if isinstance(column, Ragged):
            raw[feature.name] = _truncate(column, feature.length, keep)
    return raw, sizes


def _truncate(column: Ragged, length: int, keep: Keep) -> Ragged:
    """Keeps the last or the first `length` values of each row."""
    assert isinstance(column.values, Coded)
    lengths, index = np.diff(column.offsets), np.arange(column.offsets[-1])
    if keep == "last":
        distance = np.repeat(column.offsets[1:], lengths) - 1 - index  # from the row's last value
    else:
        distance = index - np.repeat(column.offsets[:-1], lengths)
    codes = column.values.codes[distance < length]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, length))])
    return Ragged(Coded(codes, column.values.values), offsets)


def _read_npz(paths: Sequence[str | Path], found: FeatureMap) -> tuple[dict[str, RawColumn], list[int]]:
    parts = [_read_npz_part(path, found) for path in paths]
    raw: dict[str, RawColumn] = {}
    for name in parts[0]:
        column = np.concatenate([part[name] for part in parts])
        raw[name] = _as_ragged(column) if column.ndim == 2 else column
    return raw, [len(part[found.labels[0]]) for part in parts]


def _read_npz_part(path: str | Path, found: FeatureMap) -> dict[str, np.ndarray]:
    """Columns of a part: labels and numbers float32 [N], ids int64 [N], sequences [N, max_len]."""
    columns: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as packed:
            if not isinstance(packed, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive of columns")
            absent = [n for n in [*found.labels, *(f.name for f in found.features)] if n not in packed.files]
            if absent:
                raise ValueError(f"{absent[0]!r} is not among the columns {', '.join(packed.files)}")
            given = {name: packed[name] for name in (*found.labels, *(f.name for f in found.features))}
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}; expected an .npz file of the columns of the map") from None
    rows = len(given[found.labels[0]]) if given[found.labels[0]].ndim else 0
    features = {feature.name: feature for feature in found.features}
    for name, column in given.items():
        feature = features.get(name)
        shape = (rows, feature.length) if feature is not None and feature.length else (rows,)
        if column.shape != shape or column.dtype.kind not in "iuf" or not rows:
            raise ValueError(
                f"{path}: {name}: {column.dtype}{list(column.shape)}, expected numbers {list(shape)}, "
                "at least one row"
            )
        if feature is None or feature.kind == "numeric":
            with np.errstate(over="ignore"):
                columns[name] = column.astype(np.float32)
            changed = np.flatnonzero(columns[name] != column) if feature is None else np.empty(0)
            if changed.size and np.isfinite(column[changed[0]]):
                raise ValueError(
                    f"{path}: {name}: {column[changed[0]]} at row {changed[0]} is not a label that "
                    "float32 can represent"
                )
            continue
        bad = np.argwhere(~((column >= 0) & (column < feature.size) & (column == np.floor(column))))
        if bad.size:
            raise ValueError(
                f"{path}: {name}: {column[tuple(bad[0])]} at row {bad[0][0]} ({len(bad):,} such) is not an "
                f"id within 0..{feature.size - 1}, the range in the feature map"
            )
        columns[name] = column.astype(np.int64)
    return columns


def _as_ragged(ids: np.ndarray) -> Ragged:
    """Ids [N, L], padded with 0 on either side, as a ragged column."""
    real = ids != 0
    return Ragged(ids[real], np.concatenate([[0], np.cumsum(real.sum(axis=1))]))


def _group(name: str, found: FeatureMap, raw: Mapping[str, RawColumn]) -> np.ndarray:
    if name not in _names_of_kind(found, "categorical"):
        raise ValueError(f"group={name!r}: name one of {', '.join(_names_of_kind(found, 'categorical'))}")
    return as_coded(name, raw[name]).codes.astype(np.int32) + 1
