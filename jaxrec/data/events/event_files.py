"""A user's own tables of events, as CSV or Parquet (for one sequence per line see sequence_files.py).

Whatever is wrong with a file raises ValueError naming the file, the line, the rule and the remedy: nothing
is dropped, clipped or guessed in silence.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.data import vocab
from jaxrec.data.cells import (
    SECONDS,
    BadCell,
    IdCodes,
    check_id,
    parse_kept_id,
    parse_number,
    parse_seconds,
    quote,
)
from jaxrec.data.delimited import read_header, read_records, resolve_delimiter
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.validation import as_int32_ids, as_integers, check_name, check_seconds, count_kept_items

Ids = Literal["map", "keep"]


def read_csv(
    path: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    ids: Ids = "map",
    order: vocab.Order = "appearance",
    real_ids: Collection[str] = (),
    name: str | None = None,
) -> Interactions:
    r"""Reads a table with a header line, `.gz` allowed; other columns are ignored.

    user, item, time, value: names of the columns. time=None: events are in time order.
    delimiter: one or several characters, such as "::"; None means a tab for `.tsv`, a comma otherwise.
    columns: names of all columns of a file without a header line.
    ids: "map" numbers raw item ids, any text, 1..n in the given `order` ("sorted" sorts them as text);
    "keep" keeps them: integers 1..n. Users are always numbered; with "keep" their raw ids are integers.
    real_ids: ids that look like a missing value (`cells.MISSING_MARKS`) but are real, such as "NA".
    name: of the data set, by default that of the file.
    """
    path, name = _path_and_name(path, name, ids)
    records = read_records(path, resolve_delimiter(path, delimiter))
    header = read_header(path, records) if columns is None else list(columns)
    names = {"user": user, "item": item, "time": time, "value": value}
    indices = {
        f: _column_index(path, header=header, feature=f, name=given)
        for f, given in names.items()
        if given is not None
    }
    codes = {feature: IdCodes(feature, real_ids) for feature in ("user", "item")}
    read: dict[str, Callable[[str], int | float]] = {
        "time": functools.partial(parse_seconds, "time"),
        "value": functools.partial(parse_number, "value"),
    }
    for feature, table in codes.items():
        read[feature] = functools.partial(parse_kept_id, feature) if ids == "keep" else table.__getitem__
    cells = {feature: array("d" if feature == "value" else "q") for feature in indices}
    steps: list[tuple[int, Callable[[str], Any], Callable[[Any], None]]] = [
        (at, read[feature], cells[feature].append) for feature, at in indices.items()
    ]
    for line, record in _complete_records(path, records, len(header)):
        try:
            for at, convert, keep in steps:
                keep(convert(record[at]))
        except BadCell as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not cells["user"]:
        raise ValueError(f"{path}: there are no events; the file has a header line only, or nothing at all")
    found: dict[str, Any] = {feature: np.array(column) for feature, column in cells.items()}
    if ids == "map":
        for feature, table in codes.items():
            found[feature] = vocab.CodedTexts(found[feature], list(table))
    return _build_interactions(path, name=name, columns=found, ids=ids, order=order, real_ids=real_ids)


def read_parquet(
    path: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    ids: Ids = "map",
    order: vocab.Order = "appearance",
    real_ids: Collection[str] = (),
    name: str | None = None,
) -> Interactions:
    """Reads a Parquet table as `read_csv` does; needs the extra `parquet`.

    Ids are integer or text columns; time is a column of integers (seconds) or of timestamps in whole
    seconds, UTC if they have no time zone. Raises ImportError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow; pip install 'jaxrec[parquet]'") from error
    path, name = _path_and_name(path, name, ids)
    given = {"user": user, "item": item, "time": time, "value": value}
    names = {feature: column for feature, column in given.items() if column is not None}
    try:
        with pq.ParquetFile(path) as file:
            for feature, column in names.items():
                _column_index(path, header=file.schema_arrow.names, feature=feature, name=column)
            table = file.read(columns=list(dict.fromkeys(names.values())))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    if table.num_rows == 0:
        raise ValueError(f"{path}: there are no events; the table has no rows")
    read: dict[str, Callable[[str, Any], Any]] = {"time": _arrow_seconds, "value": _arrow_numbers}
    for feature in ("user", "item"):
        read[feature] = functools.partial(_arrow_ids, feature=feature, ids=ids, real_ids=real_ids)
    found = {}
    for feature, column in names.items():
        where = f"{path}: {feature} ({column})"
        found[feature] = read[feature](
            where, _arrow_column(path, feature=feature, column=column, table=table)
        )
    return _build_interactions(path, name=name, columns=found, ids=ids, order=order, real_ids=real_ids)


