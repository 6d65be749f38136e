"""Ranking by several vectors of a query, against NumPy on the whole matrix."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import chunked, exact
from jaxrec.index.rank import make_rank
from jaxrec.index.several import merge, search_rescored, search_several
from jaxrec.index.top_k import Lists, make_top_k
from jaxrec.types import Merge, Protocol, Retriever, Scorer
from tests.index.test_chunked import shapes

NUM_ITEMS, NUM_USERS, VECTORS, DIM = 17, 6, 3, 2
RNG = np.random.default_rng(0)
ITEMS = RNG.integers(-2, 3, (NUM_ITEMS + 1, DIM)).astype(np.float32)  # products are exact, many tie
USERS = RNG.integers(-2, 3, (NUM_USERS, VECTORS, DIM)).astype(np.float32)
CONTEXT = {
    "items": RNG.integers(1, NUM_ITEMS + 1, 4 * NUM_USERS).astype(np.int32),
    "start": 4 * np.arange(NUM_USERS, dtype=np.int32),
}
QUERIES = {
    "user": np.arange(6, dtype=np.int32).reshape(2, 3),
    "length": np.array([[3, 0, 1], [2, 3, 3]], np.int32),
    "target": np.array([[1, 5, 9], [17, 4, 2]], np.int32),
    "mask": np.ones((2, 3), bool),
}
MERGES: tuple[Merge, ...] = ("best", "attention")
both = pytest.mark.parametrize("rule", MERGES)


def of_users(variables: Any, queries: Any, context: Any) -> Any:
    return jnp.asarray(variables["users"])[queries["user"]]


def retriever(rule: Merge = "best") -> Retriever:
    return Retriever(of_users, lambda variables: variables["items"], rule)


def twin(users: np.ndarray, items: np.ndarray, rule: Merge) -> np.ndarray:
    """Scores of all ids, [U, V]."""
    products = np.einsum("uhd,vd->uhv", users.astype(np.float64), items.astype(np.float64))
    if rule == "best":
        return products.max(axis=1)
    weights = np.exp(products - products.max(axis=1, keepdims=True))
    return (weights * products).sum(axis=1) / weights.sum(axis=1)


def variables(users: Any = USERS) -> dict[str, Any]:
    return {"users": np.asarray(users, np.float32), "items": ITEMS}


def read(model: Retriever | Scorer, found: Any, block: int = 5) -> chunked.BatchScores:
    scores = chunked.reader(model, found, num_items=NUM_ITEMS, block=block)
    return scores({"user": jnp.arange(NUM_USERS)}, {})


@both
@pytest.mark.parametrize("block", [1, 5, 16384])
def test_the_scores_of_several_vectors(rule: Merge, block: int) -> None:
    expected = twin(USERS, ITEMS, rule)
    scores = read(retriever(rule), variables(), block)
    ids = np.broadcast_to(np.arange(NUM_ITEMS + 1), (NUM_USERS, NUM_ITEMS + 1))
    items = scores.every(chunked.unchanged)
    for found in (chunked.some_scores(items, jnp.asarray(ids[:, 1:])), scores.some(ids)[:, 1:]):
        if rule == "best":
            np.testing.assert_array_equal(found, expected[:, 1:])
        else:
            np.testing.assert_allclose(found, expected[:, 1:], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
def test_ranks_and_lists_are_those_of_the_scores(seen: str, ties: str) -> None:
    """The best products as a model that scores all items has them."""
    matrix = jnp.asarray(twin(USERS, ITEMS, "best"), jnp.float32)
    dense = Scorer(lambda v, queries, context: matrix[queries["user"]])
    protocol = Protocol(seen=seen, ties=ties)
    sizes = {"num_items": NUM_ITEMS, "history": 3, "block": 5}
    made = [make_rank(model, protocol, **sizes) for model in (retriever(), dense)]
    if seen != "zero":
        made += [make_top_k(model, protocol, k=6, **sizes) for model in (retriever(), dense)]
    found = [jax.jit(one)(variables(), QUERIES, CONTEXT) for one in made]
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert int(ours[1].sum()) == 0
    if seen != "zero":
        np.testing.assert_array_equal(Lists.from_values(found[2][0]).rank, found[0][0])


@both
def test_constant_scores_rank_the_target_last(rule: Merge) -> None:
    """Equal items tie to the bit, in whichever blocks they lie."""
    users = RNG.normal(size=(NUM_USERS, VECTORS, 33))
    flat = {"users": users.astype(np.float32), "items": np.ones((NUM_ITEMS + 1, 33), np.float32)}
    for ties, rank in (("pessimistic", NUM_ITEMS), ("optimistic", 1)):
        protocol = Protocol(seen="keep", ties=ties)
        ranked = make_rank(retriever(rule), protocol, num_items=NUM_ITEMS, history=3, block=4)
        assert (np.asarray(jax.jit(ranked)(flat, QUERIES, CONTEXT)[0]) == rank).all()


@both
@pytest.mark.parametrize("copies", [False, True])
def test_one_vector_is_the_plain_form(rule: Merge, copies: bool) -> None:
    """To the bit; several equal ones are it too where the best counts."""
    users, items = RNG.normal(size=(NUM_USERS, 9)), RNG.normal(size=(NUM_ITEMS + 1, 9)).astype(np.float32)
    repeated = np.repeat(users[:, None], VECTORS if copies else 1, axis=1)

    def scores(given: np.ndarray) -> chunked.Best:
        found = {"users": given.astype(np.float32), "items": items}
        return jax.jit(lambda: chunked.top_k(read(retriever(rule), found).every(chunked.unchanged), 8))()

    ours, plain = scores(repeated), scores(users)
    np.testing.assert_array_equal(ours.ids, plain.ids)
    if copies and rule == "attention":
        np.testing.assert_allclose(ours.scores, plain.scores, rtol=1e-6)
    else:
        np.testing.assert_array_equal(ours.scores, plain.scores)


@both
def test_the_order_of_the_vectors_does_not_matter(rule: Merge) -> None:
    turned = USERS[:, [2, 0, 1]]
    ours, theirs = (read(retriever(rule), variables(u)).every(chunked.unchanged) for u in (USERS, turned))
    ids = jnp.broadcast_to(jnp.arange(1, NUM_ITEMS + 1), (NUM_USERS, NUM_ITEMS))
    found = [chunked.some_scores(items, ids) for items in (ours, theirs)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(VECTORS))
def test_a_vector_that_is_no_number_marks_its_query(rule: Merge, value: float, place: int) -> None:
    """Also one of -inf, which another vector's product exceeds."""
    users = np.abs(USERS) + 1
    users[3, place] = value
    found = {"users": users, "items": np.abs(ITEMS) + 1}
    best = chunked.top_k(read(retriever(rule), found).every(chunked.unchanged), 2)
    assert best.finite.tolist() == [user != 3 for user in range(NUM_USERS)]
    assert np.isnan(read(retriever(rule), found).some(np.ones((NUM_USERS, 1), int))[3, 0])


