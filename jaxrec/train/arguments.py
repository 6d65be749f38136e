"""What `fit` refuses before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.train import parallel

LARGEST_SEED = 2**32 - 1


def check_arguments(
    phases: Sequence[Any],
    selection: Any,
    seeds: Sequence[int],
    num_devices: int,
    *,
    calls: int,
    save_every: int,
    stop_after: int | None,
) -> None:
    """Raises ValueError for arguments of `train.fit.fit` that train nothing, or something else than they
    say."""
    check_seeds(seeds)
    for name, value in {"calls": calls, "save_every": save_every, "selection.every": selection.every}.items():
        check_at_least_one(name, value)
    for name, value in {"selection.patience": selection.patience, "stop_after": stop_after}.items():
        check_at_least_one(name, value, or_none=True)
    names = [phase.name for phase in phases]
    if len(set(names)) != len(names):
        raise ValueError(f"phases {names}: each needs a name of its own")
    for phase in phases:
        if not _is_whole(phase.epochs) or phase.epochs < 0:
            raise ValueError(
                f"phase {phase.name!r}: epochs={phase.epochs!r}: must be a whole number, at least 0"
            )
    total = sum(phase.epochs for phase in phases)
    if total < 1:
        raise ValueError("the phases have no epoch to train")
    if selection.every > total:
        raise ValueError(
            f"selection.every={selection.every}: the phases have {total} epochs, so nothing would be "
            "selected; evaluate at least once"
        )
    parallel.axis_name(num_devices)
    if num_devices == 1:
        parallel.check_one_process("num_devices=1")
    _check_queries(selection.evaluation.queries)


def check_folder(workdir: str | Path, name: str = "workdir") -> Path:
    """The path of a work directory. Raises ValueError if it is a file."""
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{name}={workdir}: is a file; name a folder")
    return workdir


def check_minutes(minutes: float | None) -> None:
    """Raises ValueError for a limit of time that is not positive and finite; None is no limit."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes={minutes}: must be positive and finite, or None for no limit")


def check_seeds(seeds: Iterable[int]) -> None:
    """Raises ValueError for seeds that are none, twice, no whole numbers, or outside 0..2^32 - 1."""
    seeds = list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={seeds}: expected at least one, and no seed twice")
    for seed in seeds:
        if not _is_whole(seed) or not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seeds={seeds}: {seed!r} is no whole number within 0..{LARGEST_SEED}")


def check_at_least_one(name: str, value: Any, *, or_none: bool = False) -> None:
    """Raises ValueError for a number that is not whole, or below 1. or_none: None, for never, is taken."""
    if not (or_none and value is None) and (not _is_whole(value) or value < 1):
        never = ", or None for never" if or_none else ""
        raise ValueError(f"{name}={value!r}: must be a whole number, at least 1{never}")


def check_optimiser(opt_state: Any) -> None:
    """Raises ValueError for an optimiser whose parameters are not those to evaluate.

    A schedule-free one trains at other points than the average that its method is about, and a lookahead's
    parameters are a pair; the loop evaluates what the step trains.
    """

    def is_named(node: Any) -> bool:
        return type(node).__name__ in ("ScheduleFreeState", "LookaheadState")

    for node in jax.tree.leaves(opt_state, is_leaf=is_named):
        if is_named(node):
            raise ValueError(
                f"tx: its state is a {type(node).__name__}: such an optimiser has other parameters for "
                "evaluation than those it trains, and the loop would evaluate the wrong ones; use a plain "
                "optimiser with a schedule, such as optax.adamw"
            )


def _check_queries(queries: Any) -> None:
    if not queries:
        raise ValueError("selection.queries: no column; give those that the measure reads, [batches, B]")
    for name, column in queries.items():
        if not np.size(column):
            raise ValueError(f"selection.queries: column {name!r} is empty: there is nothing to select by")
    if "mask" in queries and not np.any(queries["mask"]):
        raise ValueError("selection.queries: every query is masked: there is nothing to select by")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
