"""One, two and four devices: the same losses, gradients, parameters and metrics, with dropout on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses, packing, sampling
from jaxrec.data.events.batching import batched_queries
from jaxrec.index.rank import make_rank
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.tasks import contrastive, next_item, objectives
from jaxrec.tasks.combine import combine
from jaxrec.train import parallel
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import CompiledMeasure, ranking_means, ranking_metrics
from jaxrec.train.fit import Phase, Selection, fit
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Evaluation, Protocol, Task
from tests.tasks import small

MODEL = small.Averager(dropout=0.3)
VIEWS = small.views(9)
NEXT, PAIRS = Packing(8, 8), Packing(12, 8)
BATCH = 8


@functools.cache
def context() -> dict[str, Any]:
    return small.contrastive_columns(VIEWS)


def with_next_item(objective: objectives.Objective, **other: Task) -> Task:
    return combine(next_item=next_item.next_item(MODEL, objective, packed=NEXT), **other)


def excluded_width() -> int:
    return int(context()["excluded_length"].max())


def bce() -> objectives.Objective:
    return objectives.sampled(losses.bce, small.NUM_ITEMS, excluded_width())


def several_bpr() -> objectives.Objective:
    return objectives.sampled(losses.bpr, small.NUM_ITEMS, excluded_width(), num_negatives=3)


def popular_softmax() -> objectives.Objective:
    return objectives.sampled_softmax(4, sampling.popularity_table(np.arange(small.NUM_ITEMS + 1), alpha=1.0))


def columns_of(name: str) -> Any:
    return objectives.with_tables(context(), popular_softmax()) if name == "sampled" else context()


TASKS: dict[str, Any] = {
    "full": lambda: with_next_item(objectives.full_softmax(8)),
    "sampled": lambda: with_next_item(popular_softmax()),
    "bpr": lambda: with_next_item(several_bpr()),
    "pooled": lambda: with_next_item(bce(), pair=contrastive.pooled(MODEL, VIEWS, packed=PAIRS)),
    "flat": lambda: with_next_item(bce(), pair=contrastive.flat(MODEL, VIEWS)),
}


def plan() -> Plan:
    def lengths(context: Context, user: Array) -> Array:
        return jnp.clip(context["length"][user] - 1, 0, small.MAX_LEN)

    return shuffled(len(small.LENGTHS), BATCH, lengths=lengths, packing=NEXT)


class Steps(NamedTuple):
    """What three steps gave: each step's losses, and parameters after the first and the last."""

    losses: list[dict[str, float]]
    first: Any
    last: Any


@functools.cache
def drawn_rows() -> list[Any]:
    """The rows of three steps, of which the second has a masked tail."""
    draw = jax.jit(plan().draw)
    order = [draw(jax.random.key(epoch), context())[0] for epoch in (0, 1)]
    return [jax.tree.map(lambda x, i=i: x[i], order[e]) for e, i in ((0, 0), (0, 1), (1, 0))]


@functools.cache
def steps(name: str, num_devices: int) -> Steps:
    """Plain gradient descent at rate 1, so that the first change of the parameters is the gradient.

    Flat views have gradients so large that rate 1 throws the parameters about, and rounding with them.
    """
    tx = optax.sgd(2.0**-7 if name == "flat" else 1.0)
    task, columns, rows = TASKS[name](), columns_of(name), drawn_rows()
    state = jax.jit(lambda key: create(task, tx, static(), key, rows[0], columns))(jax.random.key(0))
    step = make_step(task, tx, static(), parallel.axis_name(num_devices))
    run = parallel.over_devices(step, num_devices, (0, 0, 0))
    columns, state = parallel.replicate(columns, num_devices), parallel.replicate(state, num_devices)
    losses, params = [], []
    for some in rows:
        state, logs = run(state, parallel.replicate(some, num_devices), columns)
        losses.append({k: float(v) for k, v in parallel.unreplicate(logs, num_devices).items()})
        params.append(jax.tree.map(np.asarray, parallel.unreplicate(state.params, num_devices)))
        for leaf in jax.tree.leaves(state.params) if num_devices > 1 else []:
            assert all((np.asarray(leaf[i]) == np.asarray(leaf[0])).all() for i in range(num_devices))
    return Steps(losses, params[0], params[-1])


