"""Sparse matrices on the host: interactions, products in blocks of rows, and the largest entries of rows.

Nothing of size items × items is held densely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse
from scipy.sparse import csr_matrix

from jaxrec.data.events.training_events import TrainingEvents

BLOCK = 16_000_000  # multiplications of a block of a product; its entries are no more


def interactions(events: TrainingEvents) -> csr_matrix:
    """Who has interacted with what: 1 in float32 [groups, V + 1], however often; column 0 is empty.

    A row is a user or session that has training events, in their order.
    """
    row = np.cumsum(np.diff(events.group, prepend=events.group[0]) != 0)
    return binary(row, events.item, (int(row[-1]) + 1, events.num_items + 1))


def interactions_by_user(events: TrainingEvents) -> csr_matrix:
    """`interactions` with row u + 1 for the group u, float32 [U + 1, V + 1]: U is the largest group + 1.

    Raises:
      ValueError: a group is negative or too large, so that groups are no numbers of users from 0.
    """
    group = events.group
    if group.min() < 0 or group.max() >= 2**31 - 2:
        raise ValueError(f"group={group.min()}..{group.max()}: must be the index of a user, from 0")
    return binary(group + 1, events.item, (int(group.max()) + 2, events.num_items + 1))


def binary(row: np.ndarray, col: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """1 in float32 wherever a pair occurs."""
    matrix = csr_matrix((np.ones(len(row), np.float32), (row, col)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def last_events(events: TrainingEvents, number: int | None) -> TrainingEvents:
    """The last `number` events of each group; None: all.

    Raises:
      ValueError: the number is below 1.
    """
    if number is None:
        return events
    if number < 1:
        raise ValueError(f"max_items={number}: must be at least 1")
    end = np.flatnonzero(np.diff(events.group, append=events.group[-1] - 1))
    after = np.repeat(end, np.diff(end, prepend=-1)) - np.arange(len(events.group))
    return TrainingEvents(events.group[after < number], events.item[after < number], events.num_items)


def users_with_items(users: csr_matrix, minimum: int, maximum: int | None) -> csr_matrix:
    """The rows of minimum to maximum entries (None: any number).

    Raises:
      ValueError: minimum is below 1, maximum is below it, or there is no such row.
    """
    if minimum < 1:
        raise ValueError(f"min_items={minimum}: must be at least 1")
    if maximum is not None and maximum < minimum:
        raise ValueError(f"max_items={maximum}: must be at least min_items={minimum}")
    number = np.diff(users.indptr)
    kept = (number >= minimum) & (number <= (number.max() if maximum is None else maximum))
    if not kept.any():
        raise ValueError(f"min_items={minimum}, max_items={maximum}: no user has as many items; widen them")
    return users[kept]


def scale_rows(matrix: csr_matrix, factor: np.ndarray) -> csr_matrix:
    """Each row times its factor, float32."""
    data = matrix.data * np.repeat(factor, np.diff(matrix.indptr))
    return csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def divide_rows(matrix: csr_matrix) -> csr_matrix:
    """Each row of non-negative entries divided by its sum, float32; rows of 0 stay."""
    total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
    return scale_rows(matrix, np.divide(1.0, total, out=np.zeros(len(total)), where=total > 0))


def multiply(left: csr_matrix, right: csr_matrix, *, block: int = BLOCK) -> Iterator[tuple[int, csr_matrix]]:
    """left @ right in blocks of rows: the first row of each block, and its product.

    block: multiplications of a block, unless a row alone has more.
    """
    entries = np.diff(right.indptr)[left.indices]
    done = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])[left.indptr]
    start = 0
    while start < left.shape[0]:
        end = max(int(np.searchsorted(done, done[start] + block, side="right")) - 1, start + 1)
        yield start, left[start:end] @ right
        start = end


def rows_of(matrix: csr_matrix) -> np.ndarray:
    """The row of each stored entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def transform_product(
    left: csr_matrix,
    right: csr_matrix,
    transform: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    neighbours: int | None,
) -> csr_matrix:
    """The largest positive entries of each row of transform(row, column, left @ right), row ≠ column.

    transform: of the entries that are not 0, [P] each. neighbours: entries of a row; None: all. Of equal
    ones the smaller column is kept.

    Raises:
      ValueError: neighbours is below 1.
    """
    check_neighbours(neighbours)
    kept = []
    for start, product in multiply(left, right):
        row = rows_of(product) + start
        value = np.asarray(transform(row, product.indices, product.data), np.float32)
        product.data = np.where(row != product.indices, np.maximum(value, 0), 0)
        product.eliminate_zeros()
        kept.append(largest(product, neighbours))
    return scipy.sparse.vstack(kept, format="csr", dtype=np.float32)


def check_neighbours(neighbours: int | None) -> None:
    """Raises ValueError unless neighbours is None or at least 1."""
    if neighbours is not None and neighbours < 1:
        raise ValueError(f"neighbours={neighbours}: must be at least 1")


def largest(matrix: csr_matrix, number: int | None) -> csr_matrix:
    """The `number` largest entries of each row, of equal ones those of the smaller columns; None: all.

    matrix: positive float32 entries. Rows of similar length are sorted together: an entry's bits, which
    order positive numbers, and its column make one integer, so that no two are equal.
    """
    counts = np.diff(matrix.indptr)
    if number is None or not (counts > number).any():
        return matrix
    keys = matrix.data.astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.uint64(2**32 - 1) - matrix.indices.astype(np.uint64)
    width = np.where(counts > number, 2 ** np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64), 0)
    row, key = (
        [np.repeat(np.arange(len(counts)), np.where(width, 0, counts))],
        [keys[np.repeat(width == 0, counts)]],
    )
    for size in np.unique(width[width > 0]):
        (chosen,) = np.nonzero(width == size)
        place = np.arange(size)
        at = matrix.indptr[chosen][:, None] + place
        padded = np.where(place < counts[chosen][:, None], keys[np.minimum(at, len(keys) - 1)], np.uint64(0))
        key.append(np.partition(padded, size - number, axis=1)[:, size - number :].reshape(-1))
        row.append(np.repeat(chosen, number))
    found = np.concatenate(key)
    col = (np.uint64(2**32 - 1) - (found & np.uint64(2**32 - 1))).astype(np.int64)
    value = (found >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return csr_matrix((value, (np.concatenate(row), col)), shape=matrix.shape)
