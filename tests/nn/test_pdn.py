"""PDN: the noisy-or of its paths, what changes it and what does not, and how it is served."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.retrieval.pdn import PDN, noisy_or_logit
from jaxrec.types import Array
from tests.nn.drawn import applied, drawn
from tests.nn.family import check_examples_do_not_see_each_other

B, L, F, D = 5, 4, 3, 2
MODEL = PDN((5,), (4,), max_paths=L)
RNG = np.random.default_rng(1)
MASK = np.array([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)
X, TARGET, HISTORY = (RNG.normal(size=s).astype(np.float32) for s in ((B, F), (B, D), (B, L, D)))
MORE: dict[str, Any] = {
    "behaviour": RNG.normal(size=(B, L, 2)).astype(np.float32),
    "relation": RNG.normal(size=(B, L, 1)).astype(np.float32),
    "bias": RNG.normal(size=(B, 2)).astype(np.float32),
}
VARIABLES = drawn(MODEL, X, TARGET, HISTORY, MASK, **MORE)


def logit(mask: Any = MASK, history: Any = HISTORY, x: Any = X, **more: Any) -> np.ndarray:
    given = {**MORE, **more}
    if given["bias"] is None:
        given.pop("bias")
    return np.asarray(applied(MODEL, VARIABLES, x, TARGET, history, mask, **given))


def part(method: str, *inputs: Any) -> np.ndarray:
    return np.asarray(applied(MODEL, VARIABLES, *inputs, method=method))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def noisy_or(path: np.ndarray, mask: np.ndarray, direct: np.ndarray) -> np.ndarray:
    return 1 - sigmoid(-direct) * np.prod(np.where(mask, sigmoid(-path), 1.0), axis=1)


def paths() -> tuple[np.ndarray, np.ndarray]:
    """t + s of every path, and d."""
    trigger = part("trigger", X, HISTORY, MORE["behaviour"])
    return trigger + part("similarity", HISTORY, TARGET, MORE["relation"]), part("direct", X, TARGET)


def test_it_is_a_noisy_or_of_its_paths() -> None:
    path, direct = paths()
    np.testing.assert_allclose(sigmoid(logit(bias=None)), noisy_or(path, MASK, direct), atol=1e-6)
    none = logit(mask=np.zeros_like(MASK), bias=None)
    np.testing.assert_allclose(sigmoid(none), sigmoid(direct), atol=1e-6)
    assert (sigmoid(logit()) > sigmoid(logit(bias=None))).all()  # a bias is one more path


def test_padding_and_order_change_nothing_and_a_path_only_adds() -> None:
    other = np.where(MASK[..., None], HISTORY, 9.0)
    np.testing.assert_allclose(logit(history=other), logit(), rtol=1e-5, atol=1e-6)
    order = np.array([2, 0, 3, 1])
    turned = {name: MORE[name][:, order] for name in ("behaviour", "relation")}
    np.testing.assert_allclose(
        logit(mask=MASK[:, order], history=HISTORY[:, order], **turned), logit(), rtol=1e-5, atol=1e-6
    )
    less = MASK.copy()
    less[:, 3] = False
    assert (logit(mask=less) <= logit() + 1e-6).all()
    assert (logit(mask=less)[MASK[:, 3]] < logit()[MASK[:, 3]]).all()


def test_examples_do_not_see_each_other() -> None:
    check_examples_do_not_see_each_other(lambda axis: MODEL, X, TARGET, HISTORY, MASK)


def test_served_from_an_index_it_is_what_was_trained() -> None:
    """With every trigger and every item in the index, the order is that of scoring all items."""
    items = RNG.normal(size=(7, D)).astype(np.float32)
    none = np.zeros((7, 1, 1), np.float32)
    similar = np.stack(
        [part("similarity", np.broadcast_to(items[j], (7, 1, D)), items, none)[:, 0] for j in range(7)]
    )  # [j, i]
    triggers = np.array([4, 1, 5])
    user = X[:1]
    care = part("trigger", user, items[triggers][None], np.zeros((1, 3, 2), np.float32))[0]
    direct = part("direct", np.broadcast_to(user, (7, F)), items)
    served = np.logaddexp(0, care[:, None] + similar[triggers]).sum(axis=0) + np.logaddexp(0, direct)
    whole = applied(
        MODEL,
        VARIABLES,
        np.broadcast_to(user, (7, F)),
        items,
        np.broadcast_to(items[triggers], (7, 3, D)),
        np.ones((7, 3), bool),
        behaviour=np.zeros((7, 3, 2), np.float32),
        relation=np.zeros((7, 3, 1), np.float32),
    )
    np.testing.assert_allclose(noisy_or_logit(jnp.asarray(served)), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("total", [1e-6, 1.0, 20.0])
def test_cross_entropy_of_the_logit_is_the_loss_of_the_paper(label: float, total: float) -> None:
    def loss(total: Array) -> Array:
        return losses.binary_cross_entropy(noisy_or_logit(total)[None], jnp.array([label]))

    value, slope = jax.value_and_grad(loss)(jnp.float32(total))
    exact = np.float64(np.float32(total))
    expected = -np.log(-np.expm1(-exact)) if label else exact
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-7)
    gradient = np.exp(-exact) / np.expm1(-exact) if label else 1.0
    np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-6)


def test_extreme_paths_are_finite() -> None:
    """Without a path and a direct one there is no evidence at all."""
    for total in (0.0, 1e-30, 50.0 * L, 1e4):
        value, slope = jax.value_and_grad(noisy_or_logit)(jnp.float32(total))
        assert np.isfinite(value)
        assert np.isfinite(slope)
    model = PDN((5,), with_direct=False, max_paths=L)
    found = drawn(model, X, TARGET, HISTORY, MASK)
    none = applied(model, found, X, TARGET, HISTORY, np.zeros_like(MASK))
    assert np.isfinite(none).all()
    assert (sigmoid(np.asarray(none)) < 1e-20).all()


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_it_starts_near_the_base_rate(rate: float) -> None:
    """With weights of 0 exactly there, for a user of as many paths as it says, and a bias."""
    model = PDN((5,), (4,), base_rate=rate, max_paths=L)
    ones = np.ones_like(MASK)
    found = model.init(jax.random.key(0), X, TARGET, HISTORY, ones, bias=MORE["bias"])
    params = {
        name: tree if name.endswith("_bias") else jax.tree.map(jnp.zeros_like, tree)
        for name, tree in found["params"].items()
    }
    start = model.apply({"params": params}, X, TARGET, HISTORY, ones, bias=MORE["bias"])
    np.testing.assert_allclose(sigmoid(np.asarray(start)), rate, rtol=1e-4)


def test_without_a_net_of_the_bias_there_are_no_parameters_for_it() -> None:
    found = drawn(MODEL.clone(with_bias=False), X, TARGET, HISTORY, MASK)["params"]
    assert {name for name in VARIABLES["params"] if name not in found} == {"bias_net", "bias_bias"}
    with pytest.raises(ValueError, match="bias: is given to a model without its net"):
        MODEL.clone(with_bias=False).init(jax.random.key(0), X, TARGET, HISTORY, MASK, bias=MORE["bias"])


def test_wrong_fields_are_refused() -> None:
    for fields, message in (({"base_rate": 1.0}, r"base_rate=1\.0"), ({"max_paths": -1}, "max_paths=-1")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda f=fields: PDN(**f).init(jax.random.key(0), X, TARGET, HISTORY, MASK))
