"""LightGCN, NGCF and PinSage: their formulas with dense matrices, and what reaches which rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.neighbourhoods import Neighbourhoods
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.nn.retrieval.ngcf import NGCF
from jaxrec.nn.retrieval.pinsage import PinSage
from tests.nn.drawn import applied, drawn

# A path of users and items 1-1-2-2-3-3, and user 4 with item 4 alone; user 5 and item 5 have no edge.
PAIRS = ((0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 4))
SIZES = (5, 5)
USER, ITEM = np.array([1, 4]), np.array([[1, 3], [4, 5]])
user, item = np.array(PAIRS).T
GRAPH = bipartite(TrainingEvents(user, item, SIZES[1]), num_users=SIZES[0])
CONTEXT: dict[str, Any] = {"graph": jax.tree.map(jnp.asarray, GRAPH)}


def laplacian() -> np.ndarray:
    """D^-1/2 A D^-1/2 over users, then items, padding included."""
    matrix = np.zeros((12, 12))
    for u, i in PAIRS:
        matrix[u + 1, 6 + i] = matrix[6 + i, u + 1] = 1
    scale = np.divide(1, np.sqrt(matrix.sum(axis=1)), where=matrix.any(axis=1), out=np.zeros(12))
    return scale[:, None] * matrix * scale


def tables(variables: Any) -> np.ndarray:
    return np.concatenate([variables["params"][f"{side}_embedding"] for side in ("user", "item")])


@pytest.mark.parametrize("weights", [None, (0.5, 0.0, 2.0)])
def test_lightgcn_is_a_sum_of_powers(weights: tuple[float, ...] | None) -> None:
    model = LightGCN(*SIZES, 3, num_layers=2, layer_weights=weights)
    variables = drawn(model, USER, ITEM, CONTEXT, train=False)
    found = np.concatenate(applied(model, variables, CONTEXT, method="vectors"))
    w = weights or (1 / 3,) * 3
    step, rows = laplacian(), tables(variables)
    np.testing.assert_allclose(found, w[0] * rows + w[1] * step @ rows + w[2] * step @ step @ rows, rtol=1e-5)
    scores = applied(model, variables, USER, ITEM, CONTEXT, train=False)
    np.testing.assert_allclose(scores, np.einsum("bd,bnd->bn", found[USER], found[6 + ITEM]), rtol=1e-4)


def test_lightgcn_without_layers_is_matrix_factorisation() -> None:
    model = LightGCN(*SIZES, 3, num_layers=0)
    variables = drawn(model, USER, ITEM, {}, train=False)
    found = np.concatenate(applied(model, variables, {}, method="vectors"))
    np.testing.assert_array_equal(found, tables(variables))


@pytest.mark.parametrize(("layers", "reached"), [(1, {1}), (2, {1, 2}), (4, {1, 2, 3})])
def test_gradients_reach_as_far_as_there_are_layers(layers: int, reached: set[int]) -> None:
    """Of the score of user 1 with item 1: rows of items within the layers' reach, never of others."""
    model = LightGCN(*SIZES, 3, num_layers=layers)
    variables = drawn(model, USER, ITEM, CONTEXT, train=False)

    def score(variables: Any) -> Any:
        scores: Any = model.apply(variables, jnp.array([1]), jnp.array([[1]]), CONTEXT, train=True)
        return scores[0, 0]

    gradient = jax.jit(jax.grad(score))(variables)["params"]["item_embedding"]
    assert set(np.flatnonzero(np.abs(gradient).sum(axis=1)).tolist()) == reached


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0, 1.0)])
def test_lightgcn_needs_a_weight_for_each_layer(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be 3 numbers"):
        drawn(LightGCN(*SIZES, 3, num_layers=2, layer_weights=weights), USER, ITEM, CONTEXT, train=False)


def test_a_number_of_layers_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers=-1: must be at least 0"):
        drawn(LightGCN(*SIZES, 3, num_layers=-1), USER, ITEM, CONTEXT, train=False)


@pytest.mark.parametrize("read_unit", [False, True])
def test_ngcf_is_its_formula(read_unit: bool) -> None:
    model = NGCF(*SIZES, 3, (4, 2), read_unit=read_unit)
    variables = drawn(model, USER, ITEM, CONTEXT, train=False)
    found = np.concatenate(applied(model, variables, CONTEXT, method="vectors"))
    step, rows, parts = laplacian(), tables(variables), [tables(variables)]
    for layer in range(2):
        first, second = (variables["params"][f"{name}_{layer}"]["kernel"] for name in ("sums", "products"))
        near = step @ rows
        rows = (rows + near) @ first + (near * rows) @ second
        rows = np.where(rows > 0, rows, 0.2 * rows)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        parts.append(rows / np.maximum(length, 1e-12))
        rows = parts[-1] if read_unit else rows
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-6)


