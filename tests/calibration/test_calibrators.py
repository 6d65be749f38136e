"""Calibrators: what they keep, what they mend, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from jaxrec import calibration, metrics

N = 600
FITS: dict[str, Any] = {
    "platt": calibration.fit_platt,
    "temperature": calibration.fit_temperature,
    "histogram": calibration.fit_histogram,
    "isotonic": calibration.fit_isotonic,
    "smooth": calibration.fit_smooth_isotonic,
}


def sigmoid(logits: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is twice too sure and too high, and labels."""
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 1.5, N)
    return (2 * truth + 1).astype(np.float32), (rng.random(N) < sigmoid(truth)).astype(np.float32)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_better_than_none_and_finite_anywhere(name: str, examples: Any) -> None:
    logits, labels = examples
    found = FITS[name](logits, labels)
    better = jax.jit(lambda c, x: c.apply(x))(found, logits)
    assert metrics.log_loss(better, labels) < metrics.log_loss(logits, labels) - 0.05
    ends = found.apply(jnp.array([-1e4, -50.0, 0.0, 50.0, 1e4]))
    assert jnp.isfinite(ends).all() and (jnp.diff(ends) >= 0).all()


@pytest.mark.parametrize("name", FITS)
def test_no_fit_makes_a_number_of_nan(name: str, examples: Any) -> None:
    assert np.isnan(FITS[name](*examples).apply(jnp.array([jnp.nan]))).all()


@pytest.mark.parametrize("name", ["platt", "temperature", "isotonic"])  # bins count examples, not weights
def test_weights_are_numbers_of_equal_examples(name: str, examples: Any) -> None:
    logits, labels = (column[:100] for column in examples)
    times = np.arange(100) % 3
    repeated = FITS[name](np.repeat(logits, times), np.repeat(labels, times))
    weighted = FITS[name](logits, labels, times.astype(float))
    np.testing.assert_allclose(repeated.apply(logits), weighted.apply(logits), rtol=1e-3, atol=1e-3)


# --- lines -------------------------------------------------------------------------------------------


def test_sampling_is_undone() -> None:
    """He et al.: a CTR of 0.1 % with 1 % of the negatives kept looks like 9.1 %, and is mapped back."""
    share = 0.001
    seen = share / (share + (1 - share) * 0.01)
    assert round(seen, 3) == 0.091
    back = calibration.sampling_correction(0.01).apply(calibration.logits_of(seen))
    assert np.isclose(sigmoid(back), share, rtol=1e-5)
    p = np.array([0.01, 0.3, 0.999])
    w1, w2 = 0.2, 0.5
    found = calibration.sampling_correction(w1).apply(calibration.logits_of(p))
    np.testing.assert_allclose(sigmoid(found), p / (p + (1 - p) / w1), rtol=1e-6)
    assert (sigmoid(found) <= p).all()
    both = calibration.sampling_correction(w2).apply(found)
    np.testing.assert_allclose(
        both, calibration.sampling_correction(w1 * w2).apply(calibration.logits_of(p)), rtol=1e-6
    )
    np.testing.assert_array_equal(calibration.sampling_correction(1.0).apply(p), p)


def test_platt_is_where_its_gradient_vanishes(examples: Any) -> None:
    logits, labels = examples
    found = calibration.fit_platt(logits, labels)
    positives = labels.sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (N - positives + 2))
    error = sigmoid(found.apply(logits)) - target
    assert abs(error.mean()) < 1e-5 and abs((error * logits).mean()) < 1e-5


