"""Every experiment runs to its end on tiny data, through its command line, and stores what it found."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from experiments import published_checkpoints
from experiments.sequential import sasrec, ticoserec
from jaxrec.report.results import read_results

TWINS = {
    "ticoserec": (ticoserec, ("--rows", "random", "popularity", "ticoserec-bce"), {"ticoserec-bce"}),
    "sasrec": (
        sasrec,
        ("--rows", "random", "popularity", "gru4rec-bce"),
        {
            "random-full",
            "popularity-full",
            "gru4rec-bce",
            "gru4rec-bce-full",
        },
    ),
    "published_checkpoints": (
        published_checkpoints,
        (),
        {
            "random+exclude",
            "popularity+exclude",
            "sasrec",
            "sasrec+exclude",
            "gru4rec",
            "gru4rec+skip-padding",
        },
    ),
}

LOSSES = {
    "ticoserec-bce": "bce + contrastive",
    **dict.fromkeys(("gru4rec-bce", "gru4rec-bce-full"), "bce"),
}


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled programs are not kept in the home folder."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
    module.main()


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("name", TWINS)
def test_tiny_runs_to_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, rows, learned = TWINS[name]
    results = tmp_path / "results"
    places = ("--results", results, "--workdir", tmp_path / "work", "--seeds", 3)
    call(module, monkeypatch, "--tiny", *rows, *places)
    records = {record.result.model: record.result for record in read_results(results)}
    assert {"random", "popularity"} | learned <= set(records)
    assert {r.experiment for r in records.values()} == {name}
    assert len({r.dataset for r in records.values()}) == 1
    trained = [r for model, r in records.items() if r.steps]
    assert bool(trained) == (name != "published_checkpoints")
    for result in records.values():
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert result.protocol.ks and result.protocol.candidates
        assert not result.published  # nothing was published about made-up data
        assert result.protocol.loss == LOSSES.get(result.model, "")


@pytest.mark.parametrize("name", TWINS)
def test_help_lists_the_options_every_experiment_has(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(TWINS[name][0], monkeypatch, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--results", "--workdir", "--seeds", "--tiny"))


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("given, nearest", [("--seedz", "--seeds"), ("--workdirr=x", "--workdir")])
def test_an_unknown_option_names_the_nearest(
    name: str,
    given: str,
    nearest: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(TWINS[name][0], monkeypatch, given, *(() if "=" in given else ("1",)))
    assert stop.value.code == 2
    assert f"the nearest option is {nearest}" in capsys.readouterr().err
