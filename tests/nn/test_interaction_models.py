"""What holds for every model of columns without a history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.interaction import CrossNetwork, CrossNetworkMix
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.cold import COLD, VectorProduct
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.deepfm import DeepFM
from jaxrec.nn.ranking.dlrm import DLRM
from jaxrec.nn.ranking.pnn import PNN
from tests.nn import family
from tests.nn.drawn import applied, drawn

FIELDS = (
    Categorical("user", 6, 2),
    Categorical("tags", 5, 2, average=False),
    Numeric("price", 2),
    Categorical("item", 7, 2),
)
rng = np.random.default_rng(0)
BATCH = {
    "user": np.array([1, 5, 2, 3, 4, 0], np.int32),
    "tags": np.array([[0, 1, 4], [0, 0, 0], [2, 2, 3], [1, 0, 0], [4, 3, 2], [0, 0, 1]], np.int32),
    "price": rng.normal(size=6).astype(np.float32),
    "item": np.array([6, 1, 2, 3, 0, 5], np.int32),
}


def mlp(axis: str | None) -> Any:
    return family.noisy(axis, activation=nn.silu)


def featured(model: nn.Module) -> nn.Module:
    return Featured(FeatureEmbedding(FIELDS), model)


NUMBERS, CATEGORIES = (Numeric("price"),), (FIELDS[0], FIELDS[1], FIELDS[3])
MODELS: dict[str, Callable[[str | None], Any]] = {
    "tower": lambda a: featured(Tower((4,), mlp=mlp(a))),
    "deepfm": lambda a: DeepFM(FIELDS, (4,), mlp=mlp(a)),
    "pnn": lambda a: PNN(FIELDS, outer=True, kernels=("num",), dims=(4, 3), **mlp(a).keywords),
    "dcn_v2": lambda a: featured(DCNv2(CrossNetwork(2), (4,), (3,), mlp=mlp(a))),
    "dcn_mix": lambda a: featured(DCNv2(CrossNetworkMix(1, 2, 2), (4,), (), mlp=mlp(a))),
    "dlrm": lambda a: DLRM(NUMBERS, CATEGORIES, (3, 2), (4,), mlp=mlp(a)),
    "cold": lambda a: COLD(FIELDS, (4,), mlp=mlp(a)),
    "cold-weighted": lambda a: COLD(FIELDS, (4,), weighted=True, squashed=True, mlp=mlp(a)),
    "vector_product": lambda a: VectorProduct(FIELDS[:2], FIELDS[2:], (4, 3), mlp=mlp(a)),
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_examples_do_not_see_each_other(name: str) -> None:
    family.check_examples_do_not_see_each_other(MODELS[name], BATCH)


@every_model
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    family.check_gradients_are_finite_and_reach_all(MODELS[name], BATCH)


@every_model
def test_devices_change_nothing(name: str) -> None:
    family.check_devices_change_nothing(MODELS[name], BATCH)


@every_model
def test_more_padding_of_several_ids_changes_nothing_and_row_0_never_trains(name: str) -> None:
    module = MODELS[name](None)
    variables = drawn(module, BATCH)
    wider = {**BATCH, "tags": np.pad(BATCH["tags"], ((0, 0), (2, 1)))}
    changed, usual = (applied(module, variables, batch) for batch in (wider, BATCH))
    np.testing.assert_allclose(changed, usual, rtol=1e-5, atol=1e-5)
    rest = {kind: value for kind, value in variables.items() if kind != "params"}
    gradients = jax.jit(
        jax.grad(lambda params: (module.apply({**rest, "params": params}, BATCH) ** 2).sum())
    )(variables["params"])
    tables = {
        name: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if (name := jax.tree_util.keystr(path, simple=True)).endswith("_embedding")
    }
    assert len(tables) >= 3
    for table in tables.values():
        assert (table[0] == 0.0).all()
        assert np.any(table[1:])
