"""Vectors of length 1: by the formula, and without a gradient where there is no direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.losses.vectors import l2_normalise
from jaxrec.nn.layers import pairs
from jaxrec.nn.layers.interests import SIZES
from jaxrec.nn.layers.memory import cosine
from jaxrec.nn.retrieval.multivae import unit_rows
from jaxrec.nn.sequential import hstu
from jaxrec.types import Array

# Each with the length below which a vector is divided by that length.
NORMALISATIONS: dict[str, tuple[Callable[..., Array], float]] = {
    "pairs.unit": (pairs.unit, 1e-12),
    "l2_normalise": (l2_normalise, 1e-12),
    "hstu.unit": (hstu.unit, 1e-6),
    "unit_rows": (unit_rows, 1e-6),
}
each = pytest.mark.parametrize(("normalise", "shortest"), NORMALISATIONS.values(), ids=NORMALISATIONS)
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
WEIGHT = np.array([1.0, -2.0, 0.5], np.float32)


@each
def test_vectors_have_length_one_and_their_gradient_is_that_of_the_formula(
    normalise: Callable[..., Array], shortest: float
) -> None:
    length = np.linalg.norm(X, axis=-1, keepdims=True)
    np.testing.assert_allclose(normalise(jnp.asarray(X)), X / length, rtol=1e-6)
    found = jax.grad(lambda x: jnp.sum(normalise(x) * WEIGHT))(jnp.asarray(X))
    expected = WEIGHT / length - X * (X @ WEIGHT)[:, None] / length**3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@each
def test_a_vector_without_a_direction_has_no_gradient(
    normalise: Callable[..., Array], shortest: float
) -> None:
    tiny = np.array([[0.0, 0.0, 0.0], [0.3 * shortest, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(normalise(jnp.asarray(tiny))[:, 0], [0.0, 0.3], rtol=1e-5)
    found = jax.jit(jax.grad(lambda x: jnp.sum(normalise(x) * WEIGHT)))(jnp.asarray(tiny))
    np.testing.assert_array_equal(found, np.zeros_like(tiny))


def test_a_cosine_of_nothing_has_no_gradient() -> None:
    def total(key: Array, rows: Array) -> Array:
        return cosine(key, rows).sum()

    key = np.stack([np.zeros(3, np.float32), X[0]])
    rows = np.stack([X[:2], np.zeros((2, 3), np.float32)])
    of_key, of_rows = jax.grad(total, (0, 1))(jnp.asarray(key), jnp.asarray(rows))
    assert not np.asarray(of_key[0]).any() and not np.asarray(of_rows[1]).any()
    assert np.isfinite(of_key).all() and np.isfinite(of_rows).all()


@pytest.mark.parametrize("name", SIZES)
def test_fields_below_one_are_refused_by_name(name: str) -> None:
    class Model:
        num_items = dim = max_len = num_interests = 1

    model: Any = Model()
    pairs.check_fields(model, SIZES)
    setattr(model, name, 0)
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        pairs.check_fields(model, SIZES)
