"""Timing of compiled functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import limits
from jaxrec.optim.loss_weighting import Weighting
from jaxrec.train.epoch import Plan, make_epoch
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Key, Task


class Figure(NamedTuple):
    """One measurement."""

    name: str
    unit: str
    median: float
    min: float
    max: float
    repeats: int


def ratio(name: str, above: Figure, below: Figure) -> Figure:
    """The ratio of two medians, with the smallest and the largest that the runs allow."""
    least, most = above.min / below.max, above.max / below.min
    return Figure(name, "x", above.median / below.median, least, most, below.repeats)


def time_calls(
    name: str,
    run: Callable[[], Any],
    repeats: int,
    *,
    count: float = 0,
    of: str = "sequences",
    scale: float = 1.0,
    work: limits.Work | None = None,
) -> Iterator[Figure]:
    """Times `run`, which returns arrays: its compilation, then seconds, or with `count`, `of` per second.

    scale: factor of the seconds, where `run` is a part of the whole. work: of `run`; None: not counted. It
    gives two more figures, of what is timed as a whole or, with `count`, of one of them.
    """
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    values = [count / s for s in seconds] if count else [scale * s for s in seconds]
    unit = f"{of}/s" if count else "s"
    yield Figure(name, unit, float(np.median(values)), min(values), max(values), repeats)
    compile_seconds = max(first - float(np.median(seconds)), 0.0)
    yield Figure(f"{name}:compile", "s", compile_seconds, compile_seconds, compile_seconds, 1)
    if work is not None:
        flops, moved = work.times(1 / count if count else scale)
        for what, unit, value in (("products", "GFLOP", flops / 1e9), ("rows", "MB", moved / 1e6)):
            yield Figure(f"{name}:{what}", unit, value, value, value, 1)


def time_epoch(
    name: str,
    task: Task,
    weighting: Weighting,
    plan: Plan,
    columns: Mapping[str, Any],
    repeats: int,
    *,
    tx: optax.GradientTransformation | None = None,
    steps: int | None = None,
    **count: Any,
) -> Iterator[Figure]:
    """Times one epoch as training runs it: one compiled call with the state donated.

    tx: None: Adam. steps: number of first steps that are timed and scaled to the whole epoch (the time to
    draw the order of examples is scaled too); None: all.
    """
    tx = optax.adam(1e-3) if tx is None else tx
    if steps is not None and steps < plan.num_steps:
        count["scale"] = plan.num_steps / steps
        plan = first_steps(plan, steps)
    context = jax.tree.map(jnp.asarray, dict(columns))
    rows = jax.tree.map(lambda x: x[0], jax.jit(plan.draw)(jax.random.key(0), context)[0])
    state = jax.jit(lambda key: create(task, tx, weighting, key, rows, context))(jax.random.key(0))
    epoch = jax.jit(make_epoch(make_step(task, tx, weighting), plan), donate_argnums=0)
    number = 0

    def run() -> Any:
        nonlocal state, number
        state, logs = epoch(state, context, jnp.int32(number), jnp.int32(0))
        number += 1
        return logs

    work = limits.work(epoch, state, context, jnp.int32(0), jnp.int32(0))
    yield from time_calls(name, run, repeats, work=work, **count)


def first_steps(plan: Plan, steps: int) -> Plan:
    """The first steps of each epoch of a plan."""

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        rows, ok = plan.draw(key, context)
        return {name: column[:steps] for name, column in rows.items()}, ok

    return Plan(steps, draw)
