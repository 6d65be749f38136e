"""Ali-CCP: click and conversion over all impressions of a shop (Ma et al., SIGIR 2018, Tianchi data set 408).

The data are behind a login, so there is no address to download them from. `load` reads files of yours as
distributed: sample_skeleton_{train,test}.csv and common_features_{train,test}.csv, 42.3M impressions each.
`load_table` reads tables with a header click, purchase, 101, ..., which several libraries prepare from them.

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
_FIELD = re.compile("D?[0-9]+(?:_[0-9]+)?")
_SAMPLE = ("sample", "click", "purchase", "common", "count", "features")
_COMMON = ("common", "count", "features")


class Files(NamedTuple):
    """The two files of a part: impressions, and the features that impressions of a user share."""

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

    single: fields of at most one value a row; several: fields (see SEVERAL) of which each row keeps the
    first `max_values`. min_count: ids that are rarer in training rows are out of vocabulary.
    inconsistent: rows with a purchase but no click raise, or are dropped, as in AITM.
    The user (101) is the group too, 0 where unknown.
    """
    raw, sizes = read_logs((train, test), single=single, several=several, inconsistent=inconsistent)
    specs: list[FeatureSpec] = [
        *(Category(name, min_count=min_count) for name in single),
        *(Tags(name, min_count=min_count, max_values=max_values) for name in several),
    ]
    rows = split_at_random(sizes[0], validation=validation, test=0, seed=seed)
    late = np.arange(sizes[0], sum(sizes))
    rule = f"the source's test file; validation {validation:g} at random, seed {seed}"
    return _split(specs, raw, SplitIndices(rows.train, rows.validation, late, rule))


def load_table(
    train: str | Path,
    validation: str | Path,
    test: str | Path,
    *,
    min_count: int = 1,
    features: Sequence[str] | None = None,
) -> ImpressionSplit:
    """Tasks `click` and `purchase` from three tables with a header; columns named D... are numbers.

    features: names of the columns that are features; others are not read. None takes all, which then have to
    be named like fields of the data set (101, 109_14, D109_14).
    A table has one value a field: of fields in SEVERAL it holds one of many.
    """
    names = _features(train, features)
    numbers = [name for name in names if name.startswith("D")]
    categories = [name for name in names if name not in numbers]
    raw, (fitted, chosen, late) = read_table(
        [train, validation, test], categories=categories, numbers=[*numbers, *LABELS]
    )
    specs: list[FeatureSpec] = [
        *(Category(name, min_count=min_count) for name in categories),
        *map(Number, numbers),
    ]
    first, second, third = np.split(np.arange(fitted + chosen + late), [fitted, fitted + chosen])
    return _split(specs, raw, SplitIndices(first, second, third, "the three files"))


def _features(path: str | Path, wanted: Sequence[str] | None) -> list[str]:
    """The columns that are features; ValueError unless each is a field or was named."""
    header = read_column_names(path)
    wrong = header_fault(header) if wanted is None else None
    names = [name for name in header if name not in LABELS] if wanted is None else list(wanted)
    strange = [name for name in names if not _FIELD.fullmatch(name)] if wanted is None else []
    if strange and not wrong:
        wrong = f"columns {', '.join(map(repr, strange))} are not named like a field (101, 109_14, D109_14)"
    if wrong:
        raise ValueError(
            f"{path}: {wrong}, so it is not known whether they are features: name those that are in "
            f"features=, some of {', '.join(map(repr, header))}"
        )
    bad = [name for name in names if name not in header or name in LABELS or not name.strip()]
    if bad or not names:
        raise ValueError(
            f"{path}: features={names}: {bad or 'none'}: name columns of {', '.join(map(repr, header))}, but "
            "for the labels"
        )
    return names


def read_logs(
    parts: Sequence[Files],
    *,
    single: Sequence[str] = SINGLE,
    several: Sequence[str] = (),
    inconsistent: Literal["error", "drop"] = "error",
) -> tuple[dict[str, RawColumn], list[int]]:
    """Raw columns of parts end to end, and their numbers of rows: click and purchase, a column a field.

    Raises ValueError naming the file for a line of another form, an impression whose common features are not
    there, and a second value of a single field.
    """
    if inconsistent not in ("error", "drop"):
        raise ValueError(f"inconsistent={inconsistent!r}: must be 'error' or 'drop'")
    pa = import_pyarrow("Ali-CCP")
    fields = (*single, *several)
    labels: list[np.ndarray] = []
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in fields}  # (rows, ids)
    sizes: list[int] = []
    for files in parts:
        index, common = _common(pa, files.common, fields)
        first = sum(sizes)
        size = 0
        for block in read_blocks(files.skeleton, dict.fromkeys(_SAMPLE, pa.string()), names=_SAMPLE):
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
                    "inconsistent='drop' leaves such rows out"
                )
            block, both = block.filter(pa.array(good)), both[:, good]
            labels.append((both == "1").astype(np.float32))
            here = np.arange(first + size, first + size + block.num_rows)
            own = _parse(pa, files.skeleton, block.column("features"), fields)
            shared = _places(files, index, block.column("common"))
            for name in fields:
                rows, ids = own[name]
                more_rows, more_ids = _gather(common[name], shared)
                rows, ids = np.concatenate([rows, more_rows]), np.concatenate([ids, more_ids])
                order = np.argsort(rows, kind="stable")
                found[name].append((here[rows[order]], ids[order]))
            size += block.num_rows
        sizes.append(size)
    click, purchase = np.concatenate(labels, axis=1)
    raw: dict[str, RawColumn] = {"click": click, "purchase": purchase}
    for name in fields:
        rows, ids = (np.concatenate(pieces) for pieces in zip(*found.pop(name), strict=True))
        raw[name] = _column(name, rows, ids, sum(sizes), name in single)
    return raw, sizes


