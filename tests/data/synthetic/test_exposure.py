"""Clicks under known exposure: weighted rates find the relevance of items, plain rates do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.exposure import ExposedClicks, exposed_clicks


@pytest.fixture(scope="module")
def made() -> ExposedClicks:
    return exposed_clicks(2_000, 60)


def test_weighted_rates_are_within_their_intervals_and_plain_ones_are_not(made: ExposedClicks) -> None:
    margin = made.margin()[1:]
    for weighted in (True, False):
        distance = np.abs(made.rates(weighted=weighted) - made.relevance)[1:]
        inside = (distance <= margin).mean()
        assert (inside >= 0.85) if weighted else (inside <= 0.2)


def test_clicks_follow_exposure_and_the_test_part_does_not(made: ExposedClicks) -> None:
    split = made.split
    trained = np.bincount(split.training_events().item, minlength=61)[1:]
    relevant, _ = split.relevant(split.test)
    tested = np.bincount(relevant, minlength=61)[1:]
    order = made.propensity[1:].argsort()
    few, many = order[:20], order[-20:]
    assert trained[many].mean() > 3 * trained[few].mean()
    most = order[-3:]  # shown to nearly all, to half and to a third
    of_relevant = {  # users without a click or a validated one are left out, whatever the item
        name: tested[items].sum() / made.relevance[1:][items].sum()
        for name, items in {"few": few, "many": many, "most": most}.items()
    }
    assert 0.85 < of_relevant["many"] / of_relevant["few"] < 1.15
    assert 0.7 < of_relevant["most"] / of_relevant["few"] < 1.3


def test_attributes_say_nothing_of_exposure(made: ExposedClicks) -> None:
    found = np.corrcoef(np.column_stack([made.attributes[1:], np.log(made.propensity[1:])]).T)[-1, :-1]
    assert (np.abs(found) < 4 / np.sqrt(60)).all()
    assert made.propensity[1:].min() >= 0.9 * 0.02 and made.propensity[1:].max() == 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 0}, "num_users=0: must be at least 1"),
        ({"skew": -1.0}, "skew=-1.0: must be at least 0"),
        ({"taste": float("nan")}, "taste=nan: must be at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exposed_clicks(**change)
