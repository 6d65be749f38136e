"""Accuracy of lists with several relevant items: slow twins, options, short lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics

NUM_ITEMS, LENGTH = 12, 8
RNG = np.random.default_rng(0)
# Lists of 0 to 8 items and users of 0 to 6 relevant ones, both filled up with 0.
LISTS = np.stack(
    [np.where(np.arange(LENGTH) < n, RNG.permutation(NUM_ITEMS)[:LENGTH] + 1, 0) for n in range(9)]
)
RELEVANT = np.stack([np.where(np.arange(6) < n % 7, RNG.permutation(NUM_ITEMS)[:6] + 1, 0) for n in range(9)])
POPULARITY_RANK = np.concatenate([[0], RNG.integers(1, 7, NUM_ITEMS)])


def hits(ranked: np.ndarray, relevant: set[int]) -> list[int]:
    return [int(i in relevant) for i in ranked.tolist()]


def slow_hit(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    return float(any(found[:k]))


def slow_mrr(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    return max((1 / (j + 1) for j, h in enumerate(found[:k]) if h), default=0.0)


def precisions_at_hits(found: list[int], k: int) -> float:
    return sum(sum(found[: j + 1]) / (j + 1) for j, h in enumerate(found[:k]) if h)


def slow_map_of_relevant(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    return precisions_at_hits(found, k) / max(size, 1)


def slow_map_of_k(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    return precisions_at_hits(found, k) / k


def slow_ndcg_of_full(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    gain = sum(h / math.log2(j + 2) for j, h in enumerate(found[:k]))
    return gain / sum(1 / math.log2(j + 2) for j in range(k))


def slow_serendipity(found: list[int], size: int, ranked: np.ndarray, k: int) -> float:
    def likely(rank: int) -> float:
        return (NUM_ITEMS + 1 - rank) / NUM_ITEMS

    surprise = [likely(j + 1) - likely(int(POPULARITY_RANK[item])) for j, item in enumerate(ranked[:k])]
    return sum(h * max(s, 0.0) for h, s in zip(found, surprise, strict=False)) / k


def serendipity(ranked: Any, relevant: Any, *, k: int) -> Any:
    found, _ = metrics.hits_of_list(ranked, relevant)
    return metrics.serendipity_of_hits(found, ranked, jnp.asarray(POPULARITY_RANK), k=k, num_items=NUM_ITEMS)


CASES: dict[str, tuple[Callable[..., Any], Callable[..., float]]] = {
    "hit": (metrics.list_hit, slow_hit),
    "mrr": (metrics.list_mrr, slow_mrr),
    "map of relevant": (
        lambda r, a, k: metrics.list_map(r, a, k=k, divide_by="relevant"),
        slow_map_of_relevant,
    ),
    "map of k": (lambda r, a, k: metrics.list_map(r, a, k=k, divide_by="k"), slow_map_of_k),
    "ndcg, full": (lambda r, a, k: metrics.list_ndcg(r, a, k=k, ideal="full"), slow_ndcg_of_full),
    "serendipity": (serendipity, slow_serendipity),
}


def test_metrics_equal_slow_python_also_for_short_lists_and_users_without_relevant_items() -> None:
    ks = (1, 3, 8, 20)
    every = {name: metric for name, (metric, _) in CASES.items()}
    ours = jax.jit(lambda r, a: {name: [m(r, a, k=k) for k in ks] for name, m in every.items()})(
        LISTS, RELEVANT
    )
    for name, (_, slow) in CASES.items():
        for k, values in zip(ks, ours[name], strict=True):
            expected = []
            for ranked, ids in zip(LISTS, RELEVANT, strict=True):
                relevant = set(ids.tolist()) - {0}
                expected.append(slow(hits(ranked, relevant), len(relevant), ranked, k))
            np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7, err_msg=f"{name} at {k}")


def test_a_list_of_the_relevant_items_has_one_whatever_their_number() -> None:
    for number in (1, 3, 8):
        relevant = jnp.where(jnp.arange(8) < number, jnp.arange(8) + 1, 0)
        for k in (1, 3, 5, 8):
            assert float(metrics.list_map(jnp.arange(1, 9), relevant, k=k)) == pytest.approx(1.0)
            assert float(metrics.list_ndcg(jnp.arange(1, 9), relevant, k=k)) == pytest.approx(1.0)


def test_what_does_not_exist_is_refused() -> None:
    found = jnp.ones(3)
    for metric in (metrics.precision_of_hits, lambda h, k: metrics.recall_of_hits(h, jnp.array(1), k=k)):
        with pytest.raises(ValueError, match="k=0: must be at least 1"):
            metric(found, k=0)
    wrong: Any = "all"
    with pytest.raises(ValueError, match="divide_by='all'"):
        metrics.map_of_hits(found, jnp.array(1), k=2, divide_by=wrong)
    with pytest.raises(ValueError, match="ideal='all'"):
        metrics.ndcg_of_hits(found, jnp.array(1), k=2, ideal=wrong)
