"""What is known of late conversions by a moment: snapshots, waits and streams, by hand and generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.delayed_feedback import delayed_clicks
from jaxrec.data.tables import conversions
from jaxrec.data.tables.conversions import Conversions

INF = np.inf
CLICKS = Conversions({"id": np.arange(5)}, np.array([0.0, 1, 2, 3, 9]), np.array([0.5, INF, 4, 1, 1]))


def shown(found: conversions.Examples) -> list[tuple[int, float, float]]:
    return list(zip(found.click.tolist(), found.time.tolist(), found.label.tolist(), strict=True))


def test_a_snapshot_has_each_click_with_what_is_seen() -> None:
    found = conversions.snapshot(CLICKS, 5.0)
    assert shown(found) == [(0, 0, 1), (1, 1, 0), (2, 2, 0), (3, 3, 1)]
    assert found.delay.tolist() == [0.5, 0, 0, 1]
    assert found.elapsed.tolist() == [5, 4, 3, 2]
    columns = found.columns(CLICKS)
    assert columns["id"].tolist() == [0, 1, 2, 3] and columns["label/conversion"].tolist() == [1, 0, 0, 1]


def test_an_oracle_knows_what_comes_later() -> None:
    assert conversions.complete(CLICKS, 5.0).label.tolist() == [1, 0, 1, 1]
    assert conversions.complete(CLICKS, 10.0, since=3.0).click.tolist() == [3, 4]


def test_a_window_waits_for_each_click() -> None:
    found = conversions.waited(CLICKS, 5.0, window=2.0)
    assert shown(found) == [(0, 2, 1), (1, 3, 0), (2, 4, 0)]


def test_a_stream_has_negatives_at_once_and_positives_when_they_come() -> None:
    found = conversions.stream(CLICKS, 5.0)
    assert shown(found) == [(0, 0, 0), (0, 0.5, 1), (1, 1, 0), (2, 2, 0), (3, 3, 0), (3, 4, 1)]
    assert found.elapsed.tolist() == [0, 0.5, 0, 0, 0, 1]


def test_a_stream_after_a_wait_repeats_late_conversions_alone() -> None:
    found = conversions.stream(CLICKS, 7.0, wait=1.0)
    assert shown(found) == [(0, 1, 1), (1, 2, 0), (2, 3, 0), (3, 4, 1), (2, 6, 1)]


def test_labels_of_observation() -> None:
    then, labels = conversions.observed_labels(CLICKS, 8.0, deadline=4.0)  # as of 4: 0, 1, 2, 3
    assert then.elapsed.tolist() == [4, 3, 2, 1]
    assert labels["space/observed"].tolist() == [True, False, True, True]
    assert labels["label/observed"].tolist() == [1, 0, 0, 1]
    assert labels["space/negative"].tolist() == [False, True, True, False]
    assert labels["label/negative"].tolist() == [0, 1, 0, 0]


def test_labels_of_a_delay() -> None:
    found, labels = conversions.delayed_labels(CLICKS, 8.0, wait=1.0, window=4.0)
    assert found.click.tolist() == [0, 1, 2, 3]
    assert labels["label/delayed"].tolist() == [0, 0, 1, 0]
    assert labels["space/negative"].tolist() == [False, True, True, False]
    assert labels["label/negative"].tolist() == [0, 1, 0, 0]


def test_generated_clicks_convert_as_they_say() -> None:
    made = delayed_clicks(50_000, mean_delay=2.0)
    converted = np.isfinite(made.clicks.delay)
    sure = np.digitize(made.prob, [0.1, 0.2, 0.4, 0.6])
    for b in range(5):
        assert np.isclose(converted[sure == b].mean(), made.prob[sure == b].mean(), atol=0.02)
    assert np.isclose((made.rate * made.clicks.delay)[converted].mean(), 1.0, atol=0.03)
    assert (np.diff(made.clicks.time) >= 0).all()
    for column, size in (("campaign", 50), ("site", 20)):
        ids = made.clicks.columns[column]
        assert (ids.min(), ids.max()) == (1, size)


def test_a_drift_moves_probabilities_with_time_alone() -> None:
    still, moving = (delayed_clicks(5000, drift=drift) for drift in (0.0, 2.0))
    first, last = slice(0, 100), slice(-500, None)
    assert (
        np.abs(still.prob - moving.prob)[first].max() < 0.05 < np.abs(still.prob - moving.prob)[last].mean()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": np.array([0.0, 3, 2, 4, 5])}, "click 2 at 2 comes after one at 3: sort the clicks by time"),
        ({"time": np.array([0.0, np.nan, 2, 4, 5])}, "time: NaN or infinite"),
        (
            {"delay": np.array([1.0, -2, INF, 1, 1])},
            "delay: -2 of click 1 (1 such): a conversion comes after",
        ),
        ({"delay": np.array([1.0, np.nan, INF, 1, 1])}, "delay: nan of click 1"),
        ({"end": 9.5}, "end=9.5: click 4 or its conversion is at 10, after the observation ended"),
        ({"delay": np.ones(3)}, "must be as many of each"),
    ],
)
def test_clicks_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        conversions.snapshot(CLICKS._replace(**change), 5.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conversions.snapshot(CLICKS, 0.0), "no click from -inf on and before 0; clicks are at 0..9"),
        (
            lambda: conversions.snapshot(CLICKS._replace(end=11.0), 12.0),
            "now=12: is after the end of the obs",
        ),
        (lambda: conversions.waited(CLICKS, 5.0, window=-1.0), "window=-1: must be at least 0"),
        (lambda: conversions.stream(CLICKS, 5.0, wait=-1.0), "wait=-1: must be at least 0"),
        (lambda: conversions.delayed_labels(CLICKS, 5.0, wait=2.0, window=1.0), "window=1: must be longer"),
        (
            lambda: conversions.observed_labels(CLICKS, 5.0, deadline=0.0),
            "label observed: of 2 clicks that have",
        ),
        (lambda: delayed_clicks(0), "num_clicks=0: must be at least 1"),
        (lambda: delayed_clicks(9, conversion_rate=1.0), "conversion_rate=1.0: must lie between 0 and 1"),
        (lambda: delayed_clicks(9, drift=-1.0), "drift=-1.0: the first two must be positive"),
    ],
)
def test_moments_and_settings_that_mean_nothing(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
