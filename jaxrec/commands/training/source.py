"""The data to train on: a file or a data frame, read and split as the options say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec import data
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.known_ids import with_known_ids
from jaxrec.data.events.split import Split, leave_one_out, split_by_time_shares, split_by_user
from jaxrec.data.own_tables import Labelled
from jaxrec.serve import run_folder

FRAME = "data"  # name of the data set of a data frame


class Source(NamedTuple):
    """A path or a data frame. described: what a run says of it; name: of the data set, None for a file's."""

    given: Any
    described: dict[str, Any]
    name: str | None = None


def source_of(given: Any) -> Source:
    """A path with the checksum of its file, or a data frame.

    Raises:
      ValueError: there is no name; FileNotFoundError: there is no such file.
    """
    if isinstance(given, str) and not given:
        raise ValueError("data='': name the file to train on by --data")
    if not isinstance(given, str | Path):
        described = {"file": f"a {type(given).__name__}", "sha256": sha256_of_frame(given)}
        return Source(given, described, FRAME)
    path = Path(given)
    return Source(path, {"file": path.name, "sha256": sha256_of("data", path)})


def sha256_of(option: str, path: Path) -> str:
    """SHA-256 of a file, in hex digits. Raises FileNotFoundError if there is none, naming the option."""
    if not path.is_file():
        raise FileNotFoundError(f"{option}={str(path)!r}: there is no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_frame(given: Any) -> str:
    """SHA-256 of the names, types and values of a data frame or a mapping of columns, in hex digits."""
    digest = hashlib.sha256()
    if isinstance(given, Mapping):
        for name, column in given.items():
            array = np.asarray(column)
            values = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
            digest.update(f"{name}:{array.dtype}{array.shape};".encode() + values)
        return digest.hexdigest()
    import pyarrow as pa  # which reads it anyway

    table = pa.table(given).combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def as_file_name(name: str) -> str:
    """The name of a data set as the file of a result takes it.

    >>> as_file_name("my events (new).csv")
    'my-events-new-.csv'
    """
    return re.sub(r"[^A-Za-z0-9_+@.-]+", "-", name).strip("-.") or FRAME


def load_interactions(source: Source, options: Any, *, value: str | None, k_core: int) -> Interactions:
    """The events in the order of the file, with a column of numbers.

    With --grow items and users have the ids that they had in the run of --warm-start.
    """
    found = data.load_interactions(
        source.given,
        user=options.user,
        item=options.item,
        time=options.time or None,
        value=value,
        k_core=k_core,
        real_ids=options.real_ids,
        name=source.name,
        delimiter=options.delimiter or None,
    )
    if not options.grow:
        return found
    known = run_folder.read(options.warm_start).vocabulary
    return with_known_ids(found, item=known["item"], user=known.get("user")) if "item" in known else found


def load_sequences(source: Source, options: Any) -> Sequences:
    """The events as sequences of users."""
    found = load_interactions(source, options, value=None, k_core=options.k_core).to_sequences()
    if options.split == "time" and found.times is None:
        raise ValueError(f"{found.name}: split='time' needs times; name their column by --time")
    return found


def split_sequences(sequences: Sequences, split: str) -> Split:
    """Training events and the queries of validation and test."""
    if split == "time":
        return split_by_time_shares(sequences)
    if split == "user":
        return split_by_user(sequences, short="train")
    return leave_one_out(sequences, short="train")


def read_labelled(source: Source, options: Any) -> Labelled:
    """Labelled rows, split, with what encodes their columns.

    With --grow categories have the ids that they had in the run of --warm-start.
    """
    if not options.labels:
        raise ValueError("labels=(): name the columns of 0 and 1 to predict by --labels")
    return data.read_labelled(
        source.given,
        labels=options.labels,
        categorical=options.categorical,
        numeric=options.numeric,
        time=options.time or None,
        split=options.split,
        name=source.name,
        delimiter=options.delimiter or None,
        allow=options.allow,
        both_classes=True,
        before=_categories_of(options.warm_start) if options.grow else None,
    )


def _categories_of(run: str) -> dict[str, np.ndarray]:
    """Values of the categorical columns of a run of labelled rows, in the order of their ids."""
    encoders = run_folder.read(run).encoders
    fields = () if encoders is None else encoders.fields
    return {field.vocabulary: field.raw for field in fields if field.kind == "categorical"}