def test_separable_classes_have_a_finite_line() -> None:
    found = calibration.fit_platt([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
    assert 0 < found.slope < 100
    assert 0 < calibration.fit_temperature([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1]).slope < 100


def test_platt_and_sampling_keep_the_auc(examples: Any) -> None:
    logits, labels = examples
    for found in (calibration.fit_platt(logits, labels), calibration.sampling_correction(0.1)):
        assert metrics.auc(found.apply(logits), labels) == metrics.auc(logits, labels)


# --- bins --------------------------------------------------------------------------------------------


def test_histogram_by_hand() -> None:
    logits, labels = [0.0, 1.0, 2.0, 3.0], [0, 0, 1, 0]
    found = calibration.fit_histogram(logits, labels, num_bins=2)
    np.testing.assert_array_equal(found.edges, [2.0])
    np.testing.assert_allclose(sigmoid(found.values), [0.25 / 3, 1.25 / 3], rtol=1e-6)
    np.testing.assert_allclose(sigmoid(found.apply(jnp.array([1.9, 2.0]))), [0.25 / 3, 1.25 / 3], rtol=1e-6)


def test_equal_logits_share_a_bin() -> None:
    found = calibration.fit_histogram([1.0] * 9 + [2.0], [0, 1] * 5, num_bins=5)
    assert len(found.values) == 2
    assert len(calibration.fit_histogram([1.0] * 10, [0, 1] * 5, num_bins=5).values) == 1


# --- isotonic ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.booleans(),
)
def test_isotonic_is_scikit_learns(rows: list[tuple[int, int, int]], increasing: bool) -> None:
    x, y, weight = np.array(rows, float).T
    if not weight.any():
        weight[0] = 1.0
    ours = calibration.isotonic_regression(x, y, weight, increasing=increasing)
    theirs = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(x, y, weight)
    np.testing.assert_allclose(ours.x, theirs.X_thresholds_)
    np.testing.assert_allclose(ours.y, theirs.y_thresholds_, atol=1e-12)
    query = np.linspace(-5, 5, 21)
    np.testing.assert_allclose(ours.predict(query), theirs.predict(query), atol=1e-5)
    fitted = np.interp(x, ours.x, ours.y)
    assert np.isclose(weight @ fitted, weight @ y, atol=1e-9)  # the mean is kept
    again = calibration.isotonic_regression(x, fitted, weight, increasing=increasing)
    np.testing.assert_allclose(np.interp(x[weight > 0], again.x, again.y), fitted[weight > 0], atol=1e-9)


def test_outside_the_fitted_range() -> None:
    found = calibration.isotonic_regression([0.0, 1.0], [2.0, 3.0])
    np.testing.assert_array_equal(found.predict(jnp.array([-1.0, 0.5, 2.0])), [2.0, 2.5, 3.0])
    assert np.isnan(found.predict(jnp.array([-1.0, 2.0]), outside="nan")).all()
    unknown: Any = "raise"
    with pytest.raises(ValueError, match="outside='raise': must be 'clip' or 'nan'"):
        found.predict(jnp.array([0.5]), outside=unknown)


@pytest.mark.parametrize("increasing", [True, False])
def test_a_function_between_bounds_is_scikit_learns(increasing: bool) -> None:
    rng = np.random.default_rng(2)
    x, y, weight = np.round(rng.random(60), 1), rng.normal(size=60), rng.uniform(0.5, 2.0, 60)
    ours = calibration.isotonic_regression(x, y, weight, increasing=increasing, least=-0.1, most=0.05)
    theirs = IsotonicRegression(y_min=-0.1, y_max=0.05, increasing=increasing).fit(x, y, weight)
    np.testing.assert_allclose(ours.x, theirs.X_thresholds_)
    np.testing.assert_allclose(ours.y, theirs.y_thresholds_, atol=1e-12)
    assert ours.y.min() == -0.1 or ours.y.max() == 0.05


def test_blocks_of_one_class_are_not_certain() -> None:
    found = calibration.fit_isotonic([-1.0, 0.0, 1.0, 2.0], [0, 0, 1, 1])
    np.testing.assert_allclose(sigmoid(found.apply(jnp.array([-9.0, 9.0]))), [0.1, 0.9], rtol=1e-5)


def test_smooth_isotonic_has_a_knot_for_each_block_and_keeps_the_order_between(examples: Any) -> None:
    logits, labels = examples
    found = calibration.fit_smooth_isotonic(logits, labels, num_bins=10)
    assert len(found.x) <= 10 and (np.diff(found.y) > 0).all()
    inside = np.linspace(found.x[0] + 1e-3, found.x[-1] - 1e-3, 50)
    assert (np.diff(found.apply(calibration.logits_of(inside).astype(np.float32))) > 0).all()


# --- groups ------------------------------------------------------------------------------------------


def test_a_group_has_its_own_curve_by_its_size() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 3], [2000, 2000, 5]).astype(np.int32)
    truth = rng.normal(size=group.size)
    labels = (rng.random(group.size) < sigmoid(truth)).astype(np.float32)
    logits = (truth + np.where(group == 1, 2.0, 0.0)).astype(np.float32)  # of the second two too high
    found = calibration.fit_by_group(logits, labels, group, bin_size=50)
    np.testing.assert_allclose(found.share, [2000 / 2050, 2000 / 2050, 0, 0])
    apply = jax.jit(lambda c, x, g: c.apply(x, g))
    better = apply(found, logits, group)
    before, after = (metrics.field_calibration_error(x, labels, group) for x in (logits, better))
    assert after < 0.02 < 0.1 < before
    for other in (2, 3, 9, -1):  # without examples, with few of them, or never seen
        alone = apply(found, logits[:9], np.full(9, other, np.int32))
        np.testing.assert_allclose(alone, found.of_all.apply(logits[:9]), rtol=1e-5, atol=1e-5)