def _split(specs: Sequence[FeatureSpec], raw: dict[str, RawColumn], rows: SplitIndices) -> ImpressionSplit:
    encoders = fit_encoders(specs, raw, rows.train)
    labels = {task: np.asarray(raw[task]) for task in LABELS}
    user = raw.get("101")
    group = user.codes.astype(np.int32) + 1 if isinstance(user, Coded) else None
    table = Impressions("ali-ccp", encode(encoders, raw), encoders.fields, labels, group=group)
    return table.split(*rows[:3], rule=rows.rule)


def _common(pa: Any, path: str | Path, fields: Sequence[str]) -> tuple[Any, dict[str, Ragged]]:
    """The keys of the common file, in its order, and the values of each field for each of its rows."""
    keys, found, size = [], {name: [] for name in fields}, 0  # type: ignore[var-annotated]
    for block in read_blocks(path, dict.fromkeys(_COMMON, pa.string()), names=_COMMON):
        keys.append(block.column("common"))
        for name, (rows, ids) in _parse(pa, path, block.column("features"), fields).items():
            found[name].append((rows + size, ids))
        size += block.num_rows
    columns = {}
    for name, pieces in found.items():
        rows, ids = (np.concatenate(each) for each in zip(*pieces, strict=True))
        columns[name] = Ragged(ids, _offsets(rows, size))
    index = pa.chunked_array(keys).combine_chunks()
    if len(index.unique()) < len(index):
        raise ValueError(f"{path}: a common feature index stands twice; keep one line of each")
    return index, columns


def _parse(
    pa: Any, path: str | Path, features: Any, fields: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows and ids of each field from cells `field \\x02 id \\x03 weight \\x01 field ...`."""
    import pyarrow.compute as pc

    try:
        lists = pc.split_pattern(features, "\x01")
        row = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        pairs = pc.split_pattern(lists.flatten(), "\x02")
        name = pc.list_element(pairs, 0)
        value = pc.list_element(pc.split_pattern(pc.list_element(pairs, 1), "\x03"), 0)
        found = {}
        for field in fields:
            of_field = pc.equal(name, field)
            ids = _plain_ids(pa, value.filter(of_field))
            found[field] = (row[of_field.to_numpy(zero_copy_only=False)], ids)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: features must read `field \\x02 integer id \\x03 weight` ({error})"
        ) from None
    return found


def _plain_ids(pa: Any, cells: Any) -> np.ndarray:
    """Text as integers; pa.ArrowInvalid for a cell that is not one, or nothing."""
    if cells.null_count:
        raise pa.ArrowInvalid("a field has no id")
    try:
        found = parse_numbers(cells, pa.int64(), "id", 1)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    return found.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _places(files: Files, index: Any, keys: Any) -> np.ndarray:
    import pyarrow.compute as pc

    places = pc.index_in(keys, value_set=index)
    if places.null_count:
        key = keys[int(places.is_null().to_numpy(zero_copy_only=False).argmax())]
        raise ValueError(f"{files.skeleton}: common feature index {key} is not in {files.common}")
    return places.to_numpy(zero_copy_only=False)


def _gather(column: Ragged, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the rows `places` of a ragged column, with the position in `places` of each."""
    start, lengths = column.offsets[places], np.diff(column.offsets)[places]
    rows = np.repeat(np.arange(len(places)), lengths)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, np.asarray(column.values)[start[rows] + within]


def _column(name: str, rows: np.ndarray, ids: np.ndarray, size: int, single: bool) -> Coded | Ragged:
    values, codes = np.unique(ids, return_inverse=True)
    codes = codes.astype(np.int32)
    if not single:
        return Ragged(Coded(codes, values), _offsets(rows, size))
    twice = np.flatnonzero(rows[1:] == rows[:-1])
    if twice.size:
        raise ValueError(
            f"Ali-CCP: row {rows[twice[0]]} has several values of field {name}; name it in `several`, which "
            "keeps them all"
        )
    column = np.full(size, -1, np.int32)
    column[rows] = codes
    return Coded(column, values)


def _offsets(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))]).astype(np.int64)
