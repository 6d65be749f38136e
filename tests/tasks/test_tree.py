"""Nodes above an item as positives: batches against loops, the loss by formula, devices, searches."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import tree_building, trees
from jaxrec.index.tree_sampling import layout, negatives_by_level
from jaxrec.nn.retrieval.tdm import TDM
from jaxrec.tasks import tree as tasks
from jaxrec.types import Array
from tests.lowering import repeated_float_adds
from tests.nn.drawn import drawn
from tests.tasks import small, small_pairs

TREE = tree_building.random(small_pairs.NUM_ITEMS, seed=1)
NEGATIVES = negatives_by_level(TREE.depth, 8)
SIZES: dict[str, Any] = {"num_ids": TREE.num_ids, "dim": 3, "windows": (4,), "dims": (4, 3)}
MODEL = TDM(**SIZES, attention=(3,))
BY_LEVEL = TDM(**SIZES, attention=None, batch_norm=False)
SHARED_STATISTICS = TDM(**SIZES, attention=(3,), axis_name="devices")
PATHS = np.asarray(trees.ids_of(TREE, trees.ancestors(TREE, jnp.arange(small_pairs.NUM_ITEMS + 1))))


@functools.cache
def context() -> dict[str, Any]:
    return {**small_pairs.context(), "tree": TREE}


@functools.cache
def prepared(by_level: bool = False) -> Any:
    task = tasks.tree_nodes(MODEL, tasks.others(4), NEGATIVES, by_level=by_level)
    examples = small_pairs.examples(0, 2, 4, 5, 6, 9, 11, 13, last=False)
    return jax.jit(task.prepare)(jax.random.key(0), examples, context())


@functools.cache
def variables(model: TDM = MODEL) -> Any:
    history = np.zeros((1, TREE.depth, 4) if model is BY_LEVEL else (1, 4), np.int32)
    return drawn(model, history, np.ones((1, 2), np.int32), np.zeros(2, np.int32))


@pytest.mark.parametrize("max_len", [2, 4, 9])
def test_the_other_items_of_a_user_are_the_history_of_a_pair(max_len: int) -> None:
    draw = jax.jit(tasks.others(max_len))
    number = np.arange(len(small_pairs.PAIRS))
    counts: dict[tuple[int, int], int] = {}
    for seed in range(60):
        item, events = draw(jax.random.key(seed), number, context())
        for i, (user, expected) in enumerate(small_pairs.PAIRS):
            others = sorted(set(small_pairs.TRAINING[user]) - {expected})
            row = np.asarray(events[i])
            real = row[row > 0].tolist()
            assert item[i] == expected and len(real) == min(max_len, len(others))
            assert not row[: max_len - len(real)].any()  # padding on the left
            assert len(set(real)) == len(real) and set(real) <= set(others)
            if user == 2:
                for other in real:
                    counts[expected, other] = counts.get((expected, other), 0) + 1
    shares = np.array(list(counts.values())) / 60
    assert len(counts) == 6 * 5 and np.abs(shares - min(1, max_len / 5)).max() < 0.27


def test_the_events_before_a_target_are_its_history() -> None:
    draw = jax.jit(tasks.before(4))
    columns = {name: jnp.asarray(column) for name, column in small.columns().items()}
    for user in (0, 4, 7, 10):
        events = small.training_events(user)
        start = int(columns["start"][user])
        numbers = np.arange(start, start + len(events))
        item, history = draw(jax.random.key(0), numbers, columns)
        assert item.tolist() == events
        for place, row in enumerate(history.tolist()):
            expected = events[:place][-4:]
            assert row == [0] * (4 - len(expected)) + expected


@pytest.mark.parametrize("ordered", [False, True])
def test_histories_of_queries(ordered: bool) -> None:
    queries = {"user": jnp.array([0, 2, 3, 2]), "length": jnp.array([3, 6, 0, 4])}
    run = jax.jit(functools.partial(tasks.histories, max_len=4, ordered=ordered))
    found = run(queries, context()).tolist()
    items = small_pairs.data().columns["items"]
    start = small_pairs.data().columns["start"]
    for row, user, length in zip(found, (0, 2, 3, 2), (3, 6, 0, 4), strict=True):
        events = items[start[user] : start[user] + length].tolist()
        if length > 4:
            events = events[-4:] if ordered else [events[int((s + 0.5) * length / 4)] for s in range(4)]
        assert row == [0] * (4 - len(events)) + events


@pytest.mark.parametrize("by_level", [False, True])
def test_a_batch_has_the_nodes_above_its_items(by_level: bool) -> None:
    batch = prepared(by_level)
    columns = layout(NEGATIVES)
    examples = [0, 2, 4, 5, 6, 9, 11, 13]
    for row, example in enumerate(examples):
        item = small_pairs.PAIRS[example][1]
        own = PATHS[item, 1:] if row < 7 else np.zeros(TREE.depth, int)  # the last one fills up the batch
        assert batch["nodes"][row, columns.number == 0].tolist() == own.tolist()
        history = np.asarray(batch["history"][row])
        if by_level:
            items = history[-1]
            np.testing.assert_array_equal(history, np.where(items > 0, PATHS[items, 1:].T, 0))
        assert set(history[..., -1].reshape(-1).tolist()) & {item} == set()
    assert batch["where"][:-1].any(axis=1).all() and not batch["where"][-1].any()


def losses_of(model: TDM, batch: Any, axis: str | None = None, by_level: bool = False) -> Any:
    task = tasks.tree_nodes(model, tasks.others(4), NEGATIVES, by_level=by_level)

    def share(part: Any) -> Any:
        return task.losses(variables(model), part, jax.random.key(1), axis)

    if axis is None:
        return jax.jit(share)(batch)
    halves = jax.tree.map(lambda column: column.reshape(2, 4, *column.shape[1:]), batch)
    return jax.jit(jax.vmap(share, axis_name=axis))(halves)


@pytest.mark.parametrize(("model", "by_level"), [(MODEL, False), (BY_LEVEL, True)])
def test_the_loss_is_a_sum_of_cross_entropies(model: TDM, by_level: bool) -> None:
    batch = prepared(by_level)
    columns = layout(NEGATIVES)
    found, updates = losses_of(model, batch, by_level=by_level)
    level = (columns.level - 1,) if by_level else ()
    logits, _ = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(
        variables(model), batch["history"], batch["nodes"], *level
    )
    prob = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    each = -np.where(columns.number == 0, np.log(prob), np.log(1 - prob))
    total = np.where(batch["where"], each, 0).sum(axis=1)[:7].mean()
    assert list(found) == ["nodes"] and list(updates) == (["batch_stats"] if model is MODEL else [])
    np.testing.assert_allclose(found["nodes"], total, rtol=1e-5)


def test_shares_of_devices_add_up() -> None:
    """With statistics that the devices share, of batches with different numbers of real examples."""
    whole, updates = losses_of(MODEL, prepared())
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, variables(SHARED_STATISTICS)[name], variables()[name])
    shares, shared = losses_of(SHARED_STATISTICS, prepared(), "devices")
    np.testing.assert_allclose(shares["nodes"].sum(), whole["nodes"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6), shared, updates)


@pytest.mark.parametrize("model", [MODEL, BY_LEVEL])
def test_on_gpus_no_sum_meets_an_id_twice(model: TDM) -> None:
    by_level = model is BY_LEVEL
    task = tasks.tree_nodes(model, tasks.others(4), NEGATIVES, by_level=by_level)

    def loss(given: Any, batch: Any) -> Array:
        return task.losses(given, batch, jax.random.key(0))[0]["nodes"]

    traced = jax.jit(jax.grad(loss)).trace(variables(model), prepared(by_level))
    assert repeated_float_adds(traced, "cuda") == []


def test_an_item_without_a_leaf_makes_the_loss_nan() -> None:
    less = trees.from_leaves(np.where(np.asarray(TREE.leaves) == 9, 0, TREE.leaves), capacity=9)
    assert int(less.count) == 8
    task = tasks.tree_nodes(BY_LEVEL, tasks.others(4), NEGATIVES, by_level=True)
    columns = {**context(), "tree": less}
    for changed, wrong in (("pair_item", True), ("excluded", True), ("", False)):
        if changed:
            columns = {**context(), "tree": less, changed: jnp.full_like(context()["pair_item"], 9)}
        else:
            columns = {**context(), "tree": less}
        batch = jax.jit(task.prepare)(jax.random.key(0), small_pairs.examples(0, 1, 5), columns)
        value = jax.jit(task.losses)(variables(BY_LEVEL), batch, jax.random.key(0))[0]["nodes"]
        assert bool(jnp.isnan(value)) is wrong


HISTORIES = np.array([[0, 0, 4, 2], [1, 2, 3, 4], [0, 0, 0, 0]], np.int32)


def scored(by_level: bool, ids: np.ndarray) -> np.ndarray:
    model = BY_LEVEL if by_level else MODEL

    def run(variables: Any, tree: Any, ids: Array) -> Array:
        return tasks.score_items(model, variables, tree, by_level=by_level)(HISTORIES, ids)

    return np.asarray(jax.jit(run)(variables(model), TREE, ids))


@pytest.mark.parametrize("by_level", [False, True])
def test_a_search_with_the_trained_scorer(by_level: bool) -> None:
    """With a beam of all nodes: the best items by their own scores; a node's level is read off its id."""
    model = BY_LEVEL if by_level else MODEL
    every = np.tile(np.arange(1, TREE.num_ids + 1, dtype=np.int32), (3, 1))
    scores = scored(by_level, every)
    items = scores[:, : small_pairs.NUM_ITEMS]
    dense = tasks.by_beam(model, width=16, exclude=False, by_level=by_level).scores
    queries = {"user": jnp.array([0, 2, 4]), "length": jnp.array([2, 4, 0])}
    held = {
        **context(),
        "items": jnp.array([*HISTORIES[0, 2:], 0, *HISTORIES[1], 0, 0]),
        "start": jnp.array([0, 0, 3, 0, 0]),
    }
    np.testing.assert_allclose(
        jax.jit(dense)(variables(model), queries, held)[:, 1:], items, rtol=1e-4, atol=1e-6
    )
    unseen = tasks.by_beam(model, width=16, exclude=True, by_level=by_level, num_items=7).scores
    found = np.asarray(jax.jit(unseen)(variables(model), queries, held))
    assert found.shape == (3, 8)
    expected = items[:, :7].copy()
    for row, history in enumerate(HISTORIES):
        expected[row, [item - 1 for item in history if item]] = tasks.NOT_FOUND
    np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-4, atol=1e-6)
    if by_level:
        positions = np.asarray(trees.positions_of(TREE, jnp.asarray(every[0])))
        levels = np.asarray(trees.level_of(jnp.asarray(positions)))
        for level in (1, 2, TREE.depth):
            ids = every[:, levels == level]
            ancestors = np.where(HISTORIES > 0, PATHS[HISTORIES, level], 0)
            alone = TDM(**SIZES, attention=None, batch_norm=False)
            found = jax.jit(alone.apply)(variables(BY_LEVEL), ancestors, ids)
            np.testing.assert_allclose(scores[:, levels == level], found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by_level", [False, True])
def test_log_likelihoods_are_of_the_item_where_a_leaf_is(by_level: bool) -> None:
    model = BY_LEVEL if by_level else MODEL
    items = np.array([3, 5, 0], np.int32)
    first = len(TREE.leaves) - 1
    for positions, ids in (
        (np.array([[1, 2]] * 3), np.array([[TREE.capacity + 2, TREE.capacity + 3]] * 3)),
        (np.array([[first, first + 4]] * 3), np.array([[3, 3], [5, 5], [1, 1]])),
    ):
        run = functools.partial(tasks.log_likelihood, model, by_level=by_level)
        found = jax.jit(run)(variables(model), TREE, items, HISTORIES, positions)
        expected = -np.log1p(np.exp(-scored(by_level, ids)))
        np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-4, atol=1e-6)
        assert (found[2] == 0).all()


def test_bad_settings_are_refused() -> None:
    for make in (tasks.others, tasks.before):
        with pytest.raises(ValueError, match="max_len=0: must be at least 1"):
            make(0)
    with pytest.raises(ValueError, match="must be numbers of 0 or more"):
        tasks.tree_nodes(MODEL, tasks.others(4), (-1, 2))
