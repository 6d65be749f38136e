"""What is kept by user or group beside a result: `values/<result>.<hash>.npz` in the result's own folder.

A file is a compressed NumPy archive without pickled objects. All have `format` (1), `kind` and
`seeds`. S seeds; where all seeds agree, as those of a baseline that draws nothing, the axis is 1 long.

    kind "ranks"   rank int32 [S, Q]; user, position, target [Q]: see `types.Ranks`
    kind "sums"    group [G]; sums/<metric> [S, G], weights/<metric> and labels/<task> [G], float32: see
                   `types.GroupSums`

The result file names it with its sha256, and with that of the test cases (ids, positions, targets, labels):
results with the same cases can be paired. A file's name has the beginning of its hash, so that a result that
is replaced keeps its own values until the new one is complete.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.types import GroupSums, Ranks, Values

FORMAT = 1
FOLDER = "values"
_RANKS, _SUMS = "ranks", "sums"


class Kept(NamedTuple):
    """Values with the seeds that they belong to; their seeds axis is as long as `seeds`."""

    values: Values
    seeds: tuple[int, ...]


def to_bytes(values: Values, seeds: Sequence[int], metrics: Sequence[str]) -> bytes:
    """The content of a file, the same for the same values.

    metrics: those of the result; the sums of others are left out.

    Raises:
      ValueError: a seeds axis that is neither 1 nor as long as the seeds, columns of unequal length, raw ids
        that are Python objects, or a rank below 1.
    """
    if isinstance(values, Ranks):
        per_seed = {"rank": values.rank.astype(np.int32)}
        columns = {name: np.asarray(getattr(values, name)) for name in ("user", "position", "target")}
        if values.rank.size and values.rank.min() < 1:
            raise ValueError(f"rank {values.rank.min()}: ranks are counted from 1")
    else:
        names = [name for name in values.sums if name in metrics]
        tasks = [task for task in values.labels if any(name.endswith(f"/{task}") for name in names)]
        per_seed = {f"sums/{name}": values.sums[name].astype(np.float32) for name in names}
        columns = {
            "group": np.asarray(values.group),
            **{f"weights/{name}": values.weights[name].astype(np.float32) for name in names},
            **{f"labels/{task}": values.labels[task].astype(np.float32) for task in tasks or values.labels},
        }
    columns = {name: _without_objects(name, column) for name, column in columns.items()}
    length = len(next(iter(columns.values())))
    for name, column in (*per_seed.items(), *columns.items()):
        shape = (len(column), length) if name in per_seed else (length,)
        if column.shape != shape or (name in per_seed and len(column) not in (1, len(seeds))):
            raise ValueError(f"{name}: shape {column.shape} for {len(seeds)} seeds and {length:,} columns")
    kind = _RANKS if isinstance(values, Ranks) else _SUMS
    arrays = {"format": np.int64(FORMAT), "kind": np.str_(kind), "seeds": np.array(seeds, np.int64)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, **{k: _once(v) for k, v in per_seed.items()}, **columns)  # type: ignore[arg-type]
    return buffer.getvalue()


def file_name(result: Path, content: bytes) -> str:
    """The name of a values file relative to the folder of its result."""
    return f"{FOLDER}/{result.stem}.{digest(content)[:8]}.npz"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cases_digest(values: Values) -> str:
    """The sha256 of the test cases, the same for two results that can be paired."""
    if isinstance(values, Ranks):
        columns = {name: getattr(values, name) for name in ("user", "position", "target")}
    else:
        columns = {"group": values.group, **dict(sorted(values.labels.items()))}
    hashed = hashlib.sha256()
    for name, column in columns.items():
        found = np.ascontiguousarray(_without_objects(name, np.asarray(column)))
        hashed.update(f"{name} {found.dtype.str} {found.shape}".encode() + found.tobytes())
    return hashed.hexdigest()


def read_values(result: Path, entry: Mapping[str, Any]) -> Kept:
    """The values that a result file names.

    result: the path of the result file. entry: its field `values`, {"file": …, "sha256": …}.

    Raises:
      ValueError: there are none, the file is missing or is not the one that the result names, or is of
        another format.
    """
    if not entry:
        raise ValueError(
            f"{result}: has no values by user, because it was stored before these were kept, or measures "
            "something that has none; run the experiment again (a finished training is only evaluated)"
        )
    path = result.parent / str(entry.get("file", ""))
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which {result} names; run the experiment again")
    content = path.read_bytes()
    if digest(content) != entry.get("sha256"):
        raise ValueError(
            f"{path}: is not the file that {result} names (its sha256 differs); run the experiment again"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a values file ({error}); run the experiment again") from error
    if int(arrays.get("format", -1)) != FORMAT:
        raise ValueError(
            f"{path}: format {arrays.get('format')} where {FORMAT} was expected; read it with the version of "
            "jaxrec that wrote it"
        )
    return _from_arrays(arrays)


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Kept:
    seeds = tuple(arrays["seeds"].tolist())

    def every_seed(column: np.ndarray) -> np.ndarray:
        return np.broadcast_to(column, (len(seeds), column.shape[1]))

    def named(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    if str(arrays["kind"]) == _RANKS:
        columns = (arrays[name] for name in ("user", "position", "target"))
        return Kept(Ranks(every_seed(arrays["rank"]), *columns), seeds)
    sums = {name: every_seed(column) for name, column in named("sums/").items()}
    return Kept(GroupSums(arrays["group"], sums, named("weights/"), named("labels/")), seeds)


def _once(per_seed: np.ndarray) -> np.ndarray:
    """One row where all are equal, else the columns as they are."""
    return per_seed[:1] if (per_seed == per_seed[:1]).all() else per_seed


def _without_objects(name: str, column: np.ndarray) -> np.ndarray:
    """Raw ids as numbers or text of fixed length: objects would be pickled."""
    if column.dtype.kind != "O":
        return column
    if not all(isinstance(value, str) for value in column.tolist()):
        raise ValueError(f"{name}: raw ids of mixed kinds; give all as text or all as numbers")
    return column.astype(np.str_)
