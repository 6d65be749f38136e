"""Hinge, cosine contrastive and generalised binary cross-entropy: by formula and at the edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from tests.programs import run

rng = np.random.default_rng(0)
POS = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
NEG = rng.uniform(-1, 1, (4, 3, 5)).astype(np.float32)
WHERE = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
HINGE = partial(losses.hinge, margin=0.5)
VIOLATED = partial(losses.hinge, margin=0.5, violated=True)
CCL = partial(losses.ccl, margin=0.3, weight=7.0)
GBCE = partial(losses.gbce, num_items=21, calibration=0.8)
EVERY = {"hinge": HINGE, "violated": VIOLATED, "ccl": CCL, "gbce": GBCE}
every_loss = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
Loss = Callable[..., Any]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def slow(name: str) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss and its gradients with respect to scores, from the formulas in float64."""
    total, count = 0.0, 0
    pos, neg = np.zeros(POS.shape), np.zeros(NEG.shape)
    beta = 1 - 0.8 * (1 - 5 / 20)
    for at in zip(*np.nonzero(WHERE), strict=True):
        terms = np.maximum(0, 0.5 - POS[at] + NEG[at])
        if name == "hinge":
            total, count = total + terms.mean(), count + 1
            neg[at] = (terms > 0) / 5
            pos[at] = -neg[at].sum()
        elif name == "violated":
            total, count = total + terms.sum(), count + (terms > 0).sum()
            neg[at] = terms > 0
            pos[at] = -neg[at].sum()
        elif name == "ccl":
            total += 1 - POS[at] + 7 / 5 * np.maximum(0, NEG[at] - 0.3).sum()
            count += 1
            pos[at], neg[at] = -1, 7 / 5 * (NEG[at] > 0.3)
        else:
            total -= beta * np.log(sigmoid(POS[at])) + np.log(1 - sigmoid(NEG[at])).sum()
            count += 1
            pos[at], neg[at] = -beta * sigmoid(-POS[at]), sigmoid(NEG[at])
    return total / count, pos / count, neg / count


@pytest.mark.parametrize("name", EVERY)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    value, pos, neg = slow(name)
    both = jax.value_and_grad(partial(EVERY[name], where=WHERE), argnums=(0, 1))
    found, gradients = jax.jit(both)(POS, NEG)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], pos, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradients[1], neg, rtol=1e-5, atol=1e-7)


@every_loss
def test_shares_of_devices_add_up(loss: Loss) -> None:
    shares = jax.vmap(partial(loss, axis_name="devices"), axis_name="devices")
    split = [a.reshape(2, 2, *a.shape[1:]) for a in (POS, NEG, WHERE)]
    found = jax.jit(lambda pos, neg, where: shares(pos, neg, where=where))(*split)
    np.testing.assert_allclose(found.sum(), run(loss, POS, NEG, where=WHERE), rtol=1e-5)


@every_loss
def test_nothing_real_costs_nothing(loss: Loss) -> None:
    nothing = np.zeros_like(WHERE)
    value, gradient = jax.jit(jax.value_and_grad(partial(loss, where=nothing)))(POS, NEG)
    assert value == 0.0
    assert not np.asarray(gradient).any()


@every_loss
def test_extreme_scores_stay_finite(loss: Loss) -> None:
    scores = np.array([1e4, -1e4, 0.0], np.float32)
    other = np.array([[-1e4, 1e4, 0.0]] * 3, np.float32)
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(scores, other)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_hinge_of_equal_scores_is_its_margin() -> None:
    assert run(losses.hinge, jnp.ones(2), jnp.ones((2, 3)), margin=0.7) == pytest.approx(0.7)


def test_gbce_without_calibration_or_of_every_negative_is_bce() -> None:
    expected = run(losses.bce, POS, NEG, where=WHERE)
    plain = run(losses.gbce, POS, NEG, num_items=21, calibration=0.0, where=WHERE)
    every = run(losses.gbce, POS, NEG, num_items=6, calibration=1.0, where=WHERE)
    np.testing.assert_allclose([plain, every], expected, rtol=1e-6)


def gbce_64(pos: Any, neg: Any, **options: Any) -> Any:
    """gBCE of one positive in float64, with its gradient in the positive."""
    with jax.enable_x64(True):
        given: Any = losses.gbce
        value, slope = jax.value_and_grad(lambda p: given(p, jnp.asarray(neg, jnp.float64)[None], **options))(
            jnp.asarray(pos, jnp.float64)[None]
        )
        return float(value), float(slope[0])


@pytest.mark.parametrize(
    ("num_items", "calibration", "beta"),
    [(3416, 0.75, 0.306223), (3416, 1.0, 0.074963), (12_101, 0.75, 0.265868), (12_101, 0.0, 1.0)],
)
def test_the_power_of_gbce(num_items: int, calibration: float, beta: float) -> None:
    """β of 256 negatives; the gradient in the positive's score is -β (1 - σ(s))."""
    options: dict[str, Any] = {"num_items": num_items, "calibration": calibration}
    for score in (-2.0, 0.0, 3.0):
        value, slope = gbce_64(score, np.full(256, -800.0), **options)
        assert value == pytest.approx(beta * np.log1p(np.exp(-score)), rel=1e-5)
        assert slope == pytest.approx(-beta / (1 + np.exp(score)), rel=1e-5)


def test_gbce_is_bce_of_the_published_transform() -> None:
    """γ(s) = log(1 / (σ(s)^-β - 1)), so that σ(γ(s)) = σ(s)^β; in float64."""
    neg = np.linspace(-3, 3, 7)
    beta = 1 - 0.8 * (1 - 7 / 20)
    for score in (-3.0, 0.0, 4.0):
        moved = -np.log((1 + np.exp(-score)) ** beta - 1)
        expected = np.log1p(np.exp(-moved)) + np.log1p(np.exp(neg)).sum()
        assert gbce_64(score, neg, num_items=21, calibration=0.8)[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("prob", [0.05, 0.3, 0.9])
def test_calibrated_gbce_is_least_at_the_probability(prob: float) -> None:
    """An item that is the positive with probability p, and else each negative with 1 / (number of others)."""
    num_items, drawn = 11, 4
    score = float(np.log(prob / (1 - prob)))
    of_positive, of_negative = (
        gbce_64(s, np.full(drawn, -800.0), num_items=num_items, calibration=1.0)[1] for s in (score, -score)
    )
    beta = drawn / (num_items - 1)
    of_negative = -of_negative / beta  # d softplus(s) / ds = σ(s), of each negative
    assert prob * of_positive + (1 - prob) * drawn / (num_items - 1) * of_negative == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    ("loss", "options", "match"),
    [
        (losses.hinge, {"margin": -1.0}, r"margin=-1\.0"),
        (losses.ccl, {"margin": 1.5}, r"margin=1\.5: must be in -1\.\.1"),
        (losses.ccl, {"weight": -1.0}, r"weight=-1\.0"),
        (losses.gbce, {"num_items": 9, "calibration": 2.0}, r"calibration=2\.0"),
        (losses.gbce, {"num_items": 1}, "num_items=1"),
    ],
)
def test_numbers_out_of_range_are_refused(loss: Loss, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        loss(POS, NEG, **options)
