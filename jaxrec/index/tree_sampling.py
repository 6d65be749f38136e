"""Nodes to train a tree's scorer with: an item's ancestors and others of their levels (TDM, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.trees import Tree, ancestors, ids_of
from jaxrec.types import Array, Key

# Negatives of levels 1..22 in the released configuration (x-deeplearning, TDM), 509 in all; the paper: 600.
RELEASED = (*range(1, 16), 17, 19, 22, 25, 30, 76, 200)
UNKNOWN = -1  # the id of an item without a leaf: no table has it, so that the loss is NaN


class Samples(NamedTuple):
    """M nodes of each of B items. ids: int32 [B, M]. real: False where there is no such node, bool [B, M]."""

    ids: Array
    real: Array


class Layout(NamedTuple):
    """What the columns of `Samples` are, on the host: a level's positive, then its negatives, level by level.

    level: from 1 to D, int32 [M]. number: 0 of the positive, 1, 2, … of negatives, int32 [M].
    """

    level: np.ndarray
    number: np.ndarray


def negatives_by_level(depth: int, total: int) -> tuple[int, ...]:
    """How many negatives each level 1..depth has, about `total` in all: more near the leaves.

    They are proportional to the released counts from the leaves upwards, at least 1, and at most all other
    nodes of a complete level, 2^l - 1.

    Raises:
      ValueError: the depth is below 1, or total below depth.

    >>> negatives_by_level(5, 100)
    (1, 3, 7, 15, 31)
    """
    if depth < 1 or total < depth:
        raise ValueError(f"depth={depth}, total={total}: at least one level, and one negative a level")
    shape = np.array(RELEASED[::-1] + (1,) * depth)[:depth][::-1]
    wanted = np.maximum(1, np.round(total * shape / shape.sum())).astype(int)
    return tuple(int(min(count, 2**level - 1)) for level, count in enumerate(wanted, 1))


def layout(negatives: Sequence[int]) -> Layout:
    """The columns of samples with so many negatives on levels 1..D; no level has more than 2^l - 1.

    Raises:
      ValueError: there is no level, or a number is negative.
    """
    if not negatives or min(negatives) < 0:
        raise ValueError(
            f"negatives={tuple(negatives)}: must be numbers of 0 or more, one of each level below the "
            "root; see `negatives_by_level`"
        )
    sizes = [1 + min(int(count), 2**level - 1) for level, count in enumerate(negatives, 1)]
    level = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return Layout(level.astype(np.int32), np.concatenate([np.arange(n) for n in sizes]).astype(np.int32))


def sample(key: Key, tree: Tree, items: Array, negatives: Sequence[int]) -> Samples:
    """The nodes above each item, [B], on levels 1..D, its leaf among them, and others of the same levels.

    Negatives are drawn uniformly, with replacement, from the nodes of the level but the item's own. Where a
    level has no more than are wanted, all of them are negatives, once each. An item without a leaf has
    `UNKNOWN` for its ancestors; padding has no nodes.

    negatives: of levels 1..D, see `layout`.

    Raises:
      ValueError: as `layout`; there are not D numbers.
    """
    columns = layout(negatives)
    if len(negatives) != tree.depth:
        raise ValueError(
            f"negatives={tuple(negatives)}: {len(negatives)} numbers for a tree whose leaves are on level "
            f"{tree.depth}; give one for each level below the root"
        )
    path = ancestors(tree, items)  # [B, D + 1]
    own = path[:, columns.level]  # [B, M]
    others = (tree.sizes - 1)[columns.level]
    drawn = jax.random.randint(key, own.shape, 0, jnp.maximum(others, 1))
    every = jnp.asarray(negatives, jnp.int32)[columns.level - 1] >= others
    rank = jnp.where(every, columns.number - 1, drawn)
    rank += rank >= tree.ranks[jnp.maximum(own, 0)]
    at = tree.members[jnp.clip(2**columns.level - 1 + rank, 0, tree.members.shape[0] - 1)]
    known = own >= 0
    positive = columns.number == 0
    exists = jnp.where(every, columns.number <= others, others > 0)
    real = (items != 0)[:, None] & jnp.where(positive, True, known & exists)
    ids = jnp.where(positive, jnp.where(known, ids_of(tree, own), UNKNOWN), ids_of(tree, at))
    return Samples(jnp.where(real, ids, 0), real)


def histories_by_level(tree: Tree, items: Array) -> Array:
    """The ancestors of items on levels 1..D: ids int32 [B, L] → [B, D, L]; padding stays 0.

    On the last level they are the items. An item without a leaf is `UNKNOWN` there and above.
    """
    ids = ids_of(tree, ancestors(tree, items)[..., 1:])
    ids = jnp.where((items != 0)[..., None] & (ids == 0), UNKNOWN, ids)
    return jnp.moveaxis(ids, -1, -2)
