"""Indexes as files: one .npz of arrays with a header, without pickles. A search gives the same bits after."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.data.vocab import Vocabulary
from jaxrec.index.clusters import Clusters
from jaxrec.index.cur import Anchors
from jaxrec.index.exact import Exact
from jaxrec.index.graphs import Graph
from jaxrec.index.paths import Paths
from jaxrec.index.trees import Tree

Index = Exact | Clusters | Anchors | Graph | Paths | Tree
KINDS: Mapping[str, Any] = {
    "exact": Exact, "clusters": Clusters, "graph": Graph, "paths": Paths, "tree": Tree
}  # fmt: skip
VERSION = 1  # of the file's layout
HEADER, RAW_IDS = "header", "raw_ids"
SETTINGS = ("metric", "capacity", "level_sizes", "num_codes")  # fields that are no arrays


def save(index: Index, path: str | Path, *, vocabulary: Vocabulary | None = None) -> Path:
    """Writes an index, and the raw ids of its items if a vocabulary is given; returns the path.

    The file appears whole or not at all.

    Raises:
      ValueError: the path does not end in .npz, or the vocabulary has another number of items.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: the name of an index must end in .npz")
    kind, arrays, settings = _parts(index)
    header: dict[str, Any] = {"version": VERSION, "kind": kind, **settings}
    if vocabulary is not None:
        number = int(index.columns.count if isinstance(index, Anchors) else index.count)
        if len(vocabulary) != number:
            raise ValueError(f"a vocabulary of {len(vocabulary)} raw ids for an index of {number} items")
        header["feature"], arrays[RAW_IDS] = vocabulary.feature, vocabulary.raw
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{HEADER: np.array(json.dumps(header))}, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: str | Path) -> Index:
    """The index that `save` wrote.

    Raises:
      ValueError: the file holds no index, or one of another version.
      OSError: there is no such file.
    """
    header, arrays = _read(path)
    arrays.pop(RAW_IDS, None)
    try:
        return _built(header, {name: jnp.asarray(array) for name, array in arrays.items()})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: an index without all its arrays ({error}); write it anew") from error


def load_vocabulary(path: str | Path) -> Vocabulary | None:
    """The raw ids beside an index: those of its ids 1..n; None where it was saved without."""
    header, arrays = _read(path, only=RAW_IDS)
    return Vocabulary(header["feature"], arrays[RAW_IDS]) if RAW_IDS in arrays else None


def _parts(index: Index) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """The kind of an index, its arrays and its settings by name."""
    if isinstance(index, Anchors):
        _, arrays, settings = _parts(index.columns)
        arrays = {f"columns_{name}": array for name, array in arrays.items()}
        own = {"items": np.asarray(index.items), "weights": np.asarray(index.weights)}
        return "anchors", {**own, **arrays}, settings
    fields = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    settings = {name: value for name, value in fields.items() if name in SETTINGS}
    arrays = {name: np.asarray(value) for name, value in fields.items() if name not in SETTINGS}
    kind = next(name for name, made in KINDS.items() if isinstance(index, made))
    return kind, arrays, settings


def _built(header: dict[str, Any], arrays: dict[str, Any]) -> Index:
    settings = {name: header[name] for name in SETTINGS if name in header}
    if "level_sizes" in settings:
        settings["level_sizes"] = tuple(settings["level_sizes"])
    if header["kind"] == "anchors":
        own = {name: arrays.pop(name) for name in ("items", "weights")}
        columns = {name.removeprefix("columns_"): array for name, array in arrays.items()}
        return Anchors(**own, columns=Exact(**columns, **settings))
    found: Index = KINDS[header["kind"]](**arrays, **settings)
    return found


def _read(path: str | Path, *, only: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file, or of the latter only one."""
    try:
        with contextlib.closing(np.load(path, allow_pickle=False)) as archive:
            header = json.loads(str(archive[HEADER]))
            names = [name for name in archive.files if name != HEADER and only in ("", name)]
            arrays = {name: archive[name] for name in names}
    except (ValueError, KeyError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no index ({error}); write one with index.stored.save") from error
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path}: an index of version {header.get('version')}, expected {VERSION}; write it anew"
        )
    return header, arrays
