"""Layer norms of models take the mean off before they square: a common offset of a vector loses no digits."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical
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
