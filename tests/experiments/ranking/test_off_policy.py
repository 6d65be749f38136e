"""The experiment on off-policy evaluation: its rows, and what is found on known logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ranking import off_policy
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(off_policy, tmp_path)
    assert set(results) == set(off_policy.ROWS)
    for result in results.values():
        assert result.dataset == "tiny-synthetic-500" and not result.steps and not result.published
        for name in ("value", "standard_error", "low", "high", "off", "effective_rows"):
            assert np.isfinite(result.metrics[name]).all() and len(result.metrics[name]) == 2
    assert results["on-policy"].metrics["off"] == (0.0, 0.0)
    assert results["ips"].metrics["effective_rows"][0] < results["logged"].metrics["effective_rows"][0]


def test_weights_find_the_value_and_the_logs_and_a_wrong_model_do_not() -> None:
    config = off_policy.Config(dataset="synthetic", num_rows=20_000)
    off: dict[str, list[float]] = {row: [] for row in off_policy.ROWS}
    for seed in range(5):
        logs = off_policy.load(config, "", seed)
        for row, found in off_policy.estimates(logs, seed=seed, prior_rows=100.0, max_weight=0.0).items():
            off[row].append(off_policy.measured(found, logs, 1.0)["off"])
    for row in ("ips", "snips", "dr"):
        assert sum(distance < 1.96 for distance in off[row]) >= 4
    assert min(off["logged"]) > 10 and min(off["direct"]) > 10


def test_thompson_counts_the_largest_draws() -> None:
    found = off_policy.thompson(
        np.array([1.0, 1.0, 1e4, 1.0]), np.array([1.0, 1.0, 1.0, 1.0]), positions=2, draws=4_000, seed=0
    )
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert found[0, 2] > 0.99
    np.testing.assert_allclose(found[1, [0, 1, 3]], 1 / 3, atol=0.03)


def test_the_model_is_fitted_on_the_other_half() -> None:
    logs = off_policy.load(off_policy.Config(dataset="synthetic", num_rows=60), "", 0)
    before = off_policy.fitted_rates(logs, seed=1, prior_rows=2.0)
    half = np.random.default_rng(1).permutation(60) % 2
    row = 7
    changed = logs._replace(reward=np.where(np.arange(60) == row, 1 - logs.reward, logs.reward))
    after = off_policy.fitted_rates(changed, seed=1, prior_rows=2.0)
    np.testing.assert_array_equal(before[half == half[row]], after[half == half[row]])
    assert not np.array_equal(before[half != half[row]], after[half != half[row]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"campaigns": ("kids",)}, "campaigns: 'kids' is none of all, men, women"),
        ({"draws": 0}, "draws=0: must be at least 1"),
        ({"max_weight": -1.0}, "max_weight=-1.0: must be at least 0"),
        ({"rows": ("ipss",)}, "the nearest is"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        off_policy.Config(**change)
