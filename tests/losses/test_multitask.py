"""Losses of labelled impressions: cross-entropy, smoothing, focal loss, and weights of single examples."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(4, 3)).astype(np.float32) * 3
LABELS = rng.integers(0, 2, (4, 3)).astype(np.float32)
WHERE = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
WEIGHT = rng.integers(0, 4, (4, 3)).astype(np.float32)
ALL: dict[str, Any] = {
    "bce": losses.binary_cross_entropy,
    "smooth": functools.partial(losses.binary_cross_entropy, smoothing=0.1, towards=0.2),
    "focal": losses.focal,
    "squared": losses.squared_error,
}


def slow(name: str, logit: float, label: float) -> float:
    """One example in float64."""
    p = 1 / (1 + np.exp(-float(logit)))
    if name == "squared":
        return (float(logit) - label) ** 2
    if name == "focal":
        right, alpha = (p, 0.25) if label else (1 - p, 0.75)
        return -alpha * (1 - right) ** 2 * np.log(right)
    y = 0.9 * label + 0.1 * 0.2 if name == "smooth" else label
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


EACH = {name: np.vectorize(functools.partial(slow, name))(LOGITS, LABELS) for name in ALL}


GRADIENTS: dict[str, Any] = {
    name: jax.jit(jax.value_and_grad(lambda s, y, w, r, loss=loss: loss(s, y, where=w, weight=r)))
    for name, loss in ALL.items()
}
EVERY, ONES = np.ones((4, 3), bool), np.ones((4, 3), np.float32)


@pytest.mark.parametrize("name", ALL)
def test_means_are_over_real_examples(name: str) -> None:
    each, value = EACH[name], lambda where, weight: float(GRADIENTS[name](LOGITS, LABELS, where, weight)[0])
    assert float(ALL[name](LOGITS, LABELS)) == pytest.approx(each.mean(), rel=1e-5)
    assert value(EVERY, ONES) == pytest.approx(each.mean(), rel=1e-5)
    assert value(WHERE, ONES) == pytest.approx(each[WHERE].mean(), rel=1e-5)
    assert value(WHERE, WEIGHT) == pytest.approx((WEIGHT * each)[WHERE].mean(), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_nothing_to_average_is_zero_with_a_zero_gradient(name: str) -> None:
    value, gradient = GRADIENTS[name](LOGITS, LABELS, ~EVERY, ONES)
    assert float(value) == 0.0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", ALL)
def test_examples_that_are_not_used_reach_no_gradient_even_if_they_are_nan(name: str) -> None:
    used = WHERE & (WEIGHT != 0)
    assert (WHERE & ~used).any()
    logits, labels = np.where(used, LOGITS, np.inf), np.where(used, LABELS, np.nan)
    value, gradient = GRADIENTS[name](logits, labels, WHERE, np.where(WHERE, WEIGHT, np.nan))
    assert float(value) == pytest.approx((WEIGHT * EACH[name])[WHERE].mean(), rel=1e-5)
    assert np.isfinite(gradient).all()
    assert (gradient[~used] == 0).all()
    assert (gradient[used] != 0).all()


@pytest.mark.parametrize("name", ["bce", "smooth", "focal"])
def test_extreme_logits_have_finite_losses_and_gradients(name: str) -> None:
    extreme = np.resize(np.array([100.0, -100.0, 1e4, -1e4], np.float32), (4, 3))
    for label in (0.0, 1.0):
        value, gradient = GRADIENTS[name](extreme, label * ONES, EVERY, ONES)
        assert np.isfinite(gradient).all()
        assert 10.0 < float(value) < np.inf


def test_shares_of_devices_add_up() -> None:
    @jax.jit
    def shares(*columns: Any) -> dict[str, Any]:
        def share(s: Any, y: Any, w: Any, r: Any) -> dict[str, Any]:
            return {name: loss(s, y, where=w, weight=r, axis_name="d") for name, loss in ALL.items()}

        return jax.vmap(share, axis_name="d")(*columns)

    for name, found in shares(LOGITS, LABELS, WHERE, WEIGHT).items():
        assert float(found.sum()) == pytest.approx((WEIGHT * EACH[name])[WHERE].mean(), rel=1e-5)


# --- label smoothing ---


def test_smoothing_moves_the_mean_label_unless_it_goes_to_the_base_rate() -> None:
    labels = np.array([1.0] + [0.0] * 99, np.float32)
    assert losses.smooth_labels(labels, 0.0).tolist() == labels.tolist()
    assert float(losses.smooth_labels(labels, 0.1).mean()) == pytest.approx(0.9 * 0.01 + 0.05)  # 5.9 %
    assert float(losses.smooth_labels(labels, 0.1, towards=0.01).mean()) == pytest.approx(0.01)
    assert set(losses.smooth_labels(labels, 0.25, towards=0.0).tolist()) == {0.0, 0.75}
    assert set(losses.smooth_labels(labels, 0.25, towards=1.0).tolist()) == {0.25, 1.0}


def test_smoothed_classes_add_up_to_one() -> None:
    smooth = losses.smooth_labels(np.eye(4), 0.2, towards=1 / 4)
    np.testing.assert_allclose(smooth.sum(axis=1), 1.0)


def test_the_least_smoothed_loss_is_the_entropy_of_the_label() -> None:
    best = np.log((1 - 0.1 / 2) / (0.1 / 2))
    loss = functools.partial(losses.binary_cross_entropy, labels=jnp.float32(1.0), smoothing=0.1)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(best))
    assert float(gradient) == pytest.approx(0.0, abs=1e-6)
    assert float(value) == pytest.approx(-0.95 * np.log(0.95) - 0.05 * np.log(0.05), rel=1e-5)


@pytest.mark.parametrize(
    "arguments", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"smoothing": 0.1, "towards": 2.0}]
)
def test_impossible_smoothing_is_an_error(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="smoothing="):
        losses.smooth_labels(jnp.ones(2), **arguments)


# --- focal loss ---


def test_focal_without_focus_is_the_cross_entropy() -> None:
    entropy = float(losses.binary_cross_entropy(LOGITS, LABELS))
    assert float(losses.focal(LOGITS, LABELS, gamma=0.0, alpha=None)) == pytest.approx(entropy, rel=1e-6)
    assert float(losses.focal(LOGITS, LABELS, gamma=0.0, alpha=0.5)) == pytest.approx(0.5 * entropy, rel=1e-6)


def test_focal_is_below_the_cross_entropy_and_vanishes_as_its_power() -> None:
    assert float(losses.focal(LOGITS, LABELS, alpha=None)) < float(
        losses.binary_cross_entropy(LOGITS, LABELS)
    )
    one = jnp.ones(1)
    for gamma in (1.0, 2.0):
        small, smaller = (float(losses.focal(s * one, one, gamma=gamma, alpha=None)) for s in (6.0, 8.0))
        # (1 - p)^γ (-log p) is about (e⁻ˢ)^(γ + 1) for a right label
        assert np.log(small / smaller) == pytest.approx(2.0 * (gamma + 1), rel=0.01)


def test_the_factor_of_focal_has_a_gradient_and_does_not_see_smoothing() -> None:
    def by_hand(s: Any) -> Any:
        p = jax.nn.sigmoid(s)
        return (1 - p) ** 2 * (-0.95 * jnp.log(p) - 0.05 * jnp.log(1 - p))

    ours = functools.partial(losses.focal, labels=jnp.float32(1.0), alpha=None, smoothing=0.1)
    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.float32(0.3))
    expected, expected_gradient = jax.jit(jax.value_and_grad(by_hand))(jnp.float32(0.3))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(gradient) == pytest.approx(float(expected_gradient), rel=1e-5)


@pytest.mark.parametrize("arguments", [{"gamma": -1.0}, {"alpha": 1.5}])
def test_impossible_focus_is_an_error(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gamma="):
        losses.focal(LOGITS, LABELS, **arguments)


# --- weights of examples ---


def test_means_of_half_precision_are_counted_and_added_up_in_float32() -> None:
    """301 is no number in bfloat16, which has 300 and 302."""
    values, where = jnp.linspace(0.0, 1.0, 780).astype(jnp.bfloat16), jnp.arange(780) < 301
    expected = np.asarray(values, np.float64)[:301].mean()
    for found in (
        losses.masked_mean(values, where),
        losses.weighted_mean(values, where.astype(jnp.bfloat16)),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    share = jax.vmap(lambda v, w: losses.masked_mean(v, w, "d"), axis_name="d")
    found = share(values.reshape(4, -1), where.reshape(4, -1)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weighted_mean_is_that_of_repeated_rows_and_does_not_see_the_scale() -> None:
    values = EACH["bce"].astype(np.float32)
    expected = np.repeat(values.ravel(), WEIGHT.ravel().astype(int)).mean()
    for scale in (1.0, 10.0):
        assert float(losses.weighted_mean(values, scale * WEIGHT)) == pytest.approx(float(expected), rel=1e-5)
    kept = np.where(WHERE, WEIGHT, 0)
    assert float(losses.weighted_mean(values, WEIGHT, where=WHERE)) == pytest.approx(
        float((kept * values).sum() / kept.sum()), rel=1e-5
    )
    assert float(losses.weighted_mean(values, jnp.ones((4, 3)))) == pytest.approx(
        float(values.mean()), rel=1e-5
    )
    assert float(losses.weighted_mean(values, jnp.zeros((4, 3)))) == 0.0


def test_weight_zero_hides_a_loss_that_is_not_finite() -> None:
    values = jnp.where(WEIGHT == 0, jnp.nan, LOGITS)
    value, gradient = jax.value_and_grad(losses.weighted_mean)(values, WEIGHT)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, WEIGHT / WEIGHT.sum(), rtol=1e-6)


def test_self_normalised_propensities_stay_between_the_extremes() -> None:
    values, observed = EACH["bce"], WHERE
    propensity = rng.uniform(0.01, 0.2, values.shape)
    weight = np.where(observed, 1 / propensity, 0)
    snips = float(losses.weighted_mean(values, weight))
    assert values[observed].min() < snips < values[observed].max()
    ips = float(losses.inverse_propensity_risk(values, observed, propensity))
    assert ips > values[observed].max()  # which IPS does not promise


def test_shares_of_a_weighted_mean_add_up() -> None:
    shares = jax.vmap(functools.partial(losses.weighted_mean, axis_name="d"), axis_name="d")(LOGITS, WEIGHT)
    assert float(shares.sum()) == pytest.approx(float(losses.weighted_mean(LOGITS, WEIGHT)), rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, 6), (0.5, 3), (0.51, 4), (1 / 6, 1), (0.01, 1)], ids=lambda v: f"{v:.3g}"
)
def test_the_hardest_are_the_largest_of_the_real_ones(ratio: float, expected: int) -> None:
    values = np.arange(12.0).reshape(4, 3)
    kept = np.asarray(losses.hardest(values, ratio, where=WHERE))
    assert kept.sum() == expected
    assert not (kept & ~WHERE).any()
    assert values[kept].min() > values[WHERE & ~kept].max(initial=-1)
    shares = jax.jit(jax.vmap(functools.partial(losses.hardest, ratio=ratio, axis_name="d"), axis_name="d"))
    np.testing.assert_array_equal(shares(values, where=WHERE), kept)


def test_the_hardest_of_nothing_and_of_equals() -> None:
    assert not losses.hardest(jnp.ones(3), 0.5, where=jnp.zeros(3, bool)).any()
    assert losses.hardest(jnp.ones(3), 0.5).all()
    assert losses.hardest(jnp.arange(2.0**21), 1.0).all()
    with pytest.raises(ValueError, match=r"ratio=0\.0"):
        losses.hardest(jnp.ones(3), 0.0)


def test_weights_of_classes_make_them_equal() -> None:
    counts = np.array([90, 10, 0])
    weights = np.asarray(losses.class_weights(counts))
    np.testing.assert_allclose(weights, [100 / (3 * 90), 100 / (3 * 10), 0.0], rtol=1e-6)
    np.testing.assert_allclose(losses.class_weights(counts[:2]) * counts[:2], [50, 50], rtol=1e-6)
    near_one = [losses.class_weights(np.array([1, 1000]), beta=beta) for beta in (0.9999, 1 - 1e-9)]
    exact = [(1 - beta) / (1 - np.power(beta, [1.0, 1000.0])) for beta in (0.9999, 1 - 1e-9)]
    np.testing.assert_allclose(near_one, exact, rtol=1e-5)
    effective = losses.class_weights(counts, beta=0.9)
    np.testing.assert_allclose(effective, [0.1 / (1 - 0.9**90), 0.1 / (1 - 0.9**10), 0.0], rtol=1e-5)
    np.testing.assert_allclose(losses.class_weights(counts, beta=0.0), [1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"beta=1\.0"):
        losses.class_weights(counts, beta=1.0)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_f_beta_weights_are_the_gains_of_f_beta(beta: float) -> None:
    labels, probs = LABELS > 0.5, 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    positives, negatives = (labels & WHERE).sum(), (~labels & WHERE).sum()

    def f_beta(true_positives: float, true_negatives: float) -> float:
        found = true_positives + negatives - true_negatives  # all that is called positive
        return (1 + beta**2) * true_positives / (beta**2 * positives + found)

    at = probs[labels & WHERE].sum(), (1 - probs)[~labels & WHERE].sum()
    gain = (f_beta(at[0] + 1e-6, at[1]) - f_beta(*at)) / 1e-6
    gain_negative = (f_beta(at[0], at[1] + 1e-6) - f_beta(*at)) / 1e-6
    expected = np.where(WHERE, np.where(labels, 1.0, gain_negative / gain), 0.0)
    assert gain_negative / gain != pytest.approx(1.0, rel=0.01)

    @jax.jit
    def weights(logits: Any) -> Any:
        alone = losses.f_beta_weights(logits, LABELS, beta=beta, where=WHERE)
        of_device = functools.partial(losses.f_beta_weights, beta=beta, axis_name="d")
        shared = jax.vmap(of_device, axis_name="d")(logits, LABELS, where=WHERE)
        return alone.sum(), (alone, shared)

    (_, (alone, shared)), gradient = jax.value_and_grad(weights, has_aux=True)(LOGITS)
    np.testing.assert_allclose(alone, expected, rtol=1e-4)
    np.testing.assert_allclose(shared, expected, rtol=1e-4)
    assert (gradient == 0).all()


def test_a_weight_of_positives_multiplies_the_odds() -> None:
    labels, weight = jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.array([5.0, 1.0, 1.0, 1.0])
    best = np.log(1 / 3) + np.log(5.0)  # the odds of the label, and the weight

    def loss(logit: Any) -> Any:
        return losses.binary_cross_entropy(jnp.broadcast_to(logit, 4), labels, weight=weight)

    assert float(jax.jit(jax.grad(loss))(jnp.float32(best))) == pytest.approx(0.0, abs=1e-6)
