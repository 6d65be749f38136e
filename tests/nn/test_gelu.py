"""The exact GELU and its derivative, against SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxrec.nn.layers.gelu import gelu

X = np.concatenate([np.linspace(-12.0, 12.0, 4001), [0.0, -0.0, 40.0, -40.0, 1e4, -1e4]]).astype(np.float32)


def test_value_and_derivative_are_those_of_the_formula() -> None:
    value, slope = jax.jit(lambda x: (gelu(x), jax.vmap(jax.grad(gelu))(x)))(X)
    x = X.astype(np.float64)
    np.testing.assert_allclose(value, x * norm.cdf(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, norm.cdf(x) + x * norm.pdf(x), rtol=1e-6, atol=1e-6)


def test_forward_and_second_derivatives() -> None:
    some = jnp.array([-2.0, -0.5, 0.0, 1.5])
    _, change = jax.jvp(gelu, (some,), (jnp.ones(4),))
    np.testing.assert_allclose(change, jax.vmap(jax.grad(gelu))(some), rtol=1e-6)
    second = jax.vmap(jax.grad(jax.grad(gelu)))(some)
    np.testing.assert_allclose(second, norm.pdf(some) * (2 - np.square(some)), rtol=1e-5, atol=1e-6)


def test_infinite_and_missing_inputs() -> None:
    found = jax.jit(gelu)(np.array([np.inf, np.nan], np.float32))
    assert found[0] == np.inf
    assert np.isnan(found[1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_type_of_the_input_stays(dtype: jnp.dtype) -> None:
    assert gelu(jnp.ones(2, dtype)).dtype == dtype
