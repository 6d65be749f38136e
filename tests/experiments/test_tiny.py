"""Every experiment runs to its end on tiny data, through its command line, and stores what it found."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments import published_checkpoints
from experiments.sequential import hstu, hstu_generative, sasrec, ticoserec
from jaxrec.report.results import read_results

PROGRAMS = {
    "hstu": hstu,
    "hstu_generative": hstu_generative,
    "published_checkpoints": published_checkpoints,
    "sasrec": sasrec,
    "ticoserec": ticoserec,
}
CHECKPOINTS = {
    "random+exclude",
    "popularity+exclude",
    "sasrec",
    "sasrec+exclude",
    "gru4rec",
    "gru4rec+skip-padding",
}


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled programs are not kept in the home folder."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
    module.main()


@pytest.mark.usefixtures("no_cache")
def test_tiny_checkpoints_run_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    kept = ("--results", results, "--workdir", tmp_path / "work", "--seeds", 3)
    call(published_checkpoints, monkeypatch, "--tiny", *kept)
    records = {record.result.model: record.result for record in read_results(results)}
    assert {"random", "popularity"} | CHECKPOINTS <= set(records)
    assert {r.experiment for r in records.values()} == {"published_checkpoints"}
    assert len({r.dataset for r in records.values()}) == 1
    for result in records.values():
        assert not result.steps
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert result.protocol.ks and result.protocol.candidates
        assert not result.published  # nothing was published about made-up data
        assert result.protocol.loss == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_lists_the_options_every_experiment_has(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(PROGRAMS[name], monkeypatch, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--results", "--workdir", "--seeds", "--tiny"))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("given, nearest", [("--seedz", "--seeds"), ("--workdirr=x", "--workdir")])
def test_an_unknown_option_names_the_nearest(
    name: str,
    given: str,
    nearest: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(PROGRAMS[name], monkeypatch, given, *(() if "=" in given else ("1",)))
    assert stop.value.code == 2
    assert f"the nearest option is {nearest}" in capsys.readouterr().err
