"""Weights generated for each example (APG) and gates personalised for each example (PPNet)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.ranking.apg import APG, GeneratedDense, merge
from jaxrec.nn.ranking.ppnet import PPNet

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6)).astype(np.float32)
Z = RNG.normal(size=(5, 3)).astype(np.float32)
KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=0)
def run(module: Any, params: Any, *inputs: Any) -> jax.Array:
    return module.apply({"params": params}, *inputs)


def moved(module: Any, *inputs: Any, seed: int = 1) -> Any:
    shapes = jax.eval_shape(lambda: module.init(KEY, *inputs))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)["params"]


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


LAYERS = {
    "low rank": GeneratedDense(4, rank=2),
    "over-parameterised": GeneratedDense(4, rank=2, inner_dim=3),
    "full": GeneratedDense(4),
    "free bias": GeneratedDense(4, rank=2, generate_bias=False),
    "no bias": GeneratedDense(4, rank=2, use_bias=False),
}


@pytest.mark.parametrize("condition", [Z, None], ids=["group-wise", "self-wise"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_against_explicit_weights(name: str, condition: np.ndarray | None) -> None:
    """Each example's W_i = U S_i V written out; the generated numbers are the bias, then S_i by rows."""
    module = LAYERS[name]
    params = moved(module, X, condition)
    made = (X if condition is None else condition) @ params["hyper"]["kernel"] + params["hyper"]["bias"]
    own_bias = 4 if module.use_bias and module.generate_bias else 0
    flat = params if module.inner_dim is None else merge(params)
    expected = []
    for x, numbers in zip(X, made, strict=True):
        core = numbers[own_bias:]
        weights = core.reshape(6, 4) if module.rank is None else flat["u"] @ core.reshape(2, 2) @ flat["v"]
        bias = numbers[:4] if own_bias else params.get("bias", np.zeros(4))
        expected.append(x @ weights + bias)
    close(run(module, params, X, condition), expected)
    assert ("bias" in params) is (name == "free bias")
    assert ("u_left" in params) is (name == "over-parameterised")


def test_one_condition_for_all_rows_is_one_linear_map() -> None:
    module = LAYERS["low rank"]
    params, same = moved(module, X, Z), np.broadcast_to(Z[:1], Z.shape)
    both = run(module, params, np.concatenate([X, 2 * X, 0 * X]), np.concatenate([same] * 3))
    once, twice, zero = np.split(np.asarray(both), 3)
    close(twice - zero, 2 * (once - zero))


def test_an_identity_core_leaves_the_low_rank_layer() -> None:
    module = LAYERS["no bias"]
    params = moved(module, X, Z)
    params["hyper"] = {"kernel": np.zeros((3, 4), np.float32), "bias": np.eye(2, dtype=np.float32).ravel()}
    close(run(module, params, X, Z), X @ params["u"] @ params["v"])


def test_full_rank_reaches_any_weights() -> None:
    module = GeneratedDense(4, rank=4, use_bias=False)
    params = moved(module, X, Z)
    wanted = RNG.normal(size=(6, 4)).astype(np.float32)
    left, values, right = np.linalg.svd(wanted, full_matrices=False)
    params |= {"u": left, "v": right}
    params["hyper"] = {"kernel": np.zeros((3, 16), np.float32), "bias": np.diag(values).ravel()}
    close(run(module, params, X, Z), X @ wanted)


def test_a_rows_weights_come_from_its_own_condition() -> None:
    module = LAYERS["over-parameterised"]
    params, changed = moved(module, X, Z), Z.copy()
    changed[2] = -Z[2]
    before, after = (run(module, params, X, z) for z in (Z, changed))
    close(np.delete(after, 2, 0), np.delete(before, 2, 0))
    assert not np.allclose(after[2], before[2], atol=1e-2)


def test_merged_factors_give_the_same_outputs() -> None:
    module = APG((5, 4), num_tasks=2, rank=(3, 2), inner_dim=(4, 3))
    params = moved(module, X, Z)
    merged = merge(params)
    assert set(merged["layer_1"]) == {"u", "v", "hyper"}
    close(run(module.clone(inner_dim=None), merged, X, Z), run(module, params, X, Z))


def test_apg_by_hand() -> None:
    module = APG((5, 4), num_tasks=2, rank=(3, 2), hyper_dims=(7,), activation=jnp.tanh)
    params = moved(module, X, Z)
    x = X
    for i, (dim, rank) in enumerate([(5, 3), (4, 2)]):
        layer = params[f"layer_{i}"]
        hidden = layer["hyper_hidden"]["layer_0"]
        made = (
            np.maximum(Z @ hidden["kernel"] + hidden["bias"], 0) @ layer["hyper"]["kernel"]
            + layer["hyper"]["bias"]
        )
        core = made[:, dim:].reshape(-1, rank, rank)
        x = np.tanh(np.einsum("bk,bkl,lm->bm", x @ layer["u"], core, layer["v"]) + made[:, :dim])
    expected = x @ params["logits"]["kernel"] + params["logits"]["bias"]
    close(run(module, params, X, Z), expected)
    close(run(module.clone(num_tasks=None), params, X, Z), x)


