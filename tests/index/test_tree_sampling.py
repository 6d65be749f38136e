"""Sampled nodes: every ancestor once, negatives of the same level, uniform, never the positive."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.index import tree_building as building
from jaxrec.index import tree_sampling as sampling
from jaxrec.index import trees
from jaxrec.index.trees import Tree

TREE = building.random(13, seed=2, capacity=15)
HOLES = trees.from_leaves([0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 5])
SAMPLE = jax.jit(sampling.sample, static_argnums=3)
LEVELS = jax.jit(lambda tree, ids: trees.level_of(trees.positions_of(tree, ids)))
PATHS = jax.jit(lambda tree, items: trees.ids_of(tree, trees.ancestors(tree, items)))


@pytest.mark.parametrize("tree", [TREE, HOLES])
@pytest.mark.parametrize("negatives", [(1, 2, 4, 6), (0, 3, 0, 2), (5, 5, 50, 50)])
def test_positives_are_the_ancestors_and_negatives_are_of_their_level(
    tree: Tree, negatives: tuple[int, ...]
) -> None:
    count = int(tree.count)
    items = jnp.array([*range(1, count + 1), 0], jnp.int32)
    found = SAMPLE(jax.random.key(0), tree, items, negatives)
    columns = sampling.layout(negatives)
    ids, real = np.asarray(found.ids), np.asarray(found.real)
    assert ids.shape == (count + 1, len(columns.level))
    assert not real[-1].any() and not ids[-1].any() and not ids[~real].any() and (ids[real] > 0).all()
    path = np.asarray(PATHS(tree, items))[:, 1:]
    positive = columns.number == 0
    assert positive.sum() == tree.depth  # as many positives as levels below the root
    np.testing.assert_array_equal(ids[:, positive], path)
    sizes, levels = np.asarray(tree.sizes), np.asarray(LEVELS(tree, ids))
    for level in range(1, tree.depth + 1):
        own = columns.level == level
        wanted = min(negatives[level - 1], sizes[level] - 1)
        assert (real[:-1, own & ~positive].sum(axis=1) == wanted).all()
        drawn = ids[:-1, own & ~positive]
        assert (drawn != path[:-1, level - 1 : level]).all()
        assert (levels[:-1, own & ~positive][drawn > 0] == level).all()
        if negatives[level - 1] >= sizes[level] - 1:  # all others, once each
            assert all(len(set(row[row > 0])) == sizes[level] - 1 for row in drawn)


def test_negatives_are_uniform_over_the_others() -> None:
    tree, item = TREE, 5
    draws = SAMPLE(jax.random.key(1), tree, jnp.full(4000, item), (0, 1, 3, 5))
    columns = sampling.layout((0, 1, 3, 5))
    for level in (2, 3, 4):
        ids = np.asarray(draws.ids)[:, (columns.level == level) & (columns.number > 0)].reshape(-1)
        others, counts = np.unique(ids, return_counts=True)
        number = int(tree.sizes[level]) - 1
        assert len(others) == number
        deviation = np.sqrt(len(ids) / number)
        assert np.abs(counts - len(ids) / number).max() < 4.5 * deviation


def test_a_level_of_one_node_has_no_negatives() -> None:
    tree = building.random(1)
    found = SAMPLE(jax.random.key(0), tree, jnp.array([1, 0]), (3,))
    assert found.real.tolist() == [[True, False], [False, False]] and found.ids[0, 0] == 1


def test_an_item_without_a_leaf_is_unknown_and_not_padding() -> None:
    found = SAMPLE(jax.random.key(0), TREE, jnp.array([14, 99, 3]), (1, 1, 1, 1))
    positive = sampling.layout((1, 1, 1, 1)).number == 0
    assert (found.ids[:2, positive] == sampling.UNKNOWN).all() and found.real[:2, positive].all()
    assert not found.real[:2, ~positive].any() and (found.ids[2] > 0).all()
    histories = jax.jit(sampling.histories_by_level)(TREE, jnp.array([[0, 14, 3]]))
    assert (histories[0, :, 0] == 0).all() and (histories[0, :, 1] == sampling.UNKNOWN).all()


def test_a_history_by_level_is_its_ancestors() -> None:
    items = jnp.array([[0, 4, 9], [0, 0, 0]], jnp.int32)
    found = jax.jit(sampling.histories_by_level)(TREE, items)
    assert found.shape == (2, TREE.depth, 3)
    np.testing.assert_array_equal(found[:, -1], items)  # the items themselves on the last level
    path = PATHS(TREE, jnp.array([4, 9]))
    np.testing.assert_array_equal(found[0, :, 1:], path[:, 1:].T)
    assert not found[1].any()


def test_counts_grow_towards_the_leaves() -> None:
    assert sum(sampling.RELEASED) == 509 and len(sampling.RELEASED) == 22
    assert sampling.negatives_by_level(22, 509) == sampling.RELEASED
    for depth, total in ((1, 5), (5, 100), (16, 100), (16, 400), (25, 600)):
        counts = sampling.negatives_by_level(depth, total)
        assert len(counts) == depth and list(counts) == sorted(counts)
        assert all(1 <= count <= 2**level - 1 for level, count in enumerate(counts, 1))
        if depth > 10:
            assert abs(sum(counts) - total) <= 0.15 * total


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 numbers for a tree whose leaves are on level 4"):
        sampling.sample(jax.random.key(0), TREE, jnp.array([1]), (1, 1, 1))
    for bad in ((), (1, -1)):
        with pytest.raises(ValueError, match="must be numbers of 0 or more"):
            sampling.layout(bad)
    for depth, total in ((0, 5), (4, 3)):
        with pytest.raises(ValueError, match="one negative a level"):
            sampling.negatives_by_level(depth, total)
