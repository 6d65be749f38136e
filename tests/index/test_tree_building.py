"""Built trees: sizes of subtrees, neighbours by category, and balanced 2-means against a loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.index import tree_building as building
from jaxrec.index.trees import Tree


def nodes(tree: Tree, level: int) -> list[list[int]]:
    """The items below each position of a level."""
    return [part[part > 0].tolist() for part in np.split(np.asarray(tree.leaves), 2**level)]


def check_balanced(tree: Tree, number: int) -> None:
    """Each item once; subtrees of a level differ by at most one item, and halves of a node too."""
    assert sorted(item for item in tree.leaves.tolist() if item) == list(range(1, number + 1))
    for level in range(tree.depth + 1):
        sizes = np.array([len(items) for items in nodes(tree, level)])
        assert sizes.max() - sizes.min() <= 1
        if level:
            assert (sizes[::2] >= sizes[1::2]).all()


@settings(max_examples=20, deadline=None)
@given(number=st.integers(1, 40), more=st.integers(0, 30), seed=st.integers(0, 9))
def test_halves_differ_by_one_item_at_most(number: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    categories = rng.integers(0, 4, number + 1)
    vectors = rng.normal(size=(number + 1, 2)).round(0)  # with equal ones
    capacity = number + more
    for tree in (
        building.random(number, seed=seed, capacity=capacity),
        building.from_categories(categories, seed=seed, capacity=capacity),
        building.from_vectors(vectors, seed=seed, capacity=capacity, rounds=3),
    ):
        check_balanced(tree, number)
        assert tree.capacity == capacity and len(tree.leaves) >= max(2, capacity)


def test_the_tree_is_no_deeper_than_the_items_need() -> None:
    depths = [building.random(number).depth for number in (1, 2, 3, 4, 5, 8, 9, 1000)]
    assert depths == [1, 1, 2, 2, 3, 3, 4, 10]


def runs(values: np.ndarray) -> int:
    return 1 + int((values[1:] != values[:-1]).sum())


def test_categories_lie_side_by_side_in_random_order() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 5, 101)
    fine = 10 * (coarse % 3) + rng.integers(0, 3, 101)  # of which two coarse ones may have the same
    orders = []
    for seed in range(3):
        tree = building.from_categories((coarse, fine), seed=seed)
        order = np.asarray(tree.leaves)[np.asarray(tree.leaves) > 0]
        assert runs(coarse[order]) == len(np.unique(coarse[1:]))
        both = 100 * coarse + fine
        assert runs(both[order]) == len(np.unique(both[1:]))
        assert (np.diff(order[coarse[order] == 1]) < 0).any()  # items inside are shuffled too
        orders.append(order.tolist())
        one = building.from_categories(coarse, seed=seed)
        np.testing.assert_array_equal(one.leaves, building.from_categories([coarse], seed=seed).leaves)
    assert orders[0] != orders[1] != orders[2]
    again = building.from_categories((coarse, fine), seed=0)
    assert [item for item in again.leaves.tolist() if item] == orders[0]


def squares(vectors: np.ndarray, halves: list[list[int]]) -> float:
    return sum(float(((vectors[h] - vectors[h].mean(axis=0)) ** 2).sum()) for h in halves if h)


def test_groups_of_vectors_become_subtrees() -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(4), 8))
    centres = np.array([[9.0, 9.0], [9.0, 7.0], [-9.0, 9.0], [-9.0, 7.0]])
    vectors = np.concatenate([np.zeros((1, 2)), centres[group] + 0.1 * rng.normal(size=(32, 2))])
    tree = building.from_vectors(vectors, seed=1)
    for level, wanted in ((1, group // 2), (2, group)):
        assert all(len(set(wanted[np.array(items) - 1])) == 1 for items in nodes(tree, level))


def test_more_rounds_never_make_the_halves_worse() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(61, 3))
    for seed in range(4):
        found = [
            squares(vectors, nodes(building.from_vectors(vectors, seed=seed, rounds=rounds), 1))
            for rounds in (1, 2, 4, 20)
        ]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))
        random = squares(vectors, nodes(building.random(60, seed=seed), 1))
        assert found[-1] < 0.95 * random


def test_the_last_halves_are_nearest_their_own_centre() -> None:
    """The fixed point of balanced 2-means: no exchange of two items between the halves makes it better."""
    vectors = np.random.default_rng(3).normal(size=(21, 2))
    left, right = nodes(building.from_vectors(vectors, rounds=50), 1)
    a, b = vectors[left].mean(axis=0), vectors[right].mean(axis=0)
    nearer = ((vectors - a) ** 2).sum(axis=1) - ((vectors - b) ** 2).sum(axis=1)
    assert nearer[left].max() <= nearer[right].min() + 1e-12


VECTORS = np.ones((4, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: building.random(0), "0 items: a tree needs at least one"),
        (lambda: building.random(5, capacity=4), "capacity=4: must be at least 5"),
        (lambda: building.from_categories([]), "categories: empty"),
        (lambda: building.from_categories(np.zeros(0, int)), "categories: empty"),
        (lambda: building.from_categories(np.zeros(1, int)), "0 items"),
        (lambda: building.from_categories(np.array([0.0, 1.0])), "must be whole numbers"),
        (lambda: building.from_categories([np.array([0, 1, 1]), np.array([0, 1])]), "must be whole numbers"),
        (lambda: building.from_vectors(np.ones(3)), "must be .ids, width"),
        (lambda: building.from_vectors(np.ones((1, 3))), "0 items"),
        (lambda: building.from_vectors(VECTORS, rounds=0), "rounds=0"),
        (lambda: building.from_vectors(np.where(np.eye(4, 2) > 0, np.nan, 1.0)[[0, 2, 1]]), "item 2 has"),
        (lambda: building.from_vectors(VECTORS * np.inf), "vector of item 1 has a number that is not finite"),
    ],
)
def test_bad_input_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_padding_is_not_read() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 2))
    other = np.where(np.arange(9)[:, None] == 0, np.nan, vectors)
    np.testing.assert_array_equal(building.from_vectors(vectors).leaves, building.from_vectors(other).leaves)
