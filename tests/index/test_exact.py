"""Exact search in two stages against a sort of all scores."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.index import exact
from jaxrec.index.exact import GROUP, Exact
from tests.lowering import repeated_float_adds

RNG = np.random.default_rng(0)
NUM_ITEMS, NUM_QUERIES, DIM = 5 * GROUP + 7, 5, 3
TABLE = RNG.integers(-2, 3, (NUM_ITEMS + 1, DIM)).astype(np.float32)  # products are exact, most tie
QUERIES = RNG.integers(-2, 3, (NUM_QUERIES, DIM)).astype(np.float32)
SEEN = RNG.integers(0, NUM_ITEMS + 1, (NUM_QUERIES, 40)).astype(np.int32)


def all_scores(queries: np.ndarray, table: np.ndarray, metric: str) -> np.ndarray:
    if metric == "l2":
        return -((queries[:, None].astype(np.float64) - table) ** 2).sum(axis=2)
    scores = queries.astype(np.float64) @ table.T
    if metric == "cosine":
        lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(table, axis=1)
        scores = scores / np.where(lengths > 0, lengths, 1)
    return scores


def by_sort(scores: np.ndarray, k: int, seen: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and ids of the best items 1 .. n, the smaller id first where scores tie, then -inf and 0."""
    scores = scores.copy()
    scores[:, 0] = -np.inf
    if seen is not None:
        scores[np.arange(len(scores))[:, None], seen] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, ids, axis=1)
    missing = ((0, 0), (0, k - ids.shape[1]))
    best = np.pad(best, missing, constant_values=-np.inf)
    return best, np.where(best > -np.inf, np.pad(ids, missing), 0)


@pytest.mark.parametrize("with_seen", [False, True])
@pytest.mark.parametrize("block", [1, GROUP, 3 * GROUP, 10**6])
def test_the_best_are_those_of_a_sort_of_all_scores(block: int, with_seen: bool) -> None:
    """Blocks that do and don't divide the items, more items than k and fewer, batches with a rest."""
    index = exact.build(TABLE, block=block)
    seen = SEEN if with_seen else None
    for k in (1, 4, NUM_ITEMS + 100):
        found = exact.search(index, QUERIES, k, seen=seen, batch=2)
        scores, ids = by_sort(all_scores(QUERIES, TABLE, "inner"), k, seen)
        np.testing.assert_array_equal(found.ids, ids)
        np.testing.assert_array_equal(found.scores, scores)
        assert found.finite.all()


@pytest.mark.parametrize("metric", ["inner", "cosine", "l2"])
def test_metrics(metric: Any) -> None:
    """Vectors of real numbers, far from the origin, which costs the distance no digits."""
    table = (RNG.normal(size=(NUM_ITEMS + 1, DIM)) + 1000 * (metric == "l2")).astype(np.float32)
    queries = (RNG.normal(size=(NUM_QUERIES, DIM)) + 1000 * (metric == "l2")).astype(np.float32)
    found = exact.search(exact.build(table, metric=metric, block=64), queries, 10)
    scores, ids = by_sort(all_scores(queries, table, metric), 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)


def test_a_vector_of_zeros_has_the_cosine_0_and_itself_the_distance_0() -> None:
    found = exact.search(exact.build(np.zeros((3, 2)), metric="cosine"), np.array([[1e-30, 0], [0, 0]]), 2)
    assert found.scores.tolist() == [[0, 0], [0, 0]] and found.ids.tolist() == [[1, 2], [1, 2]]
    near = exact.search(exact.build(TABLE, metric="l2"), TABLE[1:4], 1)
    assert near.scores.tolist() == [[0], [0], [0]]


SIZES = st.tuples(st.integers(1, 70), st.integers(1, 80), st.integers(1, 40))


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 2**31))
def test_any_sizes(sizes: tuple[int, int, int], seed: int) -> None:
    """Padded to few shapes, so that few programs are compiled."""
    items, k, block = sizes
    rng = np.random.default_rng(seed)
    table = rng.integers(-1, 2, (items + 1, 2)).astype(np.float32)
    queries = rng.integers(-1, 2, (3, 2)).astype(np.float32)
    seen = rng.integers(0, items + 1, (3, 5))
    found = exact.search(exact.build(table, block=GROUP * (block % 2 + 1)), queries, 80, seen=seen)
    scores, ids = by_sort(all_scores(queries, table, "inner"), 80, seen)
    np.testing.assert_array_equal(found.ids[:, :k], ids[:, :k])
    np.testing.assert_array_equal(found.scores[:, :k], scores[:, :k])


def test_equal_items_tie_to_the_bit_wherever_they_lie() -> None:
    vector = RNG.normal(size=17).astype(np.float32)
    index = exact.build(np.tile(vector, (NUM_ITEMS + 1, 1)), block=64)
    found = exact.search(index, RNG.normal(size=(2, 17)).astype(np.float32), NUM_ITEMS)
    assert len(np.unique(found.scores)) == 2
    np.testing.assert_array_equal(found.ids, np.tile(np.arange(1, NUM_ITEMS + 1), (2, 1)))


