"""Large delimited tables of features, streamed block by block; needs the extra `parquet` (pyarrow)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.raw import Coded, Raw


def read_table(
    paths: Sequence[str | Path],
    *,
    categories: Sequence[str],
    numbers: Sequence[str],
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    block_bytes: int = 1 << 24,
) -> tuple[dict[str, Raw], list[int]]:
    """Columns of one file or several of the same form, end to end, and the number of rows of each file.

    categories: columns read as text into `Coded`: 4 bytes a row, each distinct value held once; an empty
    cell is missing. numbers: columns read as float32, NaN for an empty cell. Other columns are skipped.
    names: of all columns of files without a header line. `.gz` allowed. Files are parsed in blocks of
    `block_bytes`, so they never stand in memory as text.

    Raises ImportError without pyarrow; ValueError naming the file for a missing column, a cell that is no
    number, a line of another length, or no rows.
    """
    pa = arrow(str(paths[0]))
    types = dict.fromkeys(categories, pa.dictionary(pa.int32(), pa.string()))
    types |= dict.fromkeys(numbers, pa.float32())
    blocks: dict[str, list[Any]] = {name: [] for name in types}
    sizes = []
    for path in paths:
        size = 0
        for block in read_blocks(path, types, names=names, delimiter=delimiter, block_bytes=block_bytes):
            size += block.num_rows
            for name in types:
                blocks[name].append(block.column(name))
        sizes.append(size)
    columns: dict[str, Raw] = {name: _coded(pa, blocks.pop(name)) for name in categories}
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

    size = 0
    try:
        reader = csv.open_csv(
            pa.input_stream(str(path)),
            read_options=csv.ReadOptions(column_names=names, block_size=block_bytes),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
            ),
        )
        for block in reader:
            size += block.num_rows
            yield block
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}; expected the columns {', '.join(types)}") from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}; repair the file") from None
    if not size:
        raise ValueError(f"{path}: there are no rows; expected a line for each impression")


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


def _coded(pa: Any, blocks: Sequence[Any]) -> Coded:
    """Dictionary-encoded Arrow arrays as one coded column whose values are joined."""
    chunks = pa.chunked_array(blocks).unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks])
    return Coded(codes.astype(np.int32), np.array(chunks[0].dictionary.to_pylist(), str))
