"""--beyond adds metrics of lists to the rankings of all items of an experiment, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments import common
from experiments.sequential import gru4rec, hstu, hstu_generative, sasrec, stamp, ticoserec
from jaxrec.report.results import read_results
from jaxrec.types import Result
from tests.experiments.test_tiny import call

pytestmark = pytest.mark.usefixtures("no_cache")
EXPERIMENTS = (gru4rec, hstu, hstu_generative, sasrec, stamp, ticoserec)
LISTS = {"coverage@3", "gini@3", "novelty@3", "diversity@3", "popularity_lift@3", "map@3", "share/tail"}


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled programs are not kept in the home folder."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")


def found(folder: Path) -> dict[str, Result]:
    return {record.result.model: record.result for record in read_results(folder)}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_ranking_of_all_items_has_metrics_of_its_lists(
    experiment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(experiment, monkeypatch, "--tiny", "--rows", "popularity", "--beyond", 3, "--results", tmp_path)
    results = list(found(tmp_path).values())
    assert results
    for result in results:
        listed = result.protocol.candidates == "all"
        assert set(result.metrics) >= LISTS if listed else not set(result.metrics) & LISTS
    assert any(result.protocol.candidates == "all" for result in results)


@pytest.mark.long
def test_asking_later_needs_no_training_and_keeps_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = []
    for name, asked in (("plain", ()), ("beyond", ("--beyond", 3, 10))):
        places = ("--results", tmp_path / name, "--workdir", tmp_path / "work", "--seeds", 3, 4)
        call(sasrec, monkeypatch, "--tiny", "--rows", "sasrec-bce", *places, *asked)
        stored.append(found(tmp_path / name))
    plain, beyond = stored
    assert set(plain) == set(beyond) == {"sasrec-bce", "sasrec-bce-full"}
    for model, result in beyond.items():
        assert result.metrics.items() >= plain[model].metrics.items()
        assert result.config == plain[model].config and result.seconds == plain[model].seconds
    assert {"coverage@3", "coverage@10", "ndcg@10/head"} <= set(beyond["sasrec-bce-full"].metrics)


@pytest.mark.parametrize(
    ("module", "wrong", "message"),
    [
        (sasrec, {"beyond": (5, 0)}, r"beyond=\(5, 0\): each must be at least 1"),
        (ticoserec, {"beyond": (5,), "seen": "zero"}, "take --seen exclude"),
    ],
)
def test_lists_that_cannot_be_made_are_refused_before_training(
    module: Any, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module.Config(**wrong)


def test_what_else_is_measured_is_no_setting_of_a_run() -> None:
    settings = common.describe_settings(sasrec.Config(beyond=(5,)))
    assert settings == common.describe_settings(sasrec.Config())
