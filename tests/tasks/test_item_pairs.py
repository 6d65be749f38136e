"""Pairs of items: what is drawn, the loss against NumPy, and the ranking by the items of a history."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.neighbourhoods import importance_neighbourhoods
from jaxrec.nn.retrieval.pinsage import PinSage
from jaxrec.protocols import items
from jaxrec.recipes import item_graphs
from jaxrec.tasks import item_pairs
from tests.lowering import repeated_float_adds
from tests.nn.drawn import drawn
from tests.tasks import small_pairs

MODEL = PinSage(small_pairs.NUM_ITEMS, 4, 3, 1)
NEAR = importance_neighbourhoods(
    bipartite(small_pairs.events(), num_users=small_pairs.NUM_USERS), number=3, walks=20
)
CONTEXT: dict[str, Any] = {
    **small_pairs.context(),
    "neighbours": jax.tree.map(jnp.asarray, NEAR),
    "before": jnp.array([1, 4, 5]),
    "after": jnp.array([4, 2, 3]),
}
TASK = item_pairs.item_pairs(MODEL, num_items=small_pairs.NUM_ITEMS, negatives=5)
VARIABLES = drawn(MODEL, CONTEXT, method="vectors")
EXAMPLES = small_pairs.examples(0, 2, 1, last=False)


def batch_of(examples: Any = EXAMPLES) -> dict[str, Any]:
    return dict(TASK.prepare(jax.random.key(0), examples, CONTEXT))


def test_the_loss_is_that_of_numpy() -> None:
    batch = batch_of()
    negatives = np.asarray(batch["shared"]["negatives"])
    assert negatives.shape == (5,) and negatives.min() >= 1 and negatives.max() <= small_pairs.NUM_ITEMS
    z = np.asarray(MODEL.apply(VARIABLES, CONTEXT, method="vectors")[0])
    wanted = [np.maximum(0, 1 - z[q] @ z[i] + z[negatives] @ z[q]).mean() for q, i in ((1, 4), (5, 3))]
    found = TASK.losses(VARIABLES, batch, jax.random.key(1))[0]["pairs"]
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)
    np.testing.assert_allclose(TASK.predict(VARIABLES, batch)[0], z[1] @ z[4], rtol=1e-5)


def test_masked_pairs_change_nothing() -> None:
    def loss(batch: Any) -> Any:
        return TASK.losses(VARIABLES, batch, jax.random.key(1))[0]["pairs"]

    batch = batch_of()
    assert loss(batch) == loss({**batch, "query": batch["query"].at[2].set(7)})
    assert loss({**batch, "mask": jnp.zeros(3, bool)}) == 0


def test_a_step_adds_no_floats_by_repeated_ids_on_cuda() -> None:
    def gradient(variables: Any, batch: Any) -> Any:
        return jax.grad(lambda v: TASK.losses(v, batch, jax.random.key(1))[0]["pairs"])(variables)

    traced = jax.jit(gradient).trace(VARIABLES, batch_of())
    assert repeated_float_adds(traced, "cuda") == []
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(VARIABLES, batch_of())))


def test_an_item_goes_with_every_other_one_of_its_user() -> None:
    pairs = small_pairs.PAIRS
    number = jnp.tile(jnp.arange(len(pairs)), 400)
    found = item_pairs.of_one_user(jax.random.key(0), number, CONTEXT)
    query, item, real = (np.asarray(part).reshape(400, -1) for part in found)
    for at, (user, own) in enumerate(pairs):
        others = set(small_pairs.TRAINING[user]) - {own}
        assert set(item[:, at]) == {own}
        assert real[:, at].all() == bool(others)
        if others:
            values, count = np.unique(query[:, at], return_counts=True)
            assert set(values) == others
            share = 1 / len(others)
            assert np.abs(count / 400 - share).max() <= 5 * np.sqrt(share * (1 - share) / 400)


def test_the_query_is_the_mean_of_the_last_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    variables = {"queries": vectors, "items": 2 * vectors}
    context = {"items": jnp.array([3, 1, 2, 5]), "start": jnp.array([0, 3])}
    queries = {"user": jnp.array([0, 1, 0]), "length": jnp.array([3, 1, 0])}
    model = item_pairs.by_history(2)
    wanted = [vectors[[1, 2]].mean(axis=0), vectors[5], np.zeros(3)]
    np.testing.assert_allclose(model.query(variables, queries, context), wanted, rtol=1e-6)
    np.testing.assert_array_equal(model.items(variables), 2 * vectors)


# --- hard negatives -------------------------------------------------------------------------------------

HARD = np.array([[0] * 4, [4, 9, 7, 2], [1, 2, 3, 5], *[[6, 0, 0, 0]] * 7], np.int32)  # of items 0..9


def hard_batch(hard: int, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    task = item_pairs.item_pairs(MODEL, num_items=small_pairs.NUM_ITEMS, negatives=3, hard=hard)
    context = {**CONTEXT, "hard": jnp.asarray(HARD)}
    return task, dict(task.prepare(jax.random.key(seed), EXAMPLES, context))


@pytest.mark.parametrize("hard", [1, 2, 4])
def test_hard_negatives_are_of_the_querys_window_and_not_the_pairs_own(hard: int) -> None:
    met: set[int] = set()
    for seed in range(12):
        _, batch = hard_batch(hard, seed)
        assert batch["hard"].shape == (3, hard)
        for query, item, ids in zip(batch["query"], batch["item"], np.asarray(batch["hard"]), strict=True):
            drawn_ids = [i for i in ids.tolist() if i]
            allowed = set(HARD[int(query)].tolist()) - {0, int(item)}
            assert len(drawn_ids) == len(set(drawn_ids)) == min(hard, len(allowed))
            assert set(drawn_ids) <= allowed
            met |= set(drawn_ids) if int(query) == 1 else set()
    assert met == {9, 7, 2}  # 4 follows 1


def test_the_loss_with_hard_negatives_is_that_of_numpy() -> None:
    task, batch = hard_batch(2)
    found = task.losses(VARIABLES, batch, jax.random.key(1))[0]["pairs"]
    z = np.asarray(MODEL.apply(VARIABLES, CONTEXT, method="vectors")[0])
    terms = []
    for at in np.flatnonzero(batch["mask"]):
        query, item = int(batch["query"][at]), int(batch["item"][at])
        others = [*np.asarray(batch["shared"]["negatives"]), *(i for i in np.asarray(batch["hard"][at]) if i)]
        terms += [max(0.0, 1 - z[query] @ z[item] + z[query] @ z[other]) for other in others]
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)


def test_a_curriculum_has_one_more_hard_negative_an_epoch() -> None:
    data, recipe = small_pairs.data(), item_graphs.PinSageRecipe(hard=2, hard_first=0.1, hard_last=0.5)
    tasks: Any = item_graphs.related(MODEL, data, recipe)
    phases = items.phases_of(tasks, 7)
    assert [(phase.name, phase.epochs) for phase in phases] == [("train-1", 1), ("train-2", 1), ("train", 5)]
    columns = item_graphs.neighbourhoods(data, recipe)
    assert columns["hard"].shape == (small_pairs.NUM_ITEMS + 1, 3)  # the ranks 2 to 4
    for number, phase in enumerate(phases):
        batch = phase.task.prepare(jax.random.key(0), EXAMPLES, {**data.columns, **columns})
        assert ("hard" in batch) == (number > 0)
        assert number == 0 or batch["hard"].shape == (3, number)
    assert [phase.epochs for phase in items.phases_of(tasks, 2)] == [1, 1]
    assert [phase.epochs for phase in items.phases_of(tasks[0], 2)] == [2]
    with pytest.raises(ValueError, match="epochs=0: must be at least 1"):
        items.phases_of(tasks, 0)
    with pytest.raises(ValueError, match=r"hard=9: of 9 items the ranks 2\.\.4 .* are fewer; widen them"):
        item_graphs.neighbourhoods(data, dataclasses.replace(recipe, hard=9))


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="last=0: must be at least 1"):
        item_pairs.by_history(0)
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        item_pairs.item_pairs(MODEL, num_items=3, negatives=0)
    with pytest.raises(ValueError, match="hard=-1: must be at least 0"):
        item_pairs.item_pairs(MODEL, num_items=3, hard=-1)
    with pytest.raises(ValueError, match=r"hard_first=0\.5, hard_last=0\.2: must be"):
        item_graphs.PinSageRecipe(hard_first=0.5, hard_last=0.2)
