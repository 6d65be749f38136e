"""Columns whose cells have types (Parquet, JSON lines, data frames, arrays), and the checks that all of them
pass.

The rules are those of `cells` for text: ids are integers or text and never missing, times are whole seconds,
numbers are finite. Floating-point ids, of which two may become one, are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrec.data.cells import SECONDS, BadCell, check_id, quote
from jaxrec.data.validation import as_integers
from jaxrec.data.vocab import CodedTexts

EXACT = 2**53  # whole numbers up to it are exact in float64
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NO_VALUE = ("NAType", "NaTType")  # what pandas writes for a missing value


class Lists(NamedTuple):
    """Cells that are lists of numbers: flat holds them end to end, lengths how many each cell has, [N]."""

    flat: np.ndarray
    lengths: np.ndarray


class Column(NamedTuple):
    """A column of N cells.

    values: integers, floats, truth values or datetime64 [N]; text as codes, -1 where missing; lists; or
    objects that no check takes. missing: bool [N]. type: as the source calls it, for errors.
    """

    values: np.ndarray | CodedTexts | Lists
    missing: np.ndarray
    type: str


class TypedTable(NamedTuple):
    """Columns of one source. where: the file or data frame, as errors name it. unit: what a place is counted
    in, rows from 0 or lines from 1. names: of all its columns, read or not.
    """

    where: str
    unit: Literal["row", "line"]
    names: tuple[str, ...]
    columns: Mapping[str, Column]

    def place(self, row: int) -> str:
        """The file or frame and the row or line, as errors name them."""
        return f"{self.where}, {self.unit} {row + (self.unit == 'line')}"

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())).missing)


def id_values(
    table: TypedTable, feature: str, name: str, *, ids: Literal["map", "keep"], real_ids: Collection[str]
) -> np.ndarray | CodedTexts:
    """A column of ids as int64 [N] or as coded text; ids: "keep" takes integers only.

    Raises:
      ValueError: an id is missing, not valid (`cells.check_id`), or neither an integer nor text.
    """
    column, where = _present(table, feature, name), f"{table.where}: {feature} ({name})"
    if isinstance(column.values, np.ndarray) and column.values.dtype.kind in "iu":
        return as_integers(column.values, where)
    if not (isinstance(column.values, CodedTexts) and ids == "map"):
        wanted = "integers or text" if ids == "map" else "integers (ids='keep')"
        raise ValueError(f"{where} is of type {column.type}, expected {wanted}; convert it")
    codes, texts = column.values
    for code, text in enumerate(texts):
        try:
            check_id(feature, text, real_ids)
        except BadCell as error:
            raise ValueError(f"{table.place(int((codes == code).argmax()))}: {error}") from None
    return column.values


def second_values(table: TypedTable, feature: str, name: str) -> np.ndarray:
    """A column of times as seconds since 1970, int64 [N]: whole numbers, or timestamps (UTC if without a
    zone).

    Raises:
      ValueError: a time is missing, has a fraction of a second, or is not a time.
    """
    column, where = _present(table, feature, name), f"{table.where}: {feature} ({name})"
    values = column.values
    if isinstance(values, np.ndarray) and values.dtype.kind == "M" and _unit(values) in _PER_SECOND:
        unit = _unit(values)  # a step may be several, such as "datetime64[10s]"
        ticks, per_second = values.astype(f"datetime64[{unit}]").astype(np.int64), _PER_SECOND[unit]
        bad = np.flatnonzero(ticks % per_second)
        if bad.size:
            raise ValueError(
                f"{table.place(bad[0])}: {feature} ({name}) {values[bad[0]]} has fractions of a second "
                f"({bad.size:,} such rows); round it: {SECONDS}"
            )
        return ticks // per_second
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        bad = np.flatnonzero(~((np.abs(values) <= EXACT) & (values == np.floor(values))))
        if bad.size:
            raise ValueError(
                f"{table.place(bad[0])}: {feature} ({name}) {values[bad[0]]} is not a whole number "
                f"({bad.size:,} such rows); {SECONDS}: round it or remove the row"
            )
        return values.astype(np.int64)
    if not (isinstance(values, np.ndarray) and values.dtype.kind in "iu"):
        raise ValueError(f"{where} is of type {column.type}; expected integers or timestamps; {SECONDS}")
    return as_integers(values, where)


def number_values(
    table: TypedTable, feature: str, name: str, *, missing: Literal["error", "nan"] = "error"
) -> np.ndarray:
    """A column of numbers or truth values as float64 [N]; missing: "nan" gives NaN for a missing cell.

    Infinite numbers are left to the caller.

    Raises:
      ValueError: a number is missing (missing="error"), or the column holds none.
    """
    column = table.columns[name] if missing == "nan" else _present(table, feature, name)
    if column.missing.all():
        return np.full(len(column.missing), np.nan)
    if not isinstance(column.values, np.ndarray) or column.values.dtype.kind not in "iufb":
        raise ValueError(
            f"{table.where}: {feature} ({name}) is of type {column.type}, expected numbers; convert it"
        )
    return np.where(column.missing, np.nan, column.values.astype(np.float64))


def category_values(table: TypedTable, feature: str, name: str) -> CodedTexts:
    """A column of categories as coded text, -1 where missing: integers as they are written, 3 as "3".

    So a category is the same whether it comes from a text file or from a column of integers.

    Raises:
      ValueError: the column holds other values, such as floating-point numbers.
    """
    column = table.columns[name]
    if isinstance(column.values, CodedTexts):
        return column.values
    if column.missing.all():
        return CodedTexts(np.full(len(column.missing), -1), [])
    if not isinstance(column.values, np.ndarray) or column.values.dtype.kind not in "iu":
        raise ValueError(
            f"{table.where}: {feature} ({name}) is of type {column.type}, expected text or integers; convert "
            "it (integers with missing ones among them become floating-point numbers in some data frames: "
            "keep a type that can miss values)"
        )
    distinct, codes = np.unique(column.values, return_inverse=True)
    return CodedTexts(np.where(column.missing, -1, codes), [str(value) for value in distinct.tolist()])


def list_column(cells: Sequence[Any], name: str, place: Callable[[int], str]) -> Column:
    """A column of Python objects of one kind, None or NaN where missing; integers and floats become floats.

    place: names a row in errors.

    Raises:
      ValueError: cells of several kinds, such as text and integers, or an integer beyond 64 bits.
    """
    kinds = [_kind(cell) for cell in cells]
    missing = np.array([kind == "" for kind in kinds], bool)
    present = dict.fromkeys(kind for kind in kinds if kind)
    if set(present) == {"integer", "float"}:
        present = {"float": None}
    if len(present) > 1:
        first, other = list(present)[:2]
        row = kinds.index(other)
        raise ValueError(
            f"{place(row)}: {name} {quote(str(cells[row]))} is of type {other}, cells before are of type "
            f"{first}; write all as one type"
        )
    kind = next(iter(present), "null")
    return Column(_values_of_kind(cells, missing, kind, name, place), missing, kind)


def array_column(values: Any, name: str, place: Callable[[int], str]) -> Column:
    """A column from a list, a NumPy array, or what NumPy makes an array of; NaN, NaT and masked: missing.

    Raises:
      ValueError: as `list_column`; an array of another rank than 1.
    """
    if type(values).__module__.split(".")[0] == "pyarrow":
        return arrow_column(values)
    if isinstance(values, list | tuple):
        return list_column(values, name, place)
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    missing = np.ma.getmaskarray(array)
    array = np.ma.getdata(array)
    if array.ndim == 2 and array.dtype.kind in "iuf" and not missing.any():
        lengths = np.full(len(array), array.shape[1])
        return Column(Lists(array.reshape(-1), lengths), np.zeros(len(array), bool), str(array.dtype))
    if array.ndim != 1:
        raise ValueError(
            f"{place(0)}: {name} has rank {array.ndim}; a column has rank 1, a cell for each row"
        )
    if array.dtype.kind in "UOT":
        cells = array.tolist()
        for row in np.flatnonzero(missing):
            cells[row] = None
        return list_column(cells, name, place)
    if array.dtype.kind == "f":
        missing = missing | np.isnan(array)
    elif array.dtype.kind in "mM":
        missing = missing | np.isnat(array)
    return Column(array, missing, str(array.dtype))


def arrow_column(cells: Any) -> Column:
    """A column of a pyarrow table; dictionaries are decoded first, since they may hold nulls too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(cells, pa.ChunkedArray):
        cells = pa.chunked_array([cells])
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.cast(kind.value_type)
        kind = cells.type
    missing, values = cells.is_null().to_numpy(), np.empty(len(cells), object)
    if pa.types.is_integer(kind):
        values = cells.fill_null(0).to_numpy()
    elif pa.types.is_floating(kind):
        values = cells.to_numpy()  # NaN for null
        missing |= np.isnan(values)
    elif pa.types.is_boolean(kind):
        values = cells.fill_null(False).to_numpy()
    elif pa.types.is_timestamp(kind):
        values = cells.cast(pa.int64()).fill_null(0).to_numpy().view(f"datetime64[{kind.unit}]")
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy()
        flat = pc.list_flatten(cells)
        if pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type):
            return Column(Lists(flat.to_numpy(), lengths), missing, str(kind))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        chunks = cells.dictionary_encode().unify_dictionaries().chunks
        codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
        texts = chunks[0].dictionary.to_pylist() if chunks else []
        return Column(CodedTexts(np.concatenate([*codes, []]).astype(np.int64), texts), missing, str(kind))
    return Column(values, missing, str(kind))