@both
def test_no_array_is_larger_than_a_block(rule: Merge) -> None:
    """Of 7 queries with 5 vectors each, among 999 items in blocks of 64."""
    rank = make_rank(retriever(rule), Protocol(), num_items=999, history=3, block=64)
    queries = {name: np.ones((2, 7), np.int32) for name in ("user", "length", "target")}
    context = {"items": np.ones(30, np.int32), "start": np.zeros(20, np.int32)}
    found = {"users": np.ones((20, 5, 4), np.float32), "items": np.ones((1000, 4), np.float32)}
    program = jax.make_jaxpr(rank)(found, queries | {"mask": np.ones((2, 7), bool)}, context)
    table = 16 * 64 * 4  # items in blocks
    assert max(int(np.prod(s)) for s in shapes(program.jaxpr) if int(np.prod(s)) != table) <= 1000 * 4
    assert max(int(np.prod(s)) for s in shapes(program.jaxpr) if {5, 7} & set(s)) <= 7 * 65


@pytest.mark.parametrize("k", [1, 4, NUM_ITEMS + 2])
def test_merged_lists_are_the_list_of_the_best_scores(k: int) -> None:
    """ComiRec's λ = 0 and MIND's serving: the top N of each vector, merged, is the top N of the maximum."""
    items = chunked.cut(jnp.asarray(ITEMS), count=NUM_ITEMS, block=5)
    lists = [chunked.top_k(chunked.products(jnp.asarray(USERS[:, h]), items), k) for h in range(VECTORS)]
    scores, ids = (jnp.stack([getattr(one, part) for one in lists], axis=1) for part in ("scores", "ids"))
    ours = merge(scores, ids, k)
    best = chunked.top_k(chunked.products(jnp.asarray(USERS), items), k)
    np.testing.assert_array_equal(ours.ids, best.ids)
    np.testing.assert_array_equal(ours.scores, best.scores)


INDEX = exact.build(ITEMS, block=8)


def search(queries: Any, k: int, *, seen: Any = None) -> chunked.Best:
    return exact.search(INDEX, queries, k, seen=seen)


def test_candidates_that_are_rescored_by_all_vectors() -> None:
    """A Poly-encoder in two steps: over all items its exact list, over few that of what was retrieved."""
    scores = twin(USERS, ITEMS, "attention")
    scores[:, 0] = -np.inf
    scores[np.arange(NUM_USERS), np.arange(1, 7)] = -np.inf  # seen
    seen = np.arange(1, 7, dtype=np.int32)[:, None]

    def two_steps(k: int, candidates: int) -> chunked.Best:
        def rescore(ids: Any) -> Any:
            return chunked.some_products(jnp.asarray(USERS), jnp.asarray(ITEMS), ids, "attention")

        return search_rescored(search, USERS, k, rescore, candidates=candidates, seen=seen)

    found = two_steps(4, NUM_ITEMS)
    own = np.take_along_axis(scores, np.asarray(found.ids), axis=1)
    np.testing.assert_allclose(found.scores, own, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(own, -np.sort(-scores, axis=1)[:, :4], rtol=2e-6, atol=2e-6)
    retrieved = search_several(search, USERS, 5, seen=seen)
    few = two_steps(4, 5)
    for ids, scored, first in zip(few.ids, few.scores, retrieved.ids, strict=True):
        assert set(ids.tolist()) <= set(first.tolist())
        assert (np.diff(scored) <= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: read(retriever("mean"), variables()).some(np.ones((6, 1), int)), "merge='mean': must be"),  # type: ignore[arg-type]
        (lambda: read(retriever(), variables(USERS[:, :0])).some(np.ones((6, 1), int)), "H at least 1"),
        (lambda: read(retriever(), variables(USERS[:, None])).some(np.ones((6, 1), int)), "[B, H, D]"),
    ],
)
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
