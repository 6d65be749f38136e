"""The experiment on popularity bias runs on tiny data; parts of an item know what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.retrieval import head_and_tail, popularity_bias
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    rows = ("popularity", "cdan-merged")
    results = results_of(popularity_bias, tmp_path, "--rows", *rows)
    assert set(results) == set(rows)
    assert results["cdan-merged"].protocol.loss == "softmax + CDAN"
    assert results["popularity"].baseline and not results["popularity"].steps
    for row, result in results.items():
        wanted = {"recall@20", "head_recall@20", "tail_ndcg@20", "even_recall@20", "tail_share@20", "gini@20"}
        assert wanted <= set(result.metrics)
        assert ("probe_attribute" in result.metrics) == (row == "cdan-merged")
        assert not result.published and result.dataset == "exposure-60x30"


def test_a_regression_finds_what_a_part_knows() -> None:
    rng = np.random.default_rng(0)
    known, noise = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    target = known @ np.array([1.0, -2.0, 0.5]) + 3.0
    assert head_and_tail.r_squared(known, target) > 0.99
    assert head_and_tail.r_squared(noise, target) < 0.1


def test_head_and_tail_share_the_relevant_items() -> None:
    config = popularity_bias.Config(tiny=True)
    setting = popularity_bias.load(config)
    number = {
        name: int(part.split.test.number.sum())
        for name, part in {"all": setting.data, **setting.parts}.items()
    }
    assert number["head"] + number["tail"] == number["all"] >= number["even"]
    assert setting.head.sum() == 3
    read = popularity_bias.columns(setting, config)
    assert not setting.head[read["unexposed"]].any()
    counts = setting.counts
    np.testing.assert_allclose((np.asarray(read["item_weight"]) * counts).sum(), counts.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 1.0}, "head=1.0: must lie between 0 and 1"),
        ({"unexposed": 0}, "unexposed=0: must be at least 1"),
        ({"rows": ("cdan",)}, "the nearest is"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        popularity_bias.Config(**change)
