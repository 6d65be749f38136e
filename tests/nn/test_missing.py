"""Layers for missing numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.layers.missing import MissingValues, WithMissing
from jaxrec.types import Array

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)
MISSING = RNG.random((6, 3)) < 0.4
VALUES = np.array([5.0, -1.0, 2.0], np.float32)
LAYER = MissingValues(fill=(5.0, -1.0, 2.0))
VARIABLES = {"params": {"value": VALUES}}


def test_values_stand_where_numbers_are_missing() -> None:
    found = LAYER.apply(VARIABLES, X, MISSING)
    np.testing.assert_array_equal(found, np.where(MISSING, VALUES, X))
    np.testing.assert_array_equal(LAYER.init(jax.random.key(0), X, MISSING)["params"]["value"], VALUES)


def test_nothing_missing_is_the_identity() -> None:
    np.testing.assert_array_equal(LAYER.apply(VARIABLES, X, np.zeros_like(MISSING)), X)


def test_flags_come_after_the_numbers() -> None:
    layer = MissingValues(fill=0.5, learned=False, flags=True)
    assert not jax.tree.leaves(layer.init(jax.random.key(0), X, MISSING))
    found = layer.apply({}, X, MISSING)
    np.testing.assert_array_equal(found, np.concatenate([np.where(MISSING, 0.5, X), MISSING], axis=1))


def test_what_is_missing_reaches_neither_outputs_nor_gradients() -> None:
    bad = np.where(MISSING, np.nan, X)

    def total(variables: Any, x: Array) -> Array:
        return jnp.sum(jnp.asarray(LAYER.apply(variables, x, MISSING)) ** 2)

    value, (slope, by_x) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(VARIABLES, bad)
    np.testing.assert_allclose(value, (np.where(MISSING, VALUES, X) ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(slope["params"]["value"], 2 * VALUES * MISSING.sum(axis=0), rtol=1e-5)
    assert (np.asarray(by_x)[MISSING] == 0).all() and np.isfinite(by_x).all()


def test_a_row_without_numbers_does_not_depend_on_them() -> None:
    everything = np.ones_like(MISSING)
    np.testing.assert_array_equal(
        LAYER.apply(VARIABLES, X, everything), LAYER.apply(VARIABLES, np.full_like(X, np.nan), everything)
    )


def test_learned_values_are_a_case_of_flags() -> None:
    """W x' = W x + U m with U = W diag(v)."""
    w = RNG.normal(size=(3, 4)).astype(np.float32)
    flags = MissingValues(fill=0.0, learned=False, flags=True).apply({}, X, MISSING)
    vector = np.concatenate([w, VALUES[:, None] * w])
    found = np.asarray(LAYER.apply(VARIABLES, X, MISSING)) @ w
    np.testing.assert_allclose(found, np.asarray(flags) @ vector, atol=1e-5)


def test_of_independent_columns_missing_at_random_the_mean_is_learned() -> None:
    """A linear regression with its true weights: the best value of a column is its mean."""
    rng = np.random.default_rng(1)
    mean, w = np.array([2.0, -1.0, 0.5]), np.array([1.0, 2.0, -1.0])
    x = rng.normal(mean, 1.0, (4000, 3)).astype(np.float32)
    missing = rng.random(x.shape) < 0.3
    y = x @ w
    layer = MissingValues()

    def loss(params: Any) -> Array:
        return jnp.mean((jnp.asarray(layer.apply({"params": params}, x, missing)) @ w - y) ** 2)

    tx = optax.sgd(0.3)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = {"value": jnp.zeros(3)}
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=200))((params, tx.init(params)))
    np.testing.assert_allclose(params["value"], mean, atol=0.1)


def test_columns_of_a_batch_are_read_with_their_flags() -> None:
    module = WithMissing(("a", "b"), MissingValues(fill=(1.0, 2.0), learned=False))
    batch = {
        "a": np.array([3.0, np.nan]),
        "b": np.array([4.0, 5.0]),
        "a_missing": np.array([0.0, 1.0], np.float32),
        "b_missing": np.array([1.0, 0.0], np.float32),
    }
    np.testing.assert_array_equal(module.apply({}, batch), [[3.0, 2.0], [1.0, 5.0]])
    with pytest.raises(ValueError, match=r"columns \['b_missing'\] are not in the batch"):
        module.apply({}, {name: column for name, column in batch.items() if name != "b_missing"})


def test_a_value_for_each_column_is_asked_for() -> None:
    with pytest.raises(ValueError, match="fill has 2 values, the input 3 columns"):
        MissingValues(fill=(1.0, 2.0)).init(jax.random.key(0), X, MISSING)
