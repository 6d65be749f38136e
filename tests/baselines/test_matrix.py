"""Sparse products in blocks, the largest entries of rows, and sums of rows on the device."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines import TrainingEvents
from jaxrec.baselines.matrix import interactions, interactions_by_user, largest, multiply
from jaxrec.baselines.rows import blocks_of, sum_rows
from tests.baselines import small


def drawn(rows: int, cols: int, seed: int, *, values: int = 5) -> np.ndarray:
    """A matrix with zeros and many equal entries."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, values, (rows, cols)) * rng.integers(0, 2, (rows, cols))).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 10**9])
def test_blocks_of_a_product_are_the_product(block: int) -> None:
    left, right = drawn(9, 6, 0), drawn(6, 8, 1)
    left[3] = 0
    blocks = list(multiply(scipy.sparse.csr_matrix(left), scipy.sparse.csr_matrix(right), block=block))
    assert [start for start, _ in blocks] == list(np.cumsum([0] + [b.shape[0] for _, b in blocks[:-1]]))
    np.testing.assert_array_equal(np.concatenate([b.toarray() for _, b in blocks]), left @ right)
    assert (len(blocks) == 1) == (block == 10**9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(1, 12), st.sampled_from([1, 2, 3, 7, 40]), st.sampled_from([2, 50]))
def test_largest_is_a_stable_sort_of_each_row(seed: int, cols: int, number: int, values: int) -> None:
    dense = drawn(6, cols, seed, values=values) / np.float32(3)
    found = largest(scipy.sparse.csr_matrix(dense), number).toarray()
    expected = np.zeros_like(dense)
    for row, want in zip(dense, expected, strict=True):
        kept = np.argsort(-row, kind="stable")[:number]
        want[kept] = row[kept]
    np.testing.assert_array_equal(found, expected)


def test_largest_without_a_number_keeps_all() -> None:
    matrix = scipy.sparse.csr_matrix(drawn(4, 5, 0))
    np.testing.assert_array_equal(largest(matrix, None).toarray(), matrix.toarray())


@pytest.mark.parametrize("width", [1, 3, 32])
def test_sums_of_rows_are_products(width: int) -> None:
    """Empty rows, rows of several blocks, queries of no row and of rows that repeat, an id of 0."""
    matrix = drawn(5, 9, 2)
    matrix[:, 0] = 0
    matrix[3] = 0
    matrix[4, 1:] = np.arange(1, 9)
    ids = np.array([4, 2, 2, 3, 0, 1], np.int32)
    start, length = np.array([0, 2, 4, 5, 1], np.int32), np.array([6, 2, 0, 1, 2], np.int32)
    factor = np.arange(1, 7, dtype=np.float32)
    rows = scipy.sparse.csr_matrix(matrix)
    for given_factor in (None, factor):
        found = jax.jit(sum_rows, static_argnames="num_columns")(
            blocks_of(rows, width), ids, start, length, num_columns=9, factor=given_factor
        )
        weight = np.ones(6) if given_factor is None else factor
        expected = [
            sum((weight[n] * matrix[ids[n]] for n in range(s, s + m)), np.zeros(9))
            for s, m in zip(start, length, strict=True)
        ]
        np.testing.assert_array_equal(found, np.array(expected))


def test_sums_of_rows_under_vmap() -> None:
    tables = [blocks_of(scipy.sparse.csr_matrix(np.pad(drawn(4, 5, s), ((1, 0), (1, 0)))), 2) for s in (3, 4)]
    size = max(len(table["item"]) for table in tables)
    stacked = {
        name: np.stack(
            [np.resize(table[name], (size, 2)) if name != "first" else table[name] for table in tables]
        )
        for name in ("first", "item", "weight")
    }
    ids, start, length = (
        np.array([1, 2, 4, 3], np.int32),
        np.array([0, 1], np.int32),
        np.array([4, 2], np.int32),
    )
    found = jax.vmap(lambda table: sum_rows(table, ids, start, length, num_columns=6))(stacked)
    for table, of_table in zip(tables, found, strict=True):
        np.testing.assert_array_equal(of_table, sum_rows(table, ids, start, length, num_columns=6))


def test_interactions_count_once() -> None:
    """Rows of groups in order, and of users by their index; users without events are empty rows."""
    events = TrainingEvents(np.array([2, 2, 2, 0]), np.array([1, 3, 1, 2]), 4)
    np.testing.assert_array_equal(interactions(events).toarray(), [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(
        interactions_by_user(events).toarray(),
        [[0] * 5, [0, 0, 1, 0, 0], [0] * 5, [0, 1, 0, 1, 0]],
    )


@pytest.mark.parametrize("group", [-1, 2**31])
def test_groups_that_are_no_users_are_refused(group: int) -> None:
    with pytest.raises(ValueError, match="group=.*: must be the index of a user, from 0"):
        interactions_by_user(TrainingEvents(np.array([group]), np.array([1]), small.NUM_ITEMS))
