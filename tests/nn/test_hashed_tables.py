"""Vectors of hashed ids: the rows that the formulas name, padding that is zero, and gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.hashed_tables import HashedTable, QuotientRemainder, hash_ids, renew_rows

IDS = np.array([[0, 1, 7], [20, 8, 0]], np.int32)
MODULES: dict[str, Any] = {
    "quotient": QuotientRemainder(20, 3, 6, quotient_init=jax.nn.initializers.normal(1.0)),
    "double": HashedTable(7, 3),
    "own": HashedTable(7, 3, num_hashes=3, num_own=4),
}


def murmur(x: int, salt: int) -> int:
    """The finaliser in Python's integers."""
    x = (x + 2 * salt * 0x9E3779B9) % 2**32
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def expected(name: str, params: Any, number: int) -> np.ndarray:
    if number == 0:
        return np.zeros(3)
    if name == "quotient":
        return np.asarray(params["remainder"][(number - 1) % 6] * params["quotient"][(number - 1) // 6])
    rows, module = np.asarray(params["rows"]), MODULES[name]
    if number <= module.num_own:
        return rows[number - 1]
    return sum(rows[module.num_own + murmur(number, k) % 7] for k in range(module.num_hashes))


@pytest.mark.parametrize("name", MODULES)
def test_a_vector_is_of_the_rows_that_the_formula_names(name: str) -> None:
    module = MODULES[name]
    variables = module.init(jax.random.key(0), IDS)
    found = np.asarray(jax.jit(module.apply)(variables, IDS))
    wanted = [[expected(name, variables["params"], int(i)) for i in row] for row in IDS]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_padding_never_trains_and_real_ids_do(name: str) -> None:
    module = MODULES[name]
    variables = module.init(jax.random.key(0), IDS)

    @jax.jit
    def gradient(ids: Any) -> Any:
        return jax.grad(lambda v: module.apply(v, ids).sum())(variables)

    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient(np.zeros((2, 3), np.int32))))
    found = jax.tree.leaves(gradient(IDS))
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in found)


def test_no_two_ids_have_quotient_and_remainder_in_common() -> None:
    module = QuotientRemainder(50, 4, 7)
    vectors = jax.random.normal
    module = module.clone(row_init=lambda key, shape, dtype=jnp.float32: vectors(key, shape))
    module = module.clone(quotient_init=lambda key, shape, dtype=jnp.float32: vectors(key, shape))
    ids = jnp.arange(1, 51)
    variables = module.init(jax.random.key(0), ids)
    assert sum(x.shape[0] for x in jax.tree.leaves(variables)) == 7 + 8
    assert len(np.unique(np.asarray(module.apply(variables, ids)), axis=0)) == 50
    assert np.isnan(module.apply(variables, jnp.array([51, -1]))).all()


def test_hashes_are_spread_evenly_and_differ_by_salt() -> None:
    ids, salts = jnp.arange(1, 8001), jnp.arange(2, dtype=jnp.uint32)
    found = np.asarray(hash_ids(ids[:, None], salts))
    assert len(np.unique(found[:, 0])) == 8000
    counts = np.bincount(found[:, 0] % 16, minlength=16)
    assert ((counts - 500) ** 2 / 500).sum() < 37.7  # chi-square of 15 degrees: .1 %
    assert abs(np.mean(found[:, 0] % 16 == found[:, 1] % 16) - 1 / 16) < 0.015


def test_rows_that_change_hands_start_anew() -> None:
    table = jnp.arange(12.0).reshape(4, 3)
    found = jax.jit(renew_rows)(table, jnp.array([2, -1, 0]), jnp.float32(0.5))
    assert found.tolist() == [[0.5] * 3, [3.0, 4.0, 5.0], [0.5] * 3, [9.0, 10.0, 11.0]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuotientRemainder(0, 1, 1),
        lambda: QuotientRemainder(5, 1, 0),
        lambda: HashedTable(0, 1),
        lambda: HashedTable(1, 1, num_own=-1),
    ],
)
def test_wrong_sizes_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        make()
