"""Reads large delimited tables of features block by block; needs the extra `parquet` (pyarrow)."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.data.cells import DECIMAL, INTEGER, PLAIN_INTEGER, quote
from jaxrec.data.delimited import is_gzip, read_header, read_records, read_text_lines
from jaxrec.data.tables.columns import Coded, Ragged, RawColumn
from jaxrec.data.unpacking import check_unpacked
from jaxrec.data.vocab import text_array


def read_table(
    paths: Sequence[str | Path],
    *,
    categories: Sequence[str],
    numbers: Sequence[str],
    lists: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    block_bytes: int = 1 << 24,
) -> tuple[dict[str, RawColumn], list[int]]:
    """Concatenated columns of one or several files of the same columns, and the number of rows of each file.

    categories: columns read as text into `Coded`: 4 bytes per row, each distinct value stored once; an empty
    cell is missing. numbers: columns read as float32, NaN for an empty cell. lists: columns of several texts
    per cell, {name: separator}, read into `Ragged`; an empty cell has none. Others are skipped.
    names: of all columns of files without a header line. `.gz` allowed. Files are parsed in blocks of
    `block_bytes`, so that they are never in memory as text.

    Raises ImportError without pyarrow; ValueError naming the file for a missing column, a cell that is not a
    number, a line of another length, or a file without rows.
    """
    pa = import_pyarrow(str(paths[0]))
    types = dict.fromkeys(categories, pa.dictionary(pa.int32(), pa.string()))
    types |= dict.fromkeys(numbers, pa.float32())
    separators = {} if lists is None else lists
    types |= dict.fromkeys(separators, pa.string())
    blocks: dict[str, list[Any]] = {name: [] for name in types}
    sizes = []
    for path in paths:
        size = 0
        for block in read_blocks(path, types, names=names, delimiter=delimiter, block_bytes=block_bytes):
            size += block.num_rows
            for name in types:
                cells = block.column(name)
                blocks[name].append(_split_cells(cells, separators[name]) if name in separators else cells)
        sizes.append(size)
    columns: dict[str, RawColumn] = {
        name: _concatenate_coded(pa, f"{paths[0]}: {name}", blocks.pop(name)) for name in categories
    }
    for name in separators:
        lengths, values = zip(*blocks.pop(name), strict=True)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        columns[name] = Ragged(_concatenate_coded(pa, f"{paths[0]}: {name}", values), offsets)
    for name in numbers:
        columns[name] = np.concatenate([part.to_numpy(zero_copy_only=False) for part in blocks.pop(name)])
    return columns, sizes


def read_blocks(
    path: str | Path,
    types: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    block_bytes: int = 1 << 24,
) -> Iterator[Any]:
    """Yields blocks of a file as Arrow record batches with the columns `types`; errors as `read_table`.

    Numbers are read as text first, since Arrow accepts more than `cells` does (leading zeros, spaces,
    hexadecimal digits, nan). Empty lines are refused.
    """
    pa = import_pyarrow(str(path))
    import pyarrow.csv as csv

    header = _unique_column_names(path, types, delimiter) if names is None else names
    is_number = {
        name: pa.types.is_integer(kind) or pa.types.is_floating(kind) for name, kind in types.items()
    }
    read = {name: pa.string() if is_number[name] else kind for name, kind in types.items()}

    def blocks(threads: bool) -> Iterator[Any]:
        packed = is_gzip(path)
        size = 0
        reader = csv.open_csv(
            pa.input_stream(str(path), compression="gzip" if packed else "detect"),
            read_options=csv.ReadOptions(column_names=names, block_size=block_bytes, use_threads=threads),
            parse_options=csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=read, include_columns=list(types), null_values=[""], strings_can_be_null=True
            ),
        )
        for block in reader:
            if packed:
                size += block.nbytes
                check_unpacked(path, size)
            yield block

    first = line = 1 if names is not None else 2
    try:
        for block in blocks(threads=True):
            if any(is_number.values()):
                block = _with_numbers(
                    path, block=block, types=types, is_number=is_number, header=header, line=line
                )
            if all(column.null_count for column in block.columns):
                _refuse_empty_lines(path, delimiter)
            line += block.num_rows
            yield block
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}; expected the columns {', '.join(types)}") from None
    except pa.ArrowInvalid as error:
        what = str(error)
        try:
            collections.deque(blocks(threads=False), maxlen=0)
        except pa.ArrowInvalid as exact:  # only a single thread reports the row
            what = str(exact)
        raise ValueError(f"{path}: {what}; repair the file") from None
    except (pa.ArrowException, OSError) as error:  # such as a corrupt archive
        raise ValueError(f"{path}: {error}; fetch it again") from None
    if line == first:
        raise ValueError(f"{path}: there are no rows; expected a line for each impression or event")


def _unique_column_names(path: str | Path, wanted: Iterable[str], delimiter: str) -> list[str]:
    """Names of the columns; ValueError if one of those wanted occurs twice."""
    header = read_column_names(path, delimiter)
    for name in wanted:
        if header.count(name) > 1:
            raise ValueError(f"{path}: {header.count(name)} columns are named {name!r}; names must differ")
    return header


def _refuse_empty_lines(path: str | Path, delimiter: str) -> None:
    """Raises ValueError naming the first empty line, which Arrow reads as a row of missing cells."""
    for line, record in read_records(path, delimiter):
        if not record:
            raise ValueError(f"{path}, line {line}: is empty; remove it")


def _with_numbers(
    path: str | Path,
    block: Any,
    types: Mapping[str, Any],
    is_number: Mapping[str, bool],
    header: Sequence[str],
    line: int,
) -> Any:
    """The block with its numbers parsed, each column in a thread of its own."""
    import pyarrow as pa

    def convert(name: str) -> Any:
        cells = block.column(name)
        if not is_number[name]:
            return cells
        where = f"{path}: {name}, in CSV column #{list(header).index(name)}"
        return parse_numbers(cells, kind=types[name], where=where, line=line)

    with ThreadPoolExecutor() as pool:
        return pa.record_batch(list(pool.map(convert, types)), names=list(types))


def parse_numbers(cells: Any, kind: Any, where: str, line: int) -> Any:
    """Arrow text as integers or decimal numbers of the type `kind`; null stays null.

    line: line of the file on which the cells start. ValueError names the line of a cell that does not match
    `cells.INTEGER` or `cells.DECIMAL`, or is out of the type's range.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.types.is_integer(kind)
    plain = pc.match_substring_regex(cells, f"^(?:{INTEGER if whole else DECIMAL})$")
    bad = pc.invert(plain.fill_null(True))
    if not pc.any(bad).as_py():
        try:
            found = pc.cast(cells, kind)
        except pa.ArrowInvalid:  # an integer beyond the type
            bad = pa.array([cell is not None and abs(int(cell)) >= 2**63 for cell in cells.to_pylist()])
        else:
            if whole or pc.all(pc.is_finite(found)).as_py() in (True, None):
                return found
            bad = pc.invert(pc.is_finite(found).fill_null(True))
    at = int(bad.to_numpy(zero_copy_only=False).argmax())
    rule = f"no integer of 64 bits ({PLAIN_INTEGER})" if whole else "no finite decimal number"
    raise ValueError(f"{where}: Row #{line + at}: {rule}: {quote(cells[at].as_py())}; repair the file")


