"""Noise-contrastive estimation, negative sampling, sampled softmax and the focal loss of several classes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from tests.programs import run

rng = np.random.default_rng(0)
POS, NEG = rng.normal(size=4).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
HITS = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1]], bool)
WHERE = np.array([1, 1, 1, 0], bool)
LOGITS, CLASSES = rng.normal(size=(5, 3)).astype(np.float32), np.array([0, 2, 1, 2, 0], np.int32)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x.astype(np.float64)))


def test_nce_is_that_of_the_formula() -> None:
    own, drawn = np.log(np.float32([0.3, 0.1, 0.7, 0.2])), np.log(np.float32([0.5, 0.4, 0.9]))
    terms = softplus(-(POS - own)) + np.where(HITS, 0.0, softplus(NEG - drawn)).sum(axis=-1)
    found = run(losses.nce, POS, NEG, pos_log_count=own, neg_log_count=drawn, accidental=HITS, where=WHERE)
    np.testing.assert_allclose(found, terms[WHERE].mean(), rtol=1e-6)


def test_without_counts_it_is_negative_sampling() -> None:
    np.testing.assert_allclose(run(losses.nce, POS, NEG), run(losses.bce, POS, NEG), rtol=1e-6)


@pytest.mark.parametrize("count", ["pos_log_count", "neg_log_count"])
def test_one_count_alone_is_refused(count: str) -> None:
    with pytest.raises(ValueError, match="go together"):
        losses.nce(POS, NEG, **{count: np.zeros(4, np.float32)})


def descend(corrected: bool) -> np.ndarray:
    """Scores of five items at the optimum of the expected loss, with three draws of noise an example."""
    p, q = jnp.array([0.4, 0.3, 0.15, 0.1, 0.05]), jnp.array([0.1, 0.2, 0.3, 0.2, 0.2])
    count = jnp.log(3 * q) if corrected else jnp.zeros(5)

    def expected(scores: Any) -> Any:
        def of_one(score: Any, log_count: Any) -> tuple[Any, Any]:
            counts = {"pos_log_count": log_count, "neg_log_count": log_count[None]}
            with_noise = losses.nce(score, score[None], **counts)
            without = losses.nce(score, score[None], accidental=jnp.array([True]), **counts)
            return without, with_noise - without

        positive, noise = jax.vmap(of_one)(scores, count)
        return jnp.sum(p * positive + 3 * q * noise)

    def step(_: int, scores: Any) -> Any:
        return scores - 2.0 * jax.grad(expected)(scores)

    scores = jax.jit(lambda scores: jax.lax.fori_loop(0, 2000, step, scores))(jnp.zeros(5))
    return np.asarray(scores)


def test_the_optimum_of_nce_is_the_log_probability_of_each_item() -> None:
    np.testing.assert_allclose(descend(True), np.log([0.4, 0.3, 0.15, 0.1, 0.05]), atol=1e-3)


def test_the_optimum_of_negative_sampling_is_a_ratio_to_the_noise() -> None:
    ratio = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) / (3 * np.array([0.1, 0.2, 0.3, 0.2, 0.2]))
    np.testing.assert_allclose(descend(False), np.log(ratio), atol=1e-3)


def loss_of(name: str) -> Any:
    return {
        "nce": functools.partial(losses.nce, accidental=HITS),
        "weighted softmax": functools.partial(losses.sampled_softmax, weight=np.ones(4, np.float32)),
        "hinge": functools.partial(losses.hinge, accidental=HITS),
    }[name]


every_loss = pytest.mark.parametrize("name", ["nce", "weighted softmax", "hinge"])


@every_loss
def test_all_masked_costs_nothing(name: str) -> None:
    loss = functools.partial(loss_of(name), where=np.zeros(4, bool))
    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(POS, NEG)
    assert value == 0.0 and not any(np.asarray(g).any() for g in gradient)


@every_loss
def test_extreme_scores_stay_finite(name: str) -> None:
    value, gradient = jax.jit(jax.value_and_grad(loss_of(name), (0, 1)))(1e4 * POS, -1e4 * NEG)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradient)


@pytest.mark.parametrize("name", ["nce", "hinge"])
def test_ignored_samples_have_no_gradient(name: str) -> None:
    gradient = np.asarray(jax.jit(jax.grad(loss_of(name), 1))(POS, NEG))
    assert not gradient[HITS].any() and gradient[~HITS].any()


def test_a_weight_multiplies_the_term_of_its_example() -> None:
    weight = np.float32([2.0, 0.0, 1.0, 3.0])
    terms = np.log(np.exp(POS) + np.exp(NEG).sum(axis=-1)) - POS
    found = run(losses.sampled_softmax, POS, NEG, weight=weight, where=WHERE)
    np.testing.assert_allclose(found, (weight * terms)[WHERE].sum() / WHERE.sum(), rtol=1e-5)


# --- the focal loss of several classes -------------------------------------------------------------


def slow_focal(gamma: float, alpha: np.ndarray, where: np.ndarray) -> float:
    p = np.exp(LOGITS.astype(np.float64))
    own = (p / p.sum(axis=-1, keepdims=True))[np.arange(5), CLASSES]
    return float((-alpha[CLASSES] * (1 - own) ** gamma * np.log(own))[where].mean())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_the_focal_loss_of_classes_is_that_of_the_formula(gamma: float) -> None:
    alpha, where = np.float32([0.2, 0.5, 0.3]), np.array([1, 1, 0, 1, 1], bool)
    found = run(losses.softmax_focal, LOGITS, CLASSES, gamma=gamma, alpha=alpha, where=where)
    np.testing.assert_allclose(found, slow_focal(gamma, alpha, where), rtol=1e-5)


def test_the_focal_loss_of_two_classes_is_that_of_one_logit() -> None:
    two = LOGITS[:, :2]
    labels = (CLASSES > 0).astype(np.int32)
    of_one = run(losses.focal, two[:, 1] - two[:, 0], labels.astype(np.float32), alpha=None)
    np.testing.assert_allclose(run(losses.softmax_focal, two, labels), of_one, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_the_focal_loss_of_extreme_logits_stays_finite(scale: float) -> None:
    loss = jax.jit(jax.value_and_grad(losses.softmax_focal))
    value, gradient = loss(np.float32(scale) * LOGITS, CLASSES)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_that_is_none_makes_the_focal_loss_nan_where_it_is_real(wrong: int) -> None:
    labels = np.array([0, wrong, 1, 2, 0], np.int32)
    assert np.isnan(run(losses.softmax_focal, LOGITS, labels))
    where = labels != wrong
    value, gradient = jax.jit(jax.value_and_grad(losses.softmax_focal))(LOGITS, labels, where=where)
    assert np.isfinite(value) and np.isfinite(gradient).all() and not np.asarray(gradient)[1].any()


def test_focal_examples_that_are_not_used_reach_no_gradient_even_if_they_are_nan() -> None:
    where, weight = np.array([1, 1, 0, 1, 0], bool), np.array([1, 0, 1, 2, np.nan], np.float32)
    used = where & (weight > 0)
    logits = np.where(used[:, None], LOGITS, np.nan)
    gradient = jax.grad(losses.softmax_focal)(logits, CLASSES, where=where, weight=weight)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~used].any()


def test_a_negative_focus_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma=-1\.0"):
        losses.softmax_focal(LOGITS, CLASSES, gamma=-1.0)
