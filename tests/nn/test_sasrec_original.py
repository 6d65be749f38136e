"""SASRec of its authors' code: the orders of normalisation, the output projection and how padding is read."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from tests.nn.drawn import drawn

ITEMS = np.array([[3, 1, 4, 1, 5], [0, 0, 2, 6, 5]], np.int32)
DIM, EPSILON = 8, 1e-3
MODEL = SASRecOriginal(
    9, dim=DIM, num_layers=1, num_heads=2, max_len=5, norm_epsilon=EPSILON, skip_padding=False
)


def norm(x: np.ndarray, params: Any) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return x * params["scale"] + params["bias"]


def slow(model: SASRecOriginal, params: Any, items: np.ndarray) -> np.ndarray:
    """One row through one block, in float64 and slot by slot: [L] → [L, D]."""
    layer = params["layer_0"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ layer[name]["kernel"].astype(np.float64) + layer[name]["bias"]

    def attention(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        q, k, v = dense(queries, "query"), dense(keys, "key"), dense(keys, "value")
        mixed, width = np.zeros_like(q), DIM // model.num_heads
        for slot, head in np.ndindex(len(items), model.num_heads):
            part = slice(head * width, (head + 1) * width)
            weights = np.exp(k[: slot + 1, part] @ q[slot, part] / np.sqrt(width))
            mixed[slot, part] = weights @ v[: slot + 1, part] / weights.sum()
        return dense(mixed, "output") if model.output_projection else mixed

    def network(x: np.ndarray) -> np.ndarray:
        return dense(np.maximum(dense(x, "inner"), 0), "outer")

    def before(x: np.ndarray) -> np.ndarray:
        return norm(x, layer["attention_norm"])

    def between(x: np.ndarray) -> np.ndarray:
        return norm(x, layer["inner_norm"])

    factor = np.sqrt(DIM) if model.scaled else 1.0
    x = factor * params["item_embedding"].astype(np.float64)[items] + params["position_embedding"]
    x = np.where(items[:, None] != 0, x, 0.0)
    if model.norms == "first":
        x = x + attention(before(x), before(x))
        x = x + network(between(x))
    elif model.norms == "last":
        x = before(x + attention(x, x))
        x = between(x + network(x))
    else:
        x = between(before(x) + attention(before(x), x))
        x = x + network(x)
    return norm(x, params["norm"])


@pytest.mark.parametrize(("output_projection", "scaled"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("norms", ["queries", "first", "last"])
def test_each_order_of_normalisation_is_its_formula(
    norms: Any, output_projection: bool, scaled: bool
) -> None:
    model = MODEL.clone(norms=norms, output_projection=output_projection, scaled=scaled)
    variables = drawn(model, ITEMS, train=False)
    hidden = jax.jit(lambda v: model.apply(v, ITEMS, train=False))(variables)
    for ours, items in zip(hidden, ITEMS, strict=True):
        np.testing.assert_allclose(ours, slow(model, variables["params"], items), rtol=1e-4, atol=1e-4)


def test_padding_that_is_read_changes_real_slots_and_hidden_padding_does_not() -> None:
    items = ITEMS[1:]
    variables = drawn(MODEL, items, train=False)
    for skip, unchanged in ((True, True), (False, False)):
        model = MODEL.clone(skip_padding=skip)
        run = jax.jit(lambda v, i, model=model: model.apply(v, i, train=False))
        whole, short = run(variables, items)[:, 2:], run(variables, items[:, 2:])
        assert np.allclose(whole, short, rtol=1e-4, atol=1e-5) == unchanged


def test_another_order_of_norms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"norms='post': must be"):
        MODEL.clone(norms="post")  # type: ignore[arg-type]
