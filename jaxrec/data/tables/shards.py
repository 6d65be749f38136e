"""Labelled rows in Parquet files on disk, for data larger than memory; needs the extra `parquet` (pyarrow).

A folder of shards holds files of one schema. Parquet keeps the rows of a file in groups, each of which is
read alone: a group is the unit of reading, see `shard_batches`. `write_shards` also writes `shards.json`,
which names the files and their rows, so that a shard that is missing or was changed is found at once; folders
without it, such as those that other programs wrote, are read as well.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.tables.table_reader import import_pyarrow

MANIFEST, FORMAT = "shards.json", 1


class ShardColumn(NamedTuple):
    """A column of shards. vocab_size: of ids 0..vocab_size - 1, read as int32; 0: numbers, read as float32.

    No value is missing, and no number infinite.
    """

    name: str
    vocab_size: int = 0


class Group(NamedTuple):
    """A row group: group `number` of file `file`, by its place in `Shards.files`."""

    file: int
    number: int
    rows: int


class Shards(NamedTuple):
    """Files of rows of the same columns, of which `read_group` reads parts. rows: of each file."""

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    columns: tuple[ShardColumn, ...]
    groups: tuple[Group, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    def description(self) -> dict[str, int]:
        """{file name: rows}, which a run over these rows says of itself."""
        return {path.name: rows for path, rows in zip(self.files, self.rows, strict=True)}


def write_shards(
    folder: str | Path,
    blocks: Iterable[Mapping[str, np.ndarray]],
    columns: Sequence[ShardColumn],
    *,
    rows_per_group: int = 65_536,
    groups_per_file: int = 16,
) -> Shards:
    """Writes blocks of columns, each [n] with any n, as shards part-00000.parquet, …; a file may end early.

    In memory are one block and one group. Each file appears when it is whole, `shards.json` last.

    Raises:
      ValueError: the folder holds shards, a block's columns are not those named or not of one length, an id
        is out of range, a number is not finite, there is no row, or a size is below 1.
      ImportError: without pyarrow.
    """
    folder, names = Path(folder), [column.name for column in columns]
    if min(rows_per_group, groups_per_file) < 1:
        raise ValueError(
            f"rows_per_group={rows_per_group}, groups_per_file={groups_per_file}: must both be at least 1"
        )
    _check_columns(columns)
    pa, parquet = _parquet(folder)
    if folder.is_dir() and (any(folder.glob("*.parquet")) or (folder / MANIFEST).exists()):
        raise ValueError(f"{folder}: holds shards; name an empty folder, or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(c.name, pa.int32() if c.vocab_size else pa.float32()) for c in columns])
    rows: dict[str, int] = {}
    groups = _groups(_checked(folder, blocks, columns), names, rows_per_group)
    group = next(groups, None)
    while group is not None:
        path = folder / f"part-{len(rows):05d}.parquet"
        partial, count = path.with_suffix(".partial"), 0
        with parquet.ParquetWriter(partial, schema) as writer:
            for _ in range(groups_per_file):
                if group is None:
                    break
                writer.write_table(pa.table(group, schema=schema), row_group_size=rows_per_group)
                count += len(group[names[0]])
                group = next(groups, None)
        os.replace(partial, path)
        rows[path.name] = count
    if not rows:
        raise ValueError(f"{folder}: there are no rows to write")
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps({"format": FORMAT, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / MANIFEST)
    return open_shards(folder, columns)


def open_shards(folder: str | Path, columns: Sequence[ShardColumn]) -> Shards:
    """The shards of a folder, by name. Reads what the files say of themselves, and no rows.

    Raises:
      ValueError, naming the file: a shard is missing, damaged or has other rows than `shards.json` says; it
        lacks a column, or has it in another type (ids need integers, numbers floats or integers); as far as
        the file's statistics show, a value is missing or an id is out of range. Or there are no rows.
      ImportError: without pyarrow.
    """
    folder = Path(folder)
    _parquet(folder)
    _check_columns(columns)
    expected = _manifest(folder)
    names = sorted(path.name for path in folder.glob("*.parquet"))
    if expected is not None:
        missing, extra = sorted(expected.keys() - set(names)), sorted(set(names) - expected.keys())
        if missing:
            raise ValueError(
                f"{folder / missing[0]}: is missing, but {MANIFEST} names it ({len(missing):,} such files); "
                "copy the whole folder, or write the shards anew"
            )
        if extra:
            raise ValueError(
                f"{folder / extra[0]}: is no shard that {MANIFEST} names ({len(extra):,} such files); remove "
                f"it, or remove {MANIFEST} to read all files"
            )
    if not names:
        raise ValueError(f"{folder}: holds no .parquet file; name a folder of shards")
    files = tuple(folder / name for name in names)
    rows: list[int] = []
    groups: list[Group] = []
    for place, path in enumerate(files):
        found = _reading(path, functools.partial(_checked_groups, path, place, columns))
        rows.append(sum(group.rows for group in found))
        groups += found
        if expected is not None and rows[-1] != expected[path.name]:
            raise ValueError(
                f"{path}: has {rows[-1]:,} rows, {MANIFEST} says {expected[path.name]:,}; restore the file, "
                "or write the shards anew"
            )
    if not groups:
        raise ValueError(f"{folder}: its shards have no rows")
    return Shards(files, tuple(rows), tuple(columns), tuple(groups))


def read_group(shards: Shards, group: Group) -> dict[str, np.ndarray]:
    """The columns of a row group, each [rows].

    Raises:
      ValueError, naming the file: it is gone, damaged, or was changed since it was opened; a value is
        missing, an id is out of range, or a number is not finite.
    """
    path, names = shards.files[group.file], [column.name for column in shards.columns]

    def read(file: Any) -> Any:
        if file.metadata.num_rows != shards.rows[group.file]:
            raise ValueError(
                f"{path}: has {file.metadata.num_rows:,} rows, had {shards.rows[group.file]:,} when it was "
                "opened; a run goes on with the same rows only: restore the file, or begin another run"
            )
        return file.read_row_group(group.number, columns=names)

    table = _reading(path, read)
    where = f"{path}, row group {group.number}"
    found = {}
    for column in shards.columns:
        cells = table.column(column.name)
        if cells.null_count:
            raise ValueError(f"{where}: {column.name}: {cells.null_count:,} values are missing; fill them in")
        found[column.name] = _values(where, column, cells.to_numpy())
    return found


# --- checks ------------------------------------------------------------------------------------------


def _check_columns(columns: Sequence[ShardColumn]) -> None:
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"columns: {names}: at least one is needed, and no name twice")
    for column in columns:
        if column.vocab_size < 0 or column.vocab_size > np.iinfo(np.int32).max:
            raise ValueError(f"columns: {column.name}: vocab_size={column.vocab_size}: must be in 0..2^31-1")


def _checked(
    folder: Path, blocks: Iterable[Mapping[str, np.ndarray]], columns: Sequence[ShardColumn]
) -> Iterator[dict[str, np.ndarray]]:
    names = {column.name for column in columns}
    for number, block in enumerate(blocks):
        where, lengths = f"{folder}: block {number}", {name: len(values) for name, values in block.items()}
        if set(block) != names or len(set(lengths.values())) != 1:
            raise ValueError(f"{where}: columns {lengths}; must be {sorted(names)}, all of one length")
        yield {column.name: _values(where, column, np.asarray(block[column.name])) for column in columns}


def _values(where: str, column: ShardColumn, values: np.ndarray) -> np.ndarray:
    """Values as int32 or float32; ValueError for other types and what is out of range or not finite."""
    if values.ndim != 1 or values.dtype.kind not in ("iu" if column.vocab_size else "iuf"):
        raise ValueError(f"{where}: {column.name}: {values.dtype}{list(values.shape)}; {_wanted(column)}")
    if column.vocab_size:
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        if low < 0 or high >= column.vocab_size:
            raise ValueError(_out_of_range(where, column, int(low if low < 0 else high)))
        return values.astype(np.int32, copy=False)
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32, copy=False)
    bad = numbers.size - int(np.isfinite(numbers).sum())
    if bad:
        raise ValueError(f"{where}: {column.name}: {bad:,} numbers are NaN or infinite; correct them")
    return numbers


def _checked_groups(path: Path, place: int, columns: Sequence[ShardColumn], file: Any) -> list[Group]:
    """The row groups of a file that are not empty, once its columns are found to be those wanted."""
    import pyarrow as pa

    schema, metadata = file.schema_arrow, file.metadata
    at = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
    for column in columns:
        if column.name not in at:
            raise ValueError(f"{path}: has no column {column.name!r}, but {', '.join(schema.names)}")
        kind = schema.field(column.name).type
        if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not column.vocab_size)):
            raise ValueError(f"{path}: {column.name}: {kind}; {_wanted(column)}")
    groups = []
    for number in range(metadata.num_row_groups):
        found = metadata.row_group(number)
        for column in columns:
            _check_statistics(f"{path}, row group {number}", column, found.column(at[column.name]).statistics)
        if found.num_rows:
            groups.append(Group(place, number, found.num_rows))
    return groups


def _check_statistics(where: str, column: ShardColumn, found: Any) -> None:
    if found is None:
        return
    if found.has_null_count and found.null_count:
        raise ValueError(f"{where}: {column.name}: {found.null_count:,} values are missing; fill them in")
    if column.vocab_size and found.has_min_max and (found.min < 0 or found.max >= column.vocab_size):
        raise ValueError(_out_of_range(where, column, found.min if found.min < 0 else found.max))


def _wanted(column: ShardColumn) -> str:
    return "ids must be integers, [n]" if column.vocab_size else "numbers must be floats or integers, [n]"


def _out_of_range(where: str, column: ShardColumn, value: int) -> str:
    return (
        f"{where}: {column.name}: id {value} is outside 0..{column.vocab_size - 1}; give the vocab_size that "
        "the ids were made with"
    )


# --- files -------------------------------------------------------------------------------------------


def _groups(
    blocks: Iterable[Mapping[str, np.ndarray]], names: Sequence[str], rows: int
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of blocks, cut anew into groups of `rows`, the last one shorter."""
    waiting: list[Mapping[str, np.ndarray]] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block[names[0]])
        if count < rows:
            continue
        together = {name: np.concatenate([part[name] for part in waiting]) for name in names}
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield {name: values[start : start + rows] for name, values in together.items()}
        waiting = [{name: values[whole:].copy() for name, values in together.items()}]
        count -= whole
    if count:
        yield {name: np.concatenate([part[name] for part in waiting]) for name in names}


def _manifest(folder: Path) -> dict[str, int] | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"has format {document['format']!r}, this version of jaxrec reads {FORMAT}")
        return {str(name): int(rows) for name, rows in document["rows"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no readable list of shards ({error}); write the shards anew") from None


def _reading(path: Path, read: Callable[[Any], Any]) -> Any:
    """read(the open file); ValueError naming the file where it cannot be read."""
    pa, parquet = _parquet(path)
    try:
        with parquet.ParquetFile(path) as file:
            return read(file)
    except FileNotFoundError:
        raise ValueError(f"{path}: is gone; restore it, and run the same command again to go on") from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: cannot be read ({reason}); restore it, or write it anew") from None


def _parquet(what: Path) -> tuple[Any, Any]:
    pa = import_pyarrow(str(what))
    import pyarrow.parquet as parquet

    return pa, parquet
