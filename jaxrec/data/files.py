"""A user's own tables of events, CSV or Parquet (one sequence per line: see lines.py).

Whatever is wrong with a file raises ValueError naming the file, the place, the rule and the remedy: nothing
is dropped, clipped or guessed in silence.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.data import vocab
from jaxrec.data.checks import check_seconds, kept_items, narrow_ids
from jaxrec.data.interactions import Interactions
from jaxrec.data.store import read_bytes

Ids = Literal["map", "keep"]
_MISSING = {"", "nan", "null", "none", "inf", "-inf"}
_SECONDS = "times are whole seconds since 1970-01-01 UTC"


def read_csv(
    path: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    delimiter: str | None = None,
    ids: Ids = "map",
    order: vocab.Order = "appearance",
) -> Interactions:
    """Reads a table with a header line, `.gz` allowed; other columns are ignored.

    user, item, time, value: names of the columns. time=None: the order of the rows is the order in time.
    delimiter: None means a tab for `.tsv`, a comma otherwise.
    ids: "map" numbers raw item ids, any text, 1..n in the given `order` ("sorted" sorts them as text);
    "keep" takes them as they are: integers 1..n. Users are always numbered; with "keep" they are integers.
    """
    path = Path(path)
    separator = delimiter or ("\t" if ".tsv" in path.suffixes else ",")
    header, rows, lines = _parse_csv(path, separator)

    def column(feature: str, name: str) -> list[str]:
        at = _position(path, header, feature, name)
        return [row[at] for row in rows]

    def place(row: int) -> str:
        return f"{path}, line {lines[row]}"

    def raw(feature: str, name: str) -> np.ndarray:
        tokens = column(feature, name)
        if ids == "keep":
            return _parse(tokens, feature, place, _integer, np.int64)
        for row, token in enumerate(tokens):
            if token.strip().lower() in _MISSING:
                raise ValueError(
                    f"{place(row)}: {feature} is missing ({token!r}); fill it in or remove the line"
                )
            if token != token.strip():
                raise ValueError(f"{place(row)}: {feature} {token!r} has spaces around it; remove them")
        return np.array(tokens, dtype=str)

    return _interactions(
        path,
        raw("user", user),
        raw("item", item),
        None if time is None else _parse(column("time", time), "time", place, _second, np.int64),
        None if value is None else _parse(column("value", value), "value", place, _number, np.float64),
        ids,
        order,
    )


def read_parquet(
    path: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    ids: Ids = "map",
    order: vocab.Order = "appearance",
) -> Interactions:
    """Reads a Parquet table as `read_csv` does; needs the extra `parquet`.

    Ids are integer or text columns; time is a column of integers (seconds) or of timestamps on whole
    seconds, taken as UTC if they have no zone. Raises ImportError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow; pip install 'jaxrec[parquet]'") from error
    path = Path(path)
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    if table.num_rows == 0:
        raise ValueError(f"{path}: there are no events; the table has no rows")

    def column(feature: str, name: str) -> Any:
        found = table.column(_position(path, table.column_names, feature, name))
        if found.null_count:
            row = found.is_null().to_numpy().argmax()
            raise ValueError(
                f"{path}, row {row}: {feature} ({name}) is missing ({found.null_count:,} such rows); "
                "fill them in or remove them"
            )
        return found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found

    def raw(feature: str, name: str) -> np.ndarray:
        found = column(feature, name)
        text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
        if not (pa.types.is_integer(found.type) or (text and ids == "map")):
            wanted = "integers or text" if ids == "map" else "integers (ids='keep')"
            raise ValueError(
                f"{path}: {feature} ({name}) is of type {found.type}, expected {wanted}; convert it"
            )
        return np.array(found.to_pylist(), dtype=str) if text else found.to_numpy()

    def seconds(name: str) -> np.ndarray:
        found = column("time", name)
        if pa.types.is_timestamp(found.type):
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[found.type.unit]
            ticks = found.cast(pa.int64()).to_numpy()
            if (ticks % per_second).any():
                raise ValueError(f"{path}: time ({name}) has fractions of a second; round it: {_SECONDS}")
            return ticks // per_second
        if not pa.types.is_integer(found.type):
            raise ValueError(
                f"{path}: time ({name}) is of type {found.type}; expected integers or timestamps; {_SECONDS}"
            )
        return found.to_numpy().astype(np.int64)

    def numbers(name: str) -> np.ndarray:
        found = column("value", name)
        if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
            raise ValueError(f"{path}: value ({name}) is of type {found.type}, expected numbers; convert it")
        return found.to_numpy().astype(np.float64)

    return _interactions(
        path,
        raw("user", user),
        raw("item", item),
        None if time is None else seconds(time),
        None if value is None else numbers(value),
        ids,
        order,
    )


