"""Each device prepares its own part of a batch: read from compiled epochs on one, two and four devices."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import next_clicks
from jaxrec.nn.layers.embedding import lookup
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.tasks import contrastive, next_item, objectives
from jaxrec.tasks.ctr import ctr, next_behaviour, other_events
from jaxrec.train import parallel
from jaxrec.train.communication import collectives
from jaxrec.train.epoch import Plan, make_epoch, shuffled
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Batch, Context, Key, Task
from tests.tasks import small

BATCH, ITEMS, LENGTH = 40, 12, 5
MODEL, VIEWS = small.Averager(), small.views(9)  # without dropout, whose noise is as wide as the states
ROWS = Packing(20, 8)
READY = "ready"  # the column of a batch that is prepared already


class Clicks(nn.Module):
    """The least click model with DIEN's term: products of one table."""

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool, rows: Any = None) -> Mapping[str, Array]:
        table = self.param("items", nn.initializers.normal(0.1), (ITEMS + 1, 4))
        target, events, other = (
            lookup(table, batch[name]) for name in ("item", "history_item", "negative_item")
        )
        score = jnp.einsum("bd,bld->b", target, events)
        return {
            "click": score,
            "next": jnp.einsum("bd,bld->bl", target, events),
            "negative": jnp.einsum("bd,bld->bl", target, other),
            "steps": batch["history_item"] > 0,
        }


class Case(NamedTuple):
    task: Task
    columns: Any
    examples: int
    drawn: int  # random numbers of a batch, in its largest array


def excluded_width() -> int:
    return int(small.columns()["excluded_length"].max())


def negatives(packed: Packing | None) -> Case:
    """SASRec's negatives, one for each event."""
    objective = objectives.sampled(losses.bce, small.NUM_ITEMS, excluded_width())
    rows, width = (BATCH, small.MAX_LEN) if packed is None else packed
    task = next_item.next_item(MODEL, objective, packed=packed)
    return Case(task, jax.tree.map(jnp.asarray, small.columns()), len(small.LENGTHS), rows * width)


def clicks() -> Case:
    """A row of the data for each example, and the other events of DIEN."""
    data = next_clicks(markov_chain(20, ITEMS, min_length=4, max_length=9).sequences)
    task = ctr(Clicks(), length=LENGTH, columns=other_events(ITEMS), terms={"next_behaviour": next_behaviour})
    columns: Any = jax.tree.map(jnp.asarray, data.columns())
    return Case(task, columns, 30, BATCH * LENGTH)


def views() -> Case:
    """Two augmented views of each user."""
    return Case(
        contrastive.flat(MODEL, VIEWS), small.contrastive_columns(VIEWS), len(small.LENGTHS), BATCH * 9
    )


CASES = {
    "negatives": lambda: negatives(None),
    "negatives of packed rows": lambda: negatives(ROWS),
    "clicks": clicks,
    "views": views,
}


def plan_of(name: str, case: Case) -> Plan:
    def lengths(context: Context, user: Array) -> Array:
        return jnp.clip(context["length"][user] - 1, 0, small.MAX_LEN)

    if "packed" in name:
        return shuffled(case.examples, BATCH, lengths=lengths, packing=ROWS)
    return shuffled(case.examples, BATCH)


@functools.cache
def compiled(
    name: str, num_devices: int, *, prepared: bool = False, seeds: int | None = None
) -> tuple[str, int]:
    """The text of a compiled epoch, and how often its step was traced.

    prepared: of a batch that is ready, so that only the losses and the update are left. seeds: as many at
    once, as on accelerators.
    """
    case = CASES[name]()
    plan, tx, traced, columns = plan_of(name, case), optax.adam(1e-3), [], dict(case.columns)
    examples = jax.tree.map(lambda x: x[0], jax.jit(plan.draw)(jax.random.key(0), columns)[0])
    state = jax.jit(lambda key: create(case.task, tx, static(), key, examples, columns))(jax.random.key(0))
    if prepared:
        columns[READY] = jax.jit(case.task.prepare)(jax.random.key(0), examples, columns)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        traced.append(name)
        found: Batch = context[READY] if prepared else case.task.prepare(key, examples, context)
        return found

    task = case.task._replace(prepare=prepare)
    epoch = make_epoch(make_step(task, tx, static(), parallel.axis_name(num_devices)), plan)
    if seeds is not None:
        state = jax.tree.map(lambda x: jnp.stack([x] * seeds), state)
        epoch = jax.vmap(epoch, in_axes=(0, None, None, None))
    run: Any = parallel.over_devices(epoch, num_devices, (0, 0, None, None))
    arguments = (parallel.replicate(tree, num_devices) for tree in (state, columns))
    text = run.lower(*arguments, jnp.int32(0), jnp.int32(0)).compile().as_text()
    return str(text), len(traced)


def drawn(text: str) -> int:
    """Entries of the largest array of random bits: nothing else here is uint32."""
    sizes = [
        np.prod([int(n) for n in shape.split(",")], dtype=int)
        for shape in re.findall(r"\bu32\[([\d,]+)\]", text)
    ]
    return int(max(sizes))


@pytest.mark.parametrize("name", CASES)
def test_a_device_draws_the_random_numbers_of_its_part_alone(name: str) -> None:
    alone = drawn(compiled(name, 1)[0])
    assert alone == CASES[name]().drawn
    assert [drawn(compiled(name, count)[0]) for count in (2, 4)] == [alone // 2, alone // 4]


def test_so_does_each_of_several_seeds_at_once() -> None:
    case = CASES["negatives"]()
    assert drawn(compiled("negatives", 2, seeds=3)[0]) == 3 * case.drawn // 2


@pytest.mark.parametrize("name", CASES)
def test_devices_exchange_what_the_losses_do_and_a_number_an_example_at_most(name: str) -> None:
    found, expected = (
        collections.Counter(
            {kind: sum(c.bytes for c in collectives(text) if c.kind == kind) for kind in kinds(text)}
        )
        for text in (compiled(name, 4)[0], compiled(name, 4, prepared=True)[0])
    )
    more = found - expected
    assert found["all-reduce"] > 0 and more.keys() <= {"all-gather"} and more.total() <= 4 * BATCH


def kinds(text: str) -> set[str]:
    return {c.kind for c in collectives(text)}


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_traced_once(name: str) -> None:
    assert [compiled(name, count)[1] for count in (1, 2, 4)] == [1, 1, 1]
