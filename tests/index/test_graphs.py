"""Walks over graphs against a walk in NumPy, and what they must and must not find."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import graph_build, graphs, stored
from jaxrec.index.graphs import Graph, make_graph
from jaxrec.index.recall import coverage
from jaxrec.types import Array
from tests.lowering import repeated_float_adds

RNG = np.random.default_rng(0)
QUERIES, ITEMS, DIM = 5, 120, 6
TABLE = np.pad(RNG.normal(size=(ITEMS, DIM)), ((1, 0), (0, 0))).astype(np.float32)
QUERY = RNG.normal(size=(QUERIES, DIM)).astype(np.float32)
SCORES = np.round(QUERY @ TABLE.T, 1).astype(np.float32)  # with ties


def by_matrix(query: Array, ids: Array) -> Array:
    """A scorer that reads rows of all scores: the query is its row."""
    return jnp.take_along_axis(query, ids, axis=1)


@functools.cache
def graph() -> Graph:
    return graph_build.build(TABLE, degree=8, sizes=(3, 12, 40))


def complete(number: int, entries: Any = (1,)) -> Graph:
    every = np.broadcast_to(np.arange(1, number + 1), (number + 1, number)).copy()
    every[0] = 0
    every[every == np.arange(number + 1)[:, None]] = 0
    return make_graph(every, np.array(entries))


@functools.partial(jax.jit, static_argnames=("k", "width", "options"))
def compiled(index: Graph, scores: Array, k: int, width: int, options: tuple[tuple[str, Any], ...]) -> Any:
    return graphs.search(index, by_matrix, scores, k, width, **dict(options))


def search(index: Graph, scores: Any, k: int, width: int, **options: Any) -> Any:
    return jax.device_get(compiled(index, jnp.asarray(scores), k, width, tuple(sorted(options.items()))))


def exhaustive(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores[:, 1:], axis=1, kind="stable")[:, :k] + 1


def levels_of(index: Graph) -> list[dict[int, list[int]]]:
    """Neighbours by node on each level, the sparsest first."""
    found, start = [], 0
    for size in index.level_sizes:
        nodes, links = (np.asarray(part)[start : start + size] for part in (index.nodes, index.links))
        found.append(
            {int(node): [i for i in row if i] for node, row in zip(nodes, links.tolist(), strict=True)}
        )
        start += size
    whole = np.asarray(index.neighbours).tolist()
    return [*found, {node: [i for i in row if i] for node, row in enumerate(whole)}]


def walked(
    index: Graph, scores: np.ndarray, width: int, rounds: int, upper_rounds: int = 1, expanded: int = 10**9
) -> tuple[list[int], int]:
    """The beam of one query and the number of scored items: sets and lists in place of bits and sorts."""
    visited = set(np.asarray(index.entries).tolist())

    def best(ids: Any) -> list[int]:
        return sorted(ids, key=lambda i: (-scores[i], i))[:width]

    beam = best(visited)
    levels = levels_of(index)
    expanded = min(expanded, width)
    for level, links in enumerate(levels):
        number, closed = max(1, expanded >> (len(levels) - 1 - level)), set[int]()
        for _ in range(rounds if level == len(levels) - 1 else upper_rounds):
            chosen = [i for i in beam if i not in closed][:number]
            closed |= set(chosen)
            new = {j for i in chosen for j in links.get(i, [])} - visited
            visited |= new
            beam = best([*beam, *new])
    return beam, len(visited)


WALKS = [(4, 1, 1, None), (4, 3, 2, None), (10, 3, 1, 4), (10, 40, 1, 1), (6, 0, 0, None), (120, 9, 1, None)]


@pytest.mark.parametrize(("width", "rounds", "upper_rounds", "expanded"), WALKS)
def test_a_search_is_the_walk_in_numpy(
    width: int, rounds: int, upper_rounds: int, expanded: int | None
) -> None:
    found = search(
        graph(), SCORES, 4, width, rounds=rounds, upper_rounds=upper_rounds, expanded=expanded, block=None
    )
    for row in range(QUERIES):
        beam, number = walked(graph(), SCORES[row], width, rounds, upper_rounds, expanded or 10**9)
        ids = beam[:4] + [0] * (4 - len(beam[:4]))
        assert found.ids[row].tolist() == ids
        expected = np.where(np.array(ids) > 0, SCORES[row][ids], -np.inf)
        assert found.scores[row].tolist() == expected.tolist()
        assert found.scored[row] == number
    assert found.finite.all()


def test_one_node_a_round_is_best_first_search() -> None:
    """With rounds enough, that of hnswlib on one level: it stops where all nodes of the beam are closed."""
    flat = make_graph(graph().neighbours, graph().entries)
    found = search(flat, SCORES, 5, 12, rounds=ITEMS, expanded=1)
    links = levels_of(flat)[-1]
    for row in range(QUERIES):
        beam, closed, visited = [int(i) for i in flat.entries], set[int](), {int(i) for i in flat.entries}
        while left := [i for i in sorted(beam, key=lambda i: (-SCORES[row, i], i))[:12] if i not in closed]:
            closed.add(left[0])
            new = set(links[left[0]]) - visited
            visited |= new
            beam = sorted([*beam, *new], key=lambda i: (-SCORES[row, i], i))[:12]
        assert found.ids[row].tolist() == sorted(beam, key=lambda i: (-SCORES[row, i], i))[:5]
        assert found.scored[row] == len(visited)


@pytest.mark.parametrize("width", [7, ITEMS])
def test_one_round_of_a_complete_graph_is_exhaustive(width: int) -> None:
    found = search(complete(ITEMS), SCORES, 7, width, rounds=1)
    np.testing.assert_array_equal(found.ids, exhaustive(SCORES, 7))
    assert (found.scored == ITEMS).all()


def test_a_beam_of_all_items_finds_the_best() -> None:
    found = search(graph(), SCORES, ITEMS, 2 * ITEMS, rounds=ITEMS)
    np.testing.assert_array_equal(found.ids, exhaustive(SCORES, ITEMS))
    assert (found.scored == ITEMS).all()


def test_coverage_never_falls_with_more_rounds() -> None:
    best = exhaustive(np.asarray(QUERY @ TABLE.T), 10)
    found = [search(graph(), QUERY @ TABLE.T, 10, 12, rounds=rounds) for rounds in range(5)]
    shares = [float(coverage(one.ids, best)) for one in found]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    for fewer, more in itertools.pairwise(found):
        for row in range(QUERIES):  # each single one of the best that was seen stays
            seen = set(fewer.ids[row]) & set(best[row])
            assert seen <= set(more.ids[row])


def test_no_item_is_scored_twice_and_the_number_is_bounded() -> None:
    calls: list[np.ndarray] = []

    def scorer(query: Array, ids: Array) -> Array:
        jax.debug.callback(lambda ids: calls.append(np.asarray(ids)), ids)
        return by_matrix(query, ids)

    width, rounds = 6, 4
    run = jax.jit(lambda index, query: graphs.search(index, scorer, query, 5, width, rounds=rounds))
    found = run(graph(), jnp.asarray(SCORES))
    jax.effects_barrier()
    entries, degree, upper = len(graph().entries), graph().degree, graph().links.shape[1]
    for row in range(QUERIES):
        ids = np.concatenate([call[row] for call in calls])
        ids = ids[ids > 0]
        assert len(ids) == len(set(ids.tolist())) == found.scored[row]
    bound = entries + (width // 2 + width // 4) * upper + rounds * width * degree
    assert int(found.scored.max()) <= bound
    assert (np.asarray(found.ids) > 0).all()
    assert all(len(set(ids)) == 5 for ids in found.ids.tolist())


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_scores_of_a_few_ids_at_a_time_are_the_same(block: int) -> None:
    whole, parts = (search(graph(), SCORES, 5, 8, block=size) for size in (None, block))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_monotone_change_of_scores_leaves_the_search() -> None:
    plain = search(graph(), SCORES, 6, 9)
    for changed in (np.exp(SCORES), SCORES**3, 2 * SCORES - 7):
        found = search(graph(), changed.astype(np.float32), 6, 9)
        np.testing.assert_array_equal(found.ids, plain.ids)
        np.testing.assert_array_equal(found.scored, plain.scored)


def test_what_nothing_leads_to_is_found_only_as_an_entry() -> None:
    neighbours = np.array([[0, 0], [2, 0], [1, 3], [2, 0], [3, 0], [0, 0]])  # 4 leads away, 5 is alone
    scores = np.array([[0, 1, 2, 3, 9, 8]], np.float32)
    found = search(make_graph(neighbours, np.array([1])), scores, 5, 5, rounds=9)
    assert found.ids.tolist() == [[3, 2, 1, 0, 0]]
    assert found.scores[0, 3:].tolist() == [-np.inf] * 2 and found.scored.tolist() == [3]
    found = search(make_graph(neighbours, np.array([4, 5])), scores, 5, 5, rounds=9)
    assert found.ids.tolist() == [[4, 5, 3, 2, 1]]


def test_scores_that_are_no_numbers_are_told() -> None:
    scores = SCORES.copy()
    scores[1, 1:] = np.nan
    scores[2, 7] = np.inf
    scores[3, 9] = -np.inf  # is no item
    found = search(graph(), scores, ITEMS, ITEMS, rounds=ITEMS)
    assert found.finite.tolist() == [True, False, False, True, True]
    assert 9 not in found.ids[3] and found.ids[3, -1] == 0
    np.testing.assert_array_equal(found.ids[0], exhaustive(SCORES, ITEMS)[0])


def test_a_query_is_a_tree_and_none_depends_on_its_neighbours() -> None:
    def scorer(query: Any, ids: Array) -> Array:
        return jnp.einsum("bd,bmd->bm", query["vector"], jnp.asarray(TABLE)[ids]) * query["scale"][:, None]

    tree = {"vector": jnp.asarray(QUERY), "scale": jnp.linspace(1.0, 2.0, QUERIES)}
    run = jax.jit(lambda query: graphs.search(graph(), scorer, query, 4, 8))
    whole = run(tree)
    for row in range(QUERIES):
        alone = run(jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], tree))
        np.testing.assert_array_equal(alone.ids[0], whole.ids[row])
        assert alone.scored[0] == whole.scored[row]


def test_ids_beyond_a_word_of_bits() -> None:
    """Items 31, 32, 63, 64, … are the ends of words of the set of visited ones."""
    number = 97
    ring = np.pad((np.arange(number) % number + 1) % number + 1, (1, 0))[:, None]
    scores = np.arange(number + 1, dtype=np.float32)[None]
    found = search(make_graph(ring, np.array([1])), scores, number, number, rounds=number)
    assert found.ids[0].tolist() == list(range(number, 0, -1)) and found.scored.tolist() == [number]


def test_no_search_adds_floats_by_repeated_ids_on_cuda() -> None:
    program = jax.jit(lambda index, scores: graphs.search(index, by_matrix, scores, 4, 8))
    assert repeated_float_adds(program.trace(graph(), jnp.asarray(SCORES)), "cuda") == []


# --- files -----------------------------------------------------------------------------------------------


def test_a_graph_is_stored_and_read(tmp_path: Any) -> None:
    for number, index in enumerate((graph(), complete(4))):
        path = stored.save(index, tmp_path / f"{number}.npz")
        read = stored.load(path)
        assert isinstance(read, Graph) and read.level_sizes == index.level_sizes
        jax.tree.map(np.testing.assert_array_equal, read, index)
    found = search(stored.load(tmp_path / "0.npz"), SCORES, 5, 8)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.ids, search(graph(), SCORES, 5, 8).ids)


# --- what is refused -------------------------------------------------------------------------------------

LINKS = np.array([[0], [2], [1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search(graph(), SCORES, 0, 5), "k=0: must lie in 1..120"),
        (lambda: search(graph(), SCORES, 121, 200), "k=121: must lie in 1..120, the number of items"),
        (lambda: search(graph(), SCORES, 5, 4), "width=4: must be at least k=5"),
        (lambda: search(graph(), SCORES, 5, 5, rounds=-1), "rounds=-1: must be at least 0"),
        (lambda: search(graph(), SCORES, 5, 5, upper_rounds=-1), "upper_rounds=-1: must be at least 0"),
        (lambda: search(graph(), SCORES, 5, 5, expanded=0), "expanded=0: must be at least 1"),
        (lambda: search(graph(), SCORES, 5, 5, block=0), "block=0: must be at least 1"),
        (lambda: make_graph(LINKS[:, :0], [1]), "must be [n + 1, m], with an item and m at least 1"),
        (lambda: make_graph(LINKS[:1], [1]), "must be [n + 1, m], with an item"),
        (lambda: make_graph(LINKS + 0.5, [1]), "neighbours of shape (3, 1) and type float64: must be ids"),
        (lambda: make_graph([[1], [2], [1]], [1]), "row 0 is that of padding"),
        (lambda: make_graph([[0], [2], [3]], [1]), "neighbours: ids 0..3, must lie in 0..2"),
        (lambda: make_graph([[0], [2], [-1]], [1]), "neighbours: ids -1..2, must lie in 0..2"),
        (lambda: make_graph([[0], [2], [2**32 + 1]], [1]), "ids 0..4294967297, must lie in 0..2"),
        (lambda: make_graph([[0], [1], [1]], [1]), "neighbours: a node is its own neighbour"),
        (lambda: make_graph(LINKS, np.zeros(0, int)), "entries: must be ids of items, at least one"),
        (lambda: make_graph(LINKS, [0]), "entries: must be ids of items"),
        (lambda: make_graph(LINKS, [2, 1]), "ascending and each once"),
        (lambda: make_graph(LINKS, [3]), "entries: ids 3..3, must lie in 0..2"),
        (lambda: make_graph(LINKS, [1], [([1, 2], [[2]])]), "a level's links must be [its nodes, m']"),
        (lambda: make_graph(LINKS, [1], [([1], [[1]])]), "links: a node is its own neighbour"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
