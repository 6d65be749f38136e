"""The experiment on late conversions, from the command line to its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ranking import delayed_feedback
from jaxrec.data.tables import conversions as examples
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call

OF_EACH = ("auc", "log_loss", "ece", "calibration_ratio", "bias", "prob_mae")


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3, 4)
    rows = ("base-rate", "es-dfm")
    call(delayed_feedback, monkeypatch, "--tiny", "--rows", *rows, *places)
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(rows)
    for name, result in found.items():
        assert set(result.metrics) == {f"{metric}/conversion" for metric in OF_EACH}
        assert all(len(values) == 2 for values in result.metrics.values())
        assert result.protocol.selection == "none" and not result.published
        assert result.baseline == (name == "base-rate")
    assert found["base-rate"].metrics["auc/conversion"] == (0.5, 0.5)
    assert found["es-dfm"].protocol.loss == "weighted bce"


@pytest.mark.parametrize("row", delayed_feedback.ROWS)
def test_every_row_reads_its_examples_in_the_order_of_time(row: str) -> None:
    config = delayed_feedback.Config(tiny=True, num_clicks=500)
    setting = delayed_feedback.load(config)
    known = delayed_feedback.ROWS[row].examples(setting.made.clicks, config)
    assert (np.diff(known.time) >= 0).all() and known.time[-1] < config.now
    twice = len(known.click) - len(np.unique(known.click))
    assert (twice > 0) == (delayed_feedback.ROWS[row].known is examples.stream)
    test = setting.test
    assert set(test) == {
        *("campaign", "site", "price", "label/conversion", "truth"),
        *("converted", "delay", "elapsed", "log_elapsed"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"now": 45.0}, r"now=45.0: must be after the first day and before the last, 45.0"),
        ({"rows": ("dmf",)}, "the nearest is 'dfm'"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        (
            {"order": "shuffled", "rows": ("naive", "fnw")},
            "order='shuffled': fnw read streams; name other rows",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delayed_feedback.Config(**change)
