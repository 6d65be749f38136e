"""Users who like one or two groups of items: a matrix that shows the groups, and words that tell them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.data.events.interactions import Sequences


def group_tastes(
    num_users: int = 240,
    num_groups: int = 6,
    group_size: int = 12,
    *,
    num_items: int = 10,
    noise: float = 0.1,
    seed: int = 0,
) -> Sequences:
    """Each user has two groups of their own, and `num_items` different items, of these or by `noise` of any.

    Item i belongs to group (i - 1) // group_size. The order of a user's items is random.
    """
    if not 1 <= num_items <= group_size:
        raise ValueError(f"num_items={num_items}: must be 1 to group_size={group_size}")
    rng = np.random.default_rng(seed)
    size = num_groups * group_size
    lists = []
    for _ in range(num_users):
        liked = np.isin(
            np.arange(size) // group_size, rng.choice(num_groups, min(2, num_groups), replace=False)
        )
        weight = np.where(liked, 1.0, noise * liked.mean() / (1.0 - noise))
        lists.append((rng.choice(size, num_items, replace=False, p=weight / weight.sum()) + 1).tolist())
    return Sequences.from_lists(f"tastes-{num_users}x{size}", lists, num_items=size)


def group_words(
    num_groups: int = 6,
    group_size: int = 12,
    *,
    words: int = 8,
    each: int = 10,
    noise: float = 0.2,
    seed: int = 0,
) -> csr_matrix:
    """Content of the items of `group_tastes`: how often each has each word, [items + 1, words], row 0 empty.

    Each group has `words` words of its own, of which an item has `each` draws, by `noise` of any word.
    """
    rng = np.random.default_rng(seed)
    size = num_groups * group_size
    own = (np.arange(size) // group_size)[:, None] * words + rng.integers(0, words, (size, each))
    drawn = np.where(rng.random((size, each)) < noise, rng.integers(0, num_groups * words, (size, each)), own)
    row = np.repeat(np.arange(1, size + 1), each)
    found = csr_matrix((np.ones(size * each), (row, drawn.reshape(-1))), shape=(size + 1, num_groups * words))
    found.sum_duplicates()
    return found