def test_initial_weights_are_not_nearly_zero() -> None:
    """A core that starts near zero would send neither signal nor gradient through the layer."""
    module = GeneratedDense(16, rank=8)
    x = np.random.default_rng(3).normal(size=(64, 16)).astype(np.float32)
    outputs = jax.jit(lambda: module.apply(module.init(KEY, x), x))()
    assert float(np.std(outputs)) > 0.05


def test_dropout_and_batch_norm() -> None:
    module = APG((5,), rank=2, batch_norm=True, dropout=0.5)
    variables = {
        "params": moved(module, X),
        "batch_stats": {"norm_0": {"mean": np.zeros(5), "var": np.ones(5)}},
    }

    @jax.jit
    def train(key: Any) -> Any:
        return module.apply(variables, X, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    (first, state), (second, _) = (train(jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)
    assert state["batch_stats"]["norm_0"]["mean"].any()


@pytest.mark.parametrize(
    "module, message",
    [
        (GeneratedDense(4, rank=5), r"rank=5: must lie in 1\.\.4 for 6 → 4"),
        (GeneratedDense(4, rank=0), "rank=0"),
        (GeneratedDense(4, rank=3, inner_dim=2), "inner_dim=2: needs a rank, here 3"),
        (GeneratedDense(4, inner_dim=2), "inner_dim=2: needs a rank, here None"),
    ],
)
def test_wrong_ranks_are_refused(module: GeneratedDense, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, KEY, X)


def test_a_rank_for_each_layer() -> None:
    with pytest.raises(ValueError, match=r"rank=\(2, 2\): one value, or one for each of dims=\(4,\)"):
        APG((4,), rank=(2, 2))


# --- PPNet ------------------------------------------------------------------------------------------

PPNET = PPNet(num_tasks=2, dims=(5, 4), gate_dim=3)


@pytest.fixture(scope="module")
def ppnet() -> Any:
    return moved(PPNET, X, Z)


def test_ppnet_by_hand(ppnet: Any) -> None:
    outputs = run(PPNET, ppnet, X, Z)
    seen = np.concatenate([X, Z], axis=1)
    for task in range(2):
        p = jax.tree.map(lambda leaf, k=task: leaf[k], ppnet["towers"])
        x = X
        for i in range(2):
            x = np.maximum(x @ p[f"layer_{i}"]["kernel"] + p[f"layer_{i}"]["bias"], 0)
            gate = p[f"gate_{i}"]
            hidden = np.maximum(seen @ gate["hidden"]["kernel"] + gate["hidden"]["bias"], 0)
            x = x * 2 / (1 + np.exp(-(hidden @ gate["gate"]["kernel"] + gate["gate"]["bias"])))
        close(outputs[:, task], (x @ p["logit"]["kernel"] + p["logit"]["bias"])[:, 0])


def test_gates_that_say_nothing_leave_the_tower(ppnet: Any) -> None:
    """σ(0) · 2 = 1: the prior has no effect and the tower is an ordinary MLP."""
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[-2].key == "gate" else leaf, ppnet
    )
    outputs = run(PPNET, silent, X, Z)
    np.testing.assert_array_equal(run(PPNET, silent, X, 3 * Z), outputs)
    p = jax.tree.map(lambda leaf: leaf[0], silent["towers"])
    x = X
    for i in range(2):
        x = np.maximum(x @ p[f"layer_{i}"]["kernel"] + p[f"layer_{i}"]["bias"], 0)
    close(outputs[:, 0], (x @ p["logit"]["kernel"] + p["logit"]["bias"])[:, 0])


def test_no_gradient_from_the_gates_into_the_features(ppnet: Any) -> None:
    """With the towers' own kernels at zero a logit depends on x through the gates alone, and on the prior."""
    closed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[1].key == "layer_0" and path[-1].key == "kernel" else leaf, ppnet
    )
    total = jax.jit(jax.grad(lambda x, z: run(PPNET, closed, x, z).sum(), argnums=(0, 1)))
    to_features, to_prior = total(jnp.asarray(X), jnp.asarray(Z))
    assert not to_features.any()
    assert to_prior.any()


def test_width_of_the_gates_hidden_layer() -> None:
    shapes = jax.tree.map(np.shape, moved(PPNET.clone(gate_dim=None), X, Z))["towers"]
    assert [shapes[f"gate_{i}"]["hidden"]["kernel"] for i in range(2)] == [(2, 9, 5), (2, 9, 4)]
