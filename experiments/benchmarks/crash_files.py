"""What the files of a run hold, whether they can be read, and what is left of unfinished ones."""

from __future__ import annotations

import functools
import json
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxrec.report.results import read_results
from jaxrec.train.checkpoint import CHECKPOINTS

UNFINISHED = ("*.tmp", "*.partial", "*.orbax-checkpoint-tmp*", ".download-*")


def stored(folder: Path) -> dict[str, Any]:
    """Results, histories without times, and checksums of the last checkpoints' arrays, below a folder."""
    found: dict[str, Any] = {}
    for record in read_results(folder / "results"):
        result = record.result
        name = f"result {result.experiment}/{result.dataset}/{result.model} {record.variant}"
        found[name] = [dict(result.metrics), result.steps, result.seeds, dict(record.values)]
    for path in sorted((folder / "work").rglob("history.jsonl")):
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[f"history {path.relative_to(folder)}"] = [
            {name: value for name, value in entry.items() if not name.endswith("seconds")}
            for entry in entries
        ]
    for path in sorted((folder / "work").rglob(CHECKPOINTS)):
        found[f"checkpoint {path.relative_to(folder)}"] = checkpoints(path)[-1:]
    return found


def checkpoints(folder: Path) -> list[tuple[int, list[int]]]:
    """Number and sorted checksums of the arrays of each complete checkpoint.

    Raises:
      ValueError: one cannot be read, or an array is not what was stored.
    """
    options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    found = []
    with ocp.CheckpointManager(folder, options=options) as manager:
        for number in sorted(manager.all_steps()):
            arguments = ocp.args.Composite(arrays=ocp.args.StandardRestore(), position=ocp.args.JsonRestore())
            try:
                read = manager.restore(number, args=arguments)
            except Exception as error:
                raise ValueError(f"checkpoint {folder}/{number} cannot be read: {error}") from error
            sums = sorted(_checksum(leaf) for leaf in jax.tree.leaves(read.arrays))
            if sums != sorted(read.position["checksums"].values()):
                raise ValueError(f"checkpoint {folder}/{number}: an array is not the one that was stored")
            found.append((number, sums))
    return found


def _checksum(leaf: Any) -> int:
    data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data)


def unreadable(folder: Path) -> list[str]:
    """Files under their final names that cannot be read: JSON, lines of JSON, results, checkpoints."""
    wrong = []
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        if CHECKPOINTS in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        try:
            for part in text.splitlines() if path.suffix == ".jsonl" else [text] if text.strip() else []:
                json.loads(part)
        except ValueError as error:
            wrong.append(f"{path}: {error}")
    reads: list[Callable[[], object]] = [functools.partial(read_results, folder / "results")]
    reads += [functools.partial(checkpoints, path) for path in (folder / "work").rglob(CHECKPOINTS)]
    for read in reads:
        try:
            read()
        except ValueError as error:
            wrong.append(str(error))
    return wrong


def leftovers(folder: Path) -> Counter[str]:
    """How many unfinished files and folders stay, by the form of their names."""
    found = {pattern: len(list(folder.rglob(pattern))) for pattern in UNFINISHED}
    return Counter({pattern: count for pattern, count in found.items() if count})


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of what differs between two runs, with both values where they are short."""
    wrong = []
    for name in sorted(expected.keys() | found.keys()):
        old, new = json.dumps(expected.get(name)), json.dumps(found.get(name))
        if old != new:
            wrong.append(f"{name}: differs: {old[:300]} became {new[:300]}")
    return wrong