LONG = ("pooled", "full", "bpr")  # to compile; the others have what these have in part


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in TASKS]
)
def test_devices_share_a_batch_without_changing_the_result(name: str) -> None:
    alone = steps(name, 1)
    assert all(np.isfinite(list(losses.values())).all() for losses in alone.losses)
    for num_devices in (2, 4) if name == "pooled" else (4,):
        shared = steps(name, num_devices)
        for ours, expected in zip(shared.losses, alone.losses, strict=True):
            assert ours == pytest.approx(expected, rel=1e-5)
        for ours, expected in ((shared.first, alone.first), (shared.last, alone.last)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), ours, expected)


def test_the_first_change_of_the_parameters_is_the_gradient_of_the_global_batch() -> None:
    """So that equal parameters above mean equal gradients, and gradients that are not zero."""
    task, columns = TASKS["pooled"](), context()
    rows = drawn_rows()[0]
    state = jax.jit(lambda key: create(task, optax.sgd(1.0), static(), key, rows, columns))(jax.random.key(0))
    prepare_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 0))

    @jax.jit
    def gradient(params: Any) -> Any:
        batch = task.prepare(prepare_key, rows, columns)
        return jax.grad(lambda p: sum(task.losses({"params": p}, batch, loss_key)[0].values()))(params)

    found, after = gradient(state.params["model"]), steps("pooled", 4).first["model"]
    for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]:
        before = dict(jax.tree_util.tree_flatten_with_path(state.params["model"])[0])[path]
        moved = dict(jax.tree_util.tree_flatten_with_path(after)[0])[path]
        assert np.abs(leaf).max() > 1e-3
        np.testing.assert_allclose(moved, before - leaf, rtol=1e-4, atol=1e-5)


# --- what a run does with it ------------------------------------------------------------------------------


@functools.cache
def ranker(num_devices: int) -> tuple[CompiledMeasure, dict[str, np.ndarray]]:
    """Ranks of the test queries in packed rows, compiled once for all tasks."""
    queries = batched_queries(small.split().test, 2, multiple=num_devices)
    lengths = np.where(queries["mask"], np.minimum(queries["length"], small.MAX_LEN), 0)
    rows = Packing(2, 8)
    place = jax.jit(jax.vmap(lambda n: packing.place(n, rows=rows.rows, width=rows.width)))(lengths)
    queries |= {"row": np.asarray(place.row), "slot": np.asarray(place.slot)}
    retriever = next_item.retriever(MODEL, rows)
    rank = make_rank(retriever, Protocol(), num_items=small.NUM_ITEMS, history=11)
    return CompiledMeasure(rank, num_devices), queries


@pytest.mark.parametrize("name", TASKS)
def test_metrics_of_the_test_split_are_those_of_one_device(name: str) -> None:
    found = []
    for num_devices in (1, 4):
        rank, queries = ranker(num_devices)
        last = steps(name, num_devices).last["model"]
        ranks = rank(
            parallel.replicate({"params": jax.tree.map(lambda x: jnp.asarray(x)[None], last)}, num_devices),
            parallel.split_leading(queries, num_devices),
            parallel.replicate(context(), num_devices),
        )
        found.append(ranking_means(ranks[0], queries["mask"], (5, 10)))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert 0 < found[0]["mrr"] < 1


def test_views_that_find_no_room_stop_the_run_with_the_epoch_and_the_loss(tmp_path: Path) -> None:
    crowded = combine(pair=contrastive.pooled(MODEL, VIEWS, packed=Packing(1, 8)))
    rank = make_rank(next_item.retriever(MODEL), Protocol(), num_items=small.NUM_ITEMS, history=11)
    asked = Evaluation(rank, batched_queries(small.split().validation, 4), ranking_metrics(), Protocol())
    with pytest.raises(ValueError, match=r"epoch 0: loss 'contrastive' is \[nan\]"):
        fit(
            [Phase("views", crowded, 1)],
            optax.sgd(1.0),
            plan(),
            context(),
            Selection(asked, "ndcg@20"),
            seeds=(0,),
            workdir=tmp_path,
            description={},
            progress=False,
        )
