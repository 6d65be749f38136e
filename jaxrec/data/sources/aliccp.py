"""Ali-CCP: click and conversion over all impressions of a shop (Ma et al., SIGIR 2018, Tianchi data set 408).

The data are behind a login, so they cannot be downloaded. `load` reads your own files as distributed:
sample_skeleton_{train,test}.csv and common_features_{train,test}.csv, 42.3M impressions each. `load_table`
reads tables with a header click, purchase, 101, ..., which several libraries prepare from them.

Fields: 101 user; 121..129 profile; 205..207, 216 item; 210 intentions; 301 context; 508, 509, 702, 853
crosses; 109_14, 110_14, 127_14, 150_14 past behaviour. Weights of values are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrec.data.delimited import header_fault
from jaxrec.data.tables.columns import Coded, Ragged, RawColumn
from jaxrec.data.tables.features import Category, FeatureSpec, Number, Tags, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, SplitIndices, split_at_random
from jaxrec.data.tables.table_reader import (
    import_pyarrow,
    parse_numbers,
    read_blocks,
    read_column_names,
    read_table,
)

SINGLE = (
    *("101", "121", "122", "124", "125", "126", "127", "128", "129"),
    *("205", "206", "207", "216", "301", "508", "509", "702", "853"),
)  # the fields that AITM reads
SEVERAL = ("210", "109_14", "110_14", "127_14", "150_14")
LABELS = ("click", "purchase")
_FIELD_NAME = re.compile("D?[0-9]+(?:_[0-9]+)?")
_SKELETON_COLUMNS = ("sample", "click", "purchase", "common", "count", "features")
_COMMON_COLUMNS = ("common", "count", "features")


class Files(NamedTuple):
    """The two files of a part: impressions, and the features common to impressions of a user."""

    skeleton: str | Path
    common: str | Path


def load(
    train: Files,
    test: Files,
    *,
    single: Sequence[str] = SINGLE,
    several: Sequence[str] = (),
    max_values: int = 20,
    min_count: int = 10,
    validation: float = 0.1,
    inconsistent: Literal["error", "drop"] = "error",
    seed: int = 0,
) -> ImpressionSplit:
    """Tasks `click` and `purchase`, both on every row; validation is a random share of the rows of `train`.

    single: fields of at most one value per row; several: fields (see SEVERAL) of which each row keeps the
    first `max_values`. min_count: ids that are rarer in training rows are out of vocabulary.
    inconsistent: rows with a purchase but no click raise, or are dropped, as in AITM.
    The user (101) is also the group, 0 where unknown.
    """
    raw, sizes = read_logs((train, test), single=single, several=several, inconsistent=inconsistent)
    specs: list[FeatureSpec] = [
        *(Category(name, min_count=min_count) for name in single),
        *(Tags(name, min_count=min_count, max_values=max_values) for name in several),
    ]
    drawn = split_at_random(sizes[0], validation=validation, test=0, seed=seed)
    rule = f"the source's test file; validation {validation:g} at random, seed {seed}"
    split = SplitIndices(
        train=drawn.train, validation=drawn.validation, test=np.arange(sizes[0], sum(sizes)), rule=rule
    )
    return _encode_and_split(specs, raw, split)


def load_table(
    train: str | Path,
    validation: str | Path,
    test: str | Path,
    *,
    min_count: int = 1,
    features: Sequence[str] | None = None,
) -> ImpressionSplit:
    """Tasks `click` and `purchase` from three tables with a header; columns named D... are numbers.

    features: names of the columns that are features; others are not read. None reads all, which must then be
    named like fields of the data set (101, 109_14, D109_14).
    A table has one value per field: of fields in SEVERAL it has only one of their values.
    """
    names = _feature_names(train, features)
    numbers = [name for name in names if name.startswith("D")]
    categories = [name for name in names if name not in numbers]
    raw, sizes = read_table([train, validation, test], categories=categories, numbers=[*numbers, *LABELS])
    specs: list[FeatureSpec] = [
        *(Category(name, min_count=min_count) for name in categories),
        *map(Number, numbers),
    ]
    first, second, third = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:2])
    split = SplitIndices(train=first, validation=second, test=third, rule="the three files")
    return _encode_and_split(specs, raw, split)


def _feature_names(path: str | Path, wanted: Sequence[str] | None) -> list[str]:
    """The columns that are features; ValueError unless each is a field or is in `wanted`."""
    header = read_column_names(path)
    wrong = header_fault(header) if wanted is None else None
    names = [name for name in header if name not in LABELS] if wanted is None else list(wanted)
    strange = [name for name in names if not _FIELD_NAME.fullmatch(name)] if wanted is None else []
    if strange and not wrong:
        wrong = f"columns {', '.join(map(repr, strange))} are not named like a field (101, 109_14, D109_14)"
    if wrong:
        raise ValueError(
            f"{path}: {wrong}, so they need not be features: name those that are in features=, of "
            f"{', '.join(map(repr, header))}"
        )
    bad = [name for name in names if name not in header or name in LABELS or not name.strip()]
    if bad or not names:
        raise ValueError(
            f"{path}: features={names}: {bad or 'none'}: name columns of {', '.join(map(repr, header))}, "
            "except the labels"
        )
    return names


def read_logs(
    parts: Sequence[Files],
    *,
    single: Sequence[str] = SINGLE,
    several: Sequence[str] = (),
    inconsistent: Literal["error", "drop"] = "error",
) -> tuple[dict[str, RawColumn], list[int]]:
    """Concatenated raw columns of parts, click, purchase and one per field, and the parts' numbers of rows.

    Raises ValueError naming the file for a line of another form, an impression whose common features are
    missing, and a second value of a field in `single`.
    """
    if inconsistent not in ("error", "drop"):
        raise ValueError(f"inconsistent={inconsistent!r}: must be 'error' or 'drop'")
    pa = import_pyarrow("Ali-CCP")
    fields = (*single, *several)
    labels: list[np.ndarray] = []
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in fields}  # (rows, ids)
    sizes: list[int] = []
    for files in parts:
        index, common = _read_common(pa, files.common, fields)
        first = sum(sizes)
        size = 0
        for block in read_blocks(
            files.skeleton, dict.fromkeys(_SKELETON_COLUMNS, pa.string()), names=_SKELETON_COLUMNS
        ):
            both = np.stack([block.column(name).to_numpy(zero_copy_only=False) for name in LABELS])
            strange = ~((both == "0") | (both == "1")).all(axis=0)
            if strange.any():
                at = int(strange.argmax())
                raise ValueError(
                    f"{files.skeleton}, row {size + at}: click {both[0, at]!r}, purchase {both[1, at]!r}: "
                    "expected 0 or 1; repair the line"
                )
            good = ~((both[0] == "0") & (both[1] == "1"))
            if not good.all() and inconsistent == "error":
                raise ValueError(
                    f"{files.skeleton}, row {size + int(good.argmin())}: purchase without a click; "
                    "inconsistent='drop' drops such rows"
                )
            block, both = block.filter(pa.array(good)), both[:, good]
            labels.append((both == "1").astype(np.float32))
            here = np.arange(first + size, first + size + block.num_rows)
            own = _parse_features(pa, path=files.skeleton, features=block.column("features"), fields=fields)
            common_rows = _common_indices(files, index, block.column("common"))
            for name in fields:
                rows, ids = own[name]
                more_rows, more_ids = _gather_rows(common[name], common_rows)
                rows, ids = np.concatenate([rows, more_rows]), np.concatenate([ids, more_ids])
                order = np.argsort(rows, kind="stable")
                found[name].append((here[rows[order]], ids[order]))
            size += block.num_rows
        sizes.append(size)
    click, purchase = np.concatenate(labels, axis=1)
    raw: dict[str, RawColumn] = {"click": click, "purchase": purchase}
    for name in fields:
        rows, ids = (np.concatenate(pieces) for pieces in zip(*found.pop(name), strict=True))
        raw[name] = _build_column(name, rows, ids, size=sum(sizes), single=name in single)
    return raw, sizes


def _encode_and_split(
    specs: Sequence[FeatureSpec], raw: dict[str, RawColumn], split: SplitIndices
) -> ImpressionSplit:
    encoders = fit_encoders(specs, raw, split.train)
    labels = {task: np.asarray(raw[task]) for task in LABELS}
    user = raw.get("101")
    group = user.codes.astype(np.int32) + 1 if isinstance(user, Coded) else None
    table = Impressions(
        "ali-ccp", columns=encode(encoders, raw), fields=encoders.fields, labels=labels, group=group
    )
    return table.split(*split[:3], rule=split.rule)


def _read_common(pa: Any, path: str | Path, fields: Sequence[str]) -> tuple[Any, dict[str, Ragged]]:
    """The keys of the common file, in its order, and the values of each field in each of its rows."""
    keys, found, size = [], {name: [] for name in fields}, 0  # type: ignore[var-annotated]
    for block in read_blocks(path, dict.fromkeys(_COMMON_COLUMNS, pa.string()), names=_COMMON_COLUMNS):
        keys.append(block.column("common"))
        for name, (rows, ids) in _parse_features(
            pa, path=path, features=block.column("features"), fields=fields
        ).items():
            found[name].append((rows + size, ids))
        size += block.num_rows
    columns = {}
    for name, pieces in found.items():
        rows, ids = (np.concatenate(each) for each in zip(*pieces, strict=True))
        columns[name] = Ragged(ids, _offsets_of_rows(rows, size))
    index = pa.chunked_array(keys).combine_chunks()
    if len(index.unique()) < len(index):
        raise ValueError(f"{path}: a common feature index occurs twice; keep one line of each")
    return index, columns


def _parse_features(
    pa: Any, path: str | Path, features: Any, fields: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows and ids of each field from cells `field \\x02 id \\x03 weight \\x01 field ...`, of which an empty
    one has none."""
    import pyarrow.compute as pc

    try:
        lists = pc.split_pattern(features, "\x01")
        number = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(lists)), number)
        pairs = pc.split_pattern(lists.flatten(), "\x02")
        name = pc.list_element(pairs, 0)
        value = pc.list_element(pc.split_pattern(pc.list_element(pairs, 1), "\x03"), 0)
        found = {}
        for field in fields:
            of_field = pc.equal(name, field)
            ids = _parse_ids(pa, value.filter(of_field))
            found[field] = (row[of_field.to_numpy(zero_copy_only=False)], ids)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: features must read `field \\x02 integer id \\x03 weight` ({error})"
        ) from None
    return found


