"""Sub-network routing: its gates and what they connect."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.experts import bank
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.snr import SNR, HardConcrete, hard_concrete

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
SMALL: dict[str, Any] = {"num_tasks": 2, "num_subnets": (2, 2), "dims": ((5,), (5,)), "tower_dims": ()}
EDGES = ("edges_0", "edges_1")


@functools.partial(jax.jit, static_argnums=0)
def run(module: Any, params: Any) -> jax.Array:
    return module.apply({"params": params}, X)


def moved(module: SNR, seed: int = 0) -> Any:
    shapes = jax.eval_shape(lambda: module.init(KEY, X))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)["params"]


def gated(params: Any, *gates: Any) -> Any:
    """With the gates of each layer fixed to 0 or 1."""
    fixed = [{"log_alpha": np.where(np.asarray(gate) > 0, 20.0, -20.0).astype(np.float32)} for gate in gates]
    return {**params, **dict(zip(EDGES, fixed, strict=True))}


def subnets(params: Any, layer: int, streams: np.ndarray) -> np.ndarray:
    """Outputs [n, B, H] of a layer's sub-networks from what each reads [n, B, F]."""
    part = params[f"subnets_{layer}"]["layer_0"]
    return np.maximum(np.einsum("nbf,nfh->nbh", streams, part["kernel"]) + part["bias"][:, None], 0)


def towers(params: Any, streams: np.ndarray) -> np.ndarray:
    logit = params["towers"]["logit"]
    return np.einsum("tbh,tho->bt", streams, logit["kernel"]) + logit["bias"][:, 0]


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", [True, False])
def test_routing_by_hand(transform: bool) -> None:
    module = SNR(**SMALL, transform=transform)
    params = moved(module)
    streams = np.stack([X, X])
    for layer in range(2):
        z = np.clip(1 / (1 + np.exp(-params[EDGES[layer]]["log_alpha"])) * 1.2 - 0.1, 0, 1)
        outputs = subnets(params, layer, streams)
        weights = params[f"transforms_{layer}"] if transform else np.broadcast_to(np.eye(5), (2, 2, 5, 5))
        streams = np.einsum("ij,jbh,ijhk->ibk", z, outputs, weights)
    close(run(module, params), towers(params, streams))


def test_all_gates_open_make_a_dense_layer_of_the_concatenation() -> None:
    module = SNR(**SMALL)
    params = gated(moved(module), np.ones((2, 2)), np.ones((2, 2)))
    streams = np.stack([X, X])
    for layer in range(2):
        outputs = np.concatenate(list(subnets(params, layer, streams)), axis=1)  # [B, 2 · 5]
        block = params[f"transforms_{layer}"].transpose(1, 2, 0, 3).reshape(10, 10)
        streams = np.stack(np.split(outputs @ block, 2, axis=1))
    close(run(module, params), towers(params, streams))


def test_open_gates_without_transforms_give_all_followers_the_same_sum() -> None:
    module = SNR(**SMALL, transform=False)
    params = gated(moved(module), np.ones((2, 2)), np.ones((2, 2)))
    first = subnets(params, 0, np.stack([X, X])).sum(axis=0)
    second = subnets(params, 1, np.stack([first, first])).sum(axis=0)
    close(run(module, params), towers(params, np.stack([second, second])))


def test_an_identity_of_gates_keeps_the_tasks_apart() -> None:
    module = SNR(**SMALL)
    params = gated(moved(module), np.eye(2), np.eye(2))
    gradient = jax.jit(jax.grad(lambda p: run(module, p)[:, 0].sum()))(params)
    for part in ("subnets_0", "subnets_1", "towers"):
        for leaf in jax.tree.leaves(gradient[part]):
            assert leaf[0].any()
            assert not leaf[1].any()


def test_a_closed_edge_carries_nothing() -> None:
    module = SNR(**SMALL)
    params = gated(moved(module), [[1, 1], [1, 0]], np.ones((2, 2)))
    other = {**params, "transforms_0": params["transforms_0"].copy()}
    other["transforms_0"][1, 1] += 5.0
    np.testing.assert_array_equal(run(module, params), run(module, other))


def test_the_first_layer_reads_the_features_and_widths_may_change() -> None:
    module = SNR(num_tasks=3, num_subnets=(4, 2), dims=((7, 6), (5,)))
    shapes = jax.tree.map(np.shape, moved(module))
    assert shapes["subnets_0"]["layer_0"]["kernel"] == (4, 4, 7)
    assert shapes["transforms_0"] == (2, 4, 6, 6)
    assert shapes["subnets_1"]["layer_0"]["kernel"] == (2, 6, 5)
    assert shapes["transforms_1"] == (3, 2, 5, 5)
    assert shapes["edges_1"] == {"log_alpha": (3, 2)}


# --- gates ------------------------------------------------------------------------------------------

ALPHAS = np.array([-6.0, -1.0, 0.0, 0.5, 6.0], np.float32)
GATE = HardConcrete((5,), beta=0.7, gamma=-0.2, zeta=1.3)
VARIABLES = {"params": {"log_alpha": ALPHAS}}


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    sample = jax.vmap(lambda key: GATE.apply(VARIABLES, train=True, rngs={"dropout": key}))
    return np.asarray(jax.jit(sample)(jax.random.split(KEY, 4000)))


