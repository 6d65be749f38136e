"""Measures over seeds and devices, and means of ranks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index.rank import make_rank
from jaxrec.train.evaluate import CompiledMeasure, check_finite, evaluate, ranking_means
from jaxrec.types import Protocol
from tests.train import toy


def test_check_finite_raises_with_the_number_of_queries() -> None:
    check_finite(np.zeros(3, int), "evaluation")
    with pytest.raises(ValueError, match="evaluation: 3 queries"):
        check_finite(np.array([1, 0, 2]), "evaluation")


def test_summary_is_the_mean_over_real_queries() -> None:
    ranks, mask = np.array([[1, 4], [11, 1]]), np.array([[True, True], [True, False]])
    found = ranking_means(ranks, mask, (1, 5))
    assert found == pytest.approx(
        {
            "hit@1": 1 / 3,
            "ndcg@1": 1 / 3,
            "hit@5": 2 / 3,
            "ndcg@5": (1 + 1 / np.log2(5)) / 3,
            "mrr": (1 + 1 / 4 + 1 / 11) / 3,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_share_the_queries_and_give_the_same_ranks(num_devices: int) -> None:
    from jaxrec.train import parallel

    rank = make_rank(toy.RETRIEVER, Protocol(), num_items=toy.NUM_ITEMS, history=2)
    rng = np.random.default_rng(0)
    found = {
        "params": {
            "users": rng.normal(size=(3, toy.NUM_USERS, 4)).astype(np.float32),
            "items": rng.normal(size=(3, toy.NUM_ITEMS + 1, 4)).astype(np.float32),
        }
    }
    expected = CompiledMeasure(rank, 1)(found, toy.queries(), toy.context())
    got = CompiledMeasure(rank, num_devices)(
        parallel.replicate(found, num_devices),
        parallel.split_leading(toy.queries(), num_devices),
        parallel.replicate(toy.context(), num_devices),
    )
    assert got.shape == (3, 4, 3)
    mask = toy.queries()["mask"]
    np.testing.assert_array_equal(got[:, mask], expected[:, mask])
    assert len({tuple(seed[mask].tolist()) for seed in expected}) == 3


def test_compiled_rank_raises_on_scores_that_are_not_finite() -> None:
    rank = CompiledMeasure(make_rank(toy.RETRIEVER, Protocol(), num_items=toy.NUM_ITEMS, history=2), 1)
    found = {
        "params": {
            "users": jnp.ones((1, toy.NUM_USERS, 4)),
            "items": jnp.full((1, toy.NUM_ITEMS + 1, 4), jnp.nan),
        }
    }
    with pytest.raises(ValueError, match="10 queries"):
        rank(found, toy.queries(), toy.context())


@pytest.mark.parametrize("num_devices", [1, 2, 3])
def test_an_evaluation_gives_the_same_numbers_on_any_number_of_devices(num_devices: int) -> None:
    """Four batches on three devices: the two that fill up count nowhere."""
    variables = toy.factors().init(jax.random.key(0), {})
    both = jax.tree.map(lambda x: jnp.stack([x, -x]), variables)
    asked = toy.evaluation()
    found = evaluate(asked, both, toy.context(), num_devices=num_devices)
    for index, numbers in enumerate(found):
        one = jax.tree.map(lambda x, i=index: x[i], both)
        ranks, _ = jax.jit(asked.measure)(one, dict(asked.queries), toy.context())
        assert numbers == pytest.approx(asked.summarise(np.asarray(ranks), asked.queries), rel=1e-6)


def test_an_evaluation_refuses_scores_that_mean_nothing() -> None:
    variables = jax.tree.map(lambda x: x[None] / 0.0, toy.factors().init(jax.random.key(0), {}))
    with pytest.raises(ValueError, match="10 queries have NaN or infinite scores"):
        evaluate(toy.evaluation(), variables, toy.context(), num_devices=2)


def test_by_default_ties_rank_the_target_last() -> None:
    variables = {
        "params": {"users": jnp.zeros((1, toy.NUM_USERS, 4)), "items": jnp.zeros((1, toy.NUM_ITEMS + 1, 4))}
    }
    mask = toy.queries()["mask"]

    def ranks(protocol: Protocol) -> np.ndarray:
        rank = make_rank(toy.RETRIEVER, protocol, num_items=toy.NUM_ITEMS, history=2)
        return np.asarray(CompiledMeasure(rank, 1)(variables, toy.queries(), toy.context()))[:, mask]

    np.testing.assert_array_equal(ranks(Protocol(ties="optimistic")), 1)
    np.testing.assert_array_equal(ranks(Protocol()), ranks(Protocol(ties="pessimistic")))
    assert (ranks(Protocol(seen="keep")) == toy.NUM_ITEMS).all()
