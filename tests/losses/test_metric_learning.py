"""Losses of labelled vectors: against slow NumPy, at the edges, on several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from tests.programs import run

rng = np.random.default_rng(0)
SIZE, DIM = 6, 4
Z, OTHER = rng.normal(size=(2, SIZE, DIM)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 0, 2], np.int32)  # 2 stands alone
SAME = np.array([1, 0, 1, 0, 0, 1], np.int32)
WHERE = np.array([1, 1, 1, 0, 1, 1], bool)
MARGIN, TAU, GAMMA = 0.3, 0.5, 4.0
Loss = Callable[..., Any]
EUCLID = functools.partial(losses.triplet, margin=MARGIN, distances=losses.euclidean_distances)
LOSSES: dict[str, Loss] = {  # of vectors and labels
    "triplet": functools.partial(losses.triplet, margin=MARGIN),
    "triplet violated": functools.partial(losses.triplet, margin=MARGIN, violated=True),
    "triplet euclid": EUCLID,
    "supervised_nt_xent": functools.partial(losses.supervised_nt_xent, temperature=TAU),
    "supcon": functools.partial(losses.supcon, temperature=TAU),
    "circle": functools.partial(losses.circle, margin=MARGIN, gamma=GAMMA),
}
PAIRS: dict[str, Loss] = {  # of two arrays of vectors
    "siamese": lambda z, other, **options: losses.siamese(z, other, SAME[: len(z)], margin=2.0, **options),
    "q_align": losses.q_align,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def unit(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float64)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def slow(name: str, where: np.ndarray) -> float:
    """A loss from its formula, one pair or triplet after another, in float64."""
    s, rows = unit(Z) @ unit(Z).T, np.flatnonzero(where)
    distance = 1 - s
    if name == "triplet euclid":
        distance = np.linalg.norm(Z[:, None].astype(np.float64) - Z, axis=-1)
    terms: list[float] = []
    for a in rows:
        positive = [p for p in rows if p != a and LABELS[p] == LABELS[a]]
        negative = [n for n in rows if LABELS[n] != LABELS[a]]
        if name.startswith("triplet"):
            terms += [max(0.0, distance[a, p] - distance[a, n] + MARGIN) for p in positive for n in negative]
        elif name == "supervised_nt_xent":
            mass = sum(np.exp(s[a, n] / TAU) for n in negative)
            terms += [-np.log(np.exp(s[a, p] / TAU) / (np.exp(s[a, p] / TAU) + mass)) for p in positive]
        elif name == "supcon" and positive:
            mass = sum(np.exp(s[a, i] / TAU) for i in positive + negative)
            terms.append(-np.mean([np.log(np.exp(s[a, p] / TAU) / mass) for p in positive]))
        elif name == "circle" and positive and negative:
            near = sum(
                np.exp(-GAMMA * max(0, 1 + MARGIN - s[a, p]) * (s[a, p] - 1 + MARGIN)) for p in positive
            )
            far = sum(np.exp(GAMMA * max(0, s[a, n] + MARGIN) * (s[a, n] - MARGIN)) for n in negative)
            terms.append(np.log(1 + near * far))
    if name == "triplet violated":
        terms = [term for term in terms if term > 0]
    return float(np.mean(terms))


@every_loss
@pytest.mark.parametrize("where", [np.ones(SIZE, bool), WHERE], ids=["all", "some"])
def test_the_loss_is_that_of_the_formula(name: str, where: np.ndarray) -> None:
    np.testing.assert_allclose(run(LOSSES[name], Z, LABELS, where=where), slow(name, where), rtol=1e-5)


def test_the_siamese_loss_is_that_of_the_formula() -> None:
    distance = np.linalg.norm(Z.astype(np.float64) - OTHER, axis=-1)
    terms = np.where(SAME, distance**2, np.maximum(0, 2.0 - distance) ** 2)
    value = run(losses.siamese, Z, OTHER, SAME, margin=2.0, where=WHERE)
    np.testing.assert_allclose(value, terms[WHERE].mean(), rtol=1e-5)


def test_q_align_is_that_of_the_formula() -> None:
    u, v = unit(Z[WHERE]), unit(OTHER[WHERE])
    expected = 0.5 * np.mean(2 - 2 * np.sum(u * v, axis=-1))
    for end in (u, v):
        expected += 0.75 * np.mean(np.log(np.exp(2 * end @ end.T - 2).sum(axis=-1)))
    np.testing.assert_allclose(run(losses.q_align, Z, OTHER, where=WHERE), expected, rtol=1e-5)


@pytest.mark.parametrize("name", [*LOSSES, "q_align"])
def test_shares_of_devices_and_their_gradients_add_up(name: str) -> None:
    loss = LOSSES.get(name, losses.q_align)
    second = LABELS if name in LOSSES else OTHER

    def total(z: Any) -> Any:
        parts = [a.reshape(2, SIZE // 2, *a.shape[1:]) for a in (z, second, WHERE)]
        share = functools.partial(loss, axis_name="devices")
        return jax.vmap(lambda z, s, w: share(z, s, where=w), axis_name="devices")(*parts).sum()

    both = jax.jit(jax.value_and_grad(total))(Z)
    whole = jax.jit(jax.value_and_grad(lambda z: loss(z, second, where=WHERE)))(Z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), both, whole)
    assert not np.asarray(whole[1])[~WHERE].any()


@pytest.mark.parametrize("name", [*LOSSES, *PAIRS])
def test_nothing_real_costs_nothing(name: str) -> None:
    loss, nothing = LOSSES.get(name) or PAIRS[name], np.zeros(SIZE, bool)
    second = LABELS if name in LOSSES else OTHER
    value, gradient = jax.jit(jax.value_and_grad(lambda z: loss(z, second, where=nothing)))(Z)
    assert value == 0.0 and not np.asarray(gradient).any()


@pytest.mark.parametrize(
    "name", ["triplet", "triplet violated", "triplet euclid", "supervised_nt_xent", "circle"]
)
def test_a_batch_of_one_label_has_no_negative_and_no_loss(name: str) -> None:
    value, gradient = jax.jit(jax.value_and_grad(LOSSES[name]))(Z, np.zeros(SIZE, np.int32))
    assert value == 0.0 and not np.asarray(gradient).any()


@every_loss
def test_a_batch_without_a_positive_has_no_loss(name: str) -> None:
    value, gradient = jax.jit(jax.value_and_grad(LOSSES[name]))(Z, np.arange(SIZE, dtype=np.int32))
    assert value == 0.0 and not np.asarray(gradient).any()


@every_loss
def test_one_example_has_no_loss(name: str) -> None:
    value, gradient = jax.jit(jax.value_and_grad(LOSSES[name]))(Z[:1], LABELS[:1])
    assert value == 0.0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("name", [*LOSSES, *PAIRS])
def test_extreme_equal_and_zero_vectors_stay_finite(name: str) -> None:
    loss, second = LOSSES.get(name) or PAIRS[name], LABELS if name in LOSSES else np.zeros_like(OTHER)
    compiled = jax.jit(jax.value_and_grad(loss))
    for z in (1e4 * Z, np.ones_like(Z), np.zeros_like(Z)):
        value, gradient = compiled(z, second)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_large_scale_of_the_circle_loss_stays_finite() -> None:
    value, gradient = jax.jit(jax.value_and_grad(functools.partial(losses.circle, gamma=1e4)))(Z, LABELS)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_the_weights_of_the_circle_loss_have_no_gradient() -> None:
    """Two anchors, a negative each: ∂ loss / ∂ s_n is γ a_n times a sigmoid, without the slope of a_n."""
    z = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    labels = np.array([0, 0, 1], np.int32)

    def by_formula(z: Any, constant: Any) -> Any:
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        s, terms = z @ z.T, []
        for a, p in ((0, 1), (1, 0)):
            near = -GAMMA * (1 + MARGIN - constant[a, p]) * (s[a, p] - 1 + MARGIN)
            far = GAMMA * (constant[a, 2] + MARGIN) * (s[a, 2] - MARGIN)
            terms.append(jax.nn.softplus(near + far))
        return jnp.mean(jnp.stack(terms))

    expected = jax.jit(jax.grad(by_formula))(z, z @ z.T)
    found = jax.jit(jax.grad(LOSSES["circle"]))(z, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "options", "match"),
    [
        (losses.triplet, {"margin": -1.0}, r"margin=-1\.0: must be at least 0"),
        (losses.circle, {"gamma": 0.0}, r"gamma=0\.0: must be positive"),
        (losses.supcon, {"temperature": 0.0}, r"temperature=0\.0: must be positive"),
        (losses.supervised_nt_xent, {"temperature": -1.0}, r"temperature=-1\.0"),
        (losses.info_nce, {"temperature": 0.0}, r"temperature=0\.0"),
        (losses.q_align, {"scale": 0.0}, r"scale=0\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(loss: Loss, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        loss(Z, OTHER if loss in (losses.info_nce, losses.q_align) else LABELS, **options)
