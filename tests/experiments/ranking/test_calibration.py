"""The experiment on calibration, from the command line to its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ranking import calibration
from jaxrec.metrics import calibration_ratio
from jaxrec.report.results import read_results
from tests.experiments.own_files import write_table
from tests.experiments.test_tiny import call


def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, Any]:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", folder / "results", "--workdir", folder / "work", "--seeds", 3, 4)
    call(calibration, monkeypatch, "--tiny", *options, *places)
    return {record.result.model: record.result for record in read_results(folder / "results")}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["uncalibrated", "platt", "by-field"]
    found = tiny(tmp_path, monkeypatch, "--rows", *rows)
    assert set(found) == set(rows)
    for result in found.values():
        assert {f"{name}/ctr" for name in ("auc", "log_loss", "ece", "calibration_ratio")} < set(
            result.metrics
        )
        assert "ece_by_user_id/ctr" in result.metrics and len(result.metrics["ece_by_user_id/ctr"]) == 2
        assert result.protocol.selection == "auc/ctr" and result.steps > 0 and not result.published
    ratio = {row: np.mean(result.metrics["calibration_ratio/ctr"]) for row, result in found.items()}
    assert all(
        abs(np.log(ratio[row])) < np.log(ratio["uncalibrated"]) for row in rows if row != "uncalibrated"
    )
    order = [found[row].metrics["auc/ctr"] for row in ("platt", "uncalibrated")]
    assert order[0] == pytest.approx(order[1], abs=1e-5)  # lines of logits keep it


@pytest.mark.parametrize("row", calibration.ROWS)
def test_every_row_lowers_what_sampling_has_raised(row: str) -> None:
    config, rng = calibration.Config(rate=0.2), np.random.default_rng(0)
    truth, field = rng.normal(-1, 1.5, 3000), rng.integers(0, 4, 3000)
    labels = (rng.random(3000) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    logits = (truth - np.log(0.2)).astype(np.float32)
    read = calibration.ROWS[row](calibration.Fitting(logits, labels, field), config)
    ratio = float(calibration_ratio(read(jnp.asarray(logits), jnp.asarray(field)), jnp.asarray(labels)))
    assert abs(ratio - 1) < 0.06 if row != "uncalibrated" else ratio > 1.5


def test_negatives_alone_are_sampled() -> None:
    config = calibration.Config(tiny=True)
    setting = calibration.load(config)
    label = setting.target.label
    whole = setting.columns.columns[label]
    kept = calibration.sampled(setting.columns, label, 0.25, 0).columns[label]
    assert kept.sum() == whole.sum()
    assert np.isclose((1 - kept).sum() / (1 - whole).sum(), 0.25, atol=0.05)
    assert calibration.sampled(setting.columns, label, 1.0, 0).num_examples == setting.columns.num_examples


@pytest.mark.long
def test_a_table_of_ones_own_names_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "mine.csv", labels=("click",))
    columns = ("--labels", "click", "--categorical", "city", "--numeric", "price", "--field", "city")
    found = tiny(tmp_path, monkeypatch, "--rows", "by-field", "unsampled", "--data", path, *columns)
    assert set(found) == {"by-field", "unsampled"}
    assert all("ece_by_city/click" in result.metrics for result in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate=0.0: the share of negatives that were kept must be in"),
        ({"num_bins": 0}, "num_bins=0: must be at least 1"),
        ({"length": 5}, "length=5: no row of this experiment reads it"),
        ({"rows": ("plat",)}, "the nearest is 'platt'"),
        ({"data": "a.csv"}, r"labels=\(\): name one label"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration.Config(**change)


def test_a_field_that_the_data_have_not_is_refused() -> None:
    with pytest.raises(
        ValueError, match="field='town': must be one of the columns of categories user_id, item_id"
    ):
        calibration.load(calibration.Config(tiny=True, field="town"))