# --- PinSage -------------------------------------------------------------------------------------------

SAGE = PinSage(4, 3, 5)
NEAR = Neighbourhoods(
    np.array([[0, 0, 0], [2, 3, 0], [1, 0, 0], [4, 2, 1], [0, 0, 0]], np.int32),
    np.array([[0, 0, 0], [0.75, 0.25, 0], [1, 0, 0], [0.5, 0.3, 0.2], [0, 0, 0]], np.float32),
)


def represented(near: Neighbourhoods) -> np.ndarray:
    context = {"neighbours": jax.tree.map(jnp.asarray, near)}
    return np.asarray(applied(SAGE, sage_variables(), context, method="represent"))


def sage_variables() -> Any:
    return drawn(SAGE, np.array([1]), np.array([[2]]), {"neighbours": NEAR}, train=False)


def naive_sage() -> np.ndarray:
    p: Any = sage_variables()["params"]
    rows = p["item_embedding"].copy()
    for layer in range(2):
        q, w = p[f"layers_{layer}"]["neighbour"], p[f"layers_{layer}"]["own"]
        made = []
        for own, ids, weight in zip(rows, NEAR.item, NEAR.weight, strict=True):
            sent = np.maximum(rows[ids] @ q["kernel"] + q["bias"], 0)
            pooled = weight @ sent / weight.sum() if weight.any() else np.zeros(5)
            z = np.maximum(np.concatenate([pooled, own]) @ w["kernel"] + w["bias"], 0)
            made.append(z / max(np.linalg.norm(z), 1e-12))
        rows = np.array(made)
    hidden = np.maximum(rows @ p["inner"]["kernel"] + p["inner"]["bias"], 0)
    return hidden @ p["outer"]["kernel"]


def test_pinsage_is_algorithm_2() -> None:
    np.testing.assert_allclose(represented(NEAR)[1:], naive_sage()[1:], rtol=1e-4, atol=1e-6)


def test_the_order_of_neighbours_and_padding_mean_nothing() -> None:
    turned = Neighbourhoods(NEAR.item[:, ::-1].copy(), NEAR.weight[:, ::-1].copy())
    np.testing.assert_allclose(represented(turned), represented(NEAR), rtol=1e-5, atol=1e-6)
    wider = Neighbourhoods(*(np.pad(column, ((0, 0), (0, 1))) for column in NEAR))
    np.testing.assert_allclose(represented(wider), represented(NEAR), rtol=1e-5, atol=1e-6)
    scaled = Neighbourhoods(NEAR.item, NEAR.weight * 8)
    np.testing.assert_allclose(represented(scaled), represented(NEAR), rtol=1e-5, atol=1e-6)


def test_blocks_of_some_items_give_their_vectors() -> None:
    """Item 3 alone: the second convolution reads items 3, 4, 2 and 1, the first all that these need."""
    ids = jnp.array([3, 4, 2, 1])
    place = {0: 0, 3: 0, 4: 1, 2: 2, 1: 3}
    local = np.vectorize(place.__getitem__)(NEAR.item[np.asarray(ids)])
    inner = local, NEAR.weight[np.asarray(ids)]
    blocks = (inner, (inner[0][:1], inner[1][:1]))
    found = applied(SAGE, sage_variables(), ids, None, blocks, method="convolved")
    np.testing.assert_allclose(found[0], represented(NEAR)[3], rtol=1e-5, atol=1e-6)