def _arrow_column(path: Path, feature: str, column: str, table: Any) -> Any:
    """A column; ValueError for missing values. Dictionaries are decoded first: they may hold nulls too."""
    import pyarrow as pa

    found = table.column(column)
    if pa.types.is_dictionary(found.type):
        found = found.cast(found.type.value_type)
    if found.null_count:
        row = found.is_null().to_numpy().argmax()
        raise ValueError(
            f"{path}, row {row}: {feature} ({column}) is missing ({found.null_count:,} such rows); "
            "fill them in or remove them"
        )
    return found


def _arrow_ids(
    where: str, found: Any, *, feature: str, ids: Ids, real_ids: Collection[str]
) -> np.ndarray | vocab.CodedTexts:
    """Integers, or text as codes; each distinct text is checked as in a CSV file."""
    import pyarrow as pa

    text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
    text = text or pa.types.is_string_view(found.type)
    if pa.types.is_integer(found.type):
        return as_integers(found.to_numpy(), where)
    if not (text and ids == "map"):
        wanted = "integers or text" if ids == "map" else "integers (ids='keep')"
        raise ValueError(f"{where} is of type {found.type}, expected {wanted}; convert it")
    chunks = found.dictionary_encode().unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks]).astype(np.int64)
    texts = chunks[0].dictionary.to_pylist()
    for code, cell in enumerate(texts):
        try:
            check_id(feature, cell, real_ids)
        except BadCell as error:
            raise ValueError(f"{where}, row {int((codes == code).argmax())}: {error}") from None
    return vocab.CodedTexts(codes, texts)


def _arrow_seconds(where: str, found: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_timestamp(found.type):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[found.type.unit]
        ticks = found.cast(pa.int64()).to_numpy()
        if (ticks % per_second).any():
            raise ValueError(f"{where} has fractions of a second; round it: {SECONDS}")
        return np.asarray(ticks // per_second)
    if not pa.types.is_integer(found.type):
        raise ValueError(f"{where} is of type {found.type}; expected integers or timestamps; {SECONDS}")
    return as_integers(found.to_numpy(), where)


def _arrow_numbers(where: str, found: Any) -> np.ndarray:
    import pyarrow as pa

    if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
        raise ValueError(f"{where} is of type {found.type}, expected numbers; convert it")
    return np.asarray(found.to_numpy().astype(np.float64))


def _path_and_name(path: str | Path, name: str | None, ids: Ids) -> tuple[Path, str]:
    """The path and the data set's name; ValueError for a bad `ids` or name."""
    if ids not in ("map", "keep"):
        raise ValueError(f"ids={ids!r}: must be 'map' or 'keep'")
    path = Path(path)
    name = path.name if name is None else name
    check_name(name)
    return path, name


def _complete_records(
    path: Path, records: Iterator[tuple[int, list[str]]], width: int
) -> Iterator[tuple[int, list[str]]]:
    """The records; ValueError naming the line of one that does not have `width` cells."""
    for line, record in records:
        if len(record) != width:
            what = "is empty" if not record else f"has {len(record)} cells"
            raise ValueError(f"{path}, line {line}: {what}, the header has {width}; repair the line")
        yield line, record


def _column_index(path: Path, header: Sequence[str], feature: str, name: str) -> int:
    count = list(header).count(name)
    if count > 1:
        raise ValueError(f"{path}: {count} columns are named {name!r}; column names must differ")
    if not count:
        other = next((d for d in (",", ";", "\t", "|", "::") if len(header) == 1 and d in header[0]), None)
        if other is not None:
            raise ValueError(f"{path}: the header {quote(header[0])} is one column; give delimiter={other!r}")
        without = "; time=None says that events are in time order" if feature == "time" else ""
        raise ValueError(
            f"{path}: there is no {feature} column {name!r} among {', '.join(map(quote, header))}; "
            f"name it with {feature}=...{without}"
        )
    return list(header).index(name)


def _build_interactions(
    path: Path,
    name: str,
    columns: Mapping[str, Any],
    ids: Ids,
    order: vocab.Order,
    real_ids: Collection[str],
) -> Interactions:
    user, item, time, value = (columns.get(feature) for feature in ("user", "item", "time", "value"))
    if time is not None:
        check_seconds(time, f"{path}: time")
    if value is not None:
        bad = np.flatnonzero(~(np.abs(value) <= np.finfo(np.float32).max))
        if bad.size:
            raise ValueError(
                f"{path}: value {value[bad[0]]} in event {bad[0]} ({bad.size:,} such) is not a finite "
                "float32; fill it in or remove the line"
            )
        value = value.astype(np.float32)
    if ids == "map":
        return Interactions.from_raw(
            name, user=user, item=item, time=time, value=value, order=order, real_ids=real_ids
        )
    assert item is not None
    users, user = vocab.build_and_encode(f"{path}: user", user, "sorted")
    num_items = count_kept_items(item, f"{path}: item")
    return Interactions(
        name,
        user=user,
        item=as_int32_ids(item, num_items, f"{path}: item"),
        time=time,
        value=value,
        user_ids=users.raw,
        item_ids=np.arange(1, num_items + 1),
        ids_kept=True,
    )
