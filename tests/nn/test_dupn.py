"""DUPN: the LSTM with gates that read properties, the attention, and the heads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.recurrent import LSTM
from jaxrec.nn.multitask.dupn import DUPN, PropertyLSTM
from tests.nn.drawn import applied

RNG = np.random.default_rng(0)
B, L = 4, 5
ITEMS, PROPERTIES = (RNG.normal(size=(B, L, n)).astype(np.float32) for n in (3, 2))
QUERY, USER, TARGET = (RNG.normal(size=(B, n)).astype(np.float32) for n in (2, 3, 4))
RANKING = RNG.normal(size=(B, 6)).astype(np.float32)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5, [1, 1, 0, 0, 0], [0] * 5], bool)
MODEL = DUPN(
    6,
    targets=("click", "icon"),
    num_levels=7,
    num_ranking=6,
    attention_dims=(5, 4),
    head_dims=(4,),
    ranking_dims=(4,),
)
TARGETS = {"click": TARGET, "icon": -TARGET}
INPUTS = (ITEMS, PROPERTIES, MASK, QUERY, USER, TARGETS, RANKING)


def drawn(model: Any, *inputs: Any) -> Any:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])
    return {"params": params}


VARIABLES = drawn(MODEL, *INPUTS)


@jax.jit
def run(variables: Any, *inputs: Any) -> Any:
    outputs, kept = MODEL.apply(variables, *inputs, mutable=["intermediates"])
    return outputs, kept["intermediates"]["weights"][0]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow_states(p: Any, items: np.ndarray, properties: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """States of one user, step by step; the cell's candidate does not read the properties."""
    h, c, found = np.zeros(6), np.zeros(6), []
    for e, q, real in zip(items, properties, mask, strict=True):
        x = e @ p["input_kernel"] + h @ p["hidden_kernel"] + p["bias"]
        x[:18] += q @ p["property_kernel"]
        i, f, o, g = np.split(x, 4)
        if real:
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.stack(found)


def test_the_whole_model_equals_a_loop() -> None:
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), VARIABLES["params"])

    def dense(x: np.ndarray, layer: Any) -> np.ndarray:
        return x @ layer["kernel"] + layer["bias"]

    outputs, weights = run(VARIABLES, *INPUTS)
    for n in range(B):
        states = slow_states(p["lstm"], ITEMS[n], PROPERTIES[n], MASK[n])
        scores = []
        for t in range(L):
            x = np.concatenate([states[t], QUERY[n], USER[n], PROPERTIES[n, t]])
            for i in range(2):
                x = np.maximum(dense(x, p["attention"][f"layer_{i}"]), 0)
            scores.append(dense(x, p["score"])[0])
        e = np.where(MASK[n], np.exp(scores), 0.0)
        a = e / max(e.sum(), 1e-30)
        np.testing.assert_allclose(weights[n], a, atol=1e-5)
        rep = np.concatenate([a @ states, USER[n]])
        for name, target in TARGETS.items():
            head = p[f"head_{name}"]
            x = np.maximum(dense(np.concatenate([rep, target[n]]), head["mlp"]["layer_0"]), 0)
            np.testing.assert_allclose(outputs[name][n], dense(x, head["logit"])[0], atol=1e-4)
        x = np.maximum(dense(rep, p["head_level"]["layer_0"]), 0)
        np.testing.assert_allclose(outputs["level"][n], dense(x, p["levels"]), atol=1e-4)
        x = np.maximum(dense(rep, p["head_ranking"]["layer_0"]), 0)
        score = np.maximum(dense(x, p["ranking_weights"]), 0) @ RANKING[n]
        np.testing.assert_allclose(outputs["ranking"][n], score, atol=1e-4)


def test_without_properties_it_is_an_ordinary_lstm() -> None:
    ours, theirs = PropertyLSTM(6), LSTM(6)
    variables = drawn(ours, ITEMS)
    params = dict(variables["params"])
    found = applied(ours, variables, ITEMS, update=MASK)
    i, f, o, g = 0, 1, 2, 3
    order = np.concatenate([np.arange(6) + 6 * block for block in (i, f, g, o)])  # theirs: i, f, g, o
    renamed = {"params": {name: leaf[..., order] for name, leaf in params.items()}}
    np.testing.assert_allclose(found, applied(theirs, renamed, ITEMS, update=MASK), atol=1e-6)
    zero = np.zeros((2, 18), np.float32)
    gated = {"params": {**params, "property_kernel": zero}}
    np.testing.assert_allclose(applied(ours, gated, ITEMS, PROPERTIES, update=MASK), found, atol=1e-6)


def test_attention_is_a_distribution_over_real_behaviours() -> None:
    _, weights = run(VARIABLES, *INPUTS)
    assert (np.asarray(weights)[~MASK] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), [1, 1, 1, 0], rtol=1e-5)


def test_padding_changes_nothing_whatever_stands_in_it() -> None:
    other = [np.where(MASK[..., None], x, np.nan).astype(np.float32) for x in (ITEMS, PROPERTIES)]
    longer = [np.pad(x, ((0, 0), (0, 2)) + ((0, 0),) * (x.ndim - 2)) for x in (ITEMS, PROPERTIES, MASK)]
    expected, _ = run(VARIABLES, *INPUTS)
    for first in ((*other, MASK), longer):
        found, _ = run(VARIABLES, *first, *INPUTS[3:])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_a_user_without_behaviours_is_their_profile_with_finite_gradients() -> None:
    def total(variables: Any) -> jax.Array:
        outputs = MODEL.apply(variables, *(jax.tree.map(lambda x: x[3:], part) for part in INPUTS))
        return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(outputs)), jnp.float32(0))

    value, slopes = jax.jit(jax.value_and_grad(total))(VARIABLES)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes["params"]["lstm"]))


def test_price_levels_need_no_target() -> None:
    found, _ = run(VARIABLES, *INPUTS)
    moved, _ = run(VARIABLES, *INPUTS[:5], {"click": TARGET + 1, "icon": TARGET}, RANKING)
    np.testing.assert_array_equal(found["level"], moved["level"])
    assert not np.allclose(found["click"], moved["click"])


def test_ranking_weights_are_not_negative() -> None:
    for k in range(6):
        one = np.zeros((B, 6), np.float32)
        one[:, k] = 1.0
        found, _ = run(VARIABLES, *INPUTS[:6], one)
        assert (found["ranking"] >= 0).all()


@pytest.mark.parametrize(("gate", "attend"), [(False, False), (True, False), (False, True)])
def test_rows_without_properties_do_not_read_them(gate: bool, attend: bool) -> None:
    model = MODEL.clone(gate=gate, attend=attend)
    variables = drawn(model, *INPUTS)
    found = applied(model, variables, *INPUTS)
    moved = applied(model, variables, ITEMS, PROPERTIES + 1, *INPUTS[2:])
    same = [bool(np.allclose(found[name], moved[name], atol=1e-6)) for name in found]
    assert all(same) == (not gate and not attend)
    assert ("property_kernel" in variables["params"]["lstm"]) == gate


def test_what_the_heads_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"targets \['click'\]"):
        MODEL.init(jax.random.key(0), *INPUTS[:5], {"click": TARGET}, RANKING)
    with pytest.raises(ValueError, match="num_ranking=6"):
        MODEL.init(jax.random.key(0), *INPUTS[:6])
