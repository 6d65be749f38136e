"""Groups of durations: sizes, quantiles and back, ties, values beyond those of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.tables.duration_groups import duration_groups

RNG = np.random.default_rng(0)
DURATION = RNG.exponential(60.0, 900).astype(np.float32)
WATCHED = (DURATION * RNG.random(900)).astype(np.float32)


def test_a_duration_that_is_missing_has_no_group() -> None:
    groups = duration_groups(DURATION, WATCHED, num_groups=3)
    assert groups.group(np.array([-1.0, np.inf])).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"duration: missing \(NaN\) at position 1 \(1 such\)"):
        groups.group(np.array([1.0, np.nan, 3.0]))


@pytest.mark.parametrize("num_groups", [1, 3, 30])
def test_groups_have_about_equal_sizes_and_tables_rise(num_groups: int) -> None:
    groups = duration_groups(DURATION, WATCHED, num_groups=num_groups)
    sizes = np.bincount(groups.group(DURATION))
    assert groups.num_groups == num_groups == len(sizes)
    assert np.ptp(sizes) <= 1
    assert (np.diff(groups.times, axis=1) >= 0).all()
    assert groups.levels[0] == 0 and groups.levels[-1] == 1


def test_a_quantile_leads_back_to_its_watch_time() -> None:
    groups = duration_groups(DURATION, WATCHED, num_groups=5)
    group = groups.group(DURATION)
    quantile = groups.quantile(WATCHED, group)
    assert quantile.min() >= 0 and quantile.max() <= 1
    steps = np.diff(groups.times, axis=1).max(axis=1)[group]
    assert (np.abs(groups.time(quantile, group) - WATCHED) <= steps).all()
    for number in range(5):
        of_group = quantile[group == number]
        order = WATCHED[group == number].argsort()
        assert (np.diff(of_group[order]) >= 0).all()
        uniform = (np.arange(len(of_group)) + 0.5) / len(of_group)
        assert np.abs(np.sort(of_group) - uniform).max() < 0.01


def test_predictions_stay_within_the_watch_times_of_a_group() -> None:
    groups = duration_groups(DURATION, WATCHED, num_groups=4)
    group = groups.group(DURATION)
    for number in range(4):
        of_group = WATCHED[group == number]
        ends = groups.time(np.array([-1.0, 0.0, 1.0, 2.0]), np.full(4, number))
        np.testing.assert_allclose(ends, np.repeat([of_group.min(), of_group.max()], 2), rtol=1e-6)


def test_equal_watch_times_are_in_the_middle_of_their_ranks() -> None:
    watched = np.array([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 9.0], np.float32)
    groups = duration_groups(np.ones(10, np.float32), watched, num_groups=1)
    found = groups.quantile(watched, np.zeros(10, int))
    np.testing.assert_allclose(found[1:9], 0.5, atol=0.01)
    np.testing.assert_allclose(groups.time(found, np.zeros(10, int)), watched, atol=0.2)


def test_times_of_float64_are_found_in_the_tables() -> None:
    watched = np.repeat([0.1, 0.7], [60, 40])  # neither is a number of float32
    groups = duration_groups(np.ones(100), watched, num_groups=1)
    found = groups.quantile(watched, np.zeros(100, int))
    np.testing.assert_allclose(found, np.repeat([0.3, 0.8], [60, 40]), atol=0.01)


def test_equal_durations_are_in_one_group() -> None:
    duration = np.repeat(np.array([10.0, 20.0, 30.0], np.float32), [5, 80, 15])
    groups = duration_groups(duration, np.arange(100.0, dtype=np.float32), num_groups=10)
    assert groups.num_groups == 3
    assert groups.edges.tolist() == [20.0, 30.0]
    assert groups.group(np.array([0.0, 10.0, 20.0, 25.0, 30.0, 99.0])).tolist() == [0, 0, 1, 1, 2, 2]


def test_times_beyond_those_of_training_are_at_the_ends() -> None:
    groups = duration_groups(DURATION, WATCHED, num_groups=2)
    found = groups.quantile(np.array([-1.0, 1e6], np.float32), np.array([0, 1]))
    assert found.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((DURATION, WATCHED), {"num_groups": 0}, "num_groups=0"),
        ((DURATION, WATCHED), {"num_levels": 1}, "num_levels=1"),
        ((DURATION[:0], WATCHED[:0]), {}, "0 durations and 0 watch times"),
        ((DURATION, WATCHED[:5]), {}, "900 durations and 5 watch times"),
        ((np.array([np.nan]), np.array([1.0])), {}, "duration nan at position 0"),
        ((np.array([1.0]), np.array([-2.0])), {}, "watch time -2.0 at position 0"),
    ],
)
def test_what_makes_no_groups_is_refused(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        duration_groups(*arguments, **options)
