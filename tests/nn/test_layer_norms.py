"""Layer norms of models take the mean off before they square: a common offset of a vector loses no digits."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.layer_norm import LayerNorm
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.retrieval.sdm import SessionAndPast
from jaxrec.nn.retrieval.sine import SINE
from jaxrec.nn.sequential.ligr import LiGRLayer
from jaxrec.nn.sequential.nextitnet import TwoLayerBlock
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal

ITEMS = jnp.array([[0, 1, 2]])
X = jnp.ones((1, 3, 4))
SEEN = jnp.ones((1, 3, 3), bool)
ON = {"train": False}
BST_OF_ONE = BST((Categorical("item", 9, 4),), age_dim=None, num_heads=2, dims=())
ROLES = ({"item": ITEMS[:, 1]}, {"item": ITEMS})
SDM_INPUTS = (X[:, 0], X, (X,), SEEN[:, 0], SEEN[:, 0])
MODELS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "bst": (BST_OF_ONE, ROLES, {}),
    "sdm": (SessionAndPast(4, num_heads=2, query_norm=True), SDM_INPUTS, ON),
    "sine": (SINE(9, dim=4, num_interests=2, num_prototypes=3), (ITEMS,), ON),
    "ligr": (LiGRLayer(2, 4, 0.0), (X, SEEN), ON),
    "nextitnet": (TwoLayerBlock(1), (X,), {}),
    "sasrec": (SASRec(9, dim=4, num_layers=1, inner_dim=4), (ITEMS,), ON),
    "sasrec_original": (SASRecOriginal(9, dim=4, num_layers=1), (ITEMS,), ON),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_offset_loses_no_digits(name: str) -> None:
    """(x - mean) / √(var + ε) of numbers around 100 that vary by 0.1: E[x²] - E[x]² is 0 or wrong there."""
    model, inputs, options = MODELS[name]
    given = (100.0 + 0.1 * np.random.default_rng(0).normal(size=4)).astype(np.float32)
    exact = given.astype(np.float64) - given.astype(np.float64).mean()
    found: list[nn.LayerNorm] = []

    def collect(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.LayerNorm):
            found.append(context.module.clone(parent=None, name=None))
        return call(*args, **kwargs)

    with nn.intercept_methods(collect):
        jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, **options))
    assert found
    unit = {"params": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}}
    for norm in set(found):
        normed = jax.jit(norm.apply)(unit, given)
        expected = exact / np.sqrt(np.mean(exact**2) + norm.epsilon)
        np.testing.assert_allclose(normed, expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 7), (5, 1)])
def test_the_projects_layer_is_flaxs_with_its_gradients(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(2, *shape)).astype(np.float32)
    ours, flaxs = LayerNorm(1e-3), nn.LayerNorm(1e-3, use_fast_variance=False)
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, flaxs.init(jax.random.key(0), x))
    moved = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), variables)

    def of(layer: nn.LayerNorm) -> Any:
        return jax.jit(
            jax.value_and_grad(lambda v, x: jnp.sum(jnp.sin(layer.apply(v, x)) * weight), argnums=(0, 1))
        )(moved, x)

    for found, expected in zip(jax.tree.leaves(of(ours)), jax.tree.leaves(of(flaxs)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("given", "asked"), [(jnp.bfloat16, None), (jnp.float32, jnp.bfloat16)])
def test_types_are_those_of_flax(given: Any, asked: Any) -> None:
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 8)), given)
    ours, flaxs = LayerNorm(1e-6, dtype=asked), nn.LayerNorm(1e-6, use_fast_variance=False, dtype=asked)
    variables = ours.init(jax.random.key(0), x)
    found: Any = ours.apply(variables, x)
    expected: Any = flaxs.apply(variables, x)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2e-2, atol=2e-2)
