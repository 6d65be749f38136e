"""Checkpoints of a run: its whole state, the best parameters so far, its position and its history.

Saved asynchronously by Orbax and committed by a rename, so a run that is killed at any moment finds the
last complete one. A checkpoint carries a description of what wrote it: reading one of another model,
data set or configuration is an error that says where they differ.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

VOCABULARY = "vocabulary.npz"


class Checkpoints:
    """The checkpoints of one run in `folder`; a context manager that waits for the last save.

    description: what the run is (configuration, data set, shapes), any JSON.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any]) -> None:
        self.folder = Path(folder).absolute()
        self.description = json.loads(json.dumps(description))
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def save(self, number: int, arrays: Any, position: Mapping[str, Any]) -> None:
        """Starts saving arrays (a pytree) and position (JSON) as checkpoint `number`."""
        kept = {
            "description": self.description,
            "position": copy.deepcopy(position),  # written later, when the run has gone on
            "shapes": _shapes(arrays),
            "checksums": _checksums(arrays),  # what Orbax writes does not show a changed bit
        }
        self._manager.save(
            number,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(kept)),
        )

    def latest(self) -> int | None:
        """Number of the last complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The last checkpoint's arrays, placed and shaped as `like`, and its position.

        Raises:
          ValueError: it was written by another run, its shapes differ, or it cannot be read.
        """
        number = self.latest()
        if number is None:
            raise ValueError(f"{self.folder}: holds no checkpoint")
        try:
            kept = self._manager.restore(
                number, args=ocp.args.Composite(position=ocp.args.JsonRestore())
            ).position
        except Exception as error:
            raise ValueError(self._damaged(number)) from error
        if kept.keys() != {"description", "position", "shapes", "checksums"}:
            raise ValueError(self._damaged(number))
        self._compare("was written by a run with", kept["description"], self.description)
        self._compare("holds arrays of", kept["shapes"], _shapes(like))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            arrays = self._manager.restore(
                number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            ).arrays
        except Exception as error:
            raise ValueError(self._damaged(number)) from error
        if _shapes(arrays) != kept["shapes"] or _checksums(arrays) != kept["checksums"]:
            raise ValueError(self._damaged(number))
        return arrays, kept["position"]

    def _damaged(self, number: int) -> str:
        return (
            f"{self.folder}: checkpoint {number} cannot be read (incomplete or damaged); remove the folder "
            f"{number} to go on from the one before, or choose another --workdir to start again"
        )

    def _compare(self, what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"{self.folder}: the checkpoint {what} {name}={found.get(name)!r}, this run has "
                    f"{wanted.get(name)!r}; use the same settings to continue it, or another --workdir"
                )


def keep_vocabulary(folder: str | Path, vocabulary: Mapping[str, np.ndarray]) -> str:
    """Stores raw ids, {"item": [num_items], …}, as `vocabulary.npz` in a folder; returns their digest.

    Position i of an array is the raw id that the model knows as i + 1. A file that is there and holds the
    same is left alone; one that holds anything else is written anew, and the digest, which belongs in the
    description of a run's checkpoints, tells them apart.

    Raises:
      ValueError: an array of raw ids is neither numbers nor text.
    """
    digest = hashlib.sha256()
    for name, ids in sorted(vocabulary.items()):
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iuUS":
            raise ValueError(f"vocabulary {name!r} holds {ids.dtype}: raw ids are integers or text")
        digest.update(f"{name} {ids.dtype.str} {ids.shape} ".encode() + ids.tobytes())
    path = Path(folder) / VOCABULARY
    if not (path.exists() and _same(path, vocabulary)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{n: np.asarray(v) for n, v in vocabulary.items()})
        os.replace(partial, path)
    return digest.hexdigest()


def read_vocabulary(folder: str | Path) -> dict[str, np.ndarray]:
    """The raw ids that a run's model was trained with, as `keep_vocabulary` stored them.

    Raises:
      ValueError: the file cannot be read.
    """
    path = Path(folder) / VOCABULARY
    try:
        with path.open("rb") as file, np.load(file) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no readable vocabulary ({error}); train again to store one") from error


def _same(path: Path, vocabulary: Mapping[str, np.ndarray]) -> bool:
    try:
        found = read_vocabulary(path.parent)
    except ValueError:
        return False
    return found.keys() == vocabulary.keys() and all(
        np.array_equal(found[name], ids) for name, ids in vocabulary.items()
    )


def clear(folder: str | Path) -> None:
    """Removes a run's checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def _checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of each array's bytes."""

    def checksum(leaf: Any) -> int:
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data)

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): checksum(leaf) for path, leaf in leaves}


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
