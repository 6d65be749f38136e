"""Degrees of users and items, and the nearest items of each by how many users they share, for UltraGCN.

Mao et al., CIKM 2021, arXiv:2110.15114. On the host, sparse: a block of items at a time is multiplied with
the interaction matrix, and of each item only the nearest are kept.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from jaxrec.data.events.training_events import TrainingEvents

BLOCK = 4096  # items whose co-occurrences are held at a time


def constraint_columns(
    events: TrainingEvents, *, num_users: int, neighbours: int = 10, as_code: bool = False, block: int = BLOCK
) -> dict[str, np.ndarray]:
    """Columns that `jaxrec.tasks.ultragcn` reads, with d the number of a user's or an item's pairs.

    user_factor [U + 1], item_factor [I + 1]: √(d_u + 1) / d_u and 1 / √(d_i + 1), whose product is the weight
    β of a pair; 0 for padding and for users without pairs.
    near_item [I + 1, K], near_weight [I + 1, K]: of each item the K others of the largest weight
    ω_ij = G_ij / (g_i - G_ii) √(g_i / g_j), where G_ij counts the users who have both and g_i
    is the sum of row i; largest first, of equal ones the smaller id. Filled up with 0.

    Args:
      events: their groups are numbers of users, 0..num_users - 1. An item a user has twice counts once.
      neighbours: K.
      as_code: the weights of the authors' code: √(g_i + 1) / g_i · G_ij / √(g_j + 1), with the item itself
        among its neighbours.
      block: items whose co-occurrences are held at a time, up to [block, I].

    Raises:
      ValueError: a user is out of range, or a number is below 1.
    """
    for name, number in (("num_users", num_users), ("neighbours", neighbours), ("block", block)):
        if number < 1:
            raise ValueError(f"{name}={number}: must be at least 1")
    user = np.asarray(events.group)
    if user.min() < 0 or user.max() >= num_users:
        raise ValueError(
            f"users {user.min()}..{user.max()}: num_users={num_users} allows 0..{num_users - 1}; number the "
            "users from 0"
        )
    ones = np.ones(len(user), np.float64)
    matrix = sparse.csr_array((ones, (user + 1, events.item)), shape=(num_users + 1, events.num_items + 1))
    matrix.data[:] = 1.0
    of_user, of_item = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
    near, weight = _nearest(matrix, of_user, neighbours, as_code, block)
    user_factor = np.divide(np.sqrt(of_user + 1), of_user, out=np.zeros_like(of_user), where=of_user > 0)
    item_factor = 1 / np.sqrt(of_item + 1)
    item_factor[0] = 0.0
    return {
        "user_factor": user_factor.astype(np.float32),
        "item_factor": item_factor.astype(np.float32),
        "near_item": near,
        "near_weight": weight,
    }


def _nearest(
    matrix: sparse.csr_array, of_user: np.ndarray, neighbours: int, as_code: bool, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of the nearest items of each, int32 and float32 [I + 1, K]."""
    num_ids = matrix.shape[1]
    by_item = matrix.T.tocsr()
    degree = np.asarray(by_item @ of_user)  # g_i: users of i, each with all of its items
    near = np.zeros((num_ids, neighbours), np.int32)
    weight = np.zeros((num_ids, neighbours), np.float32)
    for first in range(0, num_ids, block):
        shared = (by_item[first : first + block] @ matrix).tocoo()
        i, j, count = shared.row + first, shared.col, shared.data
        if as_code:
            value = np.sqrt(degree[i] + 1) / degree[i] * count / np.sqrt(degree[j] + 1)
        else:
            other = i != j
            own = np.bincount(i[~other], count[~other], num_ids)  # G_ii
            i, j, count = i[other], j[other], count[other]
            value = count / (degree[i] - own[i]) * np.sqrt(degree[i] / degree[j])
        order = np.lexsort((j, -value, i))
        i, j, value = i[order], j[order], value[order]
        place = np.arange(len(i)) - np.searchsorted(i, i, side="left")
        kept = place < neighbours
        near[i[kept], place[kept]] = j[kept]
        weight[i[kept], place[kept]] = value[kept]
    return near, weight