def test_gates_have_atoms_at_0_and_1(draws: np.ndarray) -> None:
    assert draws.min() == 0.0
    assert draws.max() == 1.0
    assert ((draws[:, 2] > 0) & (draws[:, 2] < 1)).mean() > 0.3


def test_probability_of_an_open_gate(draws: np.ndarray) -> None:
    closed_form = np.asarray(GATE.apply(VARIABLES, method="open_probability"))
    np.testing.assert_allclose(closed_form, 1 / (1 + np.exp(-(ALPHAS - 0.7 * np.log(0.2 / 1.3)))), rtol=1e-5)
    np.testing.assert_allclose((draws > 0).mean(axis=0), closed_form, atol=4 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize("leading", [(), (3,)])
def test_gates_of_given_noise_by_their_formula(leading: tuple[int, ...]) -> None:
    uniform = np.random.default_rng(1).uniform(0.05, 0.95, (*leading, 5)).astype(np.float32)
    soft = 1 / (1 + np.exp(-(np.log(uniform) - np.log(1 - uniform) + ALPHAS) / 0.7))
    found = hard_concrete(jnp.asarray(ALPHAS), jnp.asarray(uniform), beta=0.7, gamma=-0.2, zeta=1.3)
    np.testing.assert_allclose(found, np.clip(1.5 * soft - 0.2, 0, 1), rtol=1e-5, atol=1e-6)
    served = hard_concrete(jnp.asarray(ALPHAS), beta=0.7, gamma=-0.2, zeta=1.3)
    np.testing.assert_array_equal(served, GATE.apply(VARIABLES))


def test_gates_of_training_are_those_of_their_own_noise(draws: np.ndarray) -> None:
    """The noise is found again from the open gate of log α = 0, in the middle of its range."""
    middle = draws[(draws[:, 2] > 0.1) & (draws[:, 2] < 0.9), 2]
    noise = 0.7 * np.log((middle + 0.2) / (1.3 - middle))
    uniform = jnp.asarray(1 / (1 + np.exp(-noise)))
    found = hard_concrete(jnp.zeros(()), uniform, beta=0.7, gamma=-0.2, zeta=1.3)
    np.testing.assert_allclose(found, middle, rtol=1e-4)
    spread = (1 / (1 + np.exp(-noise))).mean()
    assert abs(spread - 0.5) < 0.03  # of a uniform variable


def test_serving_gates_are_fixed_and_close_for_good() -> None:
    served = GATE.apply(VARIABLES)
    expected = np.clip(1 / (1 + np.exp(-ALPHAS)) * 1.5 - 0.2, 0, 1)
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-7)
    assert served[0] == 0.0
    assert served[-1] == 1.0


def test_the_penalty_closes_gates() -> None:
    module = SNR(**SMALL)
    params = moved(module)

    def penalty(params: Any) -> Any:
        return module.apply({"params": params}, method="open_edges")

    value, gradient = jax.jit(jax.value_and_grad(penalty))(params)
    logits = np.concatenate([params[name]["log_alpha"].ravel() for name in EDGES])
    shift = 2 / 3 * np.log(0.1 / 1.1)
    np.testing.assert_allclose(value, (1 / (1 + np.exp(-(logits - shift)))).sum(), rtol=1e-5)
    assert all((gradient[name]["log_alpha"] > 0).all() for name in EDGES)


def test_training_draws_new_gates() -> None:
    module = SNR(**SMALL)
    variables = {"params": moved(module)}
    train = jax.jit(lambda key: module.apply(variables, X, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_gradients_are_finite_at_extreme_gates() -> None:
    gate: Any = HardConcrete((3,))
    variables = {"params": {"log_alpha": jnp.asarray([-80.0, 0.0, 80.0])}}

    def total(variables: Any, key: Any) -> jax.Array:
        return gate.apply(variables, train=True, rngs={"dropout": key}).sum()

    gradients = jax.jit(jax.vmap(jax.grad(total), in_axes=(None, 0)))(variables, jax.random.split(KEY, 50))
    assert np.isfinite(gradients["params"]["log_alpha"]).all()


def test_one_layer_of_open_gates_is_a_sum_of_a_bank() -> None:
    module = SNR(num_tasks=2, num_subnets=(3,), dims=((5,),), tower_dims=(), transform=False)
    params = moved(module)
    params["edges_0"] = {"log_alpha": np.full((2, 3), 20.0, np.float32)}
    summed = np.asarray(run(bank(MLP, 3)((5,)), params["subnets_0"])).sum(axis=1)
    close(run(module, params), towers(params, np.stack([summed, summed])))


@pytest.mark.parametrize("fields", [{"beta": 0.0}, {"gamma": 0.0}, {"zeta": 1.0}])
def test_the_range_of_gates_must_be_stretched(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="beta must be above 0, gamma below 0 and zeta above 1"):
        HardConcrete((2,), **fields)


@pytest.mark.parametrize(
    "fields",
    [{"num_subnets": ()}, {"num_subnets": (2, 2), "dims": ((5,),)}, {"num_subnets": (2,), "dims": ((),)}],
)
def test_every_layer_has_a_number_and_widths(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="for each layer a number of sub-networks"):
        SNR(num_tasks=2, **fields)
