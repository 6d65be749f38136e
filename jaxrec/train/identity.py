"""What identifies a training run in addition to the caller's own settings, and which code trained it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import provenance
from jaxrec.types import Array, Context, Key, Protocol, Task

PLACEMENT = ("row", "slot")  # where queries lie in packed rows: that may change with the number of devices


def columns(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dtype, shape and CRC-32 of every array of a tree of columns.

    Columns of queries, which have a `mask` of the same leading axes, are described by their real entries
    alone, so that another number of devices, which cuts other batches, is the same run.
    """
    mask = tree.get("mask")
    real = None if mask is None else np.asarray(mask, bool)
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(tree))[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if real is not None and name in (*PLACEMENT, "mask"):
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        if real is not None and array.shape[: real.ndim] == real.shape:
            array = array[real]
        found[name] = described_array(array)
    return found


def described_array(array: np.ndarray) -> str:
    """Dtype, shape and CRC-32 of an array.

    >>> described_array(np.arange(3, dtype=np.int32))
    'int32[3] with checksum 1d760e7a'
    """
    checksum = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)
    return f"{array.dtype}{list(array.shape)} with checksum {checksum:08x}"


def steps(plan: Any, context: Context) -> dict[str, Any]:
    """Number of steps of an epoch, the shape of what each step reads, and what the plan says of itself."""
    shapes, _ = jax.eval_shape(plan.draw, jax.eval_shape(lambda: jax.random.key(0)), dict(context))
    examples = {
        name: f"{leaf.dtype}{list(leaf.shape[1:])}" for name, leaf in shapes.items() if name not in PLACEMENT
    }
    return {"num_steps": plan.num_steps, "examples": examples, **plan.description}


def ranking_rules(protocol: Protocol) -> dict[str, Any]:
    """The rules of a protocol that change a metric's values under the same name: {"protocol": {rule: value}}.

    The usual rules are left out, so that runs kept before they were compared go on; of impressions there are
    none.

    >>> ranking_rules(Protocol(seen="keep"))
    {'protocol': {'seen': 'keep'}}
    """
    if protocol.candidates == "impressions":
        return {}
    usual = Protocol()
    rules = ("candidates", "seen", "ties")
    found = {n: getattr(protocol, n) for n in rules if getattr(protocol, n) != getattr(usual, n)}
    return {"protocol": found} if found else {}


def of_task(task: Task, plan: Any, examples: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """What tells a run apart that its caller does not say: steps, columns, losses, settings of JAX."""
    return {
        "steps": steps(plan, context),
        "context": columns(context),
        "losses": losses(task, examples, context),
        "jax": jax_settings(),
    }


def losses(task: Task, examples: Mapping[str, Any], context: Context) -> list[str]:
    """Names of a task's losses, from shapes alone. examples: of one step."""

    def named(key: Key, examples: Any, context: Context) -> dict[str, Array]:
        batch = task.prepare(key, examples, context)
        found: dict[str, Array] = task.losses(task.init(key, batch), batch, key)[0]
        return found

    key = jax.eval_shape(lambda: jax.random.key(0))
    return sorted(jax.eval_shape(named, key, dict(examples), dict(context)))


def jax_settings() -> dict[str, Any]:
    """The settings of JAX that decide what random bits and floats a run has."""
    found = provenance.jax_settings()
    return {name: found[name] for name in provenance.IDENTIFYING_SETTINGS}


def epoch_names(phases: Sequence[Sequence[Any]]) -> list[str]:
    """The phase of every epoch, of phases as a description has them, [[name, epochs], …].

    >>> epoch_names([["plain", 2], ["views", 1]])
    ['plain', 'plain', 'views']
    """
    return [name for name, epochs in phases for _ in range(epochs)]


def check_code(
    where: str, made_by: Sequence[Mapping[str, Any]], now: Mapping[str, Any], *, accept: bool
) -> list[dict[str, Any]]:
    """The code that trained a stored run so far, [{first_epoch, commit, sources, …}, …], if it may go on.

    accept: other sources or library versions than at training are no error.

    Raises:
      ValueError: they differ, or the run does not say what trained it.
    """
    if not made_by:
        raise ValueError(
            f"{where}: the checkpoint does not say which code trained it (an older version of jaxrec wrote "
            "it), so no result can be made of it; choose another --workdir to train again"
        )
    differing = provenance.code_differences(made_by[-1], now)
    if differing and not accept:
        raise ValueError(
            f"{where}: trained by commit {made_by[-1].get('commit')}, and this is other code: "
            f"{'; '.join(differing)}; check that commit out to go on, choose another --workdir to train "
            "again, or give --accept-changed-code: the result then names both"
        )
    return [dict(entry) for entry in made_by]


def code_of_run(where: Path, position: Mapping[str, Any] | None, *, accept: bool) -> list[dict[str, Any]]:
    """The code that trained a run so far and, from its next epoch on, that of this process if it is another.

    position: of its last checkpoint, with `history` and `made_by`; None: it has none yet. The rest, and what
    raises: as of `check_code`.
    """
    now = provenance.manifest()
    if position is None:
        return [{"first_epoch": 0, **now}]
    found = check_code(str(where), position.get("made_by", ()), now, accept=accept)
    if provenance.code_differences(found[-1], now):
        found.append({"first_epoch": len(position["history"]), **now})
    return found


def check_length(where: Path, done: int, wanted: int, unit: str) -> None:
    """Raises ValueError for a stored run that is longer than what is asked for."""
    if done > wanted:
        raise ValueError(
            f"{where}: holds a run of {done:,} {unit}, and this one has {wanted:,}; ask for as many, or "
            "choose another workdir"
        )
