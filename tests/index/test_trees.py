"""Trees of items against walks from parent to child; beam search against slow twins and brute force."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.index import tree_building as building
from jaxrec.index import trees
from jaxrec.index.scored import Found
from jaxrec.index.trees import Tree
from jaxrec.types import Array

SEARCH = jax.jit(trees.search, static_argnums=(1, 3, 4))
OUT_OF_ORDER = jax.jit(trees.out_of_order, static_argnums=1)
IDS, POSITIONS = jax.jit(trees.ids_of), jax.jit(trees.positions_of)
TREES: dict[str, Tree] = {
    "one item": building.random(1),
    "full": building.random(8, seed=1),
    "halved": building.random(13, seed=2),
    "with room": building.random(9, seed=3, capacity=21),
    "with holes": trees.from_leaves([0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 5]),
}


def table_scorer(table: Array, ids: Array) -> Array:
    """Scores of ids out of a table of all, [B, num_ids + 1]: the query."""
    return jnp.take_along_axis(table, ids, axis=1)


def drawn(tree: Tree, queries: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(queries, tree.num_ids + 1)).astype(np.float32)


def walk(tree: Tree) -> list[dict[int, int]]:
    """The nodes of each level, {position: id}, from the root to children that have an item below them."""
    levels: list[dict[int, int]] = [{} for _ in range(tree.depth + 1)]

    def visit(position: int, level: int, some: np.ndarray) -> None:
        if not some.any():
            return
        inner = len(some) > 1
        levels[level][position] = tree.capacity + 1 + position if inner else int(some[0])
        if inner:
            left, right = np.split(some, 2)
            visit(2 * position + 1, level + 1, left)
            visit(2 * position + 2, level + 1, right)

    visit(0, 0, np.asarray(tree.leaves))
    return levels


def beam(tree: Tree, table: np.ndarray, k: int, width: int) -> tuple[list[int], int]:
    """The search of one query as a loop with a list: ids, and how many were scored."""
    kept, scored = [0], 0
    levels = walk(tree)
    for level in range(1, tree.depth + 1):
        found = {at: node for at, node in levels[level].items() if (at - 1) // 2 in kept}
        if 2**level > min(width, len(tree.leaves) // 2):
            scored += len(found)
        size = k if level == tree.depth else width
        kept = sorted(found, key=lambda at: (-table[found[at]], found[at]))[:size]
    return [levels[-1][at] for at in kept], scored


@pytest.mark.parametrize("name", TREES)
def test_nodes_are_those_of_a_walk(name: str) -> None:
    tree = TREES[name]
    levels = walk(tree)
    assert [len(nodes) for nodes in levels] == tree.sizes.tolist()
    assert all(len(nodes) <= 2**level for level, nodes in enumerate(levels))
    members, ranks = np.asarray(tree.members), np.asarray(tree.ranks)
    for level, nodes in enumerate(levels):
        first = 2**level - 1
        whole = members[first : 2 * first + 1]
        assert whole.tolist() == list(nodes) + [-1] * (2**level - len(nodes))
        assert ranks[list(nodes)].tolist() == list(range(len(nodes)))
        assert (jax.jit(trees.level_of)(whole) == np.where(whole >= 0, level, -1)).all()
    every = {at: node for nodes in levels for at, node in nodes.items()}
    assert len(set(every.values())) == len(every) and max(every.values()) <= tree.num_ids
    at = np.arange(-1, len(ranks) + 1)
    assert IDS(tree, at).tolist() == [every.get(position, 0) for position in at.tolist()]
    ids = np.arange(-1, tree.num_ids + 2)
    where = {node: position for position, node in every.items()}
    assert POSITIONS(tree, ids).tolist() == [where.get(node, -1) for node in ids.tolist()]


@pytest.mark.parametrize("name", TREES)
def test_ancestors_are_parents_of_parents(name: str) -> None:
    tree = TREES[name]
    items = np.arange(tree.capacity + 3) - 1  # with ids that are no items
    found = np.asarray(jax.jit(trees.ancestors)(tree, jnp.asarray(items)))
    leaf = {item: at for at, item in walk(tree)[-1].items()}
    for item, path in zip(items.tolist(), found, strict=True):
        if item not in leaf:
            assert path.tolist() == [-1] * (tree.depth + 1)
            continue
        assert path[0] == 0 and path[-1] == leaf[item]
        assert path[:-1].tolist() == [(position - 1) // 2 for position in path[1:]]


@pytest.mark.parametrize("name", TREES)
def test_the_beam_is_that_of_a_loop(name: str) -> None:
    tree = TREES[name]
    table = drawn(tree)
    for k, width in ((1, 1), (2, 3), (3, 4), (5, 7)):
        k = min(k, tree.capacity)
        found: Found = SEARCH(tree, table_scorer, jnp.asarray(table), k, width)
        for row, scores in enumerate(table):
            ids, scored = beam(tree, scores, k, width)
            assert found.ids[row].tolist() == ids + [0] * (k - len(ids))
            expected = [*scores[ids], *[-np.inf] * (k - len(ids))]
            np.testing.assert_array_equal(found.scores[row], np.float32(expected))
            assert found.scored[row] == scored
        assert found.finite.all()


@pytest.mark.parametrize("name", TREES)
def test_a_beam_as_wide_as_the_tree_is_brute_force(name: str) -> None:
    tree = TREES[name]
    table, k = drawn(tree), tree.capacity
    found = SEARCH(tree, table_scorer, jnp.asarray(table), k, len(tree.leaves))
    count = int(tree.count)
    expected = 1 + np.argsort(-table[:, 1 : count + 1], axis=1, kind="stable")
    np.testing.assert_array_equal(found.ids, np.pad(expected, ((0, 0), (0, k - count))))
    assert (found.scored == count).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), ties=st.booleans())
def test_under_the_max_heap_property_the_search_is_exact(seed: int, ties: bool) -> None:
    """With a beam of k. The score of a node is an increasing function of its best leaf's, another on each
    level."""
    tree = TREES["with room"]
    table = drawn(tree, seed=seed)
    if ties:
        table = np.round(table)
    levels = walk(tree)
    for level in range(tree.depth - 1, -1, -1):
        for at, node in levels[level].items():
            children = [levels[level + 1].get(2 * at + side) for side in (1, 2)]
            table[:, node] = np.max([table[:, child] for child in children if child], axis=0)
    for level, nodes in enumerate(levels[:-1]):
        table[:, list(nodes.values())] = table[:, list(nodes.values())] * (2 + level) - level
    found = SEARCH(tree, table_scorer, jnp.asarray(table), 3, 3)
    best = -np.sort(-table[:, 1 : int(tree.count) + 1], axis=1)[:, :3]
    np.testing.assert_array_equal(found.scores, best)
    assert (OUT_OF_ORDER(tree, table_scorer, jnp.asarray(table)) == 0).all()


def test_out_of_order_is_a_count_of_neighbours() -> None:
    for tree in TREES.values():
        table = drawn(tree)
        found = OUT_OF_ORDER(tree, table_scorer, jnp.asarray(table))
        levels = walk(tree)
        for row, scores in enumerate(table):
            wrong = total = 0
            for level in range(1, tree.depth):
                best: dict[int, float] = {}
                for at, child in levels[level + 1].items():
                    above = (at - 1) // 2
                    best[above] = max(best.get(above, -np.inf), scores[child])
                ordered = sorted(best, key=lambda at: -scores[levels[level][at]])
                wrong += sum(best[a] < best[b] for a, b in itertools.pairwise(ordered))
                total += len(ordered) - 1
            np.testing.assert_allclose(found[row], wrong / max(total, 1), rtol=1e-6)


def test_equal_scores_give_the_smaller_ids() -> None:
    tree = TREES["with holes"]
    table = jnp.zeros((1, tree.num_ids + 1))
    assert SEARCH(tree, table_scorer, table, 3, 16).ids.tolist() == [[1, 2, 3]]


def test_a_score_of_minus_infinity_takes_out_all_that_is_below() -> None:
    tree = TREES["full"]
    table = drawn(tree)
    gone = int(tree.capacity + 1 + 3)  # the first node above two leaves
    below = [int(i) for i in tree.leaves[:2]]
    table[:, [gone, 8]] = -np.inf
    found = SEARCH(tree, table_scorer, jnp.asarray(table), 8, 8)
    assert 8 not in np.asarray(found.ids) and (found.scores[:, -1] == -np.inf).all()
    narrow = SEARCH(tree, table_scorer, jnp.asarray(table), 2, 2)
    assert not set(np.asarray(narrow.ids).reshape(-1).tolist()) & set(below) and narrow.finite.all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_said(value: float) -> None:
    tree = TREES["halved"]
    table = drawn(tree)
    table[1, tree.capacity + 1 + 3 :] = value  # inner nodes
    table[2, 1:14] = value
    table[3, 0] = value  # padding is not read
    found = SEARCH(tree, table_scorer, jnp.asarray(table), 2, 2)
    assert found.finite.tolist() == [True, False, False, True]


def test_a_query_does_not_see_its_neighbours() -> None:
    tree = TREES["halved"]
    table = jnp.asarray(drawn(tree))
    whole = SEARCH(tree, table_scorer, table, 3, 4)
    alone = SEARCH(tree, table_scorer, table[2:3], 3, 4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:3], b), whole, alone)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)
    mapped = jax.vmap(lambda t, q: trees.search(t, table_scorer, q, 3, 4))(
        stacked, jnp.stack([table, -table])
    )
    np.testing.assert_array_equal(mapped.ids[0], whole.ids)


def test_added_items_lie_nearest_and_move_nothing() -> None:
    tree = TREES["with room"]  # 9 items, room for 21 in 32 leaves
    near = [4, 4, 10, 1]
    found = trees.add(tree, near)
    assert int(found.count) == 13 and found.num_ids == tree.num_ids
    np.testing.assert_array_equal(found.slots[:10], tree.slots[:10])
    taken = set(np.flatnonzero(np.asarray(tree.leaves)).tolist())
    for item, neighbour in enumerate(near, 10):
        own, other = int(found.slots[item]), int(found.slots[neighbour])
        heights = {slot: (slot ^ other).bit_length() for slot in range(32) if slot not in taken}
        assert own == min(heights, key=lambda slot: (heights[slot], slot))
        taken.add(own)
    full = trees.add(found, [1] * 8)
    assert sorted(full.leaves.tolist()) == [0] * 11 + list(range(1, 22))
    with pytest.raises(ValueError, match="1 items more than 21: the tree has room for 21; build it anew"):
        trees.add(full, [1])
    with pytest.raises(ValueError, match=r"near: item 10 is not in a tree of the items 1\.\.9"):
        trees.add(tree, [10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3],), "3 leaves: must be a power of two"),
        (([1],), "1 leaves: must be a power of two, at least 2"),
        (([1, 2, 2, 0],), "item 2 has 2 leaves; each item has one"),
        (([1, 4, 2, 0],), r"item 3 has no leaf: the 3 items in leaves must be 1\.\.3"),
        (([-1, 1],), "id -1 is none of an item|item 0 has no leaf"),
        (([0.5, 1.0],), "must be ids"),
        (([1, 2], 1), r"capacity=1: must lie in 2\.\.2"),
        (([1, 2], 3), r"capacity=3: must lie in 2\.\.2"),
    ],
)
def test_leaves_that_make_no_tree(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trees.from_leaves(arguments[0], capacity=arguments[1] if len(arguments) > 1 else None)


def test_items_without_a_leaf_are_found_before_training() -> None:
    tree = TREES["with room"]
    trees.check_items(tree, np.arange(1, 10))
    for items in ([1, 10], [0, 3], [1, 99], [-4]):
        with pytest.raises(ValueError, match="have no leaf in a tree of 9 items"):
            trees.check_items(tree, items)


@pytest.mark.parametrize(
    ("k", "width", "message"),
    [
        (0, 3, r"k=0: must lie in 1\.\.13"),
        (14, 20, r"k=14: must lie in 1\.\.13"),
        (5, 4, "width=4: must be at least k=5"),
    ],
)
def test_a_search_that_can_not_be(k: int, width: int, message: str) -> None:
    tree = TREES["halved"]
    with pytest.raises(ValueError, match=message):
        trees.search(tree, table_scorer, jnp.zeros((1, tree.num_ids + 1)), k, width)
