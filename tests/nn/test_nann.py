"""NANN's scorer against its formula, item by item, and what must not change a score."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.nann import NANN
from tests.nn.drawn import applied, drawn

SMALL: dict[str, Any] = {
    "num_items": 12, "dim": 5, "max_len": 6, "user_dims": (7, 4), "item_dims": (6, 4), "score_dims": (8, 3),
}  # fmt: skip
MODEL = NANN(**SMALL)
ITEMS = np.array([[0, 0, 3, 9, 3, 1], [5, 6, 7, 8, 9, 10], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 4]], np.int32)
CANDIDATES = np.array([[1, 2, 3], [12, 5, 4], [1, 2, 12], [4, 4, 7]], np.int32)


@functools.cache
def variables(model: NANN = MODEL) -> Any:
    found = drawn(model, ITEMS, CANDIDATES, train=False)
    found["params"]["item_embedding"][0] = 0
    return found


def scores(items: np.ndarray, candidates: np.ndarray, model: NANN = MODEL) -> np.ndarray:
    return np.asarray(applied(model, variables(model), items, candidates, train=False))


def layers(x: np.ndarray, net: Any, last: Any) -> np.ndarray:
    for i in range(len([name for name in net if name.startswith("layer_")])):
        x = x @ net[f"layer_{i}"]["kernel"] + net[f"layer_{i}"]["bias"]
        x = np.where(x > 0, x, net[f"activation_{i}"]["alpha"] * x)
    return x @ last["kernel"] + last["bias"]


def by_hand(history: np.ndarray, item: int, model: NANN) -> float:
    p = jax.tree.map(np.float64, variables(model)["params"])
    e = layers(p["item_embedding"][item], p["item_net"], p["item_out"])
    mean = attended = np.zeros_like(e)
    events = history[history > 0]
    if len(events):
        h = layers(p["item_embedding"][events], p["user_net"], p["user_out"])
        weights = softmax(h @ (e @ p["query"]["kernel"]) / np.sqrt(len(e)))
        mean, attended = h.mean(axis=0), weights @ h
    parts = [mean, attended, e, *([e * mean, e * attended] if model.products else [])]
    return float(layers(np.concatenate(parts), p["score_net"]["mlp"], p["score_net"]["logit"])[0])


@pytest.mark.parametrize("model", [MODEL, NANN(**SMALL, products=True)], ids=["plain", "products"])
def test_scores_are_those_of_the_formula(model: NANN) -> None:
    expected = [
        [by_hand(history, item, model) for item in row]
        for history, row in zip(ITEMS, CANDIDATES, strict=True)
    ]
    np.testing.assert_allclose(scores(ITEMS, CANDIDATES, model), expected, rtol=1e-4, atol=1e-5)


def test_an_item_is_read_through_its_vector_alone() -> None:
    vectors = np.asarray(applied(MODEL, variables(), method="item_table"))
    assert vectors.shape == (13, 4)
    read = applied(MODEL, variables(), ITEMS, method="read")
    found = applied(MODEL, variables(), read, vectors[CANDIDATES], method="score")
    np.testing.assert_allclose(found, scores(ITEMS, CANDIDATES), rtol=1e-5, atol=1e-6)


def test_order_and_padding_of_a_history_change_nothing() -> None:
    rng = np.random.default_rng(0)
    mixed = np.stack([row[rng.permutation(6)] for row in ITEMS])
    np.testing.assert_allclose(scores(mixed, CANDIDATES), scores(ITEMS, CANDIDATES), rtol=1e-4, atol=1e-5)
    longer = np.pad(ITEMS, ((0, 0), (2, 0)))
    np.testing.assert_allclose(scores(longer, CANDIDATES), scores(ITEMS, CANDIDATES), rtol=1e-4, atol=1e-5)


def test_rows_and_items_do_not_depend_on_their_neighbours() -> None:
    whole = scores(ITEMS, CANDIDATES)
    np.testing.assert_allclose(scores(ITEMS[::-1], CANDIDATES[::-1])[::-1], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores(ITEMS, CANDIDATES[:, ::-1])[:, ::-1], whole, rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_and_padding_has_none() -> None:
    def total(params: Any, candidates: Any) -> Any:
        return jnp.sum(jnp.sin(MODEL.apply({"params": params}, ITEMS, candidates, train=True)))

    gradient = jax.jit(jax.grad(total))(variables()["params"], np.zeros_like(CANDIDATES))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not gradient["item_embedding"][0].any() and gradient["item_embedding"][1:].any()


def test_an_unknown_id_is_told_by_nan() -> None:
    found = scores(ITEMS[:1], np.array([[1, 13, -1]], np.int32))
    assert np.isnan(found).tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_items": 0}, "num_items=0: must be at least 1"),
        ({"user_dims": ()}, "both need a layer"),
        ({"item_dims": (6, 5)}, "last ones of equal width"),
        ({"mlp": Factory(MLP), "max_len": 0}, "max_len=0"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(NANN(**{**SMALL, **changes}), ITEMS, CANDIDATES, train=False)
