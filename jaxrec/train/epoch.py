"""An epoch as one compiled call: the order of the examples, a scan over steps, the means of the losses.

A long epoch can be cut into several calls of one shape, which bounds the time between two progress
reports and two checkpoints; the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.packing import Packing, fits, place
from jaxrec.train.divergence import finite_counts
from jaxrec.train.identity import described_array
from jaxrec.train.state import PLAN, TrainState
from jaxrec.train.step import Step, epoch_mean
from jaxrec.types import Array, Context, Key, Variables

ATTEMPTS = 64  # permutations tried until every batch fits its packed rows


class Plan(NamedTuple):
    """Which examples each step of an epoch reads.

    draw(key, context) -> (examples with leading axis num_steps, True if they are all right): their numbers
    `example`, `mask`, which is False where there is none, and where they share packed rows `row` and `slot`.
    description: what a run's description says of the plan besides shapes; {} for nothing.
    """

    num_steps: int
    draw: Callable[[Key, Context], tuple[Mapping[str, Array], Array]]
    description: Mapping[str, str] = {}


def shuffled(
    num_examples: int,
    batch_size: int,
    *,
    examples: np.ndarray | None = None,
    lengths: Callable[[Context, Array], Array] | None = None,
    packing: Packing | None = None,
    replacement: bool = False,
) -> Plan:
    """Every example once an epoch, in random order; the last batch is filled up with masked ones.

    These are the epoch's first examples again, so that statistics which a layer takes over a whole batch
    (batch norm) are those of random examples there too.

    num_examples: of the data set, numbered 0..num_examples - 1.
    examples: the numbers of those that are drawn, int [n], such as the users of a training part; None: all.
    One that stands there twice is drawn twice an epoch.
    lengths: (context, example numbers) -> events of each, where examples share packed rows.
    packing: these packed rows: each example then has its `row` and `slot`. An order of which some batch does
    not fit is drawn again, so the batches stay uniformly random and no shape changes.
    replacement: independent draws that fill every batch instead, as in SASRec's sampler.

    Raises:
      ValueError: there is no example, one is not in the data set, the batch size is below 1, or one of
        lengths and packing comes without the other.
    """
    if num_examples < 1:
        raise ValueError("the training split is empty: there is no example to draw batches from")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if (lengths is None) != (packing is None):
        given, missing = ("packing", "lengths") if lengths is None else ("lengths", "packing")
        raise ValueError(
            f"{given} is given and {missing} is not: examples that share packed rows need both, "
            "lengths=(context, example numbers) -> events of each and packing=Packing(rows, width); give "
            f"{missing} too, or neither for padded rows"
        )
    chosen = None if examples is None else _checked_examples(examples, num_examples)
    count = num_examples if chosen is None else chosen.size
    num_steps = -(-count // batch_size)

    def batches(key: Key) -> tuple[Array, Array]:
        if replacement:
            order = jax.random.randint(key, (num_steps * batch_size,), 0, count)
        else:
            order = jax.random.permutation(key, count)
        number = jnp.arange(num_steps * batch_size)
        drawn = order[number % order.shape[0]]
        drawn = drawn if chosen is None else jnp.asarray(chosen)[drawn]
        shape = (num_steps, batch_size)
        return drawn.reshape(shape), (number < order.shape[0]).reshape(shape)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        if lengths is None or packing is None:
            example, mask = batches(key)
            return {"example": example, "mask": mask}, jnp.array(True)
        return _draw_packed(key, batches, lambda example: lengths(context, example), packing)

    described = {} if chosen is None else {"drawn": described_array(chosen)}
    return Plan(num_steps, draw, described)


def in_order(num_examples: int, batch_size: int) -> Plan:
    """Every example once an epoch, in the order of the columns, such as that of time; nothing is shuffled.

    A step reads the next batch_size examples; the last is filled up with the first of the epoch, masked. One
    epoch is one pass through a stream.

    Raises:
      ValueError: there is no example, or the batch size is below 1.
    """
    num_steps = shuffled(num_examples, batch_size).num_steps

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        number = jnp.arange(num_steps * batch_size).reshape(num_steps, batch_size)
        return {"example": number % num_examples, "mask": number < num_examples}, jnp.array(True)

    return Plan(num_steps, draw, {"order": "of the columns"})


def _checked_examples(examples: np.ndarray, num_examples: int) -> np.ndarray:
    """Numbers of examples as int32 [n]. Raises ValueError if there is none, or one is not in the data set."""
    found = np.asarray(examples)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"examples: {found.dtype}{list(found.shape)}: must be numbers of examples, integers [n]; "
            "of a mask give np.flatnonzero"
        )
    if not found.size:
        raise ValueError("examples: empty: there is no example to draw batches from; None draws all")
    if found.min() < 0 or found.max() >= num_examples:
        raise ValueError(
            f"examples: {found.min()}..{found.max()}: must be in 0..{num_examples - 1} (num_examples)"
        )
    return found.astype(np.int32)


def by_group(num_examples: int, batch_size: int, *, start: str, count: str) -> Plan:
    """As many draws as examples: a group uniformly, with replacement, and then one of its examples.

    So LightGCN's PyTorch code draws users and a positive of each: a user of few pairs is trained as often as
    one of many, and an epoch misses many pairs of the latter. Groups without examples are never drawn.

    start, count: names of context columns [G]; group g has the examples start[g] .. start[g] + count[g] - 1,
    at least one of all.

    Raises:
      ValueError: there is no example, or the batch size is below 1.
    """
    checked = shuffled(num_examples, batch_size)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        group_key, member_key = jax.random.split(key)
        shape = (checked.num_steps, batch_size)
        sizes = context[count]
        filled = jnp.nonzero(sizes > 0, size=sizes.shape[0], fill_value=0)[0]
        group = filled[jax.random.randint(group_key, shape, 0, jnp.sum(sizes > 0))]
        example = context[start][group] + jax.random.randint(member_key, shape, 0, sizes[group])
        number = jnp.arange(shape[0] * batch_size).reshape(shape)
        return {"example": example, "mask": number < num_examples}, jnp.array(True)

    return Plan(checked.num_steps, draw)


def _draw_packed(
    key: Key,
    batches: Callable[[Key], tuple[Array, Array]],
    lengths: Callable[[Array], Array],
    packed: Packing,
) -> tuple[Mapping[str, Array], Array]:
    """Draws an epoch's batches until each fits its packed rows; False if none of ATTEMPTS did."""

    def attempt(key: Key) -> tuple[Mapping[str, Array], Array]:
        example, mask = batches(key)
        length = jnp.where(mask, lengths(example), 0)
        placement = jax.vmap(lambda n: place(n, rows=packed.rows, width=packed.width))(length)
        drawn = {"example": example, "mask": mask, "row": placement.row, "slot": placement.slot}
        return drawn, fits(placement, length, packed.rows)

    return redrawn(key, attempt)


