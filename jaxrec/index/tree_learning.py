"""Which leaf each item gets under a trained scorer: JTM's assignment, level by level, on the host.

Zhu et al., NeurIPS 2019, arXiv:1902.07565, section 3.1 and algorithm 2. The weight of an item at a node is
the log- likelihood of the item's training samples there; the best tree is a matching of items and leaves of
the largest weight along their paths. It is approximated from the root down, `gap` levels at a time: each
item goes to the descendant of its node whose path weighs most, and a node that is given more items than it
has leaves keeps those that would lose most by leaving.

Departs from the paper: its rule for full nodes is in a supplement that was not found; ours is in `assign`. A
tree that weighs less than the old one is not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrec.index.trees import Tree, from_leaves

# Positions of nodes for each item, int [n, M], row i for item i + 1 -> weights [n, M]. All are of one level.
Weigh = Callable[[np.ndarray], np.ndarray]


class Learned(NamedTuple):
    """A tree and what it weighs. before, after: the weight of all paths in the old tree and in this one.

    moved: items that have another leaf than in the old tree; 0 where that one is returned.
    """

    tree: Tree
    before: float
    after: float
    moved: int


def learn(tree: Tree, weigh: Weigh, *, gap: int = 7, lazy: float = 0.0) -> Learned:
    """The tree of the same items whose paths weigh most by greedy descent; the old one where that weighs
    more.

    Args:
      weigh: of items at nodes, under a scorer and the histories of the old tree; the higher the better.
      gap: d, levels that are descended at a time, with 2^d nodes to choose from.
      lazy: an item stays below its old node where no other weighs more by more than this.

    Raises:
      ValueError: gap is below 1, lazy is negative, a weight is not finite or of another shape.
    """
    if gap < 1 or not 0 <= lazy < float("inf"):
        raise ValueError(f"gap={gap}, lazy={lazy}: must be at least 1, and 0 or more")
    slots = np.asarray(tree.slots)[1 : int(tree.count) + 1]
    old = _paths(slots.astype(np.int64) + len(tree.leaves) - 1, tree.depth)
    before = path_weight(old, weigh)
    at = np.zeros(len(old), np.int64)
    for level in range(0, tree.depth, gap):
        below = min(level + gap, tree.depth)
        nodes, weights = at[:, None], np.zeros((len(at), 1))
        for _ in range(level, below):
            nodes = np.stack([2 * nodes + 1, 2 * nodes + 2], axis=2).reshape(len(at), -1)
            weights = np.repeat(weights, 2, axis=1) + _weights(weigh, nodes)
        stay = np.where(old[:, level] == at, old[:, below] - nodes[:, 0], -1)
        chosen = assign(weights, at, room=2 ** (tree.depth - below), stay=stay, lazy=lazy)
        at = nodes[np.arange(len(at)), chosen]
    found = _paths(at, tree.depth)
    after = path_weight(found, weigh)
    if after < before:
        return Learned(tree, before, before, 0)
    leaves = np.zeros(len(tree.leaves), np.int32)
    leaves[at - len(leaves) + 1] = np.arange(1, len(at) + 1)
    moved = int((at != old[:, -1]).sum())
    return Learned(from_leaves(leaves, capacity=tree.capacity), before, after, moved)


def path_weight(paths: np.ndarray, weigh: Weigh) -> float:
    """What items weigh together at positions [n, D + 1], the root left out: JTM's objective, equation 3."""
    return float(sum(_weights(weigh, paths[:, level, None]).sum() for level in range(1, paths.shape[1])))


def assign(
    weights: np.ndarray, group: np.ndarray, *, room: int, stay: np.ndarray | None = None, lazy: float = 0.0
) -> np.ndarray:
    """The node of each item, int [n]: the heaviest one, where there is room for all.

    Where a node is chosen by more items than there is room for, it keeps those with the largest advantage
    over their next best node, and is full. The others choose again among the nodes that are not, until all
    have one.

    Args:
      weights: of each item at each of C nodes, [n, C].
      group: of each item, int [n]; groups are apart, and each has C nodes of its own.
      room: how many items a node holds.
      stay: the node at which an item was before, -1 for none, int [n]; it is preferred to others of the same
        weight, and to others that weigh more by at most `lazy`.

    Raises:
      ValueError: a group has more items than room.
    """
    number, nodes = weights.shape
    _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if len(sizes) and sizes.max() > nodes * room:
        raise ValueError(f"{sizes.max()} items for {nodes} nodes with room for {room} each")
    stay = np.full(number, -1) if stay is None else stay
    preferred = weights.astype(np.float64)
    here = np.flatnonzero(stay >= 0)
    preferred[here, stay[here]] += lazy
    left = np.full(len(sizes) * nodes, room)  # room of each node of each group
    chosen = np.full(number, -1)
    waiting = np.arange(number)
    while waiting.size:
        open_nodes = left.reshape(-1, nodes)[group[waiting]] > 0
        values = np.where(open_nodes, preferred[waiting], -np.inf)
        best = values.argmax(axis=1)
        rows, old = np.arange(len(waiting)), stay[waiting]
        best = np.where((old >= 0) & (values[rows, old] == values[rows, best]), old, best)
        top = values[rows, best]
        values[rows, best] = -np.inf
        advantage = top - values.max(axis=1, initial=-np.inf)
        node = group[waiting] * nodes + best
        order = np.lexsort((-advantage, node))
        _, first, times = np.unique(node[order], return_index=True, return_counts=True)
        place = np.arange(len(order)) - np.repeat(first, times)
        kept = order[place < left[node[order]]]
        chosen[waiting[kept]] = best[kept]
        left -= np.bincount(node[kept], minlength=len(left))
        waiting = np.delete(waiting, kept)
    return chosen


def _weights(weigh: Weigh, nodes: np.ndarray) -> np.ndarray:
    weights = np.asarray(weigh(nodes), np.float64)
    if weights.shape != nodes.shape or not np.isfinite(weights).all():
        raise ValueError(f"weights of shape {weights.shape}: must be finite, one of each node {nodes.shape}")
    return weights


def _paths(leaves: np.ndarray, depth: int) -> np.ndarray:
    """Positions of leaves and of all nodes above them, root first: [n] → [n, D + 1]."""
    levels = np.arange(depth + 1)
    return ((leaves[:, None] + 1) >> (depth - levels)) - 1
