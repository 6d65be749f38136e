"""Experiments on labelled impressions run to their end on tiny data and store what they found."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from experiments.ranking import din
from jaxrec.report.results import read_all
from tests.experiments.test_tiny import call

TWINS = {
    "din": (
        din,
        ("--rows", "base", "dien"),
        {"base": "bce", "dien": "bce + next behaviour"},
        "rela_impr/click",
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_tiny_runs_to_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    module, rows, losses, metric = TWINS[name]
    results = tmp_path / "results"
    call(module, monkeypatch, "--tiny", *rows, "--results", results, "--workdir", tmp_path, "--seeds", 3, 4)
    records = {record.result.model: record.result for record in read_all(results)}
    assert {model: result.protocol.loss for model, result in records.items()} == losses
    for result in records.values():
        assert result.experiment == name and result.steps > 0
        assert len(result.metrics[metric]) == 2
        assert result.protocol.candidates == "impressions"
        assert not result.published  # nothing was published about made-up data


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 0}, "batch_size=0: must be at least 1"), ({"seeds": (1, 1)}, "none twice")],
)
def test_settings_that_mean_nothing_are_refused(name: str, change: dict[str, object], message: str) -> None:
    module: ModuleType = TWINS[name][0]
    with pytest.raises(ValueError, match=message):
        module.Config(**change)
