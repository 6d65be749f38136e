"""Sparse tables: equal to dense optimisers where theory says so, in place, and refused otherwise."""

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
from jaxrec.train.state import TrainState, caught_up, create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Batch, Context, Key, Task, Variables
from tests.lowering import repeated_float_adds

ITEMS, DIM, BATCH, STEPS = 30, 4, 6, 25
RATE = 0.05
TABLES = ["items"]
EQUALLY = static()


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
    return jax.jit(lambda key: create(task or factors(), tx, static(), key, example, columns))(
        jax.random.key(3)
    )


def train(
    tx: optax.GradientTransformation, columns: Context, task: Task | None = None, weighting: Any = EQUALLY
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
    for own, other in zip(
        jax.tree.leaves(params(found[0])), jax.tree.leaves(params(expected[0])), strict=True
    ):
        np.testing.assert_allclose(own, other, rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(found[1]["loss"], expected[1]["loss"], rtol=1e-6)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lazy_adam_equals_dense_adam_where_every_row_is_looked_up(
    corrected: bool, weight_decay: float
) -> None:
    rows = row_optimisers.lazy_adam(RATE, b2=0.98, corrected=corrected, weight_decay=weight_decay)
    found, _ = train(marked(rows), context(every=True))
    expected, _ = train(dense(optax.adamw(RATE, b2=0.98, weight_decay=weight_decay)), context(every=True))
    np.testing.assert_allclose(params(found)["items"], params(expected)["items"], rtol=1e-4, atol=2e-6)


@functools.cache
def corrected() -> tuple[sparse.SparseTransformation, TrainState]:
    tx = marked(row_optimisers.lazy_adam(RATE, corrected=True))
    return tx, train(tx, context(steps=80))[0]


def test_corrected_lazy_adam_equals_dense_adam_on_skipped_rows() -> None:
    tx, found = corrected()
    expected, _ = train(optax.adam(RATE), context(steps=80))
    whole = sparse.caught_up(tx, found.params, found.opt_state, found.step)
    table = np.asarray(sparse.values(whole)["model"]["items"])
    np.testing.assert_allclose(table, params(expected)["items"], atol=1e-4)
    np.testing.assert_allclose(params(found)["kernel"], params(expected)["kernel"], atol=1e-4)
    behind = np.abs(params(found)["items"] - params(expected)["items"]).max()
    assert behind > 1e-3  # rows that are behind, and that alone

    plain, _ = train(marked(row_optimisers.lazy_adam(RATE)), context(steps=80))
    assert np.abs(params(plain)["items"] - params(expected)["items"]).max() > 0.05


def one_row(rows: RowOptimiser, gradients: np.ndarray, touched: np.ndarray) -> tuple[np.ndarray, float]:
    """Values of a row after steps of which some touch it, caught up at the end, and its length, [D]."""
    state = row_optimisers.Rows(
        jnp.ones((1, gradients.shape[1])),
        {name: jnp.full((1, gradients.shape[1]), start) for name, start in rows.moments.items()},
        {name: jnp.full(1, start) for name, start in rows.numbers.items()},
    )
    for step in np.flatnonzero(touched):
        state = rows.catch_up(state, jnp.int32(step))
        state = rows.update(state, jnp.asarray(gradients[step][None]), jnp.int32(step))
    state = rows.catch_up(state, jnp.int32(len(touched)))
    return np.asarray(state.values[0]), float(np.linalg.norm(np.asarray(state.values[0])))


GRADIENTS = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
TOUCHED = np.random.default_rng(6).random(40) < 0.3


def test_rowwise_adagrad_by_its_formula() -> None:
    values, squares = np.ones(3), 0.1
    for gradient in GRADIENTS[TOUCHED].astype(np.float64):
        squares += np.mean(gradient**2)
        values -= RATE * gradient / np.sqrt(squares + 1e-7)
    found, _ = one_row(row_optimisers.rowwise_adagrad(RATE), GRADIENTS, TOUCHED)
    np.testing.assert_allclose(found, values, rtol=1e-5)


@pytest.mark.parametrize("skips_count", [False, True])
def test_lazy_adam_by_its_formula(skips_count: bool) -> None:
    values, mean, square = np.ones(3), np.zeros(3), np.zeros(3)
    for step, (gradient, touched) in enumerate(zip(GRADIENTS.astype(np.float64), TOUCHED, strict=True)):
        if not (touched or skips_count):
            continue
        gradient = gradient if touched else 0.0 * gradient
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        change = mean / (1 - 0.9 ** (step + 1)) / (np.sqrt(square / (1 - 0.99 ** (step + 1))) + 1e-3)
        values -= RATE * change
    rows = row_optimisers.lazy_adam(RATE, b2=0.99, eps=1e-3, corrected=skips_count)
    found, _ = one_row(rows, GRADIENTS, TOUCHED)
    np.testing.assert_allclose(found, values, rtol=2e-4 if skips_count else 1e-5)


def test_a_row_decays_and_is_cut_where_it_is_looked_up() -> None:
    nothing = np.zeros((3, 3), np.float32)
    found, _ = one_row(row_optimisers.sgd(0.5, weight_decay=0.2), nothing, np.array([True, False, True]))
    np.testing.assert_allclose(found, 0.9**2 * np.ones(3), rtol=1e-6)
    _, length = one_row(row_optimisers.sgd(0.5, max_norm=0.7), nothing, np.array([True, False, False]))
    np.testing.assert_allclose(length, 0.7, rtol=1e-6)


@pytest.mark.parametrize("kind", row_optimisers.KINDS)
def test_padding_stays_zero_and_other_rows_stay(kind: str) -> None:
    columns = context(steps=3)
    tx = sparse.by_name(kind, optax.adam(RATE), RATE, tables=TABLES, weight_decay=0.1)  # type: ignore[arg-type]
    before = params(start(tx, columns))["items"]
    after = params(train(tx, columns)[0])["items"]
    seen = np.unique(np.concatenate([columns["left"], np.maximum(columns["right"], 0)]))
    np.testing.assert_array_equal(after[0], 0.0)
    changed = np.flatnonzero((before != after).any(axis=1))
    assert set(changed) <= set(seen) and len(changed) > len(seen) / 2


def test_ids_are_distinct_sorted_and_past_the_table() -> None:
    ids = jnp.array([3, -1, 3, 0, 9, 10, 0], jnp.int32)
    found = sparse._distinct(ids, 10)
    assert found.tolist()[:3] == [0, 3, 9] and min(found.tolist()[3:]) >= 10
    assert len(set(found.tolist())) == 7 and found.tolist() == sorted(found.tolist())
    assert sparse._distinct(jnp.array([1, 0, 1, 1], jnp.int32), 2).tolist() == [0, 1]


def memory(tx: optax.GradientTransformation, rows: int, dim: int) -> Any:
    """What a resident epoch with a table takes, its end included, by its compiled program."""
    task, columns = factors(rows, dim), jax.tree.map(jnp.asarray, context())
    state = jax.eval_shape(lambda: start(tx, columns, task))
    finish = functools.partial(caught_up, tx)
    run = make_epoch(make_step(task, tx, static()), plan(), finish=finish)
    compiled = jax.jit(run, donate_argnums=0).lower(state, columns, jnp.int32(0), jnp.int32(0)).compile()
    return compiled.memory_analysis()


@pytest.mark.parametrize("kind", ["sgd", "rowwise-adagrad", "lazy-adam-corrected"])
def test_tables_are_updated_in_place(kind: str) -> None:
    rows, dim = 100_000, 64
    table = rows * dim * 4
    tx = sparse.by_name(kind, optax.adam(RATE), RATE, tables=TABLES)  # type: ignore[arg-type]
    found = memory(tx, rows, dim)
    assert found.temp_size_in_bytes < 0.1 * table
    copies = 1 + len(row_optimisers.KINDS[kind](RATE).moments)
    assert found.alias_size_in_bytes >= copies * table


def test_the_dense_form_holds_a_gradient_as_large_as_the_table() -> None:
    assert memory(optax.adam(RATE), 100_000, 64).temp_size_in_bytes > 100_000 * 64 * 4


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_a_row_is_written_once(platform: str) -> None:
    tx = marked(row_optimisers.lazy_adam(RATE))
    columns = jax.tree.map(jnp.asarray, context())
    step = make_step(factors(), tx, static())
    traced = jax.jit(step).trace(start(tx, columns), {"example": jnp.int32(0)}, columns)
    found = repeated_float_adds(traced, platform)
    assert not found if platform == "cuda" else all("x4xf32" in each for each in found)


def two_losses() -> Task:
    task = factors()

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        (first,) = task.losses(variables, batch, key, axis_name)[0].values()
        flipped = {**batch, "label": 1.0 - batch["label"], "left": batch["left"][::-1]}
        (second,) = task.losses(variables, flipped, key, axis_name)[0].values()
        return {"a": first, "b": second}, {}

    return task._replace(losses=loss)


def test_balanced_gradients_are_those_of_the_dense_table() -> None:
    both = [
        train(tx, context(), two_losses(), pcgrad(["items"]))[0]
        for tx in (marked(row_optimisers.sgd(RATE)), dense(optax.sgd(RATE)))
    ]
    np.testing.assert_allclose(params(both[0])["items"], params(both[1])["items"], rtol=1e-5, atol=1e-6)


def test_runs_that_differ_in_their_rate_share_a_program() -> None:
    def build(numbers: Any) -> optax.GradientTransformation:
        return sparse.sparse_tables(optax.sgd(numbers["rate"]), row_optimisers.sgd(numbers["rate"]), TABLES)

    tx, columns = adjustable(build, {"rate": 0.3}), jax.tree.map(jnp.asarray, context(steps=1))
    state = jax.tree.map(lambda x: jnp.stack([x, x]), start(tx, columns))
    state = state.replace(opt_state=with_numbers(state.opt_state, {"rate": [0.1, 0.2]}))
    before = np.asarray(state.variables["params"]["items"])
    step = jax.jit(jax.vmap(make_step(factors(), tx, static()), in_axes=(0, None, None)))
    after = np.asarray(step(state, {"example": jnp.int32(0)}, columns)[0].variables["params"]["items"])
    moved = after - before
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-4, atol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------


def reading(read: Callable[[Any, Array], Array]) -> Task:
    """A task with another way to read its table."""

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        return {"loss": jnp.sum(read(variables["params"]["items"], batch["left"]))}, {}

    return factors()._replace(losses=loss)


WHOLE = {
    "a product": lambda table, ids: jnp.ones((2, DIM)) @ table.T,
    "an einsum": lambda table, ids: jnp.einsum("vd->v", table),
    "a penalty": lambda table, ids: table**2,
    "an index": lambda table, ids: table[ids],
    "a square": lambda table, ids: jnp.sum(jnp.square(table)),
    "a scale": lambda table, ids: rows_by_id(2.0 * table, ids),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_table_that_is_read_as_a_whole_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="table 'items': is sparse.*read as a whole"):
        train(marked(row_optimisers.sgd(RATE)), context(), reading(WHOLE[name]))


def test_a_table_that_is_not_looked_up_is_refused() -> None:
    with pytest.raises(ValueError, match="table 'items': is sparse, but the losses look up none"):
        train(marked(row_optimisers.sgd(RATE)), context(), reading(lambda table, ids: jnp.zeros(2)))


@pytest.mark.parametrize("around", [jax.vmap, lambda f: lambda ids: jax.lax.map(f, ids)])
def test_a_table_that_is_looked_up_within_a_loop_is_refused(around: Any) -> None:
    def read(table: Any, ids: Array) -> Array:
        found: Array = around(lambda one: rows_by_id(table, one))(ids)
        return found

    with pytest.raises(ValueError, match="table 'items': is sparse, but is looked up within"):
        train(marked(row_optimisers.sgd(RATE)), context(), reading(read))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learning_rate=0: must be positive and finite"):
        row_optimisers.sgd(0)
    with pytest.raises(ValueError, match=r"learning_rate=-1.0: must be positive"):
        sparse.by_name("lazy-adam", optax.adam(RATE), -1.0)
    with pytest.raises(ValueError, match=r"b2=1.0: must lie in \[0, 1\)"):
        row_optimisers.lazy_adam(RATE, b2=1.0)
    with pytest.raises(ValueError, match="b1=0.9, b2=0.5: corrected needs b1 below the root of b2"):
        row_optimisers.lazy_adam(RATE, b2=0.5, corrected=True)
    with pytest.raises(ValueError, match="weight_decay=-1: must be 0 or positive"):
        row_optimisers.adagrad(RATE, weight_decay=-1)
    with pytest.raises(ValueError, match="max_norm=0: must be positive, or None"):
        row_optimisers.rowwise_adagrad(RATE, max_norm=0)
    with pytest.raises(ValueError, match="eps=0: must be positive"):
        row_optimisers.lazy_adam(RATE, eps=0)


def test_names_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="sparse='adam': is none of 'sgd', 'adagrad'"):
        sparse.by_name("adam", optax.adam(RATE), RATE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sparse tables \['users'\]: match none of the parameters"):
        start(sparse.sparse_tables(optax.adam(RATE), row_optimisers.sgd(RATE), ["items", "users"]), context())
    inside = optax.chain(optax.clip(1.0), marked(row_optimisers.sgd(RATE)))
    with pytest.raises(ValueError, match="sparse_tables must be the outermost"):
        start(inside, context())
