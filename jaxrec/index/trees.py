"""A complete binary tree of items, searched level by level with a scorer that is any function (TDM).

Zhu et al., KDD 2018, arXiv:1801.02294, section 3. Nodes lie in heap order: the root at 0, the children of i
at 2i + 1 and 2i + 2, so that level l has the positions 2^l - 1 .. 2^(l+1) - 2 and ancestors are shifts.
Items lie in leaves, all on level D; some leaves are empty, and an inner node without an item below it is no
node.

Scorers know ids, not positions: an item and its leaf share the id 1..capacity, and the inner node at
position i has capacity + 1 + i, so that one table of capacity + 2^D rows (`num_ids` + 1, padding first) has
all vectors.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.scored import Found, Query, ScoreItems
from jaxrec.types import Array

DATA = ["leaves", "slots", "sizes", "members", "ranks"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=DATA, meta_fields=["capacity"])
@dataclasses.dataclass(frozen=True)
class Tree:
    """A tree made by `from_leaves`; a pytree. N = 2^(D+1) - 1 positions, of which level l has up to 2^l
    nodes.

    leaves: the item of each leaf, int32 [2^D], 0 where it is empty. slots: the leaf of each item, int32
    [capacity + 1], -1 where there is no such item. sizes: nodes of each level, int32 [D + 1]. members: their
    positions in ascending order, int32 [N]; those of level l from 2^l - 1 on, filled up with -1. ranks: the
    number of each position among the nodes of its level, int32 [N], -1 where it is no node. capacity: the
    largest id of an item that there is room for.
    """

    leaves: Array
    slots: Array
    sizes: Array
    members: Array
    ranks: Array
    capacity: int

    @property
    def depth(self) -> int:
        """D, the level of the leaves; the root has level 0."""
        return self.leaves.shape[-1].bit_length() - 1

    @property
    def num_ids(self) -> int:
        """Ids of items and inner nodes: 1..num_ids."""
        return self.capacity + self.leaves.shape[-1] - 1

    @property
    def count(self) -> Array:
        """Items, int32 []."""
        return self.sizes[..., -1]


def from_leaves(leaves: Any, *, capacity: int | None = None) -> Tree:
    """The tree of these leaves: the item of each, int [2^D], 0 for an empty one.

    capacity: the largest id of an item that may be added later; None: there is no room for further ones.

    Raises:
      ValueError: the number of leaves is no power of two from 2 on; the items are not each of 1..n once; the
        capacity is below n or above the number of leaves.
    """
    found = np.asarray(leaves)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"leaves of shape {found.shape} and type {found.dtype}: must be ids [2^D], integers")
    if len(found) < 2 or len(found) & (len(found) - 1):
        raise ValueError(f"{len(found)} leaves: must be a power of two, at least 2; fill up with 0")
    count = int((found != 0).sum())
    _check_items(found[found != 0])
    capacity = max(count, 1) if capacity is None else capacity
    if not max(count, 1) <= capacity <= len(found):
        raise ValueError(
            f"capacity={capacity}: must lie in {max(count, 1)}..{len(found)}, from the number of items to "
            "that of leaves"
        )
    slots = np.full(capacity + 1, -1, np.int32)
    slots[found[found != 0]] = np.flatnonzero(found)
    depth = len(found).bit_length() - 1
    sizes, members, ranks = np.zeros(depth + 1, np.int32), np.full(2 * len(found) - 1, -1, np.int32), []
    real = found != 0
    for level in range(depth, -1, -1):
        first = 2**level - 1
        positions = np.flatnonzero(real)
        sizes[level], members[first : first + len(positions)] = len(positions), first + positions
        ranks.append(np.where(real, np.cumsum(real) - 1, -1))
        real = real.reshape(-1, 2).any(axis=1) if level else real
    return Tree(
        leaves=jnp.asarray(found, jnp.int32),
        slots=jnp.asarray(slots),
        sizes=jnp.asarray(sizes),
        members=jnp.asarray(members),
        ranks=jnp.asarray(np.concatenate(ranks[::-1]), jnp.int32),
        capacity=capacity,
    )


def _check_items(items: np.ndarray) -> None:
    """Raises ValueError where ids are not each of 1..n once."""
    ids, times = np.unique(items, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"item {ids[times > 1][0]} has {times[times > 1][0]} leaves; each item has one")
    if len(ids) and (ids[0] < 1 or ids[-1] != len(ids)):
        missing = np.setdiff1d(np.arange(1, ids[-1] + 1), ids)
        what = f"item {missing[0]} has no leaf" if len(missing) else f"id {ids[0]} is none of an item"
        raise ValueError(f"{what}: the {len(ids)} items in leaves must be 1..{len(ids)}")


def check_items(tree: Tree, items: Any) -> None:
    """Raises ValueError where one of these ids, such as those of training, has no leaf."""
    slots, found = np.asarray(tree.slots), np.unique(np.asarray(items))
    unknown = found[(found < 1) | (found >= len(slots)) | (slots[np.clip(found, 0, len(slots) - 1)] < 0)]
    if len(unknown):
        raise ValueError(
            f"item {unknown[0]} and {len(unknown) - 1} others have no leaf in a tree of {int(tree.count)} "
            "items; build the tree of all items, or add them (`trees.add`)"
        )


def add(tree: Tree, near: Any) -> Tree:
    """The tree with further items, whose ids are count + 1 .. count + A, each in the empty leaf nearest to
    another.

    near: an item of the tree for each, int [A], such as the one of the nearest vector or of the same
        category. The nearest empty leaf is one whose lowest common ancestor with that item's leaf is
        deepest; the first of those. Items are added one after the other, and an earlier one may be `near`.

    Nothing else moves, and no id changes. Build the tree anew when the items have become others.

    Raises:
      ValueError: there are more items than the tree has room for, or one of `near` is no item.
    """
    near, count = np.asarray(near, np.int64).reshape(-1), int(tree.count)
    if count + len(near) > tree.capacity:
        raise ValueError(
            f"{len(near)} items more than {count}: the tree has room for {tree.capacity}; build it anew "
            "with a larger capacity"
        )
    leaves, slots = np.array(tree.leaves), np.array(tree.slots)
    for item, neighbour in enumerate(near, count + 1):
        if not 1 <= neighbour < item:
            raise ValueError(f"near: item {neighbour} is not in a tree of the items 1..{item - 1}")
        empty = np.flatnonzero(leaves == 0)
        apart = empty ^ slots[neighbour]
        heights = np.frexp(apart)[1]  # of the lowest common ancestor: the number of bits of a difference
        slot = empty[np.argmin(heights)]
        leaves[slot], slots[item] = item, slot
    return from_leaves(leaves, capacity=tree.capacity)


# --- arithmetic of positions and ids ----------------------------------------------------------------------


def level_of(positions: Array) -> Array:
    """The level of positions, int32 [...] → [...]: the number of bits of i + 1, less 1."""
    return 31 - jax.lax.clz(jnp.asarray(positions, jnp.int32) + 1)


def ids_of(tree: Tree, positions: Array) -> Array:
    """Ids of the nodes at these positions, int32 [...] → [...]; 0 where there is none."""
    first = tree.leaves.shape[0] - 1
    at = jnp.clip(positions, 0, tree.ranks.shape[0] - 1)
    ids = jnp.where(at >= first, tree.leaves[jnp.maximum(at - first, 0)], tree.capacity + 1 + at)
    return jnp.where((tree.ranks[at] >= 0) & (at == positions), ids, 0)


def positions_of(tree: Tree, ids: Array) -> Array:
    """Positions of ids, int32 [...] → [...]; -1 where there is no such item or node."""
    of_items = tree.slots[jnp.clip(ids, 0, tree.capacity)]
    leaf = jnp.where((ids >= 1) & (of_items >= 0), of_items + tree.leaves.shape[0] - 1, -1)
    inner = ids - tree.capacity - 1
    at = jnp.clip(inner, 0, tree.ranks.shape[0] - 1)
    known = (inner >= 0) & (inner < tree.leaves.shape[0] - 1) & (tree.ranks[at] >= 0)
    return jnp.where(ids > tree.capacity, jnp.where(known, inner, -1), leaf)


def ancestors(tree: Tree, items: Array) -> Array:
    """Positions of an item's leaf and all nodes above it, root first: int32 [...] → [..., D + 1].

    -1 all along for an id that is no item.
    """
    levels = jnp.arange(tree.depth + 1)
    slot = jnp.where(items >= 0, tree.slots[jnp.clip(items, 0, tree.capacity)], -1)
    slot = jnp.where(items > tree.capacity, -1, slot)[..., None]
    return jnp.where(slot >= 0, (slot >> (tree.depth - levels)) + (1 << levels) - 1, -1)


# --- search -----------------------------------------------------------------------------------------------


def search(tree: Tree, scorer: ScoreItems, query: Query, k: int, width: int) -> Found:
    """The k best leaves that a beam of `width` nodes a level finds, best first: `index.scored`.

    Of each level the `width` best nodes are kept, and their children scored next. A level of no more nodes
    than that keeps them all, so scoring begins below the last such level: at most 2 · width · log2(items)
    scores a query. Exact if a node's score orders its level as its best leaf's does (the max-heap property),
    or if width is at least half the number of leaves. An id that the scorer gives -inf is passed over with
    all that is below it: so items are excluded.

    query: a tree of arrays [B, …].

    Raises:
      ValueError: k is below 1 or above the tree's capacity, or width below k.
    """
    if not 1 <= k <= tree.capacity:
        raise ValueError(
            f"k={k}: must lie in 1..{tree.capacity}, the number of items that the tree has room for"
        )
    if width < k:
        raise ValueError(
            f"width={width}: must be at least k={k}, as no more leaves than that are surely found"
        )
    size = jax.tree.leaves(query)[0].shape[0]
    width = min(width, tree.leaves.shape[0] // 2)
    start = width.bit_length() - 1  # the last level that a beam holds whole; below the root there are leaves
    nodes = jnp.arange(2 * width)
    first = jnp.where(nodes < 2**start, 2**start - 1 + nodes, -1)

    def descend(_: int, carry: tuple[Array, Array, Array, Array, Array]) -> Any:
        scored, finite = carry[3:]
        beam = carry[0][:, :width]
        children = jnp.stack([2 * beam + 1, 2 * beam + 2], axis=-1).reshape(size, 2 * width)
        children = jnp.where(jnp.repeat(beam >= 0, 2, axis=1), children, -1)
        ids = ids_of(tree, children)
        scores = scorer(query, ids).astype(jnp.float32)
        bad = (jnp.isnan(scores) | jnp.isposinf(scores)) & (ids > 0)
        scores = jnp.where(ids > 0, scores, -jnp.inf)
        lowered, ids, place = jax.lax.sort((-scores, ids, children), dimension=1, num_keys=2)
        place = jnp.where(lowered < jnp.inf, place, -1)
        number = jnp.sum(ids > 0, axis=1, dtype=jnp.int32)
        return place, ids, -lowered, scored + number, finite & ~bad.any(axis=1)

    carry = (
        jnp.broadcast_to(first.astype(jnp.int32), (size, 2 * width)),
        jnp.zeros((size, 2 * width), jnp.int32),
        jnp.zeros((size, 2 * width), jnp.float32),
        jnp.zeros(size, jnp.int32),
        jnp.ones(size, bool),
    )
    place, ids, scores, scored, finite = jax.lax.fori_loop(0, tree.depth - start, descend, carry)
    found = jnp.where(place[:, :k] >= 0, ids[:, :k], 0)
    return Found(found, jnp.where(found > 0, scores[:, :k], -jnp.inf), scored, finite)


def out_of_order(tree: Tree, scorer: ScoreItems, query: Query) -> Array:
    """How far a scorer is from the max-heap property: the share of nodes out of order, [B], 0 if it holds.

    The nodes of a level are sorted by their scores; one is out of order if its best child scores lower than
    the best child of the node behind it (of equal scores the one with the better child comes first). It is
    counted over all inner nodes below the root but the last of each level; scores of no relation give 1/2,
    and a tree of one level 0. All nodes are scored for each query.
    """
    size = jax.tree.leaves(query)[0].shape[0]

    def scores_of(level: int) -> Array:
        ids = jnp.broadcast_to(ids_of(tree, 2**level - 1 + jnp.arange(2**level)), (size, 2**level))
        return jnp.where(ids > 0, scorer(query, ids), -jnp.inf)

    wrong, total, scores = jnp.zeros(size, jnp.int32), jnp.int32(0), scores_of(1)
    for level in range(1, tree.depth):
        below = scores_of(level + 1)
        best = below.reshape(size, -1, 2).max(axis=2)
        ordered = jax.lax.sort((-scores, -best), dimension=1, num_keys=2)[1]
        real = jnp.arange(2**level - 1) < tree.sizes[level] - 1
        wrong += jnp.sum((ordered[:, :-1] > ordered[:, 1:]) & real, axis=1, dtype=jnp.int32)
        total, scores = total + jnp.maximum(tree.sizes[level] - 1, 0), below
    return wrong / jnp.maximum(total, 1)
