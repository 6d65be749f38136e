"""The generators' known answers."""

import inspect
from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic import multitask as synthetic


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("correlation", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_the_cosine_of_the_weights_is_the_correlation(correlation: float) -> None:
    pair = synthetic.correlated_tasks(10, correlation=correlation, dim=7, scale=3.0)
    assert abs(cosine(*pair.weights) - correlation) < 1e-6
    assert np.allclose(np.linalg.norm(pair.weights, axis=1), 3.0)


def test_shapes_and_types() -> None:
    pair = synthetic.correlated_tasks(20, correlation=0.5, dim=6, num_sines=4)
    assert (pair.x.shape, pair.labels.shape, pair.weights.shape) == ((20, 6), (20, 2), (2, 6))
    assert pair.x.dtype == pair.labels.dtype == np.float32
    assert pair.alpha.shape == pair.beta.shape == (4,)


def test_labels_are_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_CHUNK", 3)
    pair = synthetic.correlated_tasks(10, correlation=0.3, dim=5, num_sines=2)
    for row in range(10):
        for task in range(2):
            z = float(pair.weights[task] @ pair.x[row].astype(np.float64))
            sines = sum(np.sin(a * z + b) for a, b in zip(pair.alpha, pair.beta, strict=True))
            assert np.isclose(pair.labels[row, task], z + sines + pair.noise[row, task], rtol=1e-5, atol=1e-5)


def test_at_correlation_1_labels_differ_by_their_noise() -> None:
    pair = synthetic.correlated_tasks(500, correlation=1.0, dim=8)
    difference = pair.labels[:, 0] - pair.labels[:, 1]
    assert np.allclose(difference, pair.noise[:, 0] - pair.noise[:, 1], atol=1e-5)


def test_the_label_correlation_increases_with_the_task_correlation() -> None:
    found = [
        np.corrcoef(synthetic.correlated_tasks(4000, correlation=p, dim=20).labels.T)[0, 1]
        for p in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert (np.diff(found) > 0).all()
    assert found[-1] > 0.95


def test_without_sines_and_noise_the_label_correlation_is_the_task_correlation() -> None:
    pair = synthetic.correlated_tasks(20_000, correlation=0.6, dim=4, num_sines=0, noise=0.0)
    assert abs(np.corrcoef(pair.labels.T)[0, 1] - 0.6) < 4 * (1 - 0.6**2) / np.sqrt(20_000)


@pytest.mark.parametrize("is_variance, deviation", [(True, 0.2), (False, 0.04)])
def test_the_noise_is_a_variance_or_a_deviation(is_variance: bool, deviation: float) -> None:
    pair = synthetic.correlated_tasks(
        5_000, correlation=0.5, dim=2, noise=0.04, noise_is_variance=is_variance, num_sines=0
    )
    assert abs(pair.noise.std() / deviation - 1) < 0.05
    residual = pair.labels - pair.x.astype(np.float64) @ pair.weights.T
    assert np.allclose(residual, pair.noise, atol=1e-5)


def test_a_seed_gives_the_same_data_and_one_input_for_all_correlations() -> None:
    one, same = (synthetic.correlated_tasks(50, correlation=0.5, seed=3) for _ in range(2))
    other = synthetic.correlated_tasks(50, correlation=0.5, seed=4)
    uncorrelated = synthetic.correlated_tasks(50, correlation=0.0, seed=3)
    for a, b in zip(one, same, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(one.x, other.x)
    for field in ("x", "alpha", "beta", "noise"):
        assert np.array_equal(getattr(one, field), getattr(uncorrelated, field))
    assert np.array_equal(one.labels[:, 0], uncorrelated.labels[:, 0])


def test_the_constants_of_ple() -> None:
    pair = synthetic.ple_tasks(30, correlation=0.2)
    assert pair.x.shape == (30, 512)
    assert pair.alpha.shape == (10,)
    assert np.allclose(np.linalg.norm(pair.weights, axis=1), 1.0)
    assert inspect.signature(synthetic.ple_tasks).parameters["num_examples"].default == 1_400_000


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"correlation": 1.5}, "correlation=1.5: must lie in -1..1"),
        ({"correlation": float("nan")}, "correlation=nan"),
        ({"correlation": 0, "dim": 1}, "dim=1"),
        ({"correlation": 0, "num_examples": 0}, "num_examples=0"),
        ({"correlation": 0, "scale": 0}, "scale=0"),
        ({"correlation": 0, "noise": -1}, "noise=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic.correlated_tasks(**arguments)


def test_a_funnel_follows_its_probabilities() -> None:
    made = synthetic.funnel(20_000, seed=1)
    table = made.split.impressions
    assert table.tasks == ("ctr", "cvr", "ctcvr")
    click, clicked = table.labels["ctr"], table.spaces["cvr"]
    for label, probability in ((click, made.click), (table.labels["cvr"][clicked], made.conversion[clicked])):
        assert abs(label.mean() - probability.mean()) < 4 * 0.5 / np.sqrt(len(label))
        high = probability > np.median(probability)
        assert label[high].mean() > label[~high].mean() + 0.1


@pytest.mark.parametrize("shared", [-0.9, 0.9])
def test_the_stages_of_a_funnel_share_their_causes_as_asked(shared: float) -> None:
    made = synthetic.funnel(4_000, num_users=400, num_items=400, shared=shared)
    assert np.sign(np.corrcoef(made.click, made.conversion)[0, 1]) == np.sign(shared)


def test_a_funnel_is_reproducible() -> None:
    one, same, other = (synthetic.funnel(300, seed=seed) for seed in (1, 1, 2))
    for name, column in one.split.impressions.columns_for_training().items():
        assert np.array_equal(column, same.split.impressions.columns_for_training()[name])
    assert not np.array_equal(one.click, other.click)


@pytest.mark.parametrize(
    "arguments, message",
    [({"num_users": 0}, "num_users=0"), ({"click_rate": 1}, "click_rate=1"), ({"shared": 2}, "shared=2")],
)
def test_bad_funnels_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic.funnel(**arguments)
