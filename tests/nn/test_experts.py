"""MLPs, banks of them, and gates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.layers.experts import Gate, bank, entropy, expert_softmax, mix, utilisation
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP, Tower

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
KEY = jax.random.key(0)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def moved(module: Any, x: np.ndarray = X) -> Any:
    """Variables of a module with values in place of the initial ones, biases too; variances are positive."""
    shapes = jax.eval_shape(lambda: module.init(KEY, x))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return {
        name: jax.tree.map(np.abs, tree) if name == "batch_stats" else tree for name, tree in filled.items()
    }


def run(module: Any, variables: Any, x: np.ndarray = X) -> np.ndarray:
    return np.asarray(jax.jit(lambda v: module.apply(v, x))(variables))


def train(module: Any, variables: Any, mutable: bool = False) -> Any:
    """Outputs of a call in training, with the statistics that it leaves if they are `mutable`."""
    collections: Any = ["batch_stats"] if mutable else False
    return jax.jit(lambda v: module.apply(v, X, train=True, rngs={"dropout": KEY}, mutable=collections))(
        variables
    )


def slow_mlp(params: Any, x: np.ndarray, num_layers: int, member: tuple[int, ...] = ()) -> np.ndarray:
    for i in range(num_layers):
        layer = params[f"layer_{i}"]
        x = relu(x @ layer["kernel"][member] + layer["bias"][member])
    return x


def test_mlp_is_layers_of_linear_and_activation() -> None:
    module = MLP((5, 2))
    params = moved(module)["params"]
    np.testing.assert_allclose(run(module, {"params": params}), slow_mlp(params, X, 2), rtol=1e-4)


def test_the_last_layer_may_be_linear_and_no_layer_is_the_identity() -> None:
    module = MLP((5, 2), activate_last=False, batch_norm=True, dropout=0.5)
    variables = moved(module)
    assert set(variables["params"]) == {"layer_0", "norm_0", "layer_1"}
    assert (np.asarray(run(module, variables, -10 * X)) < 0).any()
    np.testing.assert_array_equal(MLP(()).apply({}, X), X)


def test_tower_ends_in_a_logit() -> None:
    variables = moved(Tower((5,)))
    params = variables["params"]
    expected = slow_mlp(params["mlp"], X, 1) @ params["logit"]["kernel"] + params["logit"]["bias"]
    np.testing.assert_allclose(run(Tower((5,)), variables), expected[:, 0], rtol=1e-4)


def test_batch_norm_reads_the_batch_in_training_and_keeps_a_tenth_of_it() -> None:
    module = MLP((5,), batch_norm=True, activation=lambda x: x)
    variables = moved(module)
    params, before = variables["params"], variables["batch_stats"]["norm_0"]
    scale, shift = params["norm_0"]["scale"], params["norm_0"]["bias"]
    linear = X @ params["layer_0"]["kernel"] + params["layer_0"]["bias"]
    trained, state = train(module, variables, mutable=True)
    expected = (linear - linear.mean(0)) / np.sqrt(linear.var(0) + 1e-5) * scale + shift
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)
    after = state["batch_stats"]["norm_0"]
    np.testing.assert_allclose(
        after["mean"], 0.9 * before["mean"] + 0.1 * linear.mean(0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * linear.var(0), rtol=1e-4)
    served = (linear - before["mean"]) / np.sqrt(before["var"] + 1e-5) * scale + shift
    np.testing.assert_allclose(run(module, variables), served, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [(0,), (4, -1)])
def test_a_layer_has_a_width(dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dims=.*at least 1"):
        MLP(dims)


def test_members_of_a_bank_are_modules_of_their_own() -> None:
    module = bank(MLP, 3)((5, 2))
    variables = moved(module)
    params = variables["params"]
    assert params["layer_0"]["kernel"].shape == (3, 4, 5)
    outputs = run(module, variables)
    assert outputs.shape == (6, 3, 2)
    for i in range(3):
        np.testing.assert_allclose(outputs[:, i], slow_mlp(params, X, 2, (i,)), rtol=1e-4, atol=1e-5)


def test_members_start_from_different_values_of_their_own_scale() -> None:
    kernels = jax.jit(bank(MLP, 3)((5,)).init)(KEY, X)["params"]["layer_0"]["kernel"]
    assert len({kernel.tobytes() for kernel in np.asarray(kernels)}) == 3
    limit = np.sqrt(6 / (4 + 5))  # Glorot's for one member, not for three side by side
    assert 0.7 * limit < np.abs(kernels).max() <= limit


def test_banks_nest_and_members_may_read_their_own_part() -> None:
    module = bank(bank(MLP, 2), 3, in_axes=1)((5,))
    streams = np.stack([X, 2 * X, 3 * X], axis=1)
    variables = moved(module, streams)
    outputs = run(module, variables, streams)
    assert outputs.shape == (6, 3, 2, 5)
    for i in range(3):
        for j in range(2):
            expected = slow_mlp(variables["params"], streams[:, i], 1, (i, j))
            np.testing.assert_allclose(outputs[:, i, j], expected, rtol=1e-4, atol=1e-5)


def test_members_drop_out_different_units() -> None:
    module = bank(MLP, 2)((64,), dropout=0.5, activation=lambda x: x * 0 + 1)
    variables = moved(module)
    outputs = np.asarray(train(module, variables))
    assert set(np.unique(outputs)) == {0.0, 2.0}
    assert 0.3 < (outputs[:, 0] == outputs[:, 1]).mean() < 0.7
    np.testing.assert_array_equal(run(module, variables), np.ones((6, 2, 64)))


def test_members_have_statistics_of_their_own() -> None:
    module = bank(MLP, 2)((5,), batch_norm=True)
    variables = moved(module)
    before, layer = variables["batch_stats"]["norm_0"]["mean"], variables["params"]["layer_0"]
    _, state = train(module, variables, mutable=True)
    linear = np.einsum("bf,efh->ebh", X, layer["kernel"]) + layer["bias"][:, None]
    expected = 0.9 * before + 0.1 * linear.mean(axis=1)
    np.testing.assert_allclose(state["batch_stats"]["norm_0"]["mean"], expected, rtol=1e-4, atol=1e-6)


def test_a_bank_has_a_member() -> None:
    with pytest.raises(ValueError, match="n=0.*at least one MLP"):
        bank(MLP, 0)


def test_gate_is_a_softmax_of_a_linear_map() -> None:
    variables = moved(Gate(3))
    params = variables["params"]["logits"]
    logits = X @ params["kernel"] + params["bias"]
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run(Gate(3), variables), weights, rtol=1e-4)
    assert set(moved(Gate(3, use_bias=False))["params"]["logits"]) == {"kernel"}


def test_gate_with_hidden_layers_and_batch_norm() -> None:
    module = Gate(3, dims=(5,), logits_batch_norm=True, mlp=Factory(MLP, batch_norm=True))
    variables = moved(module)
    assert set(variables["params"]) == {"hidden", "logits", "norm"}
    assert set(variables["batch_stats"]) == {"hidden", "norm"}
    variables["params"]["norm"] = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    gates = np.asarray(train(module, variables, mutable=True)[0])
    np.testing.assert_allclose(gates.sum(axis=1), np.ones(6), rtol=1e-5)
    np.testing.assert_allclose(np.log(gates).mean(axis=0).std(), 0.0, atol=1e-5)  # logits of mean 0


def softmaxes(logits: np.ndarray, drop: float) -> Any:
    return jax.jit(lambda x: (expert_softmax(x, drop, KEY), expert_softmax(x)))(logits)


def test_experts_left_out_have_no_weight_and_the_others_share_it() -> None:
    logits = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    weights, full = (np.asarray(array) for array in softmaxes(logits, 0.25))
    kept = weights > 0
    np.testing.assert_allclose(weights.sum(axis=1), np.ones(400), rtol=1e-6)
    np.testing.assert_allclose(weights, full * kept / (full * kept).sum(axis=1, keepdims=True), rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.04  # 1600 draws: 3.7 standard deviations


def test_where_no_expert_would_be_left_all_stay() -> None:
    logits = np.array([[0.0, 1.0], [2.0, -1.0]], np.float32)
    weights, full = softmaxes(logits, 1.0)
    np.testing.assert_allclose(weights, full, rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_the_rate_of_experts_left_out_is_a_probability(rate: float) -> None:
    with pytest.raises(ValueError, match=f"drop_experts={rate}: must be between 0 and 1"):
        jax.eval_shape(Gate(3, drop_experts=rate).init, KEY, X)


def test_gate_leaves_experts_out_in_training_alone() -> None:
    module = Gate(8, drop_experts=0.5)
    variables = moved(module)
    assert (run(module, variables) > 0).all()

    def total(variables: Any) -> tuple[Any, Any]:
        gates = train(module, variables)
        return (gates**2).sum(), gates

    gradient, gates = jax.jit(jax.grad(total, has_aux=True))(variables)
    assert (gates == 0).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_mix_weighs_experts() -> None:
    rng = np.random.default_rng(2)
    gates, experts = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 3, 5))
    expected = np.stack([[g @ e for g in row] for row, e in zip(gates, experts, strict=True)])
    np.testing.assert_allclose(mix(gates, experts), expected, rtol=1e-5)
    np.testing.assert_allclose(mix(gates[:, 0], experts), expected[:, 0], rtol=1e-5)


def test_entropy_of_gates() -> None:
    gates = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3], np.float32)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(entropy)))(gates)
    np.testing.assert_allclose(values, [0.0, np.log(2), np.log(3)], rtol=1e-6)
    assert np.isfinite(gradients).all()


def test_utilisation_is_the_mean_over_real_rows() -> None:
    gates = np.random.default_rng(3).dirichlet(np.ones(3), size=(6, 2))
    where = np.array([True, False, True, True, False, True])
    np.testing.assert_allclose(utilisation(gates), gates.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(utilisation(gates, where), gates[where].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(utilisation(gates, np.zeros(6, bool)), np.zeros((2, 3)))
