"""Attention-gated MMoE: gates that attend to what the experts say."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.multitask.attention_gated_mmoe import AttentionGatedMMoE
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.types import Array

T, E, A = 3, 4, 2
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
SMALL: dict[str, Any] = {"num_tasks": T, "num_experts": E, "expert_dims": (7,), "tower_dims": ()}
CONTENT = AttentionGatedMMoE(**SMALL, query_dim=A)


def moved(module: Any) -> Any:
    """Parameters of a module with values in place of the initial ones, biases too."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), X))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(module: Any, params: Any) -> tuple[Array, Array]:
    """Logits and gates."""
    logits, state = module.apply({"params": params}, X, mutable=["intermediates"])
    return logits, state["intermediates"]["gates"][0]


def gates_of(module: Any, params: Any) -> np.ndarray:
    return np.asarray(run(module, params)[1])


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def params() -> Any:
    return moved(CONTENT)


def test_linear_mode_is_mmoe_to_the_bit() -> None:
    mmoe = MMoE(**SMALL)
    params = moved(mmoe)
    for ours, theirs in zip(run(CONTENT.clone(mode="linear"), params), run(mmoe, params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_content_gates_by_hand(params: Any) -> None:
    layer = params["experts"]["layer_0"]
    experts = np.maximum(np.einsum("bf,efh->beh", X, layer["kernel"]) + layer["bias"], 0)
    query = (X @ params["query_kernel"]).reshape(8, T, A) + params["task_vectors"]
    scores = np.einsum("bta,bea->bte", query, experts @ params["keys"]["kernel"]) / np.sqrt(A)
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    close(gates_of(CONTENT, params), expected)


def test_static_gates_do_not_read_the_features() -> None:
    gates = gates_of(CONTENT.clone(mode="static"), moved(CONTENT.clone(mode="static")))
    assert gates.shape == (8, T, E)
    np.testing.assert_array_equal(gates, np.broadcast_to(gates[:1], gates.shape))
    assert gates.std() > 0.01


@pytest.mark.parametrize("temperature, sure", [(1e6, 1 / E), (1e-6, 1.0)])
def test_temperature_from_the_mean_to_one_expert(params: Any, temperature: float, sure: float) -> None:
    gates = gates_of(CONTENT.clone(temperature=temperature), params)
    np.testing.assert_allclose(gates.max(axis=-1), np.full((8, T), sure), atol=1e-4)


def test_a_copy_of_an_expert_takes_the_same_weight(params: Any) -> None:
    experts = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:1]]), params["experts"])
    more = gates_of(CONTENT.clone(num_experts=E + 1), {**params, "experts": experts})
    np.testing.assert_allclose(more[..., 0], more[..., E], rtol=1e-5)
    before = gates_of(CONTENT, params)
    np.testing.assert_allclose(more[..., 1:E] / more[..., 1:2], before[..., 1:] / before[..., 1:2], rtol=1e-3)


def test_detached_keys_send_no_gradient_into_the_experts(params: Any) -> None:
    """Though the gates depend on them, and with the keys attached the gradient says so."""

    @jax.jit
    def slopes(params: Any) -> list[Any]:
        modules = [CONTENT.clone(detach_keys=detached) for detached in (True, False)]
        return [jax.grad(lambda p, m=module: (run(m, p)[1] ** 2).sum())(params) for module in modules]

    for gradient, reached in zip(slopes(params), (False, True), strict=True):
        assert any(leaf.any() for leaf in jax.tree.leaves(gradient["experts"])) is reached
        assert gradient["keys"]["kernel"].any()


def test_vectors_of_the_experts_join_their_keys() -> None:
    module = CONTENT.clone(key_vectors=True)
    params = moved(module)
    assert params["expert_vectors"].shape == (E, A)
    without = {**params, "expert_vectors": np.zeros((E, A), np.float32)}
    plain = {key: value for key, value in params.items() if key != "expert_vectors"}
    close(gates_of(module, without), gates_of(CONTENT, plain))
    assert not np.allclose(gates_of(module, params), gates_of(module, without), atol=1e-3)


def test_experts_are_left_out_in_training_alone(params: Any) -> None:
    module = CONTENT.clone(drop_experts=0.5)

    def trained(params: Any) -> Any:
        options: dict[str, Any] = {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["intermediates"]}
        return module.apply({"params": params}, X, train=True, **options)[1]

    gates = np.asarray(jax.jit(trained)(params)["intermediates"]["gates"][0])
    assert (gates == 0).any()
    np.testing.assert_allclose(gates.sum(axis=-1), np.ones((8, T)), rtol=1e-5)
    np.testing.assert_array_equal(gates_of(module, params), gates_of(CONTENT, params))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mode": "dot"}, 'mode=\'dot\': must be "content", "static" or "linear"'),
        ({"temperature": 0.0}, "temperature=0.0: must be positive"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionGatedMMoE(2, **fields)