def _parse_ids(pa: Any, cells: Any) -> np.ndarray:
    """Text as integers; pa.ArrowInvalid for a cell that is empty or not an integer."""
    if cells.null_count:
        raise pa.ArrowInvalid("a field has no id")
    try:
        found = parse_numbers(cells, kind=pa.int64(), where="id", line=1)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    return found.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _common_indices(files: Files, index: Any, keys: Any) -> np.ndarray:
    """The row of the common file that each impression refers to; ValueError if there is none."""
    import pyarrow.compute as pc

    rows = pc.index_in(keys, value_set=index)
    if rows.null_count:
        key = keys[int(rows.is_null().to_numpy(zero_copy_only=False).argmax())]
        raise ValueError(f"{files.skeleton}: common feature index {key} is not in {files.common}")
    return rows.to_numpy(zero_copy_only=False)


def _gather_rows(column: Ragged, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values in some rows of a ragged column: for each value its index in `rows`, and the value."""
    start, lengths = column.offsets[rows], np.diff(column.offsets)[rows]
    index = np.repeat(np.arange(len(rows)), lengths)
    within = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return index, np.asarray(column.values)[start[index] + within]


def _build_column(name: str, rows: np.ndarray, ids: np.ndarray, *, size: int, single: bool) -> Coded | Ragged:
    values, codes = np.unique(ids, return_inverse=True)
    codes = codes.astype(np.int32)
    if not single:
        return Ragged(Coded(codes, values), _offsets_of_rows(rows, size))
    twice = np.flatnonzero(rows[1:] == rows[:-1])
    if twice.size:
        raise ValueError(
            f"Ali-CCP: row {rows[twice[0]]} has several values of field {name}; name it in `several`, which "
            "keeps them all"
        )
    column = np.full(size, -1, np.int32)
    column[rows] = codes
    return Coded(column, values)


def _offsets_of_rows(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))]).astype(np.int64)
