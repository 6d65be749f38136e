"""Frozen vectors of items (of text, images or another model), as a table by item id."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.delimited import column_index, file_suffix, read_text_lines, resolve_delimiter
from jaxrec.data.tables.columns import Coded
from jaxrec.data.tables.rows import read_rows
from jaxrec.data.tables.table_reader import read_column_names
from jaxrec.data.typed_columns import Lists, TypedTable, category_values, number_values
from jaxrec.data.typed_sources import Source, is_path, read_typed, source_form
from jaxrec.data.unpacking import check_unpacked
from jaxrec.data.vocab import as_raw_ids

_SHOWN = 5  # items that an error names
# What is raised for damaged archives and arrays; MemoryError where a header names a huge shape.
_BAD_ARCHIVE = (
    ValueError,
    EOFError,
    AttributeError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_item_vectors(
    source: Source,
    item_ids: Sequence[Any] | np.ndarray,
    *,
    item: str = "item",
    ids: Sequence[Any] | np.ndarray | str | Path | None = None,
    columns: Sequence[str] | None = None,
) -> np.ndarray:
    """The vector of each item, float32 [num_items + 1, D]: row i is that of item_ids[i - 1], row 0 zeros.

    Vectors of other items are not used. An integer id and the text it is written as are one id.

    source: a `.npy` file of a matrix [n, D], with `ids`; a `.npz` file with an array `item` of ids and one
    matrix; or a CSV, JSON lines or Parquet file, a mapping of columns or a data frame with a column `item`,
    whose other columns are the dimensions in their order, or one column of lists.
    item_ids: raw ids of items 1..num_items, such as `Sequences.item_ids`. ids: of the matrix's rows, a list,
    or a file: `.npy`, or text with one id per line. columns: those that are the vector; None: all others.

    Raises:
      ValueError: an item has no vector or two, vectors of different widths, a number that is missing or not
        finite; as the reader of the form.
      ImportError: without pyarrow, which all forms but `.npy`, `.npz`, JSON lines and mappings need.
    """
    wanted = [str(value) for value in as_raw_ids("item_ids", item_ids).tolist()]
    where = str(source) if is_path(source) else "data frame of item vectors"
    if is_path(source) and file_suffix(source) == ".npy":
        if ids is None:
            raise ValueError(
                f"{where}: has no ids; give ids=..., that of each row: a list, or a file of them"
            )
        if columns is not None:
            raise ValueError(f"columns={list(columns)}: a .npy file has none; leave them out")
        found, vectors = _read_ids(ids), _read_matrix(Path(source))
        if len(found) != len(vectors):
            raise ValueError(
                f"{where}: {len(vectors):,} rows for {len(found):,} ids; there must be as many, in one order"
            )
    else:
        if ids is not None:
            raise ValueError(f"ids: are for a .npy file; {where} has the column {item!r} of them")
        if is_path(source) and file_suffix(source) == ".npz":
            source = _read_archive(Path(source))
        found, vectors = _read_columns(source, where, item, columns)
    return _in_order(where, wanted, found, vectors)


def _in_order(where: str, wanted: list[str], found: list[str], vectors: np.ndarray) -> np.ndarray:
    """The rows of the items wanted, after a row of zeros; ValueError as `load_item_vectors`."""
    at: dict[str, int] = {}
    for row, name in enumerate(found):
        if at.setdefault(name, row) != row:
            raise ValueError(
                f"{where}: item {name!r} has two vectors, in rows {at[name]} and {row}; leave one of them"
            )
    lacking = [name for name in wanted if name not in at]
    if lacking:
        raise ValueError(
            f"{where}: {len(lacking):,} of {len(wanted):,} items have no vector, such as "
            f"{', '.join(map(repr, lacking[:_SHOWN]))}; add them, or remove their events"
        )
    table = np.zeros((len(wanted) + 1, vectors.shape[1]), np.float32)
    rows = np.array([at[name] for name in wanted], np.int64)
    with np.errstate(over="ignore"):
        table[1:] = vectors[rows]
    bad = np.argwhere(~np.isfinite(table))
    if bad.size:
        row, dimension = bad[0]
        count = len(np.unique(bad[:, 0]))
        raise ValueError(
            f"{where}: item {wanted[row - 1]!r} has {vectors[rows[row - 1], dimension]} in dimension "
            f"{dimension} ({count:,} such items): missing, or not a finite float32; give it a whole vector"
        )
    return table


def _read_matrix(path: Path) -> np.ndarray:
    """A matrix of numbers [n, D] from a `.npy` file, not read into memory at once."""
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable .npy file ({error}); write it with np.save") from None
    if not isinstance(matrix, np.ndarray):
        raise ValueError(f"{path}: is a .npz archive; name it so")
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or 0 in matrix.shape:
        raise ValueError(
            f"{path}: {matrix.dtype}{list(matrix.shape)}, expected numbers [items, dimensions], one at least"
        )
    return matrix


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        check_unpacked(path, size)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except _BAD_ARCHIVE as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: not a readable .npz file ({error}); write it with np.savez") from None


def _read_ids(ids: Sequence[Any] | np.ndarray | str | Path) -> list[str]:
    if not isinstance(ids, str | Path):
        return [str(value) for value in as_raw_ids("ids", ids).tolist()]
    if file_suffix(ids) == ".npy":
        try:
            return [str(value) for value in as_raw_ids(str(ids), np.load(ids, allow_pickle=False)).tolist()]
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{ids}: not a readable .npy file of ids ({error}); write text or integers"
            ) from None
    return [line.rstrip("\r\n") for line in read_text_lines(ids)]


def _read_columns(
    source: Source, where: str, item: str, columns: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
    """The ids of a table's rows and their vectors, [n, D]."""

    def dimensions(header: Sequence[str]) -> list[str]:
        column_index(where, header, "item", item)
        chosen = [name for name in header if name != item] if columns is None else list(columns)
        if not chosen or item in chosen:
            raise ValueError(f"{where}: there is no column of numbers beside {item!r}; add the vectors")
        return chosen

    if source_form(source) == ".csv":
        chosen = dimensions(read_column_names(source, resolve_delimiter(source, None)))
        rows = read_rows(source, categorical={item: "item"}, numeric=dict.fromkeys(chosen, "columns"))
        coded = rows.columns[item]
        assert isinstance(coded, Coded)
        matrix = np.stack([np.asarray(rows.columns[name]) for name in chosen], axis=1)
        return _texts(coded.codes, coded.values.tolist(), rows.place), matrix
    read: list[str] = []

    def choose(header: Sequence[str]) -> list[str]:
        read.extend(dimensions(header))
        for name in read:
            column_index(where, header, "columns", name)
        return [item, *read]

    table = read_typed(source, choose, "of item vectors")._replace(where=where)
    found = _texts(*category_values(table, "item", item), table.place)
    if len(read) == 1 and isinstance(table.columns[read[0]].values, Lists):
        return found, _list_matrix(table, read[0], found)
    return found, np.stack([number_values(table, "columns", name, missing="nan") for name in read], axis=1)


def _list_matrix(table: TypedTable, name: str, found: list[str]) -> np.ndarray:
    """A column of lists as a matrix, NaN where a list is missing; ValueError for lists of two lengths."""
    values, missing = table.columns[name].values, table.columns[name].missing
    assert isinstance(values, Lists)
    first = int(missing.argmin())
    width = int(values.lengths[first])
    other = np.flatnonzero((values.lengths != width) & ~missing)
    if other.size or not width:
        row = int(other[0]) if other.size else first
        raise ValueError(
            f"{table.place(row)}: the vector of item {found[row]!r} has {values.lengths[row]} numbers, "
            f"that of {found[first]!r} {width}; all must have as many, at least one"
        )
    if not missing.any():
        return values.flat.reshape(-1, width)
    matrix = np.full((len(missing), width), np.nan)
    matrix[~missing] = values.flat.reshape(-1, width)
    return matrix


def _texts(codes: np.ndarray, texts: list[str], place: Any) -> list[str]:
    """The text of each row; ValueError for one that is missing."""
    if (codes < 0).any():
        raise ValueError(
            f"{place(int((codes < 0).argmax()))}: the item is missing; fill it in or remove the row"
        )
    return [texts[code] for code in codes.tolist()]
