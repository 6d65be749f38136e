"""A user's own tables of events: CSV, JSON lines, Parquet, data frames (lines of items: sequence_files.py).

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
    BadCell,
    IdCodes,
    parse_kept_id,
    parse_kept_user,
    parse_number,
    parse_seconds,
    quote,
)
from jaxrec.data.delimited import column_index, read_header, read_records, resolve_delimiter
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.typed_columns import id_values, number_values, second_values
from jaxrec.data.typed_sources import Source, describe_source, is_path, name_source, read_typed, source_form
from jaxrec.data.validation import as_int32_ids, check_seconds, count_kept_items

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
    names = _named_columns(path, {"user": user, "item": item, "time": time, "value": value})
    records = read_records(path, resolve_delimiter(path, delimiter))
    header = read_header(path, records) if columns is None else list(columns)
    indices = {
        feature: _index_of(path, header, feature=feature, name=given) for feature, given in names.items()
    }
    codes = {feature: IdCodes(feature, real_ids) for feature in ("user", "item")}
    read: dict[str, Callable[[str], int | float]] = {
        "time": functools.partial(parse_seconds, "time"),
        "value": functools.partial(parse_number, "value"),
    }
    for feature, table in codes.items():
        read[feature] = table.__getitem__
    if ids == "keep":
        read |= {"user": parse_kept_user, "item": functools.partial(parse_kept_id, "item")}
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

    Ids are integer or text columns; time is a column of whole numbers (seconds) or of timestamps in whole
    seconds, UTC if they have no time zone. Raises ImportError without pyarrow.
    """
    names = {"user": user, "item": item, "time": time, "value": value}
    path, name = _path_and_name(path, name, ids)
    return _read_typed_events(
        path, names, ids=ids, order=order, real_ids=real_ids, name=name, form=".parquet"
    )


def read_events(
    source: Source,
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
    """Reads events of any form with the rules of `read_csv`, to which the other arguments belong.

    source: a path (CSV, JSON lines, each also `.gz`, or Parquet, by the name's ending), a mapping of columns
    to arrays or lists, or a data frame (of pandas, polars, pyarrow or what can be read as one).
    delimiter, columns: for CSV only. name: of the data set; a data frame needs one.
    """
    options: dict[str, Any] = {"ids": ids, "order": order, "real_ids": real_ids}
    name = name_source(source, name)
    if source_form(source) == ".csv":
        return read_csv(
            source,
            user=user,
            item=item,
            time=time,
            value=value,
            delimiter=delimiter,
            columns=columns,
            **options,
            name=name,
        )
    for option, given in (("delimiter", delimiter), ("columns", columns)):
        if given is not None:
            raise ValueError(f"{option}={given!r}: is for CSV files, not for {_shown(source)}; leave it out")
    if ids not in ("map", "keep"):
        raise ValueError(f"ids={ids!r}: must be 'map' or 'keep'")
    names = {"user": user, "item": item, "time": time, "value": value}
    return _read_typed_events(source, names, **options, name=name)


def _read_typed_events(
    source: Source,
    given: Mapping[str, str | None],
    *,
    ids: Ids,
    order: vocab.Order,
    real_ids: Collection[str],
    name: str,
    form: str | None = None,
) -> Interactions:
    """Events of a source whose columns have types. given: {feature: column, None: there is none}."""
    where = describe_source(source, name)
    names = _named_columns(where, given)

    def choose(header: Sequence[str]) -> list[str]:
        for feature, column in names.items():
            _index_of(where, header, feature, column)
        return list(dict.fromkeys(names.values()))

    table = read_typed(source, choose, name, form=form)
    found: dict[str, Any] = {
        feature: id_values(table, feature, names[feature], ids=ids, real_ids=real_ids)
        for feature in ("user", "item")
    }
    if "time" in names:
        found["time"] = second_values(table, "time", names["time"])
    if "value" in names:
        found["value"] = number_values(table, "value", names["value"])
    return _build_interactions(table.where, name=name, columns=found, ids=ids, order=order, real_ids=real_ids)


def _shown(source: Source) -> str:
    return str(source) if is_path(source) else "a data frame"


def _path_and_name(path: str | Path, name: str | None, ids: Ids) -> tuple[Path, str]:
    """The path and the data set's name; ValueError for a bad `ids` or name."""
    if ids not in ("map", "keep"):
        raise ValueError(f"ids={ids!r}: must be 'map' or 'keep'")
    return Path(path), name_source(path, name)


def _complete_records(
    path: Path, records: Iterator[tuple[int, list[str]]], width: int
) -> Iterator[tuple[int, list[str]]]:
    """The records; ValueError naming the line of one that does not have `width` cells."""
    for line, record in records:
        if len(record) != width:
            what = "is empty" if not record else f"has {len(record)} cells"
            raise ValueError(f"{path}, line {line}: {what}, the header has {width}; repair the line")
        yield line, record


def _named_columns(where: str | Path, given: Mapping[str, str | None]) -> dict[str, str]:
    """{feature: column} without features that have none; ValueError for a column with two uses."""
    names = {feature: column for feature, column in given.items() if column is not None}
    for column in names.values():
        uses = [feature for feature, other in names.items() if other == column]
        if len(uses) > 1:
            raise ValueError(
                f"{where}: {quote(column)} is given as {' and '.join(uses)}; a column has one use"
            )
    return names


def _index_of(where: str | Path, header: Sequence[str], feature: str, name: str) -> int:
    """`column_index`, with what to do where there are no times."""
    without = "name it with time=... (--time); time=None (--time '') says that events are in time order"
    return column_index(where, header, feature, name, remedy=without if feature == "time" else None)


def _build_interactions(
    path: str | Path,
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
