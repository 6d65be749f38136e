"""Checkpoints of a run: its whole state, the best parameters so far, its position and its history.

Saved asynchronously by Orbax and committed by a rename, so a run that is killed at any moment finds the
last complete one. A checkpoint carries a description of what wrote it: reading one of another model,
data set or configuration is an error that says where they differ.
"""

from __future__ import annotations

import copy
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


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
