"""Experiments with sparse tables: they run to their end, and a row that reads a whole table is refused."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from experiments import common
from experiments.retrieval import two_tower
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "row", "kind"),
    [
        ("ranking.din", "din-mba", "lazy-adam-corrected"),
        ("sequential.sasrec", "sasrec-bce", "lazy-adam"),
        ("multitask.census", "mmoe", "rowwise-adagrad"),
        ("retrieval.two_tower", "mixed-softmax-logq", "adagrad"),
    ],
)
def test_an_experiment_trains_sparse_tables(
    name: str, row: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    module = importlib.import_module(f"experiments.{name}")
    arguments = ("--tiny", "--rows", row, "--seeds", "0", "--sparse", kind)
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    call(module, monkeypatch, *arguments, *places)
    (found,) = {record.result.config["sparse"] for record in read_results(tmp_path / "results")}
    assert found == kind


def test_a_softmax_over_all_items_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("experiments.sequential.sasrec")
    arguments = ("--tiny", "--rows", "sasrec-ce", "--seeds", "0", "--sparse", "sgd")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    with pytest.raises(SystemExit):
        call(module, monkeypatch, *arguments, *places)
    error = capsys.readouterr().err
    assert "item_embedding" in error and "read as a whole" in error


def test_rows_without_the_option_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sparse='sgd': rows \['pdn-bce'\] have dense tables"):
        two_tower.Config(rows=("pdn-bce", "batch-softmax"), sparse="sgd")
    two_tower.Config(rows=("batch-softmax",), sparse="sgd")


def test_dense_tables_are_the_default() -> None:
    def build(read: object) -> None:
        raise AssertionError

    assert common.with_sparse_tables(build, common.SparseOption()) is build  # type: ignore[arg-type,comparison-overlap]
