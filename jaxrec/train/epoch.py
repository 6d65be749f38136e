"""An epoch as one compiled call: the order of the examples, a scan over steps, the means of the losses.

A long epoch can be cut into several calls of one shape, which bounds the time between two progress
reports and two checkpoints; the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import packing
from jaxrec.train.state import PLAN, TrainState
from jaxrec.train.step import Step, epoch_mean
from jaxrec.types import Array, Context, Key, Variables

ATTEMPTS = 64  # permutations tried until every batch fits its packed rows


class Plan(NamedTuple):
    """Which examples each step of an epoch reads.

    draw(key, context) -> (rows with leading axis num_steps, True if they are all right).
    """

    num_steps: int
    draw: Callable[[Key, Context], tuple[Mapping[str, Array], Array]]


def shuffled(
    num_examples: int,
    batch_size: int,
    *,
    lengths: Callable[[Context, Array], Array] | None = None,
    rows: int = 0,
    width: int = 0,
    replacement: bool = False,
) -> Plan:
    """Every example once an epoch, in random order; the last batch is filled up with masked rows.

    These are the epoch's first examples again, so that statistics which a layer takes over a whole batch
    (batch norm) are those of random examples there too.

    lengths: (context, example ids) -> events of each, if examples share `rows` packed rows of `width`
    slots: rows then carry each example's `row` and `slot`. A permutation of which some batch does not
    fit is drawn again, so the batches stay uniformly random and no shape changes.
    replacement: independent draws that fill every batch instead, as in SASRec's sampler.

    Raises:
      ValueError: there is no example, or the batch size is below 1.
    """
    if num_examples < 1:
        raise ValueError("the training split is empty: there is no example to draw batches from")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    num_steps = -(-num_examples // batch_size)

    def batches(key: Key) -> tuple[Array, Array]:
        if replacement:
            order = jax.random.randint(key, (num_steps * batch_size,), 0, num_examples)
        else:
            order = jax.random.permutation(key, num_examples)
        place = jnp.arange(num_steps * batch_size)
        shape = (num_steps, batch_size)
        return order[place % order.shape[0]].reshape(shape), (place < order.shape[0]).reshape(shape)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        if lengths is None:
            user, mask = batches(key)
            return {"user": user, "mask": mask}, jnp.array(True)

        def attempt(number: Array) -> tuple[Mapping[str, Array], Array]:
            user, mask = batches(jax.random.fold_in(key, number))
            length = jnp.where(mask, lengths(context, user), 0)
            placement = jax.vmap(lambda n: packing.place(n, rows=rows, width=width))(length)
            drawn = {"user": user, "mask": mask, "row": placement.row, "slot": placement.slot}
            return drawn, packing.fits(placement, length, rows)

        def again(carry: tuple[Array, tuple[Mapping[str, Array], Array]]) -> Array:
            return ~carry[1][1] & (carry[0] < ATTEMPTS)

        first = (jnp.int32(0), attempt(jnp.int32(0)))
        _, (drawn, ok) = jax.lax.while_loop(again, lambda c: (c[0] + 1, attempt(c[0] + 1)), first)
        return drawn, ok

    return Plan(num_steps, draw)


def listed(columns: Mapping[str, str], num_steps: int) -> Plan:
    """The same rows every epoch, in an order made on the host: {row: context column [num_steps, …]}.

    Raises:
      ValueError: no column or no step; when drawn: a column has another number of steps.
    """
    if not columns or num_steps < 1:
        raise ValueError(f"columns={dict(columns)}, num_steps={num_steps}: at least one of each is needed")

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        rows = {row: jnp.asarray(context[name]) for row, name in columns.items()}
        for row, column in rows.items():
            if column.shape[0] != num_steps:
                raise ValueError(
                    f"context column {columns[row]!r} has {column.shape[0]} steps, "
                    f"the plan num_steps={num_steps}"
                )
        return rows, jnp.array(True)

    return Plan(num_steps, draw)


Epoch = Callable[[TrainState, Context, Array, Array], tuple[TrainState, dict[str, Array]]]


def make_epoch(
    step: Step,
    plan: Plan,
    *,
    calls: int = 1,
    refresh: Callable[[Variables, Context], Context] | None = None,
) -> Epoch:
    """run(state, context, epoch, call) -> (state, means): call `call` of `calls` of epoch `epoch`.

    means holds the mean of every loss over the steps of the call and `fits`, False if the plan found no
    order whose batches fit their rows.
    refresh: columns computed from the live variables at the start of every call, such as item
    similarities, which the steps of the call then read.
    """
    size = -(-plan.num_steps // calls)

    def run(
        state: TrainState, context: Context, epoch: Array, call: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        rows, ok = plan.draw(jax.random.fold_in(jax.random.fold_in(state.key, PLAN), epoch), context)
        seen = context if refresh is None else {**context, **refresh(state.variables, context)}
        if calls == 1:
            state, logs = jax.lax.scan(lambda s, r: step(s, r, seen), state, rows)
            live = jnp.ones(plan.num_steps, bool)
        else:
            index = call * size + jnp.arange(size)
            live = index < plan.num_steps
            some = jax.tree.map(lambda x: x[jnp.minimum(index, plan.num_steps - 1)], rows)
            shapes = jax.eval_shape(lambda s: step(s, jax.tree.map(lambda x: x[0], some), seen)[1], state)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

            def maybe(
                s: TrainState, x: tuple[Array, Mapping[str, Array]]
            ) -> tuple[TrainState, dict[str, Array]]:
                return jax.lax.cond(x[0], lambda: step(s, x[1], seen), lambda: (s, zeros))

            state, logs = jax.lax.scan(maybe, state, (live, some))
        return state, {**epoch_mean(logs, live), "fits": ok}

    return run
