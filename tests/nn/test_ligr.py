"""LiGR layers: their formula, their gates and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from tests.nn.drawn import applied, drawn

DIM, INNER, LENGTH, HEADS = 6, 10, 5, 2
MODEL: Any = LiGR(9, DIM, num_layers=2, num_heads=HEADS, inner_dim=INNER, max_len=LENGTH)
ITEMS = np.array([[3, 1, 4, 1, 5], [0, 0, 2, 6, 5], [0, 8, 0, 8, 9], [0, 0, 0, 0, 0]], np.int32)
VARIABLES = drawn(MODEL, ITEMS, train=False)
GATES = ("attention_gate", "inner_gate")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def norm(x: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * params["scale"] + params["bias"]


def slow(variables: Any, items: np.ndarray) -> np.ndarray:
    """One row, slot by slot, in float64: [L] → [L, D]. A slot on padding reads itself and earlier items."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = params["item_embedding"][items] + params["position_embedding"]
    for layer in (params["layer_0"], params["layer_1"]):
        attention, out = layer["attention"], np.zeros_like(x)
        for slot in range(LENGTH):
            normed = [norm(row, layer["attention_norm"]) for row in x]
            seen = [key for key in range(slot + 1) if items[key] or key == slot]

            def heads(of: list[int], name: str, normed: Any = normed, attention: Any = attention) -> Any:
                rows = np.stack([normed[key] for key in of])
                return (rows @ attention[f"{name}_kernel"] + attention[f"{name}_bias"]).reshape(
                    len(of), HEADS, -1
                )

            scores = np.einsum("hd,khd->kh", heads([slot], "query")[0], heads(seen, "key"))
            weights = np.exp(scores / np.sqrt(DIM / HEADS))
            mixed = np.einsum("kh,khd->hd", weights / weights.sum(0), heads(seen, "value")).reshape(DIM)
            branch = mixed @ attention["output"]["kernel"] + attention["output"]["bias"]
            gate, u = layer["attention_gate"], x[slot]
            u = u + sigmoid(u @ gate["kernel"] + gate["bias"]) * branch
            z, gate = norm(u, layer["inner_norm"]), layer["inner_gate"]
            opened = z @ layer["gated"]["kernel"]
            branch = opened * sigmoid(opened) * (z @ layer["inner"]["kernel"]) @ layer["outer"]["kernel"]
            out[slot] = u + sigmoid(u @ gate["kernel"] + gate["bias"]) * branch
        x = out
    return x


def with_gates(bias: float) -> Any:
    """The variables with gates of σ(bias), whatever their input."""

    def leaf(path: Any, value: np.ndarray) -> np.ndarray:
        names = [part.key for part in path]
        if not set(GATES) & set(names):
            return value
        return np.full_like(value, bias if names[-1] == "bias" else 0.0)

    return jax.tree_util.tree_map_with_path(leaf, VARIABLES)


def test_outputs_equal_slow_numpy() -> None:
    ours = np.asarray(applied(MODEL, VARIABLES, ITEMS, train=False))
    np.testing.assert_allclose(ours, np.stack([slow(VARIABLES, row) for row in ITEMS]), rtol=2e-4, atol=2e-4)


def test_open_gates_make_a_plain_pre_norm_block() -> None:
    """x + attention(norm(x)), then u + network(norm(u)): the slow twin without its gates."""
    opened = with_gates(1e3)
    ours = np.asarray(applied(MODEL, opened, ITEMS, train=False))
    plain = np.stack([slow(with_gates(40.0), row) for row in ITEMS])  # σ(40) is 1 to 1e-17
    np.testing.assert_allclose(ours, plain, rtol=2e-4, atol=2e-4)
    assert not np.allclose(ours, applied(MODEL, VARIABLES, ITEMS, train=False), atol=0.1)


def test_closed_gates_are_the_identity() -> None:
    closed = with_gates(-1e3)
    hidden = np.asarray(applied(MODEL, closed, ITEMS, train=False))
    params = closed["params"]
    np.testing.assert_allclose(hidden, params["item_embedding"][ITEMS] + params["position_embedding"])


def test_positions_are_counted_from_the_last_slot() -> None:
    short = np.asarray(applied(MODEL, VARIABLES, ITEMS[1:2, 2:], train=False))
    whole = np.asarray(applied(MODEL, VARIABLES, ITEMS, train=False))[1:2, 2:]
    np.testing.assert_allclose(short, whole, rtol=1e-5, atol=1e-5)


def test_parameters_of_a_layer() -> None:
    shapes = jax.tree.map(np.shape, VARIABLES["params"]["layer_0"])
    assert {name: shapes[name] for name in ("gated", "inner", "outer")} == {
        "gated": {"kernel": (DIM, INNER)},
        "inner": {"kernel": (DIM, INNER)},
        "outer": {"kernel": (INNER, DIM)},
    }
    assert all(shapes[gate] == {"kernel": (DIM, DIM), "bias": (DIM,)} for gate in GATES)
    assert set(shapes) == {
        *("attention", "attention_norm", "attention_gate"),
        *("inner_norm", "inner_gate", "gated", "inner", "outer"),
    }
    multiple = 3
    wide = MODEL.clone(inner_dim=multiple * DIM)
    layer = jax.eval_shape(lambda: wide.init(jax.random.key(0), ITEMS, train=False))["params"]["layer_1"]
    network = sum(leaf.size for name in ("gated", "inner", "outer") for leaf in jax.tree.leaves(layer[name]))
    assert network == 3 * multiple * DIM**2
    assert set(VARIABLES["params"]) == {"item_embedding", "position_embedding", "layer_0", "layer_1"}


@pytest.mark.parametrize("encoder", [LiGR, HSTU, SASRecHSTU])
def test_numbers_of_layers_below_zero_are_refused(encoder: Any) -> None:
    with pytest.raises(ValueError, match="num_layers=-1: must be at least 0"):
        jax.eval_shape(lambda: encoder(9, num_layers=-1).init(jax.random.key(0), ITEMS, train=False))


@pytest.mark.parametrize("field", ["inner_dim", "num_heads"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0"):
        jax.eval_shape(lambda: MODEL.clone(**{field: 0}).init(jax.random.key(0), ITEMS, train=False))