def _parse_csv(path: Path, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows, and the line on which each row ends."""
    content = read_bytes(path)
    if not content.strip():
        raise ValueError(f"{path}: the file is empty; expected a header line and one line per event")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); convert it") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        header = next(reader)
        for row in reader:
            if len(row) != len(header):
                what = "is empty" if not row else f"has {len(row)} cells"
                raise ValueError(
                    f"{path}, line {reader.line_num}: {what}, the header has {len(header)}; repair the line"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; repair the quotes") from error
    if not rows:
        raise ValueError(f"{path}: there are no events; the file has a header line only")
    return header, rows, lines


def _position(path: Path, header: Sequence[str], feature: str, name: str) -> int:
    count = list(header).count(name)
    if count > 1:
        raise ValueError(f"{path}: {count} columns are named {name!r}; column names must differ")
    if not count:
        other = next((d for d in ",;\t|" if len(header) == 1 and d in header[0]), None)
        if other is not None:
            raise ValueError(f"{path}: the header {header[0]!r} is one column; give delimiter={other!r}")
        without = "; time=None takes the order of the rows as the order in time" if feature == "time" else ""
        raise ValueError(
            f"{path}: there is no {feature} column {name!r} among {', '.join(map(repr, header))}; "
            f"name it with {feature}=...{without}"
        )
    return list(header).index(name)


def _parse(
    tokens: Sequence[str],
    feature: str,
    place: Callable[[int], str],
    convert: Callable[[str], float | int],
    dtype: type,
) -> np.ndarray:
    values = []
    for row, token in enumerate(tokens):
        try:
            values.append(convert(token))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{place(row)}: {feature} {token!r} {error}") from None
    return np.array(values, dtype)


def _integer(token: str) -> int:
    try:
        number = int(token)
    except ValueError:
        raise ValueError(
            "is not an integer; ids='keep' takes ids as they are, ids='map' takes any text"
        ) from None
    if not 1 <= number < 2**63:
        raise ValueError("is outside 1..2^63-1; ids start at 1, 0 is padding: use ids='map'")
    return number


def _second(token: str) -> int:
    try:
        number: int | float = int(token)
    except ValueError:
        try:
            number = float(token)
        except ValueError:
            raise ValueError(f"is missing or not a number; {_SECONDS}: convert dates first") from None
    if number != number or abs(number) >= 2**63 or number != int(number):
        raise ValueError(f"is not a whole number; {_SECONDS}: round it or remove the line")
    return int(number)


def _number(token: str) -> float:
    try:
        return float(token)
    except ValueError:
        raise ValueError("is not a number; fill it in or remove the line") from None


def _interactions(
    path: Path,
    user: np.ndarray,
    item: np.ndarray,
    time: np.ndarray | None,
    value: np.ndarray | None,
    ids: Ids,
    order: vocab.Order,
) -> Interactions:
    if ids not in ("map", "keep"):
        raise ValueError(f"ids={ids!r}: must be 'map' or 'keep'")
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
        return Interactions.from_raw(path.name, user, item, time, value, order=order)
    users = vocab.build(f"{path}: user", user, "sorted")
    num_items = kept_items(item, f"{path}: item")
    return Interactions(
        path.name,
        users.encode(user),
        narrow_ids(item, num_items, f"{path}: item"),
        time,
        value,
        users.raw,
        np.arange(1, num_items + 1),
    )