def test_who_has_seen_all_items_gets_an_empty_list() -> None:
    seen = np.tile(np.arange(NUM_ITEMS + 1), (NUM_QUERIES, 1))
    found = exact.search(exact.build(TABLE, block=64), QUERIES, 3, seen=seen)
    assert not found.ids.any() and (found.scores == -np.inf).all() and found.finite.all()


@pytest.mark.parametrize("number", [1, 25, 200])
def test_added_items_are_found(number: int) -> None:
    """Into spare room, exactly filling it, and beyond."""
    index = exact.build(TABLE, metric="l2", block=64)
    assert index.capacity - NUM_ITEMS == 25
    more = RNG.integers(-2, 3, (number, DIM)).astype(np.float32)
    larger = exact.add(index, more)
    assert int(larger.count) == NUM_ITEMS + number
    assert (larger.capacity == index.capacity) == (number <= 25)
    found = exact.search(larger, QUERIES, 9)
    scores, ids = by_sort(all_scores(QUERIES, np.concatenate([TABLE, more]), "l2"), 9)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


def test_spare_room_is_never_found_though_its_scores_are_the_best() -> None:
    table = np.full((3, 2), -1, np.float32)
    found = exact.search(exact.build(table), np.ones((1, 2), np.float32), 2)
    assert found.ids.tolist() == [[1, 2]] and found.scores.tolist() == [[-2, -2]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_query_whose_scores_may_be_no_numbers_is_marked(value: float) -> None:
    queries = QUERIES.copy()
    queries[1] = value
    with np.errstate(invalid="ignore"):
        found = exact.search(exact.build(1e3 * TABLE), queries, 2)
    assert found.finite.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("wrong", [-1, NUM_ITEMS + 1])
def test_a_seen_id_that_is_no_item_is_marked(wrong: int) -> None:
    seen = np.zeros((NUM_QUERIES, 2), np.int32)
    seen[3, 1] = wrong
    found = exact.search(exact.build(TABLE), QUERIES, 2, seen=seen)
    assert found.finite.tolist() == [True, True, True, False, True]


def test_an_index_is_an_argument_of_compiled_functions_and_of_vmap() -> None:
    index = exact.build(TABLE, block=64)
    expected = exact.search(index, QUERIES, 4)

    @jax.jit
    def one(index: Exact, query: jax.Array) -> Any:
        return jax.tree.map(lambda a: a[0], exact.search(index, query[None], 4))

    found = jax.vmap(one, in_axes=(None, 0))(index, jnp.asarray(QUERIES))
    np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_float_adds_by_repeated_ids(platform: str) -> None:
    index = exact.build(TABLE, block=64)
    program = jax.jit(lambda i, q, s: exact.search(i, q, 4, seen=s, batch=2))
    assert repeated_float_adds(program.trace(index, jnp.asarray(QUERIES), SEEN), platform) == []


def test_zeros_of_both_signs_are_equal() -> None:
    """Products of vectors of one number, in groups of which the first has only -0 for the query."""
    table = np.where(np.arange(1 + 3 * GROUP) <= GROUP, 0.0, -0.0)[:, None]
    found = exact.search(exact.build(table, block=GROUP), jnp.array([[-1.0], [1.0]]), 2)
    assert found.ids.tolist() == [[1, 2], [1, 2]]


def test_no_matrix_of_queries_by_items_is_made() -> None:
    """Of 64 queries and 4,096 items, in blocks of 256: what is allocated grows with the block."""
    table, queries = np.ones((4097, 2), np.float32), np.ones((64, 2), np.float32)
    search = jax.jit(lambda i, q: exact.search(i, q, 2).ids)
    memory: Any = search.lower(exact.build(table, block=256), queries).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 4096 * 4 / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.build(TABLE, block=0), "block=0: must be at least 1"),
        (lambda: exact.build(TABLE, metric="dot"), "metric='dot': must be 'inner', 'cosine' or 'l2'"),
        (lambda: exact.build(TABLE[:1]), "a table of shape (1, 3): must be [V, D]"),
        (lambda: exact.build(np.full((4, 2), np.nan)), "3 vectors are not finite, the first that of item 1"),
        (lambda: exact.add(exact.build(TABLE), np.ones((2, 5))), "vectors of width 5: the index has width 3"),
        (lambda: exact.search(exact.build(TABLE), QUERIES, 0), "k=0: must be at least 1"),
        (lambda: exact.search(exact.build(TABLE), QUERIES, 1, batch=0), "batch=0: must be at least 1"),
        (lambda: exact.search(exact.build(TABLE), QUERIES[0], 1), "queries of shape (3,): must be [Q, 3]"),
        (lambda: exact.search(exact.build(TABLE), QUERIES, 1, seen=SEEN[:2]), "must be [5, S], ids"),
    ],
)
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
