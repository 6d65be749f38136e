"""Losses of a student against a teacher: formulas, where they are least, limits, masks, gradients."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

rng = np.random.default_rng(0)
SHAPE = (3, 5)
STUDENT, TEACHER = (2 * rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
CANDIDATES = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
LISTS: dict[str, Any] = {
    "softmax": functools.partial(losses.soft_softmax_cross_entropy, temperature=2.0),
    "margin": losses.margin_error,
}
SINGLE: dict[str, Any] = {
    "sigmoid": functools.partial(losses.soft_sigmoid_cross_entropy, temperature=2.0),
    "logit": losses.logit_error,
}
every_list = pytest.mark.parametrize("name", LISTS)
every_single = pytest.mark.parametrize("name", SINGLE)
every = pytest.mark.parametrize("loss", [*LISTS.values(), *SINGLE.values()], ids=[*LISTS, *SINGLE])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def slow_list(name: str, s: np.ndarray, t: np.ndarray) -> float:
    """A list of candidates, the first of which is observed, in float64."""
    s, t = s.astype(np.float64), t.astype(np.float64)
    if name == "softmax":
        return float(-4.0 * (softmax(t / 2) * np.log(softmax(s / 2))).sum())
    errors = [((s[0] - s[j]) - (t[0] - t[j])) ** 2 for j in range(1, len(s))]
    return float(np.mean(errors)) if errors else 0.0


def slow_single(name: str, s: float, t: float) -> float:
    if name == "logit":
        return 0.5 * (s - t) ** 2
    p, q = 1 / (1 + np.exp(-t / 2)), 1 / (1 + np.exp(-s / 2))
    return float(4.0 * -(p * np.log(q) + (1 - p) * np.log(1 - q)))


@every_list
def test_a_list_without_some_candidates_is_the_shorter_list(name: str) -> None:
    found = jax.jit(LISTS[name])(STUDENT, TEACHER, candidates=CANDIDATES)
    shorter = [slow_list(name, s[c], t[c]) for s, t, c in zip(STUDENT, TEACHER, CANDIDATES, strict=True)]
    np.testing.assert_allclose(found, np.mean(shorter), rtol=1e-5)


@every_single
def test_an_example_has_the_value_of_the_formula(name: str) -> None:
    where = rng.random(SHAPE) < 0.6
    found = jax.jit(SINGLE[name])(STUDENT, TEACHER, where=where)
    slow = np.vectorize(functools.partial(slow_single, name))(STUDENT, TEACHER)
    np.testing.assert_allclose(found, slow[where].mean(), rtol=1e-5)


@every
def test_it_is_least_where_both_are_equal_and_the_teacher_has_no_gradient(loss: Any) -> None:
    value = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    least, (at_least, _) = value(TEACHER, TEACHER)
    np.testing.assert_allclose(at_least, 0.0, atol=1e-6)
    for _ in range(3):
        moved, (of_student, of_teacher) = value(TEACHER + rng.normal(size=SHAPE).astype(np.float32), TEACHER)
        assert moved > least
        assert np.abs(of_student).sum() > 0 and not np.any(of_teacher)


def test_the_least_cross_entropy_is_the_entropy_of_the_teacher() -> None:
    p = np.apply_along_axis(softmax, 1, TEACHER / 3.0)
    entropy = float(losses.softmax_entropy(TEACHER, temperature=3.0))
    assert entropy == pytest.approx(9 * -(p * np.log(p)).sum(1).mean(), rel=1e-5)
    divergence = losses.soft_softmax_cross_entropy(STUDENT, TEACHER, temperature=3.0) - entropy
    q = np.apply_along_axis(softmax, 1, STUDENT / 3.0)
    np.testing.assert_allclose(divergence, 9 * (p * np.log(p / q)).sum(1).mean(), rtol=1e-4)


def test_at_large_temperatures_gradients_are_differences_of_logits() -> None:
    """Hinton et al., equation 4: ((s - mean s) - (t - mean t)) / C; of a logit alone (s - t) / 4."""
    large = 1000.0
    of_lists = jax.grad(lambda s: 3 * losses.soft_softmax_cross_entropy(s, TEACHER, temperature=large))
    soft = jax.jit(of_lists)(STUDENT)
    centred = [x - x.mean(axis=1, keepdims=True) for x in (STUDENT, TEACHER)]
    np.testing.assert_allclose(soft, (centred[0] - centred[1]) / SHAPE[1], atol=2e-3)
    np.testing.assert_allclose(soft.sum(axis=1), 0.0, atol=1e-3)
    of_one = jax.grad(lambda s: 15 * losses.soft_sigmoid_cross_entropy(s, TEACHER, temperature=large))
    one = jax.jit(of_one)(STUDENT)
    np.testing.assert_allclose(one, (STUDENT - TEACHER) / 4, atol=2e-3)


def test_two_classes_are_a_sigmoid_of_their_difference() -> None:
    pair = losses.soft_softmax_cross_entropy(STUDENT[:, :2], TEACHER[:, :2], temperature=2.0)
    one = losses.soft_sigmoid_cross_entropy(
        STUDENT[:, 0] - STUDENT[:, 1], TEACHER[:, 0] - TEACHER[:, 1], temperature=2.0
    )
    np.testing.assert_allclose(pair, one, rtol=1e-5)


def test_margins_do_not_depend_on_the_level_of_scores() -> None:
    np.testing.assert_allclose(
        losses.margin_error(STUDENT + 3.0, TEACHER - 5.0), losses.margin_error(STUDENT, TEACHER), rtol=1e-5
    )


@every
def test_what_is_not_real_is_not_read(loss: Any) -> None:
    of_lists = loss in LISTS.values()
    where = np.array([True, False, True]) if of_lists else np.array([[True], [False], [True]])
    broken = [x.copy() for x in (STUDENT, TEACHER)]
    for x in broken:
        x[1] = np.nan
    value, gradient = jax.jit(jax.value_and_grad(loss))(*broken, where=where)
    np.testing.assert_allclose(value, loss(STUDENT[::2], TEACHER[::2]), rtol=1e-5)
    assert np.isfinite(gradient).all() and not gradient[1].any()
    assert float(loss(*broken, where=np.zeros_like(where))) == 0.0


@every_list
def test_candidates_that_are_not_there_are_not_read(name: str) -> None:
    broken = [np.where(CANDIDATES, x, np.nan) for x in (STUDENT, TEACHER)]
    value, gradient = jax.jit(jax.value_and_grad(LISTS[name]))(*broken, candidates=CANDIDATES)
    np.testing.assert_allclose(value, LISTS[name](STUDENT, TEACHER, candidates=CANDIDATES), rtol=1e-6)
    assert np.isfinite(gradient).all() and not gradient[~CANDIDATES].any()


def test_a_list_without_a_candidate_has_loss_zero() -> None:
    none = CANDIDATES & (np.arange(3) != 1)[:, None]
    found = losses.soft_softmax_cross_entropy(STUDENT, TEACHER, candidates=none)
    rest = losses.soft_softmax_cross_entropy(STUDENT[::2], TEACHER[::2], candidates=none[::2])
    np.testing.assert_allclose(found, 2 / 3 * rest, rtol=1e-5)


@every
def test_extreme_scores_are_finite(loss: Any) -> None:
    value, gradient = jax.jit(jax.value_and_grad(loss))(1e4 * STUDENT, -1e4 * TEACHER)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@every
def test_shares_of_devices_add_up(loss: Any) -> None:
    student, teacher = (np.concatenate([x, x[:1]]) for x in (STUDENT, TEACHER))
    where = np.array([1, 1, 1, 0], bool)
    where = where if loss in LISTS.values() else where[:, None]
    halves = [x.reshape(2, 2, *x.shape[1:]) for x in (student, teacher, where)]
    of_each = jax.vmap(lambda s, t, w: loss(s, t, where=w, axis_name="d"), axis_name="d")
    shares = jax.jit(of_each)(*halves)
    np.testing.assert_allclose(shares.sum(), loss(student, teacher, where=where), rtol=1e-5)


@every
def test_another_number_of_scores_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match="must be of one shape"):
        loss(STUDENT, TEACHER[:, :4])


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_a_temperature_is_positive(temperature: float) -> None:
    for loss in (losses.soft_sigmoid_cross_entropy, losses.soft_softmax_cross_entropy):
        with pytest.raises(ValueError, match=f"temperature={temperature}: must be positive"):
            loss(STUDENT, TEACHER, temperature=temperature)


# --- label smoothing -------------------------------------------------------------------------------

LABELS = np.array([4, 0, 2], np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_classes_by_hand(smoothing: float) -> None:
    y = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    np.testing.assert_allclose(y.sum(1), 1.0)
    slow = -(y * np.log(np.apply_along_axis(softmax, 1, STUDENT.astype(np.float64)))).sum(1)
    where = np.array([True, True, False])
    found = jax.jit(functools.partial(losses.categorical_cross_entropy, smoothing=smoothing))
    np.testing.assert_allclose(found(STUDENT, LABELS), slow.mean(), rtol=1e-5)
    np.testing.assert_allclose(found(STUDENT, LABELS, where=where), slow[:2].mean(), rtol=1e-5)
    weight = np.array([2.0, 0.0, 1.0])
    np.testing.assert_allclose(found(STUDENT, LABELS, weight=weight), (weight * slow).mean(), rtol=1e-5)


def test_without_smoothing_it_is_the_focal_loss_of_gamma_zero() -> None:
    np.testing.assert_allclose(
        losses.categorical_cross_entropy(STUDENT, LABELS),
        losses.softmax_focal(STUDENT, LABELS, gamma=0.0),
        rtol=1e-5,
    )


def test_the_least_smoothed_loss_is_the_entropy_of_the_labels() -> None:
    """Of one label 1: the best logit is log((1 - ε/2) / (ε/2)); of classes: log y."""
    eps = 0.1
    y = np.full(5, eps / 5) + (1 - eps) * (np.arange(5) == 1)
    best = jnp.log(y)[None]
    value, gradient = jax.value_and_grad(losses.categorical_cross_entropy)(best, np.array([1]), smoothing=eps)
    np.testing.assert_allclose(value, -(y * np.log(y)).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    logit = jnp.log(jnp.array([(1 - eps / 2) / (eps / 2)]))
    binary = jax.grad(functools.partial(losses.binary_cross_entropy, labels=jnp.ones(1), smoothing=eps))
    np.testing.assert_allclose(binary(logit), 0.0, atol=1e-6)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_class_that_there_is_not_makes_the_loss_nan(label: int) -> None:
    labels = LABELS.copy()
    labels[1] = label
    assert np.isnan(losses.categorical_cross_entropy(STUDENT, labels))
    where = np.array([True, False, True])
    assert np.isfinite(losses.categorical_cross_entropy(STUDENT, labels, where=where))