# --- several seeds, files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["platt", "histogram", "isotonic"])
def test_stacked_calibrators_give_what_each_gives(name: str, examples: Any) -> None:
    logits, labels = examples
    each = [FITS[name](logits[rows], labels[rows]) for rows in (slice(9), slice(40), slice(None))]
    together = jax.vmap(lambda c: c.apply(logits))(calibration.stack(each))
    for one, row in zip(each, together, strict=True):
        np.testing.assert_allclose(row, one.apply(logits), rtol=1e-5, atol=1e-6)
    trees = jax.vmap(lambda tree: calibration.from_tree(tree).apply(logits))(
        calibration.as_tree(calibration.stack(each))
    )
    np.testing.assert_array_equal(trees, together)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration: Spline: must be one of Line, Steps, Curve"):
        calibration.from_tree({"Spline": {}})


# --- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "labels", "weight", "message"),
    [
        ([0.0, 1.0], [1, 1], None, "labels: all 2 are 1: calibration needs examples of both classes"),
        ([0.0, np.nan], [0, 1], None, "logits: nan of example 1 (1 such): must be finite"),
        ([0.0, 1.0], [0, 0.5], None, "labels: 0.5 is neither 0 nor 1"),
        ([0.0, 1.0], [0, 1, 1], None, "must be one number an example"),
        ([], [], None, "logits: no example"),
        ([0.0, 1.0], [0, 1], [-1.0, 1.0], "weight: -1.0: must be at least 0"),
        ([0.0, 1.0], [0, 1], [0.0, 0.0], "no example (of positive weight)"),
    ],
)
@pytest.mark.parametrize("name", FITS)
def test_examples_that_nothing_can_be_fitted_to(
    name: str, logits: Any, labels: Any, weight: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FITS[name](np.array(logits), np.array(labels), weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.logits_of([0.5, 1.2]), "probabilities: 1.2 is outside 0..1 (1 of 2 are)"),
        (lambda: calibration.logits_of([np.nan]), "probabilities: nan is outside 0..1"),
        (lambda: calibration.sampling_correction(0.0), "rate=0.0: the share of negatives that were kept"),
        (lambda: calibration.fit_histogram([0.0, 1.0], [0, 1], num_bins=0), "num_bins=0: must be at least 1"),
        (lambda: calibration.fit_by_group([0.0, 1.0], [0, 1], []), "must be a number from 0 for each of 2"),
        (lambda: calibration.fit_by_group([0.0, 1.0], [0, 1], [0, -1]), "least -1"),
        (lambda: calibration.fit_by_group([0.0, 1.0], [0, 1], [0, 1], bin_size=0), "bin_size=0"),
        (lambda: calibration.isotonic_regression([0.0], [np.inf]), "y: inf of example 0"),
        (lambda: calibration.isotonic_regression([0.0], [1.0], least=2, most=1), "least=2, most=1"),
    ],
)
def test_other_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