def redrawn(
    key: Key, attempt: Callable[[Key], tuple[Mapping[str, Array], Array]]
) -> tuple[Mapping[str, Array], Array]:
    """Draws an epoch until it fits; False if none of ATTEMPTS did. attempt: key -> an epoch, if it fits."""

    def numbered(number: Array) -> tuple[Mapping[str, Array], Array]:
        return attempt(jax.random.fold_in(key, number))

    def again(carry: tuple[Array, tuple[Mapping[str, Array], Array]]) -> Array:
        return ~carry[1][1] & (carry[0] < ATTEMPTS)

    first = (jnp.int32(0), numbered(jnp.int32(0)))
    _, (drawn, ok) = jax.lax.while_loop(again, lambda c: (c[0] + 1, numbered(c[0] + 1)), first)
    return drawn, ok


def listed(columns: Mapping[str, str], num_steps: int) -> Plan:
    """The same examples every epoch, in an order made on the host: {name: context column [num_steps, …]}.

    Raises:
      ValueError: no column or no step; when drawn: a column has another number of steps.
    """
    if not columns or num_steps < 1:
        raise ValueError(f"columns={dict(columns)}, num_steps={num_steps}: at least one of each is needed")

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        examples = {own: jnp.asarray(context[name]) for own, name in columns.items()}
        for own, column in examples.items():
            if column.shape[0] != num_steps:
                raise ValueError(
                    f"context column {columns[own]!r} has {column.shape[0]} steps, "
                    f"the plan num_steps={num_steps}"
                )
        return examples, jnp.array(True)

    return Plan(num_steps, draw)


Epoch = Callable[[TrainState, Context, Array, Array], tuple[TrainState, dict[str, Array]]]


def make_epoch(
    step: Step,
    plan: Plan,
    *,
    calls: int = 1,
    refresh: Callable[[Variables, Context], Context] | None = None,
    finish: Callable[[TrainState], TrainState] | None = None,
) -> Epoch:
    """run(state, context, epoch, call) -> (state, means): call `call` of `calls` of epoch `epoch`.

    means holds the mean of every loss over the steps of the call, what `divergence.finite_counts` gives, and
    `fits`, False if the plan found no order whose batches fit their packed rows.
    refresh: columns computed from the live variables at the start of every call, such as item
    similarities, which the steps of the call then read.
    finish: applied to the state after the last step of every call.
    """
    size = -(-plan.num_steps // calls)

    def run(
        state: TrainState, context: Context, epoch: Array, call: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        examples, ok = plan.draw(jax.random.fold_in(jax.random.fold_in(state.key, PLAN), epoch), context)
        seen = context if refresh is None else {**context, **refresh(state.variables, context)}
        if calls == 1:
            state, logs = jax.lax.scan(lambda s, x: step(s, x, seen), state, examples)
            live = jnp.ones(plan.num_steps, bool)
        else:
            index = call * size + jnp.arange(size)
            live = index < plan.num_steps
            some = jax.tree.map(lambda x: x[jnp.minimum(index, plan.num_steps - 1)], examples)
            shapes = jax.eval_shape(lambda s: step(s, jax.tree.map(lambda x: x[0], some), seen)[1], state)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

            def maybe(
                s: TrainState, x: tuple[Array, Mapping[str, Array]]
            ) -> tuple[TrainState, dict[str, Array]]:
                return jax.lax.cond(x[0], lambda: step(s, x[1], seen), lambda: (s, zeros))

            state, logs = jax.lax.scan(maybe, state, (live, some))
        state = state if finish is None else finish(state)
        counts = finite_counts(logs, live, state.params)
        return state, {**epoch_mean(logs, live), **counts, "fits": ok}

    return run
