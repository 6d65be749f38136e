"""Batch norm of real entries: equal to Flax's on these alone, over devices too."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.batch_norm import MaskedBatchNorm

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, (4, 5, 3)).astype(np.float32)
REAL = RNG.random((4, 5)) < 0.6
VARIABLES: Any = {
    "params": {
        "scale": np.array([1.0, 2.0, -1.0], np.float32),
        "bias": np.array([0.0, 1.0, 2.0], np.float32),
    },
    "batch_stats": {"mean": np.full(3, 0.5, np.float32), "var": np.full(3, 2.0, np.float32)},
}


def ours(x: Any, where: Any = None, *, train: bool = True) -> Any:
    return MaskedBatchNorm().apply(VARIABLES, x, train=train, where=where, mutable=["batch_stats"])


def flax(x: Any, *, train: bool = True) -> Any:
    return nn.BatchNorm(not train, momentum=0.9, use_fast_variance=False).apply(
        VARIABLES, x, mutable=["batch_stats"]
    )


def assert_close(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("train", [False, True])
def test_without_a_mask_it_is_that_of_flax(train: bool) -> None:
    assert_close(ours(X, train=train), flax(X, train=train))
    made = jax.eval_shape(lambda: MaskedBatchNorm().init(jax.random.key(0), X, train=train))
    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, VARIABLES)


def test_statistics_are_those_of_real_entries() -> None:
    out, updated = jax.jit(ours)(X, REAL)
    expected, alone = flax(X[REAL])
    assert_close(np.asarray(out)[REAL], expected)
    assert_close(updated, alone)
    wild = np.where(REAL[..., None], X, 1e6)
    assert_close(np.asarray(ours(wild, REAL)[0])[REAL], expected)


def test_a_batch_of_nothing_real_leaves_the_running_statistics() -> None:
    out, updated = ours(X, np.zeros_like(REAL))
    assert_close(updated["batch_stats"], VARIABLES["batch_stats"])
    assert np.isfinite(out).all()


def test_masked_entries_have_no_part_in_the_gradient() -> None:
    def total(x: Any) -> Any:
        return jnp.sum(jnp.where(REAL[..., None], ours(x, REAL)[0] ** 3, 0.0))

    gradient = np.asarray(jax.jit(jax.grad(total))(X))
    assert np.isfinite(gradient).all() and not gradient[~REAL].any() and gradient[REAL].any()


def test_devices_of_unequal_numbers_share_their_statistics() -> None:
    """A named axis stands for devices."""
    norm = MaskedBatchNorm(axis_name="devices")

    def shared(x: Any, where: Any) -> Any:
        return norm.apply(VARIABLES, x, train=True, where=where, mutable=["batch_stats"])

    out, updated = jax.vmap(shared, axis_name="devices")(X, REAL)
    expected, alone = ours(X, REAL)
    assert_close(out, expected)
    assert_close(jax.tree.map(lambda leaf: leaf[0], updated), alone)
