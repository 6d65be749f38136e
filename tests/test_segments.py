"""Sums by id: equal to NumPy's, whatever the ids, and without a float scatter-add on CUDA."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import segments
from jaxrec.types import Array

NUM_IDS = 5
FORMS = {"scattered": segments.sum_scattered, "sorted": segments.sum_sorted}
ADD = re.compile(r'"stablehlo\.scatter".*?unique_indices = (\w+).*?stablehlo\.(\w+) ', re.DOTALL)


def naive(values: np.ndarray, ids: np.ndarray, num_ids: int) -> np.ndarray:
    """Σ over n of values[n] where ids[n] is i, one after the other."""
    sums = np.zeros((num_ids, *values.shape[1:]))
    for value, i in zip(values, ids, strict=True):
        if 0 <= i < num_ids:
            sums[i] += value
    return sums


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(-2, NUM_IDS + 1), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_sums_equal_numpy(form: str, ids: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32)
    found = JITTED[form](values, np.array(ids, np.int32))
    np.testing.assert_allclose(found, naive(values, np.array(ids), NUM_IDS), rtol=1e-5, atol=1e-6)


JITTED: dict[str, Callable[..., Array]] = {
    name: jax.jit(lambda values, ids, form=form: form(values, ids, NUM_IDS)) for name, form in FORMS.items()
}


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(-3, NUM_IDS + 3), max_size=12))
def test_no_place_is_written_twice(ids: list[int]) -> None:
    sorted_ids = np.sort(np.array(ids, np.int32))
    found = np.asarray(segments.write_positions(jnp.asarray(sorted_ids), NUM_IDS)).tolist()
    assert len(set(found)) == len(ids)
    assert {i for i in found if i < NUM_IDS} == {i for i in ids if 0 <= i < NUM_IDS}
    assert min(found, default=0) >= 0


@pytest.mark.parametrize("form", FORMS)
def test_no_values_and_no_ids(form: str) -> None:
    assert FORMS[form](jnp.zeros((0, 2)), jnp.zeros(0, jnp.int32), 3).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("form", FORMS)
def test_an_infinite_value_stays_with_its_id(form: str) -> None:
    """Running sums begin anew at each id; differences of sums over all of them would spread it."""
    found = FORMS[form](jnp.array([1.0, jnp.inf, 2.0]), jnp.array([0, 1, 2]), 3)
    assert found.tolist() == [1, float("inf"), 2]


@pytest.mark.parametrize("form", FORMS)
def test_small_sums_are_exact_beside_large_ones(form: str) -> None:
    found = FORMS[form](jnp.array([1e8, 1.0, 1.0]), jnp.array([0, 1, 1]), 2)
    assert found.tolist() == [1e8, 2.0]


@pytest.mark.parametrize("form", FORMS)
def test_narrow_ids_do_not_wrap(form: str) -> None:
    ids = np.resize(np.array([3, 250, 3], np.uint8), 8)
    found = jax.jit(FORMS[form], static_argnums=2)(jnp.ones(8), ids, 251)  # and 8 places past it
    np.testing.assert_array_equal(found, naive(np.ones(8), ids, 251))


def test_narrow_ids_are_read_from_a_table_of_more_rows() -> None:
    ids = np.array([3, 250, 3], np.uint8)
    table = jnp.arange(300.0)
    np.testing.assert_array_equal(segments.rows_by_id(table, ids, clip=True), ids)
    gradient = jax.grad(lambda values: table @ segments.sum_by_id(values, ids, 300))(jnp.ones(3))
    np.testing.assert_array_equal(gradient, ids)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"ids of shape \(2,\): must be \[N\], with values \[N, …\]"):
        segments.sum_by_id(jnp.ones((3, 2)), jnp.array([0, 1]), 4)


def test_gradient_of_a_sum_is_the_row_of_its_id() -> None:
    weight = jnp.arange(6.0).reshape(3, 2)
    ids = jnp.array([2, 0, 2, 7, -1])

    def loss(values: Array) -> Array:
        return (segments.sum_by_id(values, ids, 3) * weight).sum()

    expected = [weight[2].tolist(), weight[0].tolist(), weight[2].tolist(), [0, 0], [0, 0]]
    assert jax.grad(loss)(jnp.ones((5, 2))).tolist() == expected


def test_gradient_of_a_lookup_is_the_sum_of_its_id() -> None:
    table = jnp.arange(8.0).reshape(4, 2)
    ids = jnp.array([[1, 3], [1, 1]])
    weight = jnp.arange(8.0).reshape(2, 2, 2)
    found = jax.grad(lambda table: (segments.rows_by_id(table, ids) * weight).sum())(table)
    assert found.tolist() == naive(np.asarray(weight).reshape(4, 2), np.array([1, 3, 1, 1]), 4).tolist()


def test_a_gradient_has_a_gradient() -> None:
    """Σ table[ids]³ has the second derivative 6 × count × table, which meta-learning needs."""
    table, ids = jnp.array([[2.0], [3.0]]), jnp.array([1, 1, 0])

    def loss(table: Array) -> Array:
        return (segments.rows_by_id(table, ids) ** 3).sum()

    assert jax.grad(lambda table: jax.grad(loss)(table).sum())(table).tolist() == [[12.0], [36.0]]


def test_lookups_over_seeds_have_one_gradient_each() -> None:
    tables = jnp.stack([jnp.ones((3, 2)), jnp.full((3, 2), 2.0)])
    ids = jnp.array([1, 1])
    found = jax.vmap(jax.grad(lambda table: (segments.rows_by_id(table, ids) ** 2).sum()))(tables)
    assert found[:, :, 0].tolist() == [[0, 4, 0], [0, 8, 0]]


def test_a_table_of_integers_is_read() -> None:
    assert segments.rows_by_id(jnp.array([4, 5, 6]), jnp.array([2, 0])).tolist() == [6, 4]


def test_an_id_outside_the_table_reads_nan() -> None:
    assert jnp.isnan(segments.rows_by_id(jnp.ones((2, 1)), jnp.array([-1, 2]))).all()


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_on_cuda_no_float_is_added_by_a_scatter_of_repeated_ids(platform: str) -> None:
    step = jax.jit(jax.grad(lambda table, ids: (segments.rows_by_id(table, ids) ** 2).sum()))
    traced = step.trace(jnp.ones((4, 2)), jnp.array([1, 1, 3]))
    scatters = ADD.findall(traced.lower(lowering_platforms=(platform,)).as_text())
    repeated = [kind for unique, kind in scatters if unique == "false"]
    assert repeated == ([] if platform == "cuda" else ["add"])


def test_entries_are_picked_along_rows() -> None:
    values = jnp.arange(12.0).reshape(2, 3, 2)
    index = jnp.array([[2, 0, 2, 0], [1, 1, -1, 3]])
    found = segments.pick(values, index)
    assert found[0].tolist() == [[4, 5], [0, 1], [4, 5], [0, 1]]
    assert found[1, :2].tolist() == [[8, 9], [8, 9]] and jnp.isnan(found[1, 2:]).all()
    counts = jax.grad(lambda values: jnp.nansum(segments.pick(values, index)))(values)
    assert counts[..., 0].tolist() == [[2, 0, 2], [0, 2, 0]]
    scores = jnp.array([3.0, 5.0])
    assert segments.pick(scores, jnp.array([1])).tolist() == [5]


def test_a_masked_id_outside_the_table_reaches_no_gradient() -> None:
    table, ids, mask = jnp.ones((3, 2)), jnp.array([1, 7, -4]), jnp.array([1.0, 0.0, 0.0])
    hidden = jnp.ones((3, 2))

    def loss(hidden: Array, table: Array) -> Array:
        return ((hidden * segments.rows_by_id(table, ids, clip=True)).sum(axis=-1) * mask).sum()

    of_hidden, of_table = jax.grad(loss, (0, 1))(hidden, table)
    assert of_hidden.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert of_table.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_numpy_arrays_may_be_mapped_over_within_jit() -> None:
    tables, ids = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2), np.array([[2, 0], [1, 1]])
    of_ids = jax.jit(lambda table: jax.vmap(lambda ids: segments.rows_by_id(table, ids))(ids))
    assert of_ids(tables[0])[..., 0].tolist() == [[4, 0], [2, 2]]
    of_tables = jax.jit(lambda ids: jax.vmap(lambda table: segments.rows_by_id(table, ids))(tables))
    assert of_tables(ids[0])[..., 0].tolist() == [[4, 0], [10, 6]]
    sums = jax.jit(
        lambda: jax.vmap(lambda values, ids: segments.sum_by_id(values, ids, 3))(tables[:, :2], ids)
    )
    assert sums()[..., 0].tolist() == [[2, 0, 0], [0, 14, 0]]


def test_an_array_of_more_entries_than_an_int32_counts_is_refused() -> None:
    values, index = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32), jnp.zeros((2**16, 1), jnp.int32)
    with pytest.raises(ValueError, match=r"values of shape \(65536, 32768\): more entries than int32"):
        jax.eval_shape(segments.pick, values, index)


# --- products of a sparse matrix -----------------------------------------------------------------------

ENTRIES = ((0, 2), (0, 0), (2, 1), (2, 1), (2, 3))  # (row, column), of rows 0..3; row 1 and row 3 are empty
PRODUCTS = {
    "any": segments.sparse_product,
    "cpu": segments._compressed_rows,
    "cuda": segments._gathered_and_sorted,
    "default": segments._gathered_and_scattered,
}


def sparse_arguments(padding: int) -> Any:
    """Starts, rows, columns and weights of ENTRIES, with padding behind them."""
    row = np.pad([row for row, _ in ENTRIES], (0, padding), constant_values=4)
    column = np.pad([column for _, column in ENTRIES], (0, padding))
    weight = np.pad(np.array([1.0, 0.5, 2.0, -1.0, 3.0]), (0, padding), constant_values=7.0)
    start = np.array([0, 2, 2, 5, 5])
    return start.astype(np.int32), row.astype(np.int32), column.astype(np.int32), weight.astype(np.float32)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("form", PRODUCTS)
def test_a_sparse_product_is_the_dense_one(form: str, padding: int) -> None:
    table = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    start, row, column, weight = sparse_arguments(padding)
    matrix = np.zeros((4, 4), np.float32)
    np.add.at(matrix, (row[:5], column[:5]), weight[:5])
    found = jax.jit(PRODUCTS[form])(start, row, column, weight, table)
    np.testing.assert_allclose(found, matrix @ table, rtol=1e-6)


def test_a_sparse_product_keeps_further_axes_and_maps_over_tables() -> None:
    tables = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32)
    product: Any = functools.partial(segments.sparse_product, *sparse_arguments(0))
    found = jax.jit(jax.vmap(product))(tables)
    assert found.shape == (2, 4, 3, 2)
    np.testing.assert_allclose(found[1], product(tables[1]), rtol=1e-6)


def test_a_sparse_product_of_no_entries_is_zero() -> None:
    empty = jnp.zeros(0, jnp.int32)
    found = segments.sparse_product(jnp.zeros(4, jnp.int32), empty, empty, jnp.zeros(0), jnp.ones((2, 2)))
    assert found.tolist() == [[0, 0]] * 3