def read_integers(path: str | Path, names: Sequence[str], *, delimiter: str = ",") -> dict[str, np.ndarray]:
    """The named columns of a table with a header as int64; others are skipped.

    Raises as `read_table` does, and ValueError naming the line of an empty cell.
    """
    pa = import_pyarrow(str(path))
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    line = 2
    for block in read_blocks(path, dict.fromkeys(names, pa.int64()), delimiter=delimiter):
        for name in names:
            blocks[name].append(integer_cells(path, name=name, cells=block.column(name), line=line))
        line += block.num_rows
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def integer_cells(
    path: str | Path, name: str, cells: Any, line: int, *, bits: Literal[32, 64] = 64
) -> np.ndarray:
    """A column of a block as int64 [n], or with bits=32 as int32, not negative.

    line: line of the file on which the block starts; ValueError names the line of a cell that is empty or out
    of range.
    """
    if cells.null_count:
        at = line + int(cells.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{path}, line {at}: {name} is missing; fill it in or remove the line")
    found = cells.to_numpy(zero_copy_only=False)
    if bits == 64:
        return found  # type: ignore[no-any-return]
    bad = np.flatnonzero((found < 0) | (found > np.iinfo(np.int32).max))
    if bad.size:
        raise ValueError(
            f"{path}, line {line + bad[0]}: {name} {found[bad[0]]} is outside 0..2^31-1; number the ids anew"
        )
    return found.astype(np.int32)  # type: ignore[no-any-return]


def import_pyarrow(what: str) -> Any:
    """The module pyarrow; ImportError naming `what` it is needed for."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{what}: reading it needs pyarrow; pip install 'jaxrec[parquet]'") from error
    return pyarrow


def read_first_line(path: str | Path) -> str:
    """The first line of a text file, `.gz` allowed, without line end and byte order mark."""
    with contextlib.closing(read_text_lines(path)) as lines:
        return next(lines, "").rstrip("\r\n")


def read_column_names(path: str | Path, delimiter: str = ",") -> list[str]:
    """The names of a table's columns; ValueError if the file is empty."""
    with contextlib.closing(read_records(path, delimiter)) as records:
        return read_header(path, records)


def _split_cells(cells: Any, separator: str) -> tuple[np.ndarray, Any]:
    """How many values each cell of a block has, [n], and the concatenated values, dictionary-encoded."""
    import pyarrow.compute as pc

    lists = pc.split_pattern(cells, separator)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return lengths, lists.flatten().dictionary_encode()


def _concatenate_coded(pa: Any, where: str, blocks: Sequence[Any]) -> Coded:
    """Dictionary-encoded Arrow arrays as one coded column with a common dictionary."""
    chunks = pa.chunked_array(blocks).unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks])
    return Coded(codes.astype(np.int32), text_array(where, chunks[0].dictionary.to_pylist()))
