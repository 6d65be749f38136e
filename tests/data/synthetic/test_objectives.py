"""Generated objectives that conflict, and numbers that are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.synthetic.objectives import missing_numbers, two_objectives


def test_logits_agree_by_group() -> None:
    made = two_objectives(8000, agreement=(0.9, -0.5, 0.0))
    group = made.split.impressions.columns["user_group"]
    for g, agreement in enumerate((0.9, -0.5, 0.0)):
        of_group = made.logits[group == 3 + g]
        np.testing.assert_allclose(np.corrcoef(of_group.T)[0, 1], agreement, atol=0.05)
    np.testing.assert_allclose(made.logits.std(axis=0), 2.0, rtol=0.05)


def test_labels_follow_the_logits() -> None:
    made = two_objectives(20_000)
    for k, task in enumerate(("click", "stay")):
        label, p = made.split.impressions.labels[task], 1 / (1 + np.exp(-made.logits[:, k]))
        high = p > 0.8
        np.testing.assert_allclose(label[high].mean(), p[high].mean(), atol=0.02)


@pytest.mark.parametrize("mechanism", ["at-random", "large"])
def test_missing_numbers_are_as_many_and_stand_at_the_mean(mechanism: Any) -> None:
    made = missing_numbers(6000, mechanism=mechanism, share=0.3)
    table = made.split.impressions
    np.testing.assert_allclose(made.missing.mean(axis=0), 0.3, atol=0.03)
    for i in range(made.values.shape[1]):
        column, missing = table.columns[f"x{i}"], made.missing[:, i]
        np.testing.assert_array_equal(table.columns[f"x{i}_missing"] > 0, missing)
        np.testing.assert_allclose(column[~missing], made.values[~missing, i], rtol=1e-5)
        seen = made.values[made.split.train, i][~missing[made.split.train]].mean()
        np.testing.assert_allclose(column[missing], seen, rtol=1e-4)
    above = made.missing_means - made.means
    assert (abs(above) < 0.15).all() if mechanism == "at-random" else (above > 1.0).all()


def test_orders_need_clicks() -> None:
    labels = missing_numbers(500).split.impressions.labels
    assert (labels["ctcvr"] <= labels["ctr"]).all() and 0 < labels["ctcvr"].mean() < labels["ctr"].mean()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two_objectives(5), "num_examples=5"),
        (lambda: two_objectives(agreement=(2.0,)), "each in -1..1"),
        (lambda: missing_numbers(share=1.0), "share=1.0: must lie between 0 and 1"),
        (lambda: missing_numbers(mechanism="small"), "mechanism='small'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
