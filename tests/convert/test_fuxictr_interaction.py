"""FuxiCTR's DeepFM, PNN and DLRM in NumPy, for settings that no fixture has."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.convert import fuxictr_interaction
from jaxrec.convert.fuxictr import TABLES
from jaxrec.convert.fuxictr_interaction import WEIGHTS
from jaxrec.convert.parts import joined
from jaxrec.convert.state_dict import to_state
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP

State = dict[str, np.ndarray]
RNG = np.random.default_rng(0)
D = 3
SIZES = {"age": None, "user": 5, "item": 7, "price": None, "city": 4}  # rows of a table; None: numbers
NUMERIC = [name for name, size in SIZES.items() if size is None]
BATCH = {
    name: RNG.normal(size=4).astype(np.float32) if size is None else np.array([1, 2, 3, size - 1], np.int32)
    for name, size in SIZES.items()
}


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def block(key: str, widths: list[int], *, norm: bool = False, prelu: bool = False) -> State:
    """An MLP_Block, whose last layer is linear."""
    state: State = {}
    at = 0
    for i, (rows, columns) in enumerate(pairwise(widths)):
        state |= {f"{key}.mlp.{at}.weight": normal(columns, rows), f"{key}.mlp.{at}.bias": normal(columns)}
        at += 1
        if i + 2 < len(widths):
            if norm:
                names = ("weight", "bias", "running_mean")
                state |= {f"{key}.mlp.{at}.{name}": normal(columns) for name in names}
                state[f"{key}.mlp.{at}.running_var"] = 0.5 + normal(columns) ** 2
                at += 1
            if prelu:
                state[f"{key}.mlp.{at}.weight"] = normal(columns)
            at += 1
    return state


def forward(state: State, key: str, x: np.ndarray, activation: Any, last: Any = lambda x: x) -> np.ndarray:
    """An MLP_Block on x; a PReLU stands in for `activation`."""
    found = {int(m[1]) for k in state if (m := re.match(rf"{key}\.mlp\.(\d+)\.", k))}
    linear = [i for i in sorted(found) if state[f"{key}.mlp.{i}.weight"].ndim == 2]
    for i in linear:
        x = x @ state[f"{key}.mlp.{i}.weight"].T + state[f"{key}.mlp.{i}.bias"]
        if i == linear[-1]:
            return np.asarray(last(x))
        at = i + 1
        if f"{key}.mlp.{at}.running_mean" in state:
            scale, bias, mean, var = (
                state[f"{key}.mlp.{at}.{n}"] for n in ("weight", "bias", "running_mean", "running_var")
            )
            x = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
            at += 1
        slope = state.get(f"{key}.mlp.{at}.weight", x)
        x = np.where(x > 0, x, slope * x) if slope.ndim == 1 else activation(x)
    raise AssertionError(key)


def tables(names: Any, dim: int, start: str = TABLES) -> State:
    shapes = {n: (dim, 1) if SIZES[n] is None else (SIZES[n], dim) for n in names}
    return {f"{start}.{n}.weight": normal(*(s or 0 for s in shape)) for n, shape in shapes.items()}


def vectors(state: State, names: Any, start: str = TABLES) -> np.ndarray:
    found = []
    for name in names:
        table = state[f"{start}.{name}.weight"]
        found.append(BATCH[name][:, None] * table.T if name in NUMERIC else table[BATCH[name]])
    return np.stack(found, axis=1)


def products(x: np.ndarray) -> np.ndarray:
    """Row by row of the upper triangle."""
    return np.stack([(x[:, i] * x[:, j]).sum(axis=1) for i, j in combinations(range(x.shape[1]), 2)], axis=1)


def check(converted: Any, state: State, expected: np.ndarray) -> None:
    module, variables, locations = converted
    np.testing.assert_allclose(jax.jit(module.apply)(variables, BATCH), expected, rtol=1e-4, atol=1e-4)
    back = joined(to_state(variables, locations))
    for name, value in back.items():
        if name in state and not name.endswith("bias"):
            np.testing.assert_array_equal(value, state[name], err_msg=name)
    assert set(state) - set(back) <= {"fm.lr_layer.bias"}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("prelu", [False, True])
def test_deepfm(norm: bool, prelu: bool) -> None:
    state = {
        **tables(SIZES, D),
        "fm.lr_layer.bias": normal(1),
        **tables(SIZES, 1, WEIGHTS),
        **block("mlp", [len(SIZES) * D, 4, 3, 1], norm=norm, prelu=prelu),
    }
    x = vectors(state, SIZES)
    linear = vectors(state, SIZES, WEIGHTS).sum(axis=(1, 2)) + state["fm.lr_layer.bias"]
    deep = forward(state, "mlp", x.reshape(4, -1), np.tanh)[:, 0]
    mlp = MLP if prelu else Factory(MLP, activation=jax.numpy.tanh)
    converted = fuxictr_interaction.deepfm(state, numeric=NUMERIC, mlp=mlp)
    assert converted.module.mlp.keywords["batch_norm"] is norm
    check(converted, state, linear + products(x).sum(axis=1) + deep)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("prelu", [False, True])
def test_pnn(norm: bool, prelu: bool) -> None:
    count = len(SIZES)
    widths = [count * D + count * (count - 1) // 2, 4, 3, 1]
    state = {**tables(SIZES, D), **block("dnn", widths, norm=norm, prelu=prelu)}
    state["inner_product_layer.triu_mask"] = np.triu(np.ones((count, count), bool), 1)
    x = vectors(state, SIZES)
    expected = forward(state, "dnn", np.concatenate([x.reshape(4, -1), products(x)], axis=1), np.tanh)[:, 0]
    fields = {} if prelu else {"activation": jax.numpy.tanh}
    converted = fuxictr_interaction.pnn(state, numeric=NUMERIC, **fields)
    assert (converted.module.activation is PReLU) is prelu
    state.pop("inner_product_layer.triu_mask")
    check(converted, state, expected)


def test_a_pnn_without_hidden_layers_is_refused() -> None:
    state = {**tables(SIZES, D), **block("dnn", [len(SIZES) * (D + 2), 1])}
    with pytest.raises(ValueError, match="dnn: no hidden layer"):
        fuxictr_interaction.pnn(state, numeric=NUMERIC)


@pytest.mark.parametrize("numeric", [NUMERIC, []])
@pytest.mark.parametrize("dot", [True, False])
@pytest.mark.parametrize("norm", [False, True])
def test_dlrm(numeric: list[str], dot: bool, norm: bool) -> None:
    names = [name for name in SIZES if name not in NUMERIC]
    count = len(names) + bool(numeric)
    width = count * (count - 1) // 2 + D * bool(numeric) if dot else count * D
    state = {**tables(names, D), **block("top_mlp", [width, 4, 3, 1], norm=norm)}
    x, dense = vectors(state, names), []
    if numeric:
        state |= block("bottom_mlp", [len(numeric), 5, D], norm=norm)
        numbers = np.stack([BATCH[name] for name in numeric], axis=1)
        dense = [forward(state, "bottom_mlp", numbers, np.tanh, np.tanh)]
        x = np.concatenate([x, dense[0][:, None]], axis=1)  # last, and behind the products
    top = np.concatenate([products(x), *dense], axis=1) if dot else x.reshape(4, -1)
    expected = forward(state, "top_mlp", top, lambda x: np.maximum(x, 0.0))[:, 0]
    converted = fuxictr_interaction.dlrm(
        state, numeric=numeric, products=dot, bottom_activation=jax.numpy.tanh
    )
    assert converted.module.mlp.keywords["batch_norm"] is norm
    check(converted, state, expected)


def test_first_order_weights_of_other_columns_are_an_error() -> None:
    state = {**tables(SIZES, D), "fm.lr_layer.bias": normal(1), **tables(list(SIZES)[1:], 1, WEIGHTS)}
    state |= block("mlp", [len(SIZES) * D, 1])
    with pytest.raises(ValueError, match=r"columns \[.*\], but the vectors are those of"):
        fuxictr_interaction.deepfm(state, numeric=NUMERIC)
