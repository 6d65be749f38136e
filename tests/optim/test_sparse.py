"""Sparse tables: equal to dense optimisers where theory says so, in place, and refused where they are wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses as loss_functions
from jaxrec.nn.layers.embedding import lookup
from jaxrec.optim import row_optimisers, sparse
from jaxrec.optim.adjustable import adjustable, with_numbers
from jaxrec.optim.gradient_balancing import pcgrad
from jaxrec.optim.loss_weighting import static
from jaxrec.optim.row_optimisers import RowOptimiser
from jaxrec.segments import rows_by_id
from jaxrec.train.epoch import Plan, make_epoch
from jaxrec.train.state import TrainState, create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

ITEMS, DIM, BATCH, STEPS = 30, 4, 6, 25
RATE = 0.05
TABLES = ["items"]


def factors(num_items: int = ITEMS, dim: int = DIM) -> Task:
    """Two features that share one table, and a dense layer. Ids of a step: context["left"], ["right"]."""

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        step = examples["example"]
        return {name: context[name][step] for name in ("left", "right", "label")}

    def init(key: Key, batch: Batch) -> Variables:
        table = jax.random.normal(key, (num_items + 1, dim)).at[0].set(0.0)
        return {"params": {"items": table, "kernel": jnp.eye(dim)}}

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        params = variables["params"]
        left = lookup(params["items"], batch["left"])
        right = rows_by_id(params["items"], batch["right"], clip=True)
        scores = jnp.sum((left @ params["kernel"]) * right, axis=-1)
        where = (batch["left"] != 0) & (batch["right"] > 0)
        value = loss_functions.binary_cross_entropy(scores, batch["label"], where=where, axis_name=axis_name)
        return {"loss_of_pairs": value}, {}

    return Task(prepare, init, loss, lambda variables, batch: batch["label"])


def context(seed: int = 0, *, every: bool = False, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Ids with repetitions and padding; -1 is masked. every: each step has every item at least once."""
    rng = np.random.default_rng(seed)
    size = 2 * ITEMS if every else BATCH
    left, right = (rng.integers(0, ITEMS + 1, (steps, size)).astype(np.int32) for _ in range(2))
    if every:
        left[:, :ITEMS] = right[:, ITEMS:] = np.arange(1, ITEMS + 1)
        right[:, :ITEMS], left[:, ITEMS:] = 1, 2
    else:
        right[:, 0] = -1
    return {"left": left, "right": right, "label": rng.integers(0, 2, left.shape).astype(np.float32)}


def plan(steps: int = STEPS) -> Plan:
    return Plan(steps, lambda key, columns: ({"example": jnp.arange(steps)}, jnp.array(True)))


def start(tx: optax.GradientTransformation, columns: Context, task: Task | None = None) -> TrainState:
    example = {"example": jnp.int32(0)}
    return create(task or factors(), tx, static(), jax.random.key(3), example, columns)


def train(
    tx: optax.GradientTransformation, columns: Context, task: Task | None = None, weighting: Any = static()
) -> tuple[TrainState, dict[str, Array]]:
    """A resident epoch over the columns."""
    step = make_step(task or factors(), tx, weighting)
    run = jax.jit(make_epoch(step, plan(len(columns["left"]))), donate_argnums=0)
    columns = jax.tree.map(jnp.asarray, dict(columns))
    return run(start(tx, columns, task), columns, jnp.int32(0), jnp.int32(0))


def params(state: TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in state.variables["params"].items()}


def marked(rows: RowOptimiser) -> sparse.SparseTransformation:
    return sparse.sparse_tables(optax.adam(RATE), rows, TABLES)


def dense(of_table: optax.GradientTransformation) -> optax.GradientTransformation:
    """The dense form: the optimiser of the table beside Adam for the rest."""

    def labels(tree: Any) -> Any:
        return {"model": {"items": "table", "kernel": "rest"}, "weighting": tree["weighting"]}

    return optax.partition({"table": of_table, "rest": optax.adam(RATE)}, labels)


EQUAL: dict[str, tuple[RowOptimiser, optax.GradientTransformation]] = {
    "sgd": (row_optimisers.sgd(RATE), optax.sgd(RATE)),
    "adagrad": (row_optimisers.adagrad(RATE), optax.adagrad(RATE)),
    "sgd, a schedule": (
        row_optimisers.sgd(optax.linear_schedule(0.1, 0.0, 20)),
        optax.sgd(optax.linear_schedule(0.1, 0.0, 20)),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_dense_optimiser(name: str, seed: int) -> None:
    rows, table = EQUAL[name]
    found, expected = train(marked(rows), context(seed)), train(dense(table), context(seed))
    for own, other in zip(jax.tree.leaves(params(found[0])), jax.tree.leaves(params(expected[0])), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(found[1]["loss"], expected[1]["loss"], rtol=1e-6)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lazy_adam_equals_dense_adam_where_every_row_is_looked_up(corrected: bool, weight_decay: float) -> None:
    rows = row_optimisers.lazy_adam(RATE, b2=0.98, corrected=corrected, weight_decay=weight_decay)
    found, _ = train(marked(rows), context(every=True))
    expected, _ = train(dense(optax.adamw(RATE, b2=0.98, weight_decay=weight_decay)), context(every=True))
    np.testing.assert_allclose(params(found)["items"], params(expected)["items"], rtol=1e-4, atol=2e-6)