def _present(table: TypedTable, feature: str, name: str) -> Column:
    """The column; ValueError if a cell is missing."""
    column = table.columns[name]
    count = int(column.missing.sum())
    if count:
        raise ValueError(
            f"{table.place(int(column.missing.argmax()))}: {feature} ({name}) is missing ({count:,} such "
            f"{table.unit}s); fill them in or remove them"
        )
    return column


def _kind(cell: Any) -> str:
    """What a Python object holds: "integer", "float", "bool", "text", its type's name, "" for no value."""
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, bool | np.bool_):
        return "bool"
    if isinstance(cell, int | np.integer):
        return "integer"
    if isinstance(cell, float | np.floating):
        return "float" if cell == cell else ""
    if isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1):
        return "list"
    return "" if cell is None or type(cell).__name__ in _NO_VALUE else type(cell).__name__


def _values_of_kind(
    cells: Sequence[Any], missing: np.ndarray, kind: str, name: str, place: Callable[[int], str]
) -> np.ndarray | CodedTexts | Lists:
    """Cells of one kind as the values of a `Column`."""
    if kind == "text":
        table: dict[str, int] = {}
        codes = [
            -1 if gone else table.setdefault(cell, len(table))
            for cell, gone in zip(cells, missing, strict=True)
        ]
        for cell in table:
            if not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell):
                raise ValueError(
                    f"{place(cells.index(cell))}: {name} {quote(cell)} is half of a character (a surrogate), "
                    "which no file can hold; correct it"
                )
        return CodedTexts(np.array(codes, np.int64), list(table))
    if kind == "integer":
        for row, cell in enumerate(cells):
            if not missing[row] and not -(2**63) <= int(cell) < 2**63:
                raise ValueError(
                    f"{place(row)}: {name} {cell} is beyond 64 bits; correct it, or number the ids anew"
                )
        return np.array(
            [0 if gone else int(cell) for cell, gone in zip(cells, missing, strict=True)], np.int64
        )
    if kind == "bool":
        return np.array([not gone and bool(cell) for cell, gone in zip(cells, missing, strict=True)])
    if kind in ("float", "null"):
        whole = [np.nan if gone else cell for cell, gone in zip(cells, missing, strict=True)]
        return _as_float64(whole, lambda cell: f"{place(whole.index(cell))}: {name}")
    if kind == "list":
        lists = [[] if gone else list(cell) for cell, gone in zip(cells, missing, strict=True)]
        if {_kind(x) for cell in lists for x in cell} <= {"integer", "float", ""}:
            numbers = [np.nan if _kind(x) == "" else x for cell in lists for x in cell]
            flat = _as_float64(
                numbers,
                lambda x: f"{place(next(row for row, cell in enumerate(lists) if x in cell))}: {name}",
            )
            return Lists(flat, np.array([len(cell) for cell in lists]))
    values = np.empty(len(cells), object)
    for row, cell in enumerate(cells):
        values[row] = cell
    return values


def _as_float64(numbers: Sequence[Any], where: Callable[[Any], str]) -> np.ndarray:
    """Numbers as float64; ValueError for an integer beyond it, which `where` locates."""
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        large = next(x for x in numbers if isinstance(x, int) and abs(x) > sys.float_info.max)
        raise ValueError(f"{where(large)} has an integer too large for a float; correct it") from None


def _unit(values: np.ndarray) -> str:
    return str(np.datetime_data(values.dtype)[0])
