"""GRUs that attention opens and closes: limits, padding, and a slow twin."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.recurrent import GRU, AttentionGRU
from tests.nn.drawn import drawn

B, L, E, H = 3, 7, 4, 2
GATES: Any = ("augru", "agru", "augru_reversed")
rng = np.random.default_rng(0)
X = rng.normal(size=(B, L, E)).astype(np.float32)
A = rng.random((B, L)).astype(np.float32)
VARIABLES = drawn(AttentionGRU(H), X, A)
MASK = np.arange(L) < np.array([[7], [4], [0]])  # whole, padded on the right, empty


@functools.partial(jax.jit, static_argnums=0)
def compiled(gate: Any, x: Any, a: Any, update: Any) -> Any:
    return AttentionGRU(H, gate).apply(VARIABLES, x, a, update=update)


def run(gate: Any, x: Any, a: Any, update: Any = MASK | True) -> np.ndarray:
    return np.asarray(compiled(gate, x, a, update))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def slow(gate: str, x: np.ndarray, a: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One row, one step and one formula at a time."""
    p = VARIABLES["params"]
    (wr, wu, wn), (ur, uu, un) = (np.split(p[f"{name}_kernel"], 3, axis=1) for name in ("input", "hidden"))
    (br, bu, bn), (cr, cu, cn) = (np.split(p[f"{name}_bias"], 3) for name in ("input", "hidden"))
    states = np.zeros((*x.shape[:2], H))
    for i, row in enumerate(x):
        h = np.zeros(H)
        for t, step in enumerate(row):
            r = sigmoid(step @ wr + br + h @ ur + cr)
            u = sigmoid(step @ wu + bu + h @ uu + cu)
            n = np.tanh(step @ wn + bn + r * (h @ un + cn))
            if mask[i, t]:
                if gate == "augru":
                    h = (1 - a[i, t] * u) * h + a[i, t] * u * n
                elif gate == "agru":
                    h = (1 - a[i, t]) * h + a[i, t] * n
                else:
                    keep = (1 - a[i, t]) * (1 - u)
                    h = keep * h + (1 - keep) * n
            states[i, t] = h
    return states


@pytest.mark.parametrize("gate", GATES)
def test_the_formulas(gate: str) -> None:
    np.testing.assert_allclose(run(gate, X, A, MASK), slow(gate, X, A, MASK), atol=1e-6)


def gru_states(x: np.ndarray) -> np.ndarray:
    """A plain GRU of the same weights: its update gate is how much of the state is kept, so with minus."""
    sign = np.repeat([1.0, -1.0, 1.0], H).astype(np.float32)
    params = {name: value * sign for name, value in VARIABLES["params"].items()}
    return np.asarray(GRU(H).apply({"params": params}, x))


def test_augru_with_attention_one_is_a_gru_and_with_zero_keeps_its_state() -> None:
    np.testing.assert_allclose(run("augru", X, np.ones_like(A)), gru_states(X), atol=1e-6)
    assert (run("augru", X, np.zeros_like(A)) == 0.0).all()
    later = A * (np.arange(L) < 3)
    states = run("augru", X, later)
    assert np.abs(states[:, 2]).min() > 0.0
    assert (states[:, 3:] == states[:, 2:3]).all()


def test_the_reversed_gate_has_the_limits_the_other_way_round() -> None:
    np.testing.assert_allclose(run("augru_reversed", X, np.zeros_like(A)), gru_states(X), atol=1e-6)
    once = run("augru_reversed", X, np.ones_like(A))
    np.testing.assert_allclose(once, run("agru", X, np.ones_like(A)), atol=1e-6)  # the candidate itself


def test_agru_selects_the_old_state_or_the_candidate() -> None:
    chosen = np.zeros_like(A)
    chosen[:, 1] = 1.0
    states = run("agru", X, chosen)
    assert (states[:, 0] == 0.0).all()
    assert (states[:, 2:] == states[:, 1:2]).all()
    p = VARIABLES["params"]  # from the state 0
    reset, _, new = np.split(X[:, 1] @ p["input_kernel"] + p["input_bias"], 3, axis=1)
    r, _, n = np.split(p["hidden_bias"], 3)
    np.testing.assert_allclose(states[:, 1], np.tanh(new + sigmoid(reset + r) * n), atol=1e-6)


@pytest.mark.parametrize("gate", GATES)
def test_padding_on_either_side_changes_nothing(gate: str) -> None:
    def at(first: int) -> np.ndarray:
        """States of the first L - 2 steps, standing from slot `first` on beside two of padding."""
        x, a, update = np.full_like(X, 9.0), np.full_like(A, 0.7), np.zeros((B, L), bool)
        steps = slice(first, first + L - 2)
        x[:, steps], a[:, steps], update[:, steps] = X[:, : L - 2], A[:, : L - 2], True
        return run(gate, x, a, update)

    right, left = at(0), at(2)
    np.testing.assert_allclose(left[:, 2:], right[:, : L - 2], atol=1e-7)
    assert (right[:, -2:] == right[:, -3:-2]).all()
    assert (left[:, :2] == 0.0).all()
    assert np.abs(np.diff(left[:, 2:], axis=1)).min() > 0.0


def test_padding_gets_no_gradient_and_an_empty_row_a_finite_one() -> None:
    def last(x: Any, a: Any) -> Any:
        states: Any = AttentionGRU(H).apply(VARIABLES, x, a, update=MASK)
        return jnp.sum(states[:, -1] ** 2)

    of_x, of_a = jax.jit(jax.grad(last, argnums=(0, 1)))(X, A)
    for gradient in (np.abs(of_x).sum(axis=-1), np.abs(of_a)):
        assert np.isfinite(gradient).all()
        assert ((gradient > 0) == MASK).all()


def test_an_unknown_gate_is_an_error() -> None:
    with pytest.raises(ValueError, match="gate='gru'"):
        AttentionGRU(H, "gru")  # type: ignore[arg-type]
