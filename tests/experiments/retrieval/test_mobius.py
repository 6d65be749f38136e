"""MOBIUS on generated queries and ads, from the command line to its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.retrieval import mobius
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    found = results_of(mobius, tmp_path, "--rows", "random", "mobius", "truth")
    assert set(found) == {"random", "mobius", "truth"}
    for row, result in found.items():
        assert result.experiment == "mobius" and result.dataset == "tiny" and not result.published
        assert result.baseline == (row != "mobius")
        assert result.metrics["value@10"][0] <= result.metrics["click_rate@10"][0]
    assert len(found["mobius"].metrics["auc/click"]) == len(found["random"].metrics["value@10"]) == 2
    best = found["truth"].metrics["value@10"][0]
    assert all(max(result.metrics["value@10"]) <= best for result in found.values())


SETTING = mobius.load(mobius.Config(tiny=True, num_impressions=800))


def test_lists_are_measured_by_the_truth() -> None:
    made = SETTING.made
    scores = np.random.default_rng(0).random((2, *made.relevance.shape))
    found = mobius.of_lists(scores, made)
    for s in range(2):
        values = []
        for q in range(scores.shape[1]):
            best = sorted(range(1, scores.shape[2]), key=lambda a, s=s, q=q: -scores[s, q, a])[:10]  # type: ignore[misc]
            values.append(np.mean([made.relevance[q, a] * made.click_rate[q, a] for a in best]))
        assert found[s]["value@10"] == pytest.approx(np.mean(values), rel=1e-5)


def test_the_teacher_reads_words_and_the_truth_is_the_best() -> None:
    config = mobius.Config(tiny=True, num_impressions=800)
    values = {
        name: mobius.of_lists(mobius.untrained(name, SETTING, config), SETTING.made)[0]
        for name, row in mobius.ROWS.items()
        if row is None
    }
    assert values["teacher"]["relevance@10"] > values["random"]["relevance@10"] + 0.1
    assert values["truth"]["value@10"] == max(one["value@10"] for one in values.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"bad_weight": 0.0}, "bad_weight=0.0"),
        ({"bad_cases": 0}, "bad_cases=0: must be at least 1"),
        ({"rows": ("moebius",)}, "the nearest is 'mobius'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mobius.Config(**change)
