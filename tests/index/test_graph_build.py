"""Graphs that are built: who is linked to whom, that all can be reached, and items that come later."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import graph_build, graphs
from jaxrec.index.graphs import Graph, make_graph
from jaxrec.index.recall import coverage, recall_delta, recall_of_found
from jaxrec.types import Array

RNG = np.random.default_rng(1)
ITEMS, DIM = 150, 5
TABLE = np.pad(RNG.normal(size=(ITEMS, DIM)), ((1, 0), (0, 0))).astype(np.float32)
SIZES = (2, 10)


@functools.cache
def built(metric: Any = "l2") -> Graph:
    return graph_build.build(TABLE, degree=6, sizes=SIZES, metric=metric)


def inner(query: Array, ids: Array) -> Array:
    return jnp.einsum("bd,bmd->bm", query, jnp.asarray(TABLE)[ids])


def near(metric: str) -> np.ndarray:
    """How near any two items are, with padding, [V, V]; larger is nearer."""
    table = TABLE.astype(np.float64)
    if metric == "l2":
        return -((table[:, None] - table[None]) ** 2).sum(axis=2)
    if metric == "cosine":
        table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    return table @ table.T


def diversified(node: int, candidates: Any, nearness: np.ndarray, limit: int) -> list[int]:
    kept: list[int] = []
    for item in sorted(set(candidates) - {0, node}, key=lambda i: (-nearness[node, i], i)):
        if len(kept) < limit and all(nearness[item, other] < nearness[node, item] for other in kept):
            kept.append(item)
    return kept


@pytest.mark.parametrize("metric", ["l2", "inner", "cosine"])
def test_links_are_those_of_the_rule(metric: str) -> None:
    """A slow twin of all steps but the repair, of which the few links that differ are."""
    degree, candidates = 6, 12
    nearness = near(metric)
    forward = {}
    for node in range(1, ITEMS + 1):
        others = [i for i in np.argsort(-nearness[node, 1:], kind="stable") + 1 if i != node]
        forward[node] = diversified(node, others[:candidates], nearness, degree // 2)
    back: dict[int, list[tuple[int, int]]] = {node: [] for node in forward}
    for node, links in forward.items():
        for rank, other in enumerate(links):
            back[other].append((rank, node))
    same = 0
    for node in forward:
        first = [source for _, source in sorted(back[node])][:degree]
        links = forward[node]
        if first:
            links = diversified(node, [*links, *first], nearness, degree)
        found = [i for i in np.asarray(built(metric).neighbours)[node] if i]
        same += found == links
    assert same >= ITEMS * (0.98 if metric == "l2" else 0.6)


def test_open_places_are_filled_by_the_nearest_that_the_rule_refused() -> None:
    graph = graph_build.build(TABLE, degree=6, sizes=SIZES, filled=True)
    links, plain = np.asarray(graph.neighbours), np.asarray(built().neighbours)
    number = (links > 0).sum(axis=1)[1:]
    assert number.min() >= 3 and number.mean() > (plain > 0).sum(axis=1)[1:].mean() + 0.5
    table = np.arange(21.0)[:, None]
    for filled, expected in ((False, {9, 11}), (True, {8, 9, 11, 12})):
        line = graph_build.build(table, degree=8, sizes=(1,), filled=filled)
        assert set(np.asarray(line.neighbours)[10].tolist()) - {0} == expected
    assert (graph_build.reached(links, np.asarray(graph.entries))[0][1:] >= 0).all()


@pytest.mark.parametrize("metric", ["l2", "inner", "cosine"])
def test_every_item_can_be_reached_and_links_are_sound(metric: str) -> None:
    graph = built(metric)
    links = np.asarray(graph.neighbours)
    assert links.shape == (ITEMS + 1, 6) and graph.level_sizes == SIZES[1:]
    assert (graph_build.reached(links, np.asarray(graph.entries))[0][1:] >= 0).all()
    assert set(np.asarray(graph.entries)) <= set(np.asarray(graph.nodes))
    assert set(np.asarray(graph.links).flat) <= {0, *np.asarray(graph.nodes).tolist()}
    for row in [*links, *np.asarray(graph.links)]:
        real = [i for i in row if i]
        assert len(set(real)) == len(real)


@pytest.mark.parametrize("degree", [1, 4])
@pytest.mark.parametrize("kind", ["apart", "equal", "line"])
def test_items_that_lie_apart_are_linked_to(kind: str, degree: int) -> None:
    """Far clusters, items that are all equal, and a line, with as few links as one."""
    vectors = {
        "apart": np.repeat([0.0, 100.0, 200.0, 300.0], 5)[:, None] + np.arange(20)[:, None] / 50,
        "equal": np.ones((20, 1)),
        "line": np.arange(20.0)[:, None],
    }[kind]
    graph = graph_build.build(np.pad(vectors, ((1, 0), (0, 0))), degree=degree, sizes=(1,))
    parent, _ = graph_build.reached(np.asarray(graph.neighbours), np.asarray(graph.entries))
    assert (parent[1:] >= 0).all() and graph.degree == degree


def test_many_equal_items_are_linked_in_chains() -> None:
    """One link a node and round would take hundreds of rounds."""
    links = np.zeros((601, 2), np.int32)
    found = graph_build.reachable(links, np.array([7]), np.ones((601, 3), np.float32), "l2")
    assert (graph_build.reached(found, np.array([7]))[0][1:] >= 0).all()
    assert (found > 0).sum() >= 599 and not found[0].any()


def test_repair_keeps_the_paths_that_there_are() -> None:
    """Full rows lose a link that no path needs, never another."""
    links = np.array([[0, 0], [2, 3], [1, 3], [1, 2], [5, 0], [4, 0]])
    table = np.array([[0], [0], [1], [2], [8], [9]], np.float32)
    found = graph_build.reachable(links, np.array([1]), table, "l2")
    assert found[1].tolist() == [2, 3]  # needed by the walk from 1
    assert found[3].tolist() in ([1, 4], [4, 2])  # the item nearest to 4 leads to it
    assert (graph_build.reached(found, np.array([1]))[0][1:] >= 0).all()


def test_what_is_reached_and_from_where() -> None:
    parent, column = graph_build.reached(np.array([[0, 0], [0, 2], [3, 1], [0, 0], [1, 0]]), np.array([1]))
    assert parent[1:].tolist() == [0, 1, 2, -1] and column[[2, 3]].tolist() == [1, 0]


def test_a_search_among_few_items_finds_most_of_the_best() -> None:
    query = RNG.normal(size=(40, DIM)).astype(np.float32)
    best = np.argsort(-(query @ TABLE[1:].T), axis=1)[:, :5] + 1
    run = jax.jit(lambda graph: graphs.search(graph, inner, jnp.asarray(query), 5, 20, rounds=9))
    flat, far = built(), graph_build.random_graph(ITEMS, degree=6, entries=2)
    found, other = run(make_graph(flat.neighbours, flat.entries)), run(far)
    assert float(coverage(found.ids, best)) > 0.95
    assert float(found.scored.mean()) < 0.8 * ITEMS
    assert float(coverage(other.ids, best)) < float(coverage(found.ids, best))


def test_default_levels() -> None:
    whole = graph_build.build(TABLE, degree=6)
    assert whole.level_sizes == () and len(whole.entries) == 100
    one = graph_build.build(TABLE[:2])
    assert one.entries.tolist() == [1] and one.count == 1
    table = np.pad(RNG.normal(size=(3600, 2)), ((1, 0), (0, 0)))
    many = graph_build.build(table, degree=4)
    assert (len(many.entries), many.level_sizes, many.links.shape[1]) == (100, (112,), 2)


def test_a_seed_draws_the_levels() -> None:
    again, other = (graph_build.build(TABLE, degree=6, sizes=SIZES, seed=seed) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, again, built())
    assert other.nodes.tolist() != again.nodes.tolist()


def test_items_are_added() -> None:
    first = graph_build.build(TABLE[:121], degree=6, sizes=SIZES)
    grown = graph_build.add(first, TABLE)
    assert grown.count == ITEMS and grown.level_sizes == first.level_sizes
    np.testing.assert_array_equal(grown.nodes, first.nodes)
    links = np.asarray(grown.neighbours)
    assert (graph_build.reached(links, np.asarray(grown.entries))[0][1:] >= 0).all()
    query = TABLE[121:]  # every new item is the best of its own query
    run = jax.jit(lambda graph: graphs.search(graph, near_to, jnp.asarray(query), 1, 20, rounds=9))
    assert (run(grown).ids[:, 0] == np.arange(121, ITEMS + 1)).mean() > 0.95
    untouched = (links[1:121] == np.asarray(first.neighbours)[1:]).all(axis=1).mean()
    assert 0.2 < untouched < 1
    assert graph_build.add(grown, TABLE) is grown


def near_to(query: Array, ids: Array) -> Array:
    return -jnp.sum((query[:, None] - jnp.asarray(TABLE)[ids]) ** 2, axis=-1)


# --- what queries find relevant --------------------------------------------------------------------------

QUERY = RNG.normal(size=(7, DIM)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 64, ITEMS, 1000])
def test_relevance_vectors_are_the_scores_of_queries(block: int) -> None:
    found = graph_build.relevance_vectors(inner, QUERY, ITEMS, block=block)
    assert found.shape == (ITEMS + 1, 7) and not found[0].any()
    np.testing.assert_allclose(found[1:], TABLE[1:] @ QUERY.T, rtol=1e-5, atol=1e-6)
    even = graph_build.relevance_vectors(inner, QUERY, ITEMS, standardise=True, block=block)[1:]
    np.testing.assert_allclose(even.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(even.std(axis=0), 1, rtol=1e-5)


def test_arrays_of_a_partial_scorer_are_arguments_of_its_program() -> None:
    given: list[bool] = []

    def scorer(table: Array, query: Array, ids: Array) -> Array:
        given.append(isinstance(table, jax.core.Tracer))
        return jnp.einsum("qd,qmd->qm", query, table[ids])

    found = graph_build.relevance_vectors(jax.tree_util.Partial(scorer, jnp.asarray(TABLE)), QUERY, ITEMS)
    np.testing.assert_allclose(found[1:], TABLE[1:] @ QUERY.T, rtol=1e-5, atol=1e-6)
    assert given == [True]


def test_items_of_equal_scores_are_equal_and_a_flat_query_says_nothing() -> None:
    def scorer(query: Array, ids: Array) -> Array:
        return query[:, None] * (ids // 2)  # of items 2 and 3, 4 and 5, … equal

    query = jnp.array([1.0, -2.0, 0.0])
    found = graph_build.relevance_vectors(scorer, query, 9, standardise=True)
    np.testing.assert_array_equal(found[2::2], found[3::2])
    assert not found[:, 2].any()


def test_an_affine_change_of_scores_leaves_graph_and_result() -> None:
    def changed(query: Array, ids: Array) -> Array:
        return 4 * inner(query, ids) + 8

    graph, other = (
        graph_build.build(graph_build.relevance_vectors(scorer, QUERY, ITEMS), degree=6, sizes=SIZES)
        for scorer in (inner, changed)
    )
    jax.tree.map(np.testing.assert_array_equal, graph, other)
    new = jnp.asarray(RNG.normal(size=(20, DIM)).astype(np.float32))
    found, same = (
        jax.jit(lambda query, scorer=scorer: graphs.search(graph, scorer, query, 5, 20, rounds=9))(new)
        for scorer in (inner, changed)
    )
    np.testing.assert_array_equal(found.ids, same.ids)
    best = np.argsort(-np.asarray(new @ TABLE[1:].T), axis=1)[:, :5] + 1
    assert float(coverage(found.ids, best)) > 0.9


# --- measures --------------------------------------------------------------------------------------------


def test_shares_of_lists() -> None:
    relevant = np.array([[3, 5, 0], [2, 0, 0], [0, 0, 0]])
    found = np.array([[5, 9, 3], [1, 0, 0], [4, 5, 6]])
    assert float(recall_of_found(found, relevant)) == 0.5  # 2 of 2 and 0 of 1; the third has none
    assert float(coverage(np.array([[1, 2, 0]]), np.array([[2, 3, 4]]))) == pytest.approx(1 / 3)
    assert np.isnan(recall_of_found(found[:1], relevant[2:]))
    assert float(recall_delta(0.4, 0.3)) == pytest.approx(0.25)
    assert float(recall_delta(0.4, 0.5)) == pytest.approx(-0.25)
    assert np.isnan(recall_delta(0.0, 0.0))


# --- what is refused -------------------------------------------------------------------------------------

BROKEN = np.where(np.arange(ITEMS + 1)[:, None] == 7, np.nan, TABLE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph_build.build(BROKEN), "1 vectors are not finite, the first that of item 7"),
        (lambda: graph_build.build(TABLE[:1]), "a table of shape (1, 5)"),
        (lambda: graph_build.build(TABLE, degree=0), "degree=0: must be at least 1"),
        (lambda: graph_build.build(TABLE, candidates=0), "candidates=0: must be at least 1"),
        (lambda: graph_build.build(TABLE, metric="dot"), "metric='dot'"),  # type: ignore[arg-type]
        (lambda: graph_build.build(TABLE, sizes=()), "sizes=(): must grow from at least 1 to at most 150"),
        (lambda: graph_build.build(TABLE, sizes=(9, 9)), "sizes=(9, 9): must grow"),
        (lambda: graph_build.build(TABLE, sizes=(9, 151)), "at most 150, the number of items"),
        (lambda: graph_build.add(built(), TABLE[:9]), "8 vectors of items: the graph has 150"),
        (lambda: graph_build.add(built(), np.pad(TABLE, ((0, 1), (0, 0))), candidates=0), "candidates=0"),
        (lambda: graph_build.random_graph(4, degree=4), "degree=4: must lie in 1..3"),
        (lambda: graph_build.relevance_vectors(inner, QUERY, 0), "number=0: must be at least 1"),
        (lambda: graph_build.relevance_vectors(inner, QUERY, 3, block=0), "block=0: must be at least 1"),
        (
            lambda: graph_build.relevance_vectors(lambda q, i: inner(q, i) / (i - 2), QUERY, 3),
            "query 0: its score of item 2 is ",
        ),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_padding_of_a_table_is_not_read() -> None:
    table = TABLE.copy()
    table[0] = np.nan
    jax.tree.map(np.testing.assert_array_equal, graph_build.build(table, degree=6, sizes=SIZES), built())
    assert make_graph(built().neighbours, built().entries).count == ITEMS
