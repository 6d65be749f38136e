"""Scores of items in blocks, against NumPy on the whole matrix."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import metrics
from jaxrec.index import chunked
from jaxrec.index.chunked import Block, ItemScores
from jaxrec.index.rank import make_rank
from jaxrec.types import Protocol, Retriever

NUM_ITEMS, NUM_QUERIES, DIM = 11, 3, 2
RNG = np.random.default_rng(0)
TABLE = RNG.integers(-2, 3, (NUM_ITEMS + 1, DIM)).astype(np.float32)  # products are exact, many tie
QUERY = RNG.integers(-2, 3, (NUM_QUERIES, DIM)).astype(np.float32)
SCORES = QUERY @ TABLE.T
BLOCKS = (1, 3, 5, NUM_ITEMS, 16384)


def scored(form: int | str, *, query: Any = QUERY, change: Any = chunked.unchanged) -> ItemScores:
    """Scores of all items: products in blocks of a size, or "dense"."""
    if form == "dense":
        return chunked.dense(jnp.asarray(query @ TABLE.T), count=NUM_ITEMS, change=change)
    items = chunked.cut(jnp.asarray(TABLE), count=NUM_ITEMS, block=int(form))
    return chunked.products(jnp.asarray(query), items, change)


@functools.partial(jax.jit, static_argnames=("form", "k", "change"))
def best(form: int | str, k: int, query: Any = QUERY, change: Any = chunked.unchanged) -> Any:
    return chunked.top_k(scored(form, query=query, change=change), k)


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
def test_a_fold_meets_every_item_once_with_its_score(form: int | str) -> None:
    def write(found: jax.Array, block: Block) -> jax.Array:
        column = jnp.where(block.real, block.ids, NUM_ITEMS + 1)
        return found.at[:, column].add(block.scores + 100, mode="drop")

    items = scored(form)
    found = np.asarray(
        jax.jit(lambda start: items.fold(write, start))(jnp.zeros((NUM_QUERIES, NUM_ITEMS + 1)))
    )
    np.testing.assert_array_equal(found[:, 1:], SCORES[:, 1:] + 100)
    assert not found[:, 0].any()
    assert (items.num_queries, items.dtype) == (NUM_QUERIES, jnp.float32)


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
def test_blocks_are_met_in_the_order_of_their_ids(form: int | str) -> None:
    def last(highest: jax.Array, block: Block) -> jax.Array:
        return jnp.where((block.ids[0] > highest) & (jnp.diff(block.ids) == 1).all(), block.ids[-1], 10**6)

    assert int(jax.jit(lambda: scored(form).fold(last, jnp.int32(0)))()) in range(NUM_ITEMS, 2 * NUM_ITEMS)


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
def test_target_scores_are_entries_of_the_matrix(form: int | str) -> None:
    read = jax.jit(lambda target: chunked.target_scores(scored(form), target))
    for target in ([1, 5, NUM_ITEMS], [3, 3, 3]):
        np.testing.assert_array_equal(read(jnp.array(target)), SCORES[np.arange(3), target])
    assert read(jnp.array([0, -1, 99])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
def test_a_rule_changes_scores_and_leaves_what_was_finite(form: int | str) -> None:
    """A rule that takes items out by -inf is no sign of a model that diverged."""

    def odd(block: Block) -> Block:
        return block._replace(scores=jnp.where(block.ids % 2, -jnp.inf, block.scores))

    found = best(form, 3, change=odd)
    assert not (np.asarray(found.ids) % 2).any()
    assert np.asarray(found.finite).all()


def best_by_loop(scores: np.ndarray, k: int) -> list[int]:
    """Ids of the best items, of equal ones the first; -inf is in no list."""
    order = sorted(range(1, len(scores)), key=lambda item: (-scores[item], item))
    kept = [item for item in order if scores[item] > -np.inf][:k]
    return kept + [0] * (k - len(kept))


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS, NUM_ITEMS + 3])
def test_the_best_items_are_those_of_a_sort(form: int | str, k: int) -> None:
    found = best(form, k)
    for row, scores in enumerate(SCORES):
        ids = best_by_loop(scores, k)
        assert found.ids[row].tolist() == ids
        expected = [scores[item] if item else -np.inf for item in ids]
        assert found.scores[row].tolist() == expected


def test_zeros_of_both_signs_are_equal() -> None:
    scores = jnp.array([[9.0, -0.0, 0.0, 1.0, -0.0, 0.0]])
    found = chunked.top_k(chunked.dense(scores, count=5), 4)
    assert found.ids.tolist() == [[3, 1, 2, 4]]


@functools.partial(jax.jit, static_argnames=("block", "k"))
def best_of(scores: jax.Array, block: int, k: int) -> Any:
    """The best items of the rows of [3, 7] scores, read in blocks."""

    def read(found: Block) -> Block:
        return found._replace(scores=jnp.take(scores, found.ids, axis=1, mode="clip"))

    items = chunked.cut(jnp.ones((7, 1)), count=6, block=block)
    return chunked.top_k(chunked.products(jnp.ones((3, 1)), items, read), k)


SIX = st.lists(st.sampled_from([-2.0, 0.0, 1.0, -np.inf]), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.lists(SIX, min_size=1, max_size=3), st.sampled_from([1, 2, 4, 6]), st.integers(1, 7))
def test_the_best_items_in_any_blocks(rows: list[list[float]], block: int, k: int) -> None:
    """Scores of which many tie and some are taken out, as products with a table of one number an item."""
    scores = np.concatenate([np.zeros((len(rows), 1)), rows], axis=1).astype(np.float32)

    found = best_of(np.pad(scores, ((0, 3 - len(rows)), (0, 0))), block, k)
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], found)
    assert found.ids.tolist() == [best_by_loop(row, k) for row in scores]


@pytest.mark.parametrize("form", [*BLOCKS, "dense"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_with_a_score_that_is_no_number_is_marked(form: int | str, value: float) -> None:
    query = QUERY.copy()
    query[1] = value
    found = best(form, 2, query)
    assert found.finite.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunked.cut(jnp.asarray(TABLE), count=5, block=0), "block=0: must be at least 1"),
        (lambda: chunked.cut(jnp.asarray(TABLE), count=0), "count=0: must be at least 1"),
        (lambda: chunked.top_k(scored(3), 0), "k=0: must be at least 1"),
    ],
)
def test_sizes_below_one_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of all values of a traced program, those of loops and calls inside it too."""
    for equation in jaxpr.eqns:
        yield from (value.aval.shape for value in equation.outvars)
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, (list, tuple)) else [parameter]:
                if hasattr(inner, "jaxpr"):
                    yield from shapes(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    yield from shapes(inner)


@pytest.mark.parametrize("block", [64, 1000])
def test_no_matrix_of_queries_by_items_is_made_unless_a_block_is_all(block: int) -> None:
    """A ranking of 7 queries among 999 items in blocks of 64, and in one block."""
    model = Retriever(lambda v, queries, c: v["table"][queries["user"]], lambda v: v["table"])
    rank = make_rank(model, Protocol(), num_items=999, history=3, block=block)
    queries = {name: np.ones((2, 7), np.int32) for name in ("user", "length", "target")}
    context = {"items": np.ones(30, np.int32), "start": np.zeros(20, np.int32)}
    variables = {"table": np.ones((1000, 4), np.float32)}
    program = jax.make_jaxpr(rank)(variables, queries | {"mask": np.ones((2, 7), bool)}, context)
    largest = max(int(np.prod(shape)) for shape in shapes(program.jaxpr) if shape[:1] == (7,))
    assert (largest >= 7 * 999) == (block == 1000)
    assert largest <= 7 * (min(block, 999) + 1)


def test_ranks_are_one_more_than_the_counts_of_all_blocks() -> None:
    target = np.array([2, 7, 11])
    items = scored(4)
    own = chunked.target_scores(items, jnp.asarray(target))

    def count(found: jax.Array, block: Block) -> jax.Array:
        others = block.real & (block.ids != target[:, None])
        return found + metrics.count_above(block.scores, own, where=others)

    found = items.fold(count, jnp.zeros(NUM_QUERIES, jnp.int32))
    expected = [(row[1:] >= row[i]).sum() - 1 for row, i in zip(SCORES, target, strict=True)]
    assert found.tolist() == expected
