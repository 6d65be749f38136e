"""JTM's assignment against the best matching, a loop over items, and what may never happen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from jaxrec.index import tree_building as building
from jaxrec.index import tree_learning as learning
from jaxrec.index import trees
from jaxrec.index.trees import Tree


def table_weights(table: np.ndarray) -> Any:
    """Weights out of a table [n, positions]; it notes that each call is of nodes of one level."""

    def weigh(nodes: np.ndarray) -> np.ndarray:
        assert len({int(node + 1).bit_length() for node in nodes.reshape(-1)}) == 1
        return np.take_along_axis(table, nodes, axis=1)

    return weigh


def drawn(tree: Tree, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(int(tree.count), 2 * len(tree.leaves) - 1))


def weight_of(tree: Tree, table: np.ndarray) -> float:
    """The sum over items and the levels below the root, by a loop."""
    total = 0.0
    for slot, item in enumerate(tree.leaves.tolist()):
        at = len(tree.leaves) - 1 + slot
        while item and at > 0:
            total += table[item - 1, at]
            at = (at - 1) // 2
    return total


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 14),
    more=st.integers(0, 9),
    gap=st.integers(1, 6),
    lazy=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
def test_a_learned_tree_holds_the_items_and_weighs_no_less(
    number: int, more: int, gap: int, lazy: float, seed: int
) -> None:
    tree = building.random(number, seed=seed, capacity=number + more)
    table = drawn(tree, seed)
    found = learning.learn(tree, table_weights(table), gap=gap, lazy=lazy)
    assert sorted(i for i in found.tree.leaves.tolist() if i) == list(range(1, number + 1))
    assert (found.tree.capacity, found.tree.depth) == (tree.capacity, tree.depth)
    for level in range(tree.depth + 1):  # each node's capacity: a leaf has one item
        below = np.split(np.asarray(found.tree.leaves) > 0, 2**level)
        assert max(int(part.sum()) for part in below) <= 2 ** (tree.depth - level)
    np.testing.assert_allclose(found.before, weight_of(tree, table), atol=1e-9)
    np.testing.assert_allclose(found.after, weight_of(found.tree, table), atol=1e-9)
    assert found.after >= found.before
    assert found.moved == int((np.asarray(found.tree.slots) != np.asarray(tree.slots)).sum())


def test_greedy_over_all_levels_is_near_the_best_matching() -> None:
    """With a gap of D, and equal to it where the best leaves of all items are different."""
    shares = []
    for seed in range(6):
        tree = building.random(8, seed=seed)
        table = drawn(tree, seed)
        leaves = np.arange(7, 15)
        paths = np.sum([table[:, ((leaves + 1) >> up) - 1] for up in range(3)], axis=0)
        best = paths[linear_sum_assignment(-paths)].sum()
        found = learning.learn(tree, table_weights(table), gap=3).after
        assert found <= best + 1e-9
        shares.append((found - weight_of(tree, table)) / (best - weight_of(tree, table)))
    assert np.mean(shares) > 0.8
    wish = np.random.default_rng(0).permutation(8)
    table = np.zeros((8, 15))
    table[np.arange(8), 7 + wish] = 1.0
    learned = learning.learn(building.random(8, seed=3), table_weights(table), gap=3)
    assert learned.after == 8.0 and (np.asarray(learned.tree.slots)[1:] == wish).all()


def test_without_full_nodes_each_segment_weighs_at_least_the_old_place() -> None:
    """Before any item is pushed away: with room for all at each node the choice is the maximum."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(30, 8))
    old = rng.integers(0, 8, 30)
    chosen = learning.assign(weights, np.zeros(30), room=30, stay=old)
    np.testing.assert_array_equal(chosen, weights.argmax(axis=1))
    lazy = learning.assign(weights, np.zeros(30), room=30, stay=old, lazy=0.7)
    rows = np.arange(30)
    stays = weights[rows, old] + 0.7 >= weights.max(axis=1)
    np.testing.assert_array_equal(lazy, np.where(stays, old, weights.argmax(axis=1)))
    for found in (chosen, lazy):
        assert (weights[rows, found] >= weights[rows, old]).all()
    ties = learning.assign(np.zeros((30, 8)), np.zeros(30), room=30, stay=old)
    np.testing.assert_array_equal(ties, old)


def slow(weights: np.ndarray, group: np.ndarray, room: int, stay: np.ndarray) -> list[int]:
    """`assign` with loops over groups, nodes and items."""
    chosen = {}
    for one in set(group.tolist()):
        waiting = [i for i in range(len(group)) if group[i] == one]
        left = [room] * weights.shape[1]
        while waiting:
            open_nodes = [node for node, free in enumerate(left) if free]
            wishes: dict[int, list[tuple[float, int]]] = {}
            for item in waiting:
                ordered = sorted(open_nodes, key=lambda n: (-weights[item, n], n != stay[item], n))
                rest = weights[item, ordered[1]] if len(ordered) > 1 else -np.inf
                wishes.setdefault(ordered[0], []).append((rest - weights[item, ordered[0]], item))
            for node, listed in wishes.items():
                for _, item in sorted(listed)[: left[node]]:
                    chosen[item] = node
                left[node] -= min(left[node], len(listed))
            waiting = [item for item in waiting if item not in chosen]
    return [chosen[item] for item in range(len(group))]


@pytest.mark.parametrize("whole", [False, True])
def test_full_nodes_keep_those_who_lose_most(whole: bool) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        group = rng.permutation(np.repeat([3, 7, 9], 8))
        weights = rng.normal(size=(24, 4)) + np.array([2.0, 0.0, 0.0, 0.0])
        weights = weights.round(0) if whole else weights
        stay = rng.integers(-1, 4, 24)
        found = learning.assign(weights, group, room=2, stay=stay)
        assert found.tolist() == slow(weights, group, 2, stay)
        assert (np.unique(group * 4 + found, return_counts=True)[1] == 2).all()


def test_a_tree_that_weighs_less_is_not_taken() -> None:
    """Greedily, the first level takes what the second would have given."""
    tree = trees.from_leaves([1, 2, 3, 4])
    table = np.zeros((4, 7))
    table[0, 2], table[0, 3] = 1.0, 50.0  # item 1 wants the right half a little, and its old leaf very much
    found = learning.learn(tree, table_weights(table), gap=1)
    assert found.before == found.after == 50.0 and found.moved == 0
    assert found.tree is tree
    both = learning.learn(tree, table_weights(table), gap=2)
    assert both.after == 50.0 and both.moved == 0


def test_bad_settings_and_weights_are_refused() -> None:
    tree = building.random(5)
    for bad in ({"gap": 0}, {"lazy": -1.0}, {"lazy": float("nan")}):
        with pytest.raises(ValueError, match="must be at least 1, and 0 or more"):
            learning.learn(tree, table_weights(drawn(tree)), **bad)
    with pytest.raises(ValueError, match="must be finite"):
        learning.learn(tree, table_weights(drawn(tree) * np.nan))
    with pytest.raises(ValueError, match="must be finite, one of each node"):
        learning.learn(tree, lambda nodes: nodes[:2] * 1.0)
    with pytest.raises(ValueError, match="5 items for 2 nodes with room for 2 each"):
        learning.assign(np.zeros((5, 2)), np.zeros(5), room=2)
