"""Where columns with types come from: Parquet, JSON lines, mappings of columns to arrays, data frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec.data.cells import quote
from jaxrec.data.delimited import file_suffix, is_gzip, read_text_lines
from jaxrec.data.tables.table_reader import import_pyarrow
from jaxrec.data.typed_columns import Column, TypedTable, array_column, arrow_column, list_column
from jaxrec.data.unpacking import check_unpacked
from jaxrec.data.validation import check_name

Frame = Any  # a mapping of columns to arrays or lists, or a data frame of pandas, polars, pyarrow and others
Source = str | Path | Frame
TEXT_FORMS = (".csv", ".tsv", ".dat")
JSON_FORMS = (".jsonl", ".ndjson", ".json")
FORMS = "CSV (.csv, .tsv, .dat), JSON lines (.jsonl, .ndjson, .json), each also .gz, or Parquet (.parquet)"
# Given the names of all columns, which ones to read; ValueError for a name that is not there or not unique.
Choose = Callable[[Sequence[str]], Sequence[str]]


def is_path(source: Source) -> bool:
    """Whether a source is a file, not a data frame or a mapping."""
    return isinstance(source, str | Path)


def describe_source(source: Source, name: str | None) -> str:
    """The file, or the data frame by its name, as errors call it."""
    return str(source) if is_path(source) else "data frame" if name is None else f"data frame {name}"


def name_source(source: Source, name: str | None) -> str:
    """The data set's name: the one given, by default that of the file; ValueError for a bad one or none."""
    if name is None:
        if not is_path(source):
            raise ValueError(
                "name=None: a data frame has no name of its own; give name=..., such as 'clicks'"
            )
        name = Path(source).name
    check_name(name)
    return name


def source_form(source: Source) -> str:
    """ ".csv" for every text with a delimiter, ".jsonl", ".parquet", or "frame".

    Raises:
      ValueError: a file whose name says none of them; a packed Parquet file.
    """
    if not is_path(source):
        return "frame"
    suffix = file_suffix(source)
    if suffix == ".parquet" and is_gzip(source):
        raise ValueError(f"{source}: Parquet is compressed inside; unpack the file")
    if suffix in TEXT_FORMS:
        return ".csv"
    if suffix in JSON_FORMS:
        return ".jsonl"
    if suffix == ".parquet":
        return suffix
    raise ValueError(f"{source}: the name ends in {suffix!r}; expected {FORMS}")


def read_typed(
    source: Source, choose: Choose, name: str | None = None, *, form: str | None = None
) -> TypedTable:
    """The chosen columns of a JSON lines or Parquet file, a mapping or a data frame.

    name: of a data frame, for errors. form: as of `source_form`; None: by the file's name.

    Raises:
      ImportError: without pyarrow, which Parquet and data frames need.
      ValueError: a file that cannot be read, no rows, and as `choose` and the columns raise.
    """
    form = form or source_form(source)
    if form == ".jsonl":
        table = _read_json_lines(Path(source), choose)
    elif form == ".parquet":
        table = _read_parquet(Path(source), choose)
    else:
        where = describe_source(source, name)
        read: Any = _read_mapping if isinstance(source, Mapping) else _read_frame
        table = read(source, choose, where)
    if table.num_rows == 0:
        raise ValueError(f"{table.where}: there are no events; the table has no rows")
    return table


def _read_json_lines(path: Path, choose: Choose) -> TypedTable:
    """A file with a JSON object on each line; a field that a line lacks is missing there."""
    records: list[dict[str, Any]] = []
    decoder = json.JSONDecoder(object_pairs_hook=_distinct_fields, parse_constant=_refuse_constant)
    for line, text in enumerate(read_text_lines(path), 1):
        where = f"{path}, line {line}"
        if not text.strip():
            raise ValueError(f"{where}: is empty; remove it")
        try:
            record = decoder.decode(text)
        except (ValueError, RecursionError) as error:  # the latter where lists are nested without end
            raise ValueError(
                f"{where}: is not a JSON object ({error}); write one object, {{...}}, on each line"
            ) from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: {quote(text.strip())} is not a JSON object; write one on each line")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: the file is empty; expected a JSON object on each line")
    names = tuple(dict.fromkeys(name for record in records for name in record))
    bare = TypedTable(str(path), "line", names, {})
    columns = {
        name: list_column([record.get(name) for record in records], name, bare.place)
        for name in choose(names)
    }
    return bare._replace(columns=columns)


def _distinct_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field occurs twice")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON; a missing value is null")


def _read_parquet(path: Path, choose: Choose) -> TypedTable:
    pa = import_pyarrow(str(path))
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            read = list(dict.fromkeys(choose(names)))
            parts = [file.metadata.row_group(at).total_byte_size for at in range(file.num_row_groups)]
            check_unpacked(path, max(sum(parts), 8 * file.metadata.num_rows * len(read)))
            table = file.read(columns=read)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    try:
        return TypedTable(str(path), "row", names, {name: arrow_column(table.column(name)) for name in read})
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: has text that is not UTF-8 ({error}); write it again") from None


def _read_mapping(source: Mapping[str, Any], choose: Choose, where: str) -> TypedTable:
    bare = TypedTable(where, "row", tuple(source), {})
    columns = {name: array_column(source[name], name, bare.place) for name in choose(bare.names)}
    lengths = {name: len(column.missing) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: columns of different lengths, {lengths}; a row has a cell in each")
    return bare._replace(columns=columns)


def _read_frame(frame: Frame, choose: Choose, where: str) -> TypedTable:
    """A data frame by way of pyarrow; of pandas and polars the chosen columns alone are converted."""
    refusal = ValueError(
        f"{where}: {type(frame).__name__} is neither a path, a mapping of columns nor a data frame (of "
        "pandas, polars, pyarrow or others with __arrow_c_stream__); collect a lazy one"
    )
    if not any(hasattr(frame, name) for name in ("__arrow_c_stream__", "iloc", "get_columns")):
        raise refusal
    pa = import_pyarrow(where)
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):  # pandas, whose NaN is a missing value
        names, cells = map(str, frame.columns), lambda at: pa.array(frame.iloc[:, at], from_pandas=True)
    elif hasattr(frame, "get_columns"):  # polars
        names, cells = frame.columns, lambda at: frame.get_columns()[at].to_arrow()
    else:
        try:
            table = frame if isinstance(frame, pa.Table) else pa.table(frame)
        except (pa.ArrowException, TypeError):  # such as one column alone
            raise refusal from None
        names, cells = table.column_names, table.column
    listed = tuple(names)
    columns: dict[str, Column] = {}
    for name in choose(listed):
        try:
            columns[name] = arrow_column(cells(listed.index(name)))
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(
                f"{where}: {name}: {error}; write all its cells as one type, such as text"
            ) from None
    return TypedTable(where, "row", listed, columns)
