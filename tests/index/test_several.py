"""Several vectors of one query: the list is that of each item's best score."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.index import approximate, exact
from jaxrec.index.several import merge, search_several
from tests.lowering import repeated_float_adds

RNG = np.random.default_rng(0)
TABLE = RNG.integers(-2, 3, (101, 3)).astype(np.float32)  # products are exact, many tie
QUERIES = RNG.integers(-2, 3, (4, 3, 3)).astype(np.float32)
SEEN = RNG.integers(0, 101, (4, 9)).astype(np.int32)
INDEX = exact.build(TABLE, block=32)
SEARCH = functools.partial(exact.search, INDEX)


def twin(k: int, mask: np.ndarray) -> tuple[list[list[int]], list[list[float]]]:
    scores = np.where(mask[..., None], QUERIES @ TABLE.T, -np.inf).max(axis=1)
    scores[:, 0] = -np.inf
    scores[np.arange(4)[:, None], SEEN] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, ids, axis=1)
    return np.where(best > -np.inf, ids, 0).tolist(), best.tolist()


@pytest.mark.parametrize("k", [1, 7])
def test_the_best_by_any_vector(k: int) -> None:
    mask = np.array([[True] * 3, [True, False, True], [False, True, False], [False] * 3])
    for where in (mask, np.ones_like(mask)):
        found = jax.jit(lambda q, s, m: search_several(SEARCH, q, k, seen=s, mask=m))(QUERIES, SEEN, where)
        ids, scores = twin(k, where)
        assert found.ids.tolist() == ids and found.scores.tolist() == scores


def test_no_item_is_in_a_list_twice_though_all_vectors_are_equal() -> None:
    found = search_several(SEARCH, np.repeat(QUERIES[:, :1], 4, axis=1), 100)
    assert all(len(set(ids)) == 100 for ids in found.ids.tolist())
    once = exact.search(INDEX, QUERIES[:, 0], 100)
    np.testing.assert_array_equal(found.ids, once.ids)


def test_a_vector_that_is_no_number_marks_its_query_unless_it_is_masked() -> None:
    queries, mask = QUERIES.copy(), np.ones((4, 3), bool)
    queries[1, 2], queries[2, 0], mask[2, 0] = np.nan, np.nan, False
    assert search_several(SEARCH, queries, 3, mask=mask).finite.tolist() == [True, False, True, True]
    assert merge(np.array([[[np.nan]]]), np.array([[[1]]]), 1).finite.tolist() == [False]


def test_a_list_longer_than_what_was_found() -> None:
    best = merge(np.array([[[2.0, 1], [3, -np.inf]]]), np.array([[[4, 4], [4, 9]]]), 6)
    assert best.ids.tolist() == [[4, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("metric", ["inner", "cosine", "l2"])
def test_approx_max_k_sorts_on_cpus(metric: Any) -> None:
    """Where the operation is exact, so are blocks of it."""
    index = exact.build(RNG.normal(size=(101, 3)), metric=metric, block=32)
    for k in (4, 120):
        found = approximate.search(index, QUERIES[:, 0] + 0.1, k, seen=SEEN, batch=3)
        expected = exact.search(index, QUERIES[:, 0] + 0.1, k, seen=SEEN)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
        assert found.finite.all()
    broken = np.full((1, 3), np.inf, np.float32)
    assert not approximate.search(index, broken, 2).finite.any()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_float_adds_by_repeated_ids(platform: str) -> None:
    program = jax.jit(lambda i, q, s: approximate.search(i, q, 4, seen=s, batch=2))
    assert repeated_float_adds(program.trace(INDEX, QUERIES[:, 0], SEEN), platform) == []
    several = jax.jit(lambda q, s: search_several(SEARCH, q, 4, seen=s))
    assert repeated_float_adds(several.trace(QUERIES, SEEN), platform) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search_several(SEARCH, QUERIES[0], 1), "must be [Q, H, D]"),
        (lambda: search_several(SEARCH, QUERIES, 1, mask=np.ones((4, 2), bool)), "must be [4, 3]"),
        (lambda: approximate.search(INDEX, QUERIES[0], 1, recall=1.0), "recall=1.0: must be between 0 and 1"),
    ],
)
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
