"""Scores of each event's own items, read a few events at a time."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.segments import TableByRows
from jaxrec.tasks import candidate_scores
from jaxrec.tasks.candidate_scores import read_scores, score_each
from jaxrec.types import Array

DIM, NUMBER, NUM_ITEMS = 3, 4, 300  # more items than a product of all is worth
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(2, 5, DIM)).astype(np.float32)
TABLE = RNG.normal(size=(NUM_ITEMS + 1, DIM)).astype(np.float32)
IDS = RNG.integers(1, NUM_ITEMS + 1, (2, 5, NUMBER)).astype(np.int32)
REAL = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
WEIGHTS = RNG.normal(size=IDS.shape).astype(np.float32) * REAL[..., None]


@pytest.mark.parametrize("events", [1, 3, 4, 100])
@pytest.mark.parametrize("skip", [False, True])
def test_scores_and_gradients_are_those_of_one_gather(events: int, skip: bool) -> None:
    numbers = events * NUMBER * DIM
    read = functools.partial(candidate_scores._some_at_a_time, numbers=numbers, skip=skip)

    def total(hidden: Array, table: Array) -> Array:
        return (jnp.tanh(read(hidden, table, jnp.asarray(IDS), jnp.asarray(REAL))) * WEIGHTS).sum()

    def plain(hidden: Array, table: Array) -> Array:
        return (jnp.tanh(jnp.einsum("rsd,rsnd->rsn", hidden, table[IDS])) * WEIGHTS).sum()

    found, expected = (
        jax.jit(jax.value_and_grad(function, (0, 1)))(HIDDEN, TABLE) for function in (total, plain)
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_batch_of_models_is_each_of_them() -> None:
    tables = np.stack([TABLE, TABLE[::-1]])
    run = jax.jit(jax.vmap(lambda table: read_scores(jnp.asarray(HIDDEN), table, IDS, jnp.asarray(REAL))))
    for found, table in zip(run(tables), tables, strict=True):
        expected = np.einsum("rsd,rsnd->rsn", HIDDEN, table[IDS])
        np.testing.assert_allclose(np.asarray(found)[REAL], expected[REAL], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_items", [20, NUM_ITEMS])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_an_id_that_is_none_is_nan_where_the_event_is_real(num_items: int, wrong: int) -> None:
    """Of few items, whose scores are all computed, and of many."""
    table, ids = TABLE[: num_items + 1], IDS % num_items + 1
    targets = np.where(REAL, ids[..., 0], 0)
    ids[0, 0, 0] = ids[0, 4, 0] = wrong if wrong < 0 else num_items + 1
    run = jax.jit(score_each)
    pos, neg = run(HIDDEN, table, targets, ids)
    assert np.isfinite(np.asarray(pos)[REAL]).all()
    assert np.isnan(neg[0, 0, 0]) and np.isnan(neg)[REAL].sum() == 1
    known = jax.jit(functools.partial(score_each, known=5))(HIDDEN, table, targets, ids)
    assert (np.isnan(known[0]) == (REAL & (targets >= 5))).all()


class Rows(TableByRows):
    """A table of which only rows by id can be read, as a sparse one is."""

    def __init__(self, table: Any) -> None:
        super().__init__("items", table.shape, table.dtype)
        self.table = table

    def read(self, ids: Any) -> Any:
        return self.table[ids]


@pytest.mark.parametrize("num_items", [5, 500])
def test_vectors_of_a_sparse_table_are_read_however_few_it_has(num_items: int) -> None:
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(num_items + 1, 3)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, num_items + 1, (2, 4)))
    samples = jnp.asarray(rng.integers(1, num_items + 1, (2, 4, 2)))
    found = score_each(hidden, cast(Any, Rows(table)), targets, samples)
    expected = score_each(hidden, table, targets, samples)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[targets != 0], other[targets != 0], rtol=1e-5, atol=1e-6)
