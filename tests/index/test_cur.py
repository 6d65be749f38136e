"""CUR: what is recovered exactly, and that more exact scores never make a list worse."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import cur
from jaxrec.types import Array

RNG = np.random.default_rng(0)
QUERIES, ITEMS, RANK = 6, 40, 3
LEFT, RIGHT = RNG.normal(size=(QUERIES + 5, RANK)), RNG.normal(size=(RANK, ITEMS + 1))
LOW = (LEFT @ RIGHT).astype(np.float32)  # of rank 3
FULL = (LOW + RNG.normal(size=LOW.shape)).astype(np.float32)
ANCHORS = np.array([4, 9, 17, 30])


def scorer(matrix: np.ndarray) -> cur.Score:
    def score(ids: Array) -> Array:
        return jnp.take_along_axis(jnp.asarray(matrix[:QUERIES]), ids, axis=1)

    return score


def best_of(matrix: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-matrix[:QUERIES, 1:], axis=1, kind="stable")[:, :k] + 1


def recall(found: Any, k: int) -> float:
    exact = best_of(FULL, k)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found.ids.tolist(), exact, strict=True)]))


def test_scores_of_low_rank_are_recovered() -> None:
    anchors = cur.build(LOW[QUERIES:], ANCHORS)
    found = anchors.approximate(jnp.asarray(LOW[:QUERIES, ANCHORS]))
    np.testing.assert_allclose(found[:, 1:], LOW[:QUERIES, 1:], atol=1e-4)
    np.testing.assert_array_equal(
        cur.search(anchors, scorer(LOW), QUERIES, 5, rescored=10).ids, best_of(LOW, 5)
    )


def test_anchor_columns_are_reproduced() -> None:
    """With at least as many anchor queries as items, C U A = C."""
    anchors = cur.build(FULL[QUERIES:], ANCHORS)
    known = jnp.asarray(FULL[:QUERIES, ANCHORS])
    np.testing.assert_allclose(anchors.approximate(known)[:, ANCHORS], known, atol=1e-4)


def test_the_whole_matrix_gives_the_smallest_error_in_total() -> None:
    queries = np.arange(QUERIES, QUERIES + 3)
    near = cur.build(FULL[queries], ANCHORS)
    best = cur.build(FULL[queries], ANCHORS, weights=cur.whole_weights(FULL, queries, ANCHORS))
    errors = [
        np.sum((anchors.approximate(jnp.asarray(FULL[:, ANCHORS])) - FULL)[:, 1:] ** 2)
        for anchors in (near, best)
    ]
    assert errors[1] < errors[0]


def test_more_exact_scores_never_make_a_list_worse() -> None:
    anchors = cur.build(FULL[QUERIES:], ANCHORS)
    found = [
        recall(cur.search(anchors, scorer(FULL), QUERIES, 4, rescored=number), 4) for number in (0, 5, 36, 99)
    ]
    assert found == sorted(found) and found[0] < 1
    assert found[-2:] == [1, 1]  # all items, and more than there are


def test_one_round_is_search_and_all_items_are_exact() -> None:
    first = np.broadcast_to(ANCHORS, (QUERIES, 4))
    rows = jnp.asarray(FULL[QUERIES:])
    once = cur.adaptive(rows, scorer(FULL), first, 3, rounds=1, per_round=1)
    plain = cur.search(cur.build(rows, ANCHORS), scorer(FULL), QUERIES, 3, rescored=0)
    np.testing.assert_array_equal(once.ids, plain.ids)
    np.testing.assert_array_equal(once.scores, plain.scores)
    every = cur.adaptive(rows, scorer(FULL), first, 3, rounds=4, per_round=12)
    np.testing.assert_array_equal(every.ids, best_of(FULL, 3))


def test_rounds_score_no_item_twice_and_find_the_best_of_low_rank() -> None:
    first = np.broadcast_to(ANCHORS, (QUERIES, 4))
    found = jax.jit(lambda rows: cur.adaptive(rows, scorer(LOW), first, 10, rounds=3, per_round=3))(
        LOW[QUERIES:]
    )
    assert all(len(set(ids)) == 10 for ids in found.ids.tolist())
    np.testing.assert_array_equal(found.ids[:, 0], best_of(LOW, 1)[:, 0])


def test_ties_and_scores_that_are_no_numbers() -> None:
    flat = np.ones_like(FULL)
    found = cur.search(cur.build(flat[QUERIES:], ANCHORS), scorer(flat), QUERIES, 6, rescored=4)
    assert found.ids.tolist() == [[1, 2, 3, 4, 5, 9]] * QUERIES
    broken = flat.copy()
    broken[1, 9] = np.nan
    found = cur.search(cur.build(flat[QUERIES:], ANCHORS), scorer(broken), QUERIES, 6, rescored=4)
    assert found.finite.tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cur.build(FULL[0], ANCHORS), "must be [anchor queries, ids]"),
        (lambda: cur.build(np.full((2, 50), np.inf), ANCHORS), "a score of an anchor query is not finite"),
        (lambda: cur.build(FULL, [0, 1]), "ids 0..1, must lie in 1..40"),
        (lambda: cur.build(FULL, [3, 41]), "ids 3..41, must lie in 1..40"),
        (lambda: cur.build(FULL, [3, 3]), "an anchor item is given twice"),
        (lambda: cur.build(FULL, [0.5]), "must be ids [A], whole numbers"),
        (
            lambda: cur.search(cur.build(FULL, ANCHORS), scorer(FULL), QUERIES, 9, rescored=4),
            "k=9, rescored=4: k must lie in 1..8",
        ),
        (
            lambda: cur.adaptive(jnp.asarray(FULL), scorer(FULL), ANCHORS[None], 1, rounds=0, per_round=1),
            "rounds=0: must be at least 1",
        ),
        (
            lambda: cur.adaptive(jnp.asarray(FULL), scorer(FULL), ANCHORS[None], 9, rounds=2, per_round=4),
            "k=9 of 8 scored items of 40",
        ),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
