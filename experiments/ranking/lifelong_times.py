"""Timing of the models of long histories for `lifelong`, per batch of 8 users."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.data.synthetic.lifelong import lifelong
from jaxrec.data.tables.click_histories import SHARED, Clicks
from jaxrec.nn.ranking.mimn import answer, remember
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.ctr import behaviours
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Task

BATCH = 8


def timed_clicks(length: int, *, num_categories: int) -> Clicks:
    """Ten users, each with a history of `length` events."""
    return lifelong(
        10,
        min_length=length,
        max_length=length,
        num_categories=num_categories,
        relevant=1,
        recent=0,
        impressions_per_user=1,
    ).clicks


def timings(
    task: Task,
    weights: Mapping[str, float],
    clicks: Clicks,
    *,
    read: int,
    learning_rate: float,
    seeds: tuple[int, ...],
    memory: Any = None,
) -> Iterator[tuple[str, list[float]]]:
    """("serve" | "train" | "stored", seconds per batch by seed).

    read: events of a history that the task reads. memory: the module of a model with a stored state of each
    user, which is then also timed ("stored").
    """
    context = jax.tree.map(jnp.asarray, clicks.columns())
    examples = {"example": jnp.arange(BATCH), "mask": jnp.ones(BATCH, bool)}
    columns = {name: column[:BATCH] for name, column in context.items() if name != SHARED}
    tx, weighting = optax.adam(learning_rate), static(dict(weights))

    def serve(state: Any, context: Any) -> Any:
        return task.predict(state.variables, behaviours(columns, context[SHARED], read))

    def step(state: Any, context: Any) -> Any:
        return make_step(task, tx, weighting)(
            state, examples, context
        )  # all outputs, since otherwise the gradient would not be computed

    create_state = jax.jit(lambda key: create(task, tx, weighting, key, examples, context))
    states = [create_state(jax.random.key(seed)) for seed in seeds]
    yield "serve", seconds_of(serve, [(state, context) for state in states])
    yield "train", seconds_of(step, [(state, context) for state in states])
    if memory is not None:
        batch = behaviours(columns, context[SHARED], read)
        keep = jax.jit(lambda state: memory.apply(state.variables, batch, method=remember))
        yield (
            "stored",
            seconds_of(
                lambda state, kept, batch: memory.apply(state.variables, batch, kept, method=answer),
                [(state, keep(state), {n: c for n, c in batch.items() if c.ndim == 1}) for state in states],
            ),
        )


def seconds_of(fn: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[float]:
    """For each tuple of arguments, the median time of as many calls as fit in a second, at most 5."""
    program = jax.jit(fn).lower(*arguments[0]).compile()
    jax.block_until_ready(arguments)  # so that the first call does not wait for them
    medians = []
    for given in arguments:
        taken: list[float] = []
        while len(taken) < 5 and sum(taken) < 1.0:
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            taken.append(time.perf_counter() - start)
        medians.append(float(np.median(taken)))
    return medians
