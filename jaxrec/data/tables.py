"""Large delimited tables of features, streamed block by block; needs the extra `parquet` (pyarrow)."""

from __future__ import annotations

import collections
import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.data.raw import Coded, Ragged, Raw


def read_table(
    paths: Sequence[str | Path],
    *,
    categories: Sequence[str],
    numbers: Sequence[str],
    lists: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    block_bytes: int = 1 << 24,
) -> tuple[dict[str, Raw], list[int]]:
    """Columns of one file or several of the same form, end to end, and the number of rows of each file.

    categories: columns read as text into `Coded`: 4 bytes a row, each distinct value held once; an empty
    cell is missing. numbers: columns read as float32, NaN for an empty cell. lists: columns of several texts
    a cell, {name: what separates them}, read into `Ragged`; an empty cell has none. Others are skipped.
    names: of all columns of files without a header line. `.gz` allowed. Files are parsed in blocks of
    `block_bytes`, so they never stand in memory as text.

    Raises ImportError without pyarrow; ValueError naming the file for a missing column, a cell that is no
    number, a line of another length, or no rows.
    """
    pa = arrow(str(paths[0]))
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
                blocks[name].append(_split(cells, separators[name]) if name in separators else cells)
        sizes.append(size)
    columns: dict[str, Raw] = {name: _coded(pa, blocks.pop(name)) for name in categories}
    for name in separators:
        lengths, values = zip(*blocks.pop(name), strict=True)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        columns[name] = Ragged(_coded(pa, values), offsets)
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
    """Blocks of rows of a file as Arrow record batches with the columns `types`; errors as `read_table`."""
    pa = arrow(str(path))
    import pyarrow.csv as csv

    def blocks(threads: bool) -> Iterator[Any]:
        yield from csv.open_csv(
            pa.input_stream(str(path)),
            read_options=csv.ReadOptions(column_names=names, block_size=block_bytes, use_threads=threads),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
            ),
        )

    size = 0
    try:
        for block in blocks(threads=True):
            size += block.num_rows
            yield block
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}; expected the columns {', '.join(types)}") from None
    except pa.ArrowInvalid as error:
        what = str(error)
        try:
            collections.deque(blocks(threads=False), maxlen=0)
        except pa.ArrowInvalid as exact:  # one thread alone knows the row
            what = str(exact)
        raise ValueError(f"{path}: {what}; repair the file") from None
    if not size:
        raise ValueError(f"{path}: there are no rows; expected a line for each impression or event")


def read_integers(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of integers of a table with a header, int64; others are skipped.

    Raises as `read_table`, and ValueError naming the line of an empty cell.
    """
    pa = arrow(str(path))
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    line = 2
    for block in read_blocks(path, dict.fromkeys(names, pa.int64())):
        for name in names:
            blocks[name].append(integers(path, name, block.column(name), line))
        line += block.num_rows
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def integers(path: str | Path, name: str, cells: Any, line: int, *, bits: Literal[32, 64] = 64) -> np.ndarray:
    """A block's column of integers as int64 [rows], or int32 and not negative.

    line: of the file, where the block starts; ValueError names the line of a cell that is empty or too large.
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


def arrow(what: str) -> Any:
    """The module pyarrow; ImportError naming what it is needed for."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{what}: reading it needs pyarrow; pip install 'jaxrec[parquet]'") from error
    return pyarrow


def first_line(path: str | Path) -> str:
    """The first line of a text file, `.gz` allowed, without its end."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return str(file.readline()).rstrip("\r\n")


def _split(cells: Any, separator: str) -> tuple[np.ndarray, Any]:
    """How many values each cell of a block has, [rows], and the values end to end, dictionary-encoded."""
    import pyarrow.compute as pc

    lists = pc.split_pattern(cells, separator)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return lengths, lists.flatten().dictionary_encode()


def _coded(pa: Any, blocks: Sequence[Any]) -> Coded:
    """Dictionary-encoded Arrow arrays as one coded column whose values are joined."""
    chunks = pa.chunked_array(blocks).unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks])
    return Coded(codes.astype(np.int32), np.array(chunks[0].dictionary.to_pylist(), str))
