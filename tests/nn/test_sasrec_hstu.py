"""SASRec as HSTU's research code builds it, against a slow twin."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU

LENGTH, SPARE, DIM, HEADS = 5, 2, 6, 2
MODEL: Any = SASRecHSTU(20, DIM, num_layers=2, num_heads=HEADS, max_len=LENGTH, spare_slots=SPARE)
ITEMS = np.array(
    [[1, 2, 3, 4, 5, 6, 7], [0, 0, 4, 9, 0, 9, 2], [3, 3, 8, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 20], [0] * 7],
    np.int32,
)  # a full row, padding on the left and a masked item, padding on the right, one item, none
SHAPES = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), ITEMS, train=False))
RNG = np.random.default_rng(0)
VARIABLES = jax.tree.map(lambda leaf: 0.5 * RNG.normal(size=leaf.shape).astype(np.float32), SHAPES)


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-8)


def dense(layer: Any, name: str, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(layer[name]["kernel"], np.float64) + layer[name]["bias"]


def slow(items: np.ndarray, *, raw: bool) -> np.ndarray:
    """Outputs for one row, slot by slot, in float64; zero where there is no item. raw: what residuals add."""
    params = VARIABLES["params"]
    at = np.flatnonzero(items)
    x = np.zeros((len(items), DIM))
    for slot in at:
        place = params["position_embedding"][slot - at[0]]
        x[slot] = math.sqrt(DIM) * params["item_embedding"][items[slot]] + place
    for layer in (params["layer_0"], params["layer_1"]):
        y = np.zeros_like(x)
        for slot in at:
            seen = at[at <= slot]
            query = dense(layer, "query", norm(x[slot])).reshape(HEADS, -1)
            key = dense(layer, "key", x[seen]).reshape(len(seen), HEADS, -1)
            value = dense(layer, "value", x[seen]).reshape(len(seen), HEADS, -1)
            weights = np.exp(np.einsum("hd,khd->hk", query, key) / math.sqrt(DIM / HEADS))
            mixed = np.einsum("hk,khd->hd", weights / weights.sum(axis=1, keepdims=True), value)
            between = (x[slot] if raw else norm(x[slot])) + dense(layer, "output", mixed.reshape(DIM))
            inner = norm(between)
            outer = dense(layer, "outer", np.maximum(dense(layer, "inner", inner), 0))
            y[slot] = (between if raw else inner) + outer
        x = y
    return x


@pytest.mark.parametrize("raw", [False, True])
def test_outputs_equal_slow_numpy_wherever_padding_stands(raw: bool) -> None:
    model = MODEL.clone(raw_residual=raw)
    ours = np.asarray(jax.jit(lambda v: model.apply(v, ITEMS, train=False))(VARIABLES))
    np.testing.assert_allclose(ours, np.stack([slow(row, raw=raw) for row in ITEMS]), rtol=1e-5, atol=1e-5)
    assert (ours[ITEMS == 0] == 0).all()


def test_initial_weights_are_those_of_the_research_code() -> None:
    """Deviations: items 0.02 and places 1/√D, both cut at two of them (0.88 is left); Glorot's for one
    [D, 3·D] of queries, keys and values, √(2 / 4D), and of the other products 1/√D; biases of the network
    within ±1/√D, those of attention zero.
    """
    dim = 64
    model: Any = SASRecHSTU(3_000, dim, num_layers=1, num_heads=2, max_len=200)
    init = jax.jit(lambda key: model.init(key, np.ones((1, 4), np.int32), train=False))
    params = jax.device_get(init(jax.random.key(0)))["params"]
    cut = 0.8796  # deviation of the normal distribution between -2 and 2
    layer = params["layer_0"]
    assert params["item_embedding"][1:].std() == pytest.approx(0.02 * cut, rel=0.02)
    assert (params["item_embedding"][0] == 0).all()
    assert params["position_embedding"].std() == pytest.approx(cut / math.sqrt(dim), rel=0.03)
    for name in ("query", "key", "value"):
        assert layer[name]["kernel"].std() == pytest.approx(math.sqrt(0.5 / dim), rel=0.05)
        assert (layer[name]["bias"] == 0).all()
    for name in ("output", "inner", "outer"):
        assert layer[name]["kernel"].std() == pytest.approx(math.sqrt(1 / dim), rel=0.05)
    assert (layer["output"]["bias"] == 0).all()
    for name in ("inner", "outer"):
        assert 0.8 / math.sqrt(dim) < np.abs(layer[name]["bias"]).max() <= 1 / math.sqrt(dim)


def test_rows_longer_than_the_table_of_positions_are_refused() -> None:
    longer = np.ones((1, LENGTH + SPARE + 1), np.int32)
    with pytest.raises(ValueError, match=r"length 8: max_len \+ spare_slots = 7"):
        jax.eval_shape(lambda: MODEL.init(jax.random.key(0), longer, train=False))


@pytest.mark.parametrize(("field", "value"), [("num_heads", 0), ("num_heads", 4), ("spare_slots", -1)])
def test_sizes_that_do_not_fit_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        jax.eval_shape(lambda: MODEL.clone(**{field: value}).init(jax.random.key(0), ITEMS, train=False))
