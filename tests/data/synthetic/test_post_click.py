"""Generated clicks with a conversion: true probabilities, and what the privileged feature adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.post_click import DWELL, post_click

DATA = post_click(40_000)


def label() -> np.ndarray:
    return DATA.split.impressions.labels["conversion"]


@pytest.mark.parametrize("which", ["best", "informed"])
def test_probabilities_are_calibrated(which: str) -> None:
    p = getattr(DATA, which)
    for low, high in ((0.0, 0.05), (0.05, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (p >= low) & (p < high)
        if inside.sum() > 200:
            error = np.sqrt(p[inside].mean() * (1 - p[inside].mean()) / inside.sum())
            assert abs(label()[inside].mean() - p[inside].mean()) < 4 * error


def auc(p: np.ndarray) -> float:
    rank = np.argsort(np.argsort(p)) + 1
    positive = label() > 0
    count = positive.sum()
    return float((rank[positive].sum() - count * (count + 1) / 2) / (count * (len(p) - count)))


def test_the_time_after_the_click_says_more_than_the_rest() -> None:
    assert 0.55 < auc(DATA.best) < auc(DATA.informed) - 0.05
    dwell = DATA.split.impressions.columns[DWELL]
    assert auc(dwell) < auc(DATA.informed)
    mean = [DATA.informed[(dwell > x) & (dwell <= x + 0.5)].mean() for x in (-1.5, -0.5, 0.5, 1.5)]
    assert (np.diff(mean) > 0).all()


def test_without_a_hidden_part_the_time_says_nothing_more() -> None:
    same = post_click(500, hidden=0.0)
    np.testing.assert_allclose(same.best, same.informed, rtol=1e-9)


def test_equal_seeds_give_equal_clicks() -> None:
    one, again, other = (post_click(300, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.best, again.best)
    assert (one.best != other.best).any()


@pytest.mark.parametrize(
    "change", [{"num_examples": 0}, {"rate": 1.0}, {"noise": 0.0}, {"hidden": -1.0}, {"rank": -1}]
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"{name}={change[name]}"):
        post_click(**change)
