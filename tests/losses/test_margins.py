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
