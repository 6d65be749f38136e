"""Pairs of items: what is drawn, the loss against NumPy, and the ranking by the items of a history."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.neighbourhoods import importance_neighbourhoods
from jaxrec.nn.retrieval.pinsage import PinSage
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


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="last=0: must be at least 1"):
        item_pairs.by_history(0)
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        item_pairs.item_pairs(MODEL, num_items=3, negatives=0)
