"""Attention under a mask, against slow NumPy and at its limits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.attention import attend, causal_mask
from jaxrec.types import Array

LENGTH = 6
ITEMS = np.array(
    [[0, 0, 0, 4, 9, 2], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 20], [0, 0, 7, 0, 7, 3]], np.int32
)  # the last one has a masked item inside


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def slow_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
    out = np.zeros_like(v)
    for head, query in np.ndindex(q.shape[0], q.shape[1]):
        keys = np.flatnonzero(visible[query])
        if len(keys):
            weights = np.exp(k[head, keys] @ q[head, query] / math.sqrt(q.shape[-1]))
            out[head, query] = weights @ v[head, keys] / weights.sum()
    return out


def test_attend_equals_slow_numpy_and_a_blind_query_gets_zero() -> None:
    q, k, v = np.random.default_rng(2).normal(size=(3, 4, 2, LENGTH, 3)).astype(np.float32)
    visible = np.asarray(causal_mask(ITEMS))
    ours = attend(q, k, v, visible)
    close(np.asarray(ours), np.stack([slow_attention(*row) for row in zip(q, k, v, visible, strict=True)]))
    assert (np.asarray(ours)[0, :, :3] == 0.0).all()


def test_a_finite_mask_makes_blind_queries_attend_to_everything() -> None:
    q = np.zeros((1, 1, LENGTH, 3), np.float32)
    v = np.arange(LENGTH * 3, dtype=np.float32).reshape(1, 1, LENGTH, 3)
    visible = causal_mask(ITEMS[:1])
    ours = attend(q, q, v, visible, mask_value=-10000.0)
    close(np.asarray(ours)[0, 0, 0], v[0, 0].mean(axis=0))


@pytest.mark.parametrize("mask_value", [-math.inf, -10000.0])
def test_attention_is_finite_at_extreme_scores(mask_value: float) -> None:
    q = 1e4 * np.random.default_rng(3).normal(size=(4, 2, LENGTH, 3)).astype(np.float32)

    def total(q: Array) -> Array:
        visible = causal_mask(ITEMS)
        return attend(q, q, q, visible, mask_value=mask_value).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(q)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()
