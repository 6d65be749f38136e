"""POSO's gates: where C stands, what a gate's hidden layer is, and gates for single units of an expert."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.personal_gate import PersonalGate
from jaxrec.nn.ranking.poso import PersonalAttention, PersonalMLP, PersonalMMoE
from tests.nn.drawn import applied, drawn

rng = np.random.default_rng(7)
X = rng.normal(size=(6, 4)).astype(np.float32)
CODE = rng.normal(size=(6, 2)).astype(np.float32)
QUERIES = rng.normal(size=(6, 2, 4)).astype(np.float32)
KEYS = rng.normal(size=(6, 3, 5)).astype(np.float32)
VISIBLE = np.ones((6, 2, 3), bool)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def attend(module: PersonalAttention, params: Any) -> Any:
    return jax.jit(module.apply)({"params": params}, QUERIES, KEYS, CODE, VISIBLE)


def test_the_factor_scales_values_and_leaves_keys_alone() -> None:
    half, double = PersonalAttention(4, 2, 3, factor=0.5), PersonalAttention(4, 2, 3, factor=2.0)
    params = drawn(half, QUERIES, KEYS, CODE, VISIBLE)["params"]
    close(4.0 * attend(half, params), attend(double, params))
    assert np.abs(attend(half, params)).max() > 0.1


def test_undecided_key_gates_halve_the_scores() -> None:
    module = PersonalAttention(4, 1, 3)
    params = drawn(module, QUERIES, KEYS, CODE, VISIBLE)["params"]
    params["key_gate"]["gate"] = jax.tree.map(np.zeros_like, params["key_gate"]["gate"])
    scores = np.einsum("bqd,bkd->bqk", QUERIES @ params["query"]["kernel"], KEYS @ params["key"]["kernel"])
    weights = np.exp(0.5 * scores / np.sqrt(4))
    weights /= weights.sum(axis=-1, keepdims=True)
    parts = params["value_gate"]
    hidden = np.maximum(CODE @ parts["hidden"]["kernel"] + parts["hidden"]["bias"], 0.0)
    gates = 2.0 * sigmoid(hidden @ parts["gate"]["kernel"] + parts["gate"]["bias"])
    values = np.einsum("bn,bkg,gnd->bkd", gates, KEYS, params["values"]["kernel"])
    close(attend(module, params), np.einsum("bqk,bkd->bqd", weights, values))


@pytest.mark.parametrize("function", [jnp.tanh, jax.nn.relu])
def test_the_hidden_layer_of_a_gate_has_the_activation_it_is_given(function: Any) -> None:
    gate = PersonalGate(3, 5, 1.5, function)
    params = drawn(gate, CODE)["params"]
    hidden = np.asarray(function(CODE @ params["hidden"]["kernel"] + params["hidden"]["bias"]))
    expected = 1.5 * sigmoid(hidden @ params["gate"]["kernel"] + params["gate"]["bias"])
    close(jax.jit(gate.apply)({"params": params}, CODE), expected)


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (PersonalMLP((3,), gate_activation=jnp.tanh), (X, CODE)),
        (PersonalMMoE(2, 3, (4,), (), gate_activation=jnp.tanh), (X, CODE)),
        (PersonalMMoE(2, 3, (4,), (), unit_gates=True, gate_activation=jnp.tanh), (X, CODE)),
        (PersonalAttention(4, 2, 3, gate_activation=jnp.tanh), (QUERIES, KEYS, CODE, VISIBLE)),
    ],
)
def test_every_module_hands_the_activation_to_its_gates(module: Any, inputs: Any) -> None:
    """An activation of zero leaves the biases of the gates alone: the code changes nothing."""
    variables = drawn(module, *inputs)
    silent = module.clone(gate_activation=jnp.zeros_like)
    other = tuple(-part if part is CODE else part for part in inputs)
    close(applied(silent, variables, *inputs), applied(silent, variables, *other))
    assert not np.allclose(applied(module, variables, *inputs), applied(module, variables, *other))


def test_gates_of_units_equal_slow_numpy() -> None:
    module = PersonalMMoE(2, 3, (4,), (), gate_dim=5, unit_gates=True)
    params = drawn(module, X, CODE)["params"]
    mixed = np.zeros((6, 2, 4))
    for e in range(3):
        layer, gate = params["experts"]["layer_0"], params["personal_gate"]
        hidden = np.maximum(CODE @ gate["hidden"]["kernel"][e] + gate["hidden"]["bias"][e], 0.0)
        units = 2.0 * sigmoid(hidden @ gate["gate"]["kernel"][e] + gate["gate"]["bias"][e])  # [B, D]
        expert = units * np.maximum(X @ layer["kernel"][e] + layer["bias"][e], 0.0)
        for t in range(2):
            scores = X @ params["gate"]["logits"]["kernel"][t] + params["gate"]["logits"]["bias"][t]
            softmax = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
            mixed[:, t] += softmax[:, e, None] * expert
    heads = params["towers"]["logit"]
    expected = np.einsum("btd,tdo->bt", mixed, heads["kernel"]) + heads["bias"][:, 0]
    close(jax.jit(module.apply)({"params": params}, X, CODE), expected)


def test_equal_gates_of_all_units_are_one_gate_an_expert() -> None:
    units, one = PersonalMMoE(2, 3, (4,), (), 5, unit_gates=True), PersonalMMoE(2, 3, (4,), (), 5)
    params = drawn(one, X, CODE)["params"]
    gate = params["personal_gate"]
    repeated = {
        "hidden": jax.tree.map(lambda leaf: np.stack([leaf] * 3), gate["hidden"]),
        "gate": {
            "kernel": np.repeat(gate["gate"]["kernel"].T[:, :, None], 4, axis=2),
            "bias": np.repeat(gate["gate"]["bias"][:, None], 4, axis=1),
        },
    }
    ours = jax.jit(units.apply)({"params": {**params, "personal_gate": repeated}}, X, CODE)
    close(ours, jax.jit(one.apply)({"params": params}, X, CODE))
