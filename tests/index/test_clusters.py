"""Clusters: all lists together are exact, nothing is lost in a full list, k-means is Lloyd's algorithm."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import clusters, exact
from jaxrec.index.k_means import assign, extended, k_means
from tests.lowering import repeated_float_adds

RNG = np.random.default_rng(0)
NUM_ITEMS, DIM, NUM_CLUSTERS = 150, 4, 6
TABLE = RNG.normal(size=(NUM_ITEMS + 1, DIM)).astype(np.float32)
QUERIES = RNG.normal(size=(5, DIM)).astype(np.float32)
SEEN = RNG.integers(0, NUM_ITEMS + 1, (5, 30)).astype(np.int32)
KEY = jax.random.key(0)


@functools.cache
def built(metric: Any = "inner", capacity: int | None = None) -> clusters.Clusters:
    return clusters.build(TABLE, num_clusters=NUM_CLUSTERS, key=KEY, metric=metric, capacity=capacity)


@pytest.mark.parametrize("capacity", [None, 10])
@pytest.mark.parametrize("metric", ["inner", "cosine", "l2"])
def test_all_lists_together_are_exact(metric: Any, capacity: int | None) -> None:
    """With lists that hold all their items, and with full ones."""
    index = built(metric, capacity)
    assert (index.overflow > 0) == (capacity == 10)
    found = clusters.search(index, QUERIES, 20, probes=NUM_CLUSTERS, seen=SEEN)
    expected = exact.search(exact.build(TABLE, metric=metric), QUERIES, 20, seen=SEEN)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    assert found.finite.all()


def test_each_item_has_one_place() -> None:
    index = built(capacity=10)
    ids = np.asarray(index.ids)
    assert sorted(ids[ids > 0].tolist()) == list(range(1, NUM_ITEMS + 1))
    np.testing.assert_array_equal(
        ids[np.asarray(index.places)[1 : NUM_ITEMS + 1]], np.arange(1, NUM_ITEMS + 1)
    )
    np.testing.assert_array_equal(np.asarray(index.vectors)[index.places[1 : NUM_ITEMS + 1]], TABLE[1:])
    assert int(index.sizes.sum()) == NUM_ITEMS and int(index.sizes[:-1].max()) == 10


def test_more_probes_find_more_and_one_finds_what_lies_nearest() -> None:
    index = built("l2")
    best = exact.search(exact.build(TABLE, metric="l2"), QUERIES, 10).ids
    shares = []
    for probes in (1, 3, NUM_CLUSTERS):
        found = clusters.search(index, QUERIES, 10, probes=probes).ids
        shares.append(np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]))
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1
    np.testing.assert_array_equal(clusters.search(index, TABLE[1:], 1, probes=1).ids[:, 0], np.arange(1, 151))


def test_fewer_items_in_the_lists_than_k() -> None:
    found = clusters.search(built(), QUERIES, 100, probes=1)
    assert (np.asarray(found.ids) == 0).any(axis=1).all()
    assert ((found.ids == 0) == (found.scores == -np.inf)).all()
    everything = np.tile(np.arange(NUM_ITEMS + 1), (5, 1))
    assert not clusters.search(built(), QUERIES, 3, probes=2, seen=everything).ids.any()


@pytest.mark.parametrize("capacity", [None, 30])
def test_added_items_are_found(capacity: int | None) -> None:
    """In the room of their lists, and in the overflow."""
    more = RNG.normal(size=(300, DIM)).astype(np.float32)
    larger = clusters.add(clusters.add(built("l2", capacity), more[:1]), more[1:])
    assert int(larger.count) == NUM_ITEMS + 300 and larger.overflow > 0
    table = np.concatenate([TABLE, more])
    expected = exact.search(exact.build(table, metric="l2"), QUERIES, 9, seen=2 * SEEN)
    found = clusters.search(larger, QUERIES, 9, probes=NUM_CLUSTERS, seen=2 * SEEN)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_equal_scores_and_queries_that_are_no_numbers() -> None:
    index = clusters.build(np.ones((9, 2)), num_clusters=2, key=KEY)
    queries = np.array([[1, 1], [np.nan, 1]], np.float32)
    found = clusters.search(index, queries, 8, probes=2, seen=np.array([[3], [99]]))
    assert found.ids[0].tolist() == [1, 2, 4, 5, 6, 7, 8, 0]
    assert found.finite.tolist() == [True, False]


@pytest.mark.parametrize("spherical", [False, True])
def test_k_means_is_lloyds_algorithm(spherical: bool) -> None:
    points = RNG.normal(size=(60, 3)).astype(np.float32)
    centres = points[:4].astype(np.float64)
    if spherical:
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for _ in range(3):
        fit = points @ centres.T if spherical else -((points[:, None] - centres) ** 2).sum(axis=2)
        nearest = fit.argmax(axis=1)
        centres = np.stack([points[nearest == c].mean(axis=0) for c in range(4)])
        if spherical:
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = k_means(jnp.asarray(points), num_clusters=4, rounds=3, spherical=spherical)
    np.testing.assert_allclose(found, centres, rtol=1e-4, atol=1e-5)


def test_a_centre_without_points_moves() -> None:
    """Two of three first points are equal, so the second of them is nearest to nothing."""
    points = jnp.array([[0.0, 0], [0, 0], [9, 9], [9, 8], [50, 0]])
    centres = k_means(points, num_clusters=3, rounds=4, spherical=False)
    nearest, fit = assign(points, extended(centres, False), l2=True)
    assert len(set(nearest.tolist())) == 3 and float(fit.min()) == -0.25


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_float_adds_by_repeated_ids(platform: str) -> None:
    mean = jax.jit(lambda points: k_means(points, num_clusters=3, rounds=2, spherical=True))
    assert platform == "tpu" or repeated_float_adds(mean.trace(jnp.asarray(TABLE)), platform) == []
    search = jax.jit(lambda i, q, s: clusters.search(i, q, 4, probes=2, seen=s))
    assert repeated_float_adds(search.trace(built(), jnp.asarray(QUERIES), SEEN), platform) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: clusters.build(TABLE, num_clusters=151, key=KEY),
            "num_clusters=151: must lie in 1..150, the number of items",
        ),
        (lambda: built(capacity=0), "capacity=0: must be at least 1"),
        (lambda: clusters.search(built(), QUERIES, 1, probes=7), "probes=7: must lie in 1..6"),
        (lambda: clusters.search(built(), QUERIES, 0, probes=1), "k=0: must be at least 1"),
        (lambda: clusters.add(built(), np.ones((1, 9))), "vectors of width 9: the index has width 4"),
    ],
)
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
