"""Checkpoints of a run: its whole state, the best parameters so far, its position and its history.

Saved asynchronously by Orbax and committed by a rename, so a run that is killed at any moment finds the
last complete one. A checkpoint carries a description of what wrote it: reading one of another model,
data set or configuration is an error that says where they differ.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxrec.train import parallel
from jaxrec.train.lock import locked

VOCABULARY, CHECKPOINTS = "vocabulary.npz", "checkpoints"


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
        self.close()

    def close(self) -> None:
        """Waits for the last save."""
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

    def describe_last(self) -> str:
        """The last complete checkpoint, once all that were started are, as an error names it."""
        self._manager.wait_until_finished()
        number = self.latest()
        if number is None:
            return "No checkpoint was stored before"
        return f"The last checkpoint, from before, is {self.folder / str(number)}"

    def check(self) -> dict[str, Any] | None:
        """The position of the last checkpoint, None if there is none; reads no array.

        Raises:
          ValueError: it was written by another run, or it cannot be read.
        """
        number = self.latest()
        return None if number is None else self._kept(number)["position"]

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The last checkpoint's arrays, placed and shaped as `like`, and its position.

        Raises:
          ValueError: it was written by another run, its arrays or their tree differ, or it cannot be read.
            It is called damaged only where its own content shows that.
        """
        number = self.latest()
        if number is None:
            raise ValueError(f"{self.folder}: holds no checkpoint")
        kept = self._kept(number)
        self._compare_arrays(kept["shapes"], _shapes(like))
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            arrays = self._manager.restore(
                number, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            ).arrays
        except Exception as error:
            raise ValueError(self._unreadable(number, error)) from error
        found = _checksums(arrays)
        wrong = [n for n, crc in kept["checksums"].items() if found.get(n, crc) != crc]
        if _shapes(arrays) != kept["shapes"] or wrong:
            raise ValueError(
                self._damaged(number, "an array is not the one that was stored, by its checksum")
            )
        return arrays, kept["position"]

    def _kept(self, number: int) -> dict[str, Any]:
        """What a checkpoint says of itself, once its description is found to be that of this run."""
        try:
            kept = self._manager.restore(
                number, args=ocp.args.Composite(position=ocp.args.JsonRestore())
            ).position
        except Exception as error:
            raise ValueError(self._unreadable(number, error)) from error
        if not isinstance(kept, dict) or not kept.keys() >= {"description", "position"}:
            raise ValueError(self._damaged(number, "its JSON is not that of a checkpoint"))
        if kept.keys() != {"description", "position", "shapes", "checksums"}:
            raise ValueError(
                f"{self.folder}: checkpoint {number} was written by another version of jaxrec (it says "
                f"{', '.join(sorted(kept))} of itself); it may well be intact: leave it, and go on with that "
                "version, or choose another --workdir"
            )
        self._compare(kept["description"])
        return kept

    def _unreadable(self, number: int, error: Exception) -> str:
        """What to say of an error while reading: advice to remove a checkpoint only if its content is bad."""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)) or _is_machine_error(
            reason
        ):
            return (
                f"{self.folder}: checkpoint {number} cannot be read now ({type(error).__name__}: {reason}); "
                "it may well be intact: leave it, mend what stops the reading, and run the same command again"
            )
        return self._damaged(number, f"{type(error).__name__}: {reason}")

    def _damaged(self, number: int, reason: str) -> str:
        return (
            f"{self.folder}: checkpoint {number} cannot be read (incomplete or damaged); remove the folder "
            f"{number} to go on from the one before, or choose another --workdir to start again. Reason: "
            f"{reason}"
        )

    def _compare(self, found: Mapping[str, Any]) -> None:
        wanted = self.description
        names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        if names:
            shown = "; ".join(difference(name, found.get(name), wanted.get(name)) for name in names)
            raise ValueError(
                f"{self.folder}: the checkpoint was written by a run with {shown}; use the same settings to "
                "continue it, or another --workdir"
            )

    def _compare_arrays(self, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        if not names:
            return
        shown = "; ".join(difference(name, found.get(name), wanted.get(name)) for name in names[:5])
        more = f"; and {len(names) - 5} more" if len(names) > 5 else ""
        optimiser = all("opt_state" in name for name in names)
        raise ValueError(
            f"{self.folder}: the checkpoint holds arrays of {shown}{more}"
            + (": it was written with another optimiser" if optimiser else "")
            + "; the checkpoint is intact: use the same settings to continue it, or another --workdir"
        )


@contextlib.contextmanager
def held(workdir: Path, description: Mapping[str, Any]) -> Iterator[Checkpoints]:
    """The checkpoints of a run in `workdir`, which the first process locks for it.

    description: as of `Checkpoints`.
    """
    with (
        locked(workdir) if parallel.is_first() else contextlib.nullcontext(),
        Checkpoints(workdir / CHECKPOINTS, description) as stored,
    ):
        yield stored


def difference(name: str, found: Any, wanted: Any) -> str:
    """How one item of a stored run differs from this run's, in words; of mappings only what differs.

    >>> difference("dim", 8, 16)
    'dim=8, this run has 16'
    >>> difference("selection", {"metric": "auc", "every": 1}, {"metric": "mse", "every": 1})
    "selection.metric='auc', this run has 'mse'"
    """
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        return "; ".join(difference(f"{name}.{part}", found.get(part), wanted.get(part)) for part in names)
    return f"{name}={found!r}, this run has {wanted!r}"


def _is_machine_error(reason: str) -> bool:
    """Whether an error that a library reports as text is one of the machine and not of the file."""
    marks = ("PERMISSION_DENIED", "Permission denied", "RESOURCE_EXHAUSTED", "Too many open files", "OOM")
    return any(mark in reason for mark in marks)


def vocabulary_digest(vocabulary: Mapping[str, np.ndarray]) -> str:
    """The digest that distinguishes raw ids, {"item": [num_items], …}.

    Raises:
      ValueError: an array of raw ids is neither numbers nor text.
    """
    digest = hashlib.sha256()
    for name, ids in sorted(vocabulary.items()):
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iuUS":
            raise ValueError(f"vocabulary {name!r} holds {ids.dtype}: raw ids are integers or text")
        digest.update(f"{name} {ids.dtype.str} {ids.shape} ".encode() + ids.tobytes())
    return digest.hexdigest()


def keep_vocabulary(folder: str | Path, vocabulary: Mapping[str, np.ndarray]) -> str:
    """Stores raw ids, {"item": [num_items], …}, as `vocabulary.npz` in a folder; returns their digest.

    Position i of an array is the raw id that the model knows as i + 1. A file that is there and holds the
    same is left alone; one that holds anything else is written anew. `fit` calls this only once it knows that
    the checkpoints of the folder, if any, belong to the same ids.

    Raises:
      ValueError: an array of raw ids is neither numbers nor text.
    """
    digest = vocabulary_digest(vocabulary)
    path = Path(folder) / VOCABULARY
    if not (path.exists() and _same(path, vocabulary)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                arrays = {name: np.asarray(raw) for name, raw in vocabulary.items()}
                np.savez_compressed(file, allow_pickle=False, **arrays)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return digest


def read_vocabulary(folder: str | Path) -> dict[str, np.ndarray]:
    """The raw ids that a run's model was trained with, as `keep_vocabulary` stored them.

    Raises:
      ValueError: the file cannot be read, or the checkpoints of the folder were trained with other ids.
    """
    path = Path(folder) / VOCABULARY
    try:
        with path.open("rb") as file, np.load(file) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no readable vocabulary ({error}); train again to store one") from error
    trained = stored(Path(folder) / CHECKPOINTS)
    digest = vocabulary_digest(found)
    if trained and digest != trained.description.get("vocabulary", digest):
        raise ValueError(
            f"{path}: holds other raw ids than the folder's checkpoints were trained with, so items would "
            "get wrong names; restore the file that belongs to them, or train again"
        )
    return found


class Stored(NamedTuple):
    """What the latest checkpoint of a folder says of itself: see `Checkpoints.save`."""

    description: dict[str, Any]
    position: dict[str, Any]


def stored(folder: str | Path) -> Stored | None:
    """Description and position of the latest of a folder's checkpoints, None where there is none.

    Raises:
      ValueError: it cannot be read.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        return None
    options = ocp.CheckpointManagerOptions(
        read_only=True,
        save_interval_steps=0,  # these are what Orbax sets, with a warning for each
        create=False,
    )
    with ocp.CheckpointManager(folder, options=options) as manager:
        number = manager.latest_step()
        if number is None:
            return None
        try:
            kept = manager.restore(number, args=ocp.args.Composite(position=ocp.args.JsonRestore())).position
            return Stored(dict(kept["description"]), dict(kept["position"]))
        except Exception as error:
            raise ValueError(
                f"{folder}: checkpoint {number} cannot be read ({type(error).__name__}: {error}), so nothing "
                "says what it is of; start again in another folder"
            ) from error


def _same(path: Path, vocabulary: Mapping[str, np.ndarray]) -> bool:
    try:
        with path.open("rb") as file, np.load(file) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    return vocabulary_digest(found) == vocabulary_digest(vocabulary)


def clear(folder: str | Path) -> None:
    """Removes a run's checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def _checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of each array's bytes; none of an array whose parts several processes hold."""

    def checksum(leaf: Any) -> int:
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data)

    def is_here(leaf: Any) -> bool:
        return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): checksum(leaf) for path, leaf in leaves if is_here(leaf)}


def _shapes(tree: Any) -> dict[str, str]:
    """Dtype and shape of every array by its place, and the type's name of every node that holds none.

    Empty nodes tell optimisers apart whose arrays are the same.
    """

    def is_empty(node: Any) -> bool:
        structure: Any = jax.tree.structure(node)
        return structure.num_nodes == 1 and structure.num_leaves == 0

    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)[0]
    return {
        jax.tree_util.keystr(path): type(leaf).__name__
        if is_empty(leaf)
        else f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
