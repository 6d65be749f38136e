"""Which leaf each item gets: at random, by categories, by vectors (TDM, section 3.2), on the host.

All halve a list of items again and again: of a node's items, the first half, rounded up, goes to the left
child and the rest to the right one, so that nodes of a level differ by at most one item. What differs is the
order of the list, and that of vectors is made anew for every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.index.trees import Tree, from_leaves

ROUNDS = 10  # of 2-means at each node


def random(num_items: int, *, seed: int = 0, capacity: int | None = None) -> Tree:
    """Items 1..num_items in random order.

    capacity: the largest id of an item that may be added later (`trees.add`); None: num_items.

    Raises:
      ValueError: there is no item, or the capacity is smaller than their number.
    """
    depth = _depth(num_items, capacity)
    order = 1 + np.random.default_rng(seed).permutation(num_items)
    return from_leaves(_halved(order, depth), capacity=capacity or num_items)


def from_categories(categories: Any | Sequence[Any], *, seed: int = 0, capacity: int | None = None) -> Tree:
    """Items of one category side by side: the categories shuffled, and the items of each (section 3.2).

    categories: of each item, int [V], row 0 is padding and not read; or several of these, the coarsest
        first, such as a category and its subcategory: then a finer one is shuffled inside each coarser one.
    capacity: see `random`.

    Raises:
      ValueError: there are no categories or no items, the columns are no whole numbers of one length; as
        `random`.
    """
    several = isinstance(categories, Sequence) and len(categories) > 0 and np.ndim(categories[0]) > 0
    columns = [np.asarray(column) for column in (categories if several else [categories])]
    if not columns or not columns[0].size:
        raise ValueError("categories: empty; give a category for each item, or build a tree by `random`")
    for column in columns:
        if column.ndim != 1 or column.dtype.kind not in "iu" or len(column) != len(columns[0]):
            raise ValueError(
                f"categories of shape {column.shape} and type {column.dtype}: must be whole numbers "
                f"[{len(columns[0])}], one of each id from 0 on"
            )
    number, rng = len(columns[0]) - 1, np.random.default_rng(seed)
    depth = _depth(number, capacity)
    keys: list[np.ndarray] = []
    for column in columns:
        _, group = np.unique(column[1:], return_inverse=True)
        keys.append(rng.permutation(group.max() + 1)[group])
    order = np.lexsort((rng.permutation(number), *reversed(keys)))
    return from_leaves(_halved(1 + order, depth), capacity=capacity or number)


def from_vectors(table: Any, *, seed: int = 0, rounds: int = ROUNDS, capacity: int | None = None) -> Tree:
    """Similar items side by side: every node's items are halved by balanced 2-means of their vectors.

    The two centres start at a random item of the node and the one farthest from it. In each round the half
    of the items that are nearer to the first centre than to the second, by the difference of squared
    distances, is the left child, and both centres move to the means of their halves. No round makes the sum
    of squared distances to the centres larger.

    table: vectors of ids [V, K], such as those of a trained scorer; row 0 is padding. capacity: see `random`.

    Raises:
      ValueError: there are no items, a number is not finite, or rounds is below 1; as `random`.
    """
    vectors = np.asarray(table, np.float64)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"table of shape {vectors.shape}: must be [ids, width]")
    vectors = vectors[1:]
    depth = _depth(len(vectors), capacity)
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]) + 1
        raise ValueError(f"table: the vector of item {bad} has a number that is not finite")
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: must be at least 1")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(vectors))
    for level in range(depth):
        sizes = _sizes(len(vectors), level)
        order = _two_means(vectors, order, sizes[sizes > 0], rounds, rng)
    return from_leaves(_halved(1 + order, depth), capacity=capacity or len(vectors))


def _two_means(
    vectors: np.ndarray, order: np.ndarray, sizes: np.ndarray, rounds: int, rng: np.random.Generator
) -> np.ndarray:
    """Items sorted anew inside each node of a level, so that its halves are those of balanced 2-means.

    order: items of node after node. sizes: how many each has, at least one.
    """
    start = np.cumsum(sizes) - sizes
    node = np.repeat(np.arange(len(sizes)), sizes)
    half = (sizes + 1) // 2
    left = np.arange(len(order)) - start[node] < half[node]
    x = vectors[order]
    one = x[start + rng.integers(sizes)]
    distance = ((x - one[node]) ** 2).sum(axis=1)
    other = x[np.lexsort((-distance, node))[start]]
    for done in range(rounds):
        nearer = np.einsum("nk,nk->n", x, (other - one)[node])  # up to what all items of a node share
        sort = np.lexsort((nearer, node))  # stable: of equal differences the order stays
        if done and (sort == np.arange(len(sort))).all():
            break
        order, x = order[sort], x[sort]
        sums = np.add.reduceat(np.where(left[:, None], x, 0.0), start)
        whole = np.add.reduceat(x, start)
        one = sums / half[:, None]
        other = (whole - sums) / np.maximum(sizes - half, 1)[:, None]
    return order


def _depth(num_items: int, capacity: int | None) -> int:
    """The least number of levels below the root whose leaves hold the capacity."""
    if num_items < 1:
        raise ValueError(f"{num_items} items: a tree needs at least one")
    if capacity is not None and capacity < num_items:
        raise ValueError(f"capacity={capacity}: must be at least {num_items}, the number of items")
    return max(1, ((capacity or num_items) - 1).bit_length())


def _sizes(number: int, level: int) -> np.ndarray:
    """Items of each node of a level, int [2^level]."""
    sizes = np.array([number])
    for _ in range(level):
        sizes = np.stack([(sizes + 1) // 2, sizes // 2], axis=1).reshape(-1)
    return sizes


def _halved(order: np.ndarray, depth: int) -> np.ndarray:
    """The leaves [2^depth] of a list of items that is halved again and again."""
    leaves = np.zeros(2**depth, np.int64)
    leaves[_sizes(len(order), depth) > 0] = order
    return leaves
