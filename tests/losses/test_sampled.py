"""Losses over many negatives (BPR, BPR-max, TOP1, TOP1-max) against slow NumPy, by hand, and with masks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

rng = np.random.default_rng(0)
POS, NEG = rng.normal(size=(2, 3)).astype(np.float32), 2 * rng.normal(size=(2, 3, 5)).astype(np.float32)
WHERE = np.array([[1, 0, 1], [1, 1, 1]], bool)
HITS = rng.random(NEG.shape) < 0.4
HITS[1, 2] = True  # a row without a negative


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def slow_bpr(r: float, n: np.ndarray) -> float:
    return float(np.mean([-np.log(sigmoid(r - x)) for x in n]))


def slow_bpr_max(r: float, n: np.ndarray, regularisation: float) -> float:
    s = softmax(n)
    won = sum(s[j] * sigmoid(r - n[j]) for j in range(len(n)))
    return float(-np.log(won) + regularisation * sum(s[j] * n[j] ** 2 for j in range(len(n))))


def slow_top1(r: float, n: np.ndarray) -> float:
    return float(np.mean([sigmoid(x - r) + sigmoid(x**2) for x in n]))


def slow_top1_max(r: float, n: np.ndarray) -> float:
    s = softmax(n)
    return float(sum(s[j] * (sigmoid(n[j] - r) + sigmoid(n[j] ** 2)) for j in range(len(n))))


CASES: dict[str, tuple[Callable[..., Any], Callable[..., float]]] = {
    "bpr": (losses.bpr, slow_bpr),
    "bpr_max": (
        functools.partial(losses.bpr_max, regularisation=0.7),
        functools.partial(slow_bpr_max, regularisation=0.7),
    ),
    "bpr_max_without": (
        functools.partial(losses.bpr_max, regularisation=0.0),
        functools.partial(slow_bpr_max, regularisation=0.0),
    ),
    "top1": (losses.top1, slow_top1),
    "top1_max": (losses.top1_max, slow_top1_max),
}
every_loss = pytest.mark.parametrize("name", CASES)


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    """(pos, neg, left out) -> loss over WHERE, and its gradients by scores."""
    loss, _ = CASES[name]
    return jax.jit(
        jax.value_and_grad(lambda pos, neg, out: loss(pos, neg, accidental=out, where=WHERE), (0, 1))
    )


def slow_mean(slow: Callable[..., float], pos: np.ndarray, neg: np.ndarray, hits: np.ndarray) -> float:
    """Mean over real rows, in float64; a row without a negative gives 0."""
    values = [
        slow(float(pos[at]), neg[at][~hits[at]].astype(np.float64)) if not hits[at].all() else 0.0
        for at in zip(*np.nonzero(WHERE), strict=True)
    ]
    return float(np.mean(values))


@every_loss
@pytest.mark.parametrize("hits", [np.zeros_like(HITS), HITS], ids=["all", "some left out"])
def test_losses_equal_slow_numpy(name: str, hits: np.ndarray) -> None:
    _, slow = CASES[name]
    value, _ = compiled(name)(POS, NEG, hits)
    np.testing.assert_allclose(value, slow_mean(slow, POS, NEG, hits), rtol=1e-5)


@every_loss
def test_gradients_equal_differences_of_slow_numpy(name: str) -> None:
    """The weights of the negatives are part of what is differentiated: no gradient is stopped."""
    _, slow = CASES[name]
    _, gradients = compiled(name)(POS, NEG, HITS)
    scores = POS.astype(np.float64), NEG.astype(np.float64)
    for which, gradient in enumerate(gradients):
        expected = np.zeros(scores[which].shape)
        for at in np.ndindex(expected.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [s.copy() for s in scores]
                moved[which][at] += step
                ends.append(slow_mean(slow, moved[0], moved[1], HITS))
            expected[at] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(gradient, expected, atol=2e-5)


@every_loss
def test_what_is_left_out_may_hold_anything(name: str) -> None:
    value, gradients = compiled(name)(POS, NEG, HITS)
    for large in (1e30, -np.inf, np.nan):
        other, others = compiled(name)(POS, np.where(HITS, np.float32(large), NEG), HITS)
        np.testing.assert_array_equal(other, value)
        jax.tree.map(np.testing.assert_array_equal, others, gradients)
    assert (np.asarray(gradients[1])[HITS] == 0).all()


@every_loss
def test_nothing_left_out_is_the_same_as_no_mask(name: str) -> None:
    loss, _ = CASES[name]
    plain = jax.jit(lambda: loss(POS, NEG, where=WHERE))()
    np.testing.assert_allclose(plain, compiled(name)(POS, NEG, np.zeros_like(HITS))[0], rtol=1e-6)


def test_bpr_max_with_one_negative_is_bpr_and_its_squared_score() -> None:
    one = NEG[..., :1]
    ours, bpr = jax.jit(lambda: (losses.bpr_max(POS, one, regularisation=0.3), losses.bpr(POS, one)))()
    np.testing.assert_allclose(ours, bpr + 0.3 * np.mean(one**2), rtol=1e-5)


def test_top1_max_with_one_negative_is_top1() -> None:
    one = NEG[..., :1]
    ours, plain = jax.jit(lambda: (losses.top1_max(POS, one), losses.top1(POS, one)))()
    np.testing.assert_allclose(ours, plain, rtol=1e-5)


def test_equal_scores_of_zero_by_hand() -> None:
    """Σ s_j σ(0) = 1/2; σ(0) + σ(0) = 1."""
    every = [CASES[name][0] for name in ("bpr_max", "top1", "top1_max")]
    ours = jax.jit(lambda pos, neg: [loss(pos, neg) for loss in every])(np.zeros(4), np.zeros((4, 7)))
    np.testing.assert_allclose(ours, [np.log(2.0), 1.0, 1.0], rtol=1e-6)


def test_extreme_scores_by_hand() -> None:
    """The highest negative takes all the weight, and no term is capped.

    With 1e-24 inside the logarithm a term would end at 55 nats, and its gradient would vanish.
    """
    run = jax.jit(
        jax.value_and_grad(lambda r, n: jnp.sum(losses.bpr_max(r, n, regularisation=0.1)), argnums=0)
    )
    value, _ = run(jnp.array([48.0]), jnp.array([[50.0, 0.0, -50.0]]))
    np.testing.assert_allclose(value, np.log1p(np.exp(50.0 - 48.0)) + 0.1 * 50.0**2, rtol=1e-5)
    value, slope = run(jnp.array([-100.0]), jnp.zeros((1, 3)))
    np.testing.assert_allclose(value, 100.0, rtol=1e-6)
    np.testing.assert_allclose(slope, [-1.0], rtol=1e-6)


@pytest.mark.parametrize("regularisation", [-0.1, float("nan")])
def test_a_negative_regularisation_is_refused(regularisation: float) -> None:
    with pytest.raises(ValueError, match=f"regularisation={regularisation}"):
        losses.bpr_max(POS, NEG, regularisation=regularisation)
