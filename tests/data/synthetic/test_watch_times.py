"""Watch times of known duration bias: tables within durations find the truth, one table for all does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.watch_times import WatchTimes, normal_cdf, watch_times
from jaxrec.data.tables.duration_groups import DurationGroups, duration_groups


@pytest.fixture(scope="module")
def made() -> WatchTimes:
    return watch_times(20_000, num_durations=5)


def distances(made: WatchTimes, groups: DurationGroups) -> tuple[np.ndarray, np.ndarray]:
    """Of each duration, the largest distance of a table from the true distribution, and the DKW bound on it
    that holds for all durations with probability 0.95.
    """
    found, bounds = [], []
    for k, duration in enumerate(made.durations):
        number = groups.group(np.array([duration], np.float32))[0]
        times = groups.times[number][1:-1]
        true = made.quantile(times, np.full(len(times), k))
        found.append(np.abs(true - groups.levels[1:-1]).max())
        count = int((made.level == k).sum())
        resolution = 1.0 / (len(groups.levels) - 1) + 0.5 / count
        bounds.append(math.sqrt(math.log(2 * len(made.durations) / 0.05) / (2 * count)) + resolution)
    return np.array(found), np.array(bounds)


def test_tables_within_durations_are_the_true_ones_and_one_for_all_is_not(made: WatchTimes) -> None:
    found, bounds = distances(made, duration_groups(made.duration, made.watched, num_groups=30))
    assert (found <= bounds).all()
    assert bounds.max() < 0.06
    ignoring, bounds = distances(made, duration_groups(made.duration, made.watched, num_groups=1))
    assert (ignoring > bounds).sum() >= 4
    assert ignoring.max() > 0.3


def test_quantiles_depend_on_interest_and_not_on_duration(made: WatchTimes) -> None:
    quantile = made.quantile(made.watched, made.level)
    expected = made.expected_quantile()
    for k in range(5):
        here = made.level == k
        margin = 4 / np.sqrt(12 * here.sum())
        assert abs(quantile[here].mean() - 0.5) < margin
        assert abs((quantile - expected)[here].mean()) < margin
        high = here & (made.interest > 1)
        assert abs((quantile - expected)[high].mean()) < 4 / np.sqrt(12 * high.sum())


def test_the_median_time_is_passed_by_half(made: WatchTimes) -> None:
    above = made.watched > made.median_time()
    assert abs(above.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(above))


def test_without_noise_interest_is_the_quantile() -> None:
    made = watch_times(500, num_users=5, num_items=6, num_durations=2, noise_share=0.0)
    quantile = made.quantile(made.watched, made.level)
    np.testing.assert_allclose(quantile, normal_cdf(made.interest), atol=1e-4)
    np.testing.assert_allclose(made.expected_quantile(), normal_cdf(made.interest), atol=1e-12)
    np.testing.assert_allclose(made.watched, made.median_time(), rtol=1e-5)


def test_a_pair_of_user_and_item_has_one_interest() -> None:
    made = watch_times(500, num_users=4, num_items=5, num_durations=2)
    pair = made.user * 100 + made.item
    for of_pair in np.unique(pair):
        assert np.ptp(made.interest[pair == of_pair]) < 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_examples": 0}, "num_examples=0: must be at least 1"),
        ({"num_items": 3}, "num_items=3: must be at least 10"),
        ({"noise_share": 1.5}, r"noise_share=1.5: must lie in 0..1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch_times(**change)
