"""Modules that a model builds with what it is given: factories, and gates and MLPs of one's own."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from typing import Any

import chex  # type: ignore[import-untyped]
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.experts import Gate, bank
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower
from jaxrec.nn.multitask.cgc import CGC
from jaxrec.nn.multitask.dbmtl import DBMTL
from jaxrec.nn.multitask.escm2 import ESCM2
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.ranking.poso import PersonalMMoE
from jaxrec.types import Array
from tests.nn.drawn import applied

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Mean(nn.Module):
    """A gate that weighs all experts equally, as someone else may write it."""

    num_experts: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        return jnp.full((len(x), self.num_experts), 1.0 / self.num_experts)


class Scaled(nn.Module):
    """An MLP that is none: the first features, times a number."""

    dims: Sequence[int]
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        return x[..., : self.dims[-1]] * self.param("scale", nn.initializers.constant(self.scale), ())


GATED: dict[str, Any] = {
    "omoe": OMoE(2, num_experts=3, expert_dims=(4,), gate=Mean),
    "mmoe": MMoE(2, num_experts=3, expert_dims=(4,), gate=Mean),
    "cgc": CGC(2, expert_dims=(4,), gate=Mean),
    "ple": PLE(2, expert_dims=((4,), (4,)), gate=Mean),
    "dbmtl": DBMTL(((), (0,)), num_experts=3, bottom_dims=(4,), gate=Mean),
    "escm2": ESCM2(num_experts=3, gate=Mean),
}


@pytest.mark.parametrize("name", GATED)
def test_a_gate_of_ones_own_needs_no_change_of_the_model(name: str) -> None:
    model = GATED[name]
    variables = jax.jit(model.init)(jax.random.key(0), X)
    _, seen = applied(model, variables, X, mutable=["intermediates"])
    gates = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(seen["intermediates"])
        if "gates" in jax.tree_util.keystr(path)
    ]
    assert gates
    for weights in gates:
        np.testing.assert_allclose(weights, 1.0 / weights.shape[-1], rtol=1e-6)


def test_a_gate_of_ones_own_under_personal_gates() -> None:
    model = PersonalMMoE(2, num_experts=3, expert_dims=(4,), gate=Mean, unit_gates=True)
    variables = jax.jit(model.init)(jax.random.key(0), X, X)
    _, seen = applied(model, variables, X, X, mutable=["intermediates"])
    np.testing.assert_allclose(seen["intermediates"]["gates"][0], 1.0 / 3.0, rtol=1e-6)


def test_an_mlp_of_ones_own_in_experts_and_towers() -> None:
    model = MMoE(
        2, num_experts=3, expert_dims=(3,), tower_dims=(2,), mlp=Factory(Scaled, scale=2.0), gate=Mean
    )
    params = jax.jit(model.init)(jax.random.key(0), X)["params"]
    assert jax.tree.map(np.shape, params["experts"]) == {"scale": (3,)}
    heads = params["towers"]["logit"]
    expected = np.einsum("bf,tfo->bto", 4.0 * X[:, :2], heads["kernel"])[..., 0]
    np.testing.assert_allclose(applied(model, {"params": params}, X), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [Factory, functools.partial])
def test_a_bank_builds_what_a_factory_builds(kind: Any) -> None:
    members = bank(kind(MLP, activation=jnp.tanh), 3)((4,), name="members")
    variables = jax.jit(members.init)(jax.random.key(0), X)
    kernel = variables["params"]["layer_0"]["kernel"]
    expected = np.tanh(np.einsum("bf,efd->bed", X, kernel))
    np.testing.assert_allclose(applied(members, variables, X), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("member", [lambda *args, **fields: MLP(*args, **fields), MLP((4,)), int])
def test_a_bank_of_what_is_no_module_class_is_refused(member: Any) -> None:
    with pytest.raises(ValueError, match="must be a module class, or a Factory of one"):
        bank(member, 2)


def test_equal_factories_make_equal_models() -> None:
    def model(dropout: float) -> MMoE:
        gate = Factory(Gate, dims=(3,), mlp=Factory(MLP, dropout=dropout))
        return MMoE(2, mlp=Factory(MLP, dropout=dropout), gate=gate)

    assert model(0.1) == model(0.1)
    assert hash(model(0.1)) == hash(model(0.1))
    assert model(0.1) != model(0.2)
    assert Factory(MLP, dropout=0.1) != functools.partial(MLP, dropout=0.1)
    assert pickle.loads(pickle.dumps(Factory(MLP, dropout=0.1))) == Factory(MLP, dropout=0.1)


def test_a_factory_of_a_factory_changes_some_fields() -> None:
    first = Factory(MLP, dropout=0.1, batch_norm=True)
    assert Factory(first, dropout=0.2) == Factory(MLP, dropout=0.2, batch_norm=True)
    assert first((4,)) == MLP((4,), dropout=0.1, batch_norm=True)


def test_a_model_built_again_is_not_compiled_again() -> None:
    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def run(model: Any, variables: Any) -> Any:
        return model.apply(variables, X)

    models = [Tower((3,), mlp=Factory(MLP, activation=nn.silu)) for _ in range(2)]
    variables = jax.jit(models[0].init)(jax.random.key(0), X)
    np.testing.assert_array_equal(run(models[0], variables), run(models[1], variables))
