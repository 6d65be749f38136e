"""The experiment of collaborative filtering: tiny rows of each kind to the end, and its published numbers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.retrieval import lightgcn as experiment
from experiments.retrieval import lightgcn_data
from jaxrec.protocols import retrieval
from jaxrec.report.results import read_results

ROWS = ("ease-selected", "bpr-mf-selected", "lightgcn", "pinsage")
GRID = {"regularisation": (5.0, 80.0)}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    monkeypatch.setattr(experiment, "GRIDS", {"ease": GRID})
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    arguments = ("--tiny", "--rows", *ROWS, "--seeds", "3", *places)
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *arguments])
    experiment.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(ROWS)
    selection = {name: result.protocol.selection for name, result in found.items()}
    assert selection == {
        "ease-selected": "ndcg@20",
        "bpr-mf-selected": "ndcg@20",
        "lightgcn": "last epoch",
        "pinsage": "last epoch",
    }
    for name, result in found.items():
        assert result.note.startswith(
            "selected on 10 % of training" if name.endswith("selected") else "published setting"
        )
        assert not result.published
        # 72 items, of which the input of a user is left out: 20 of them at random have under a third.
        least = 0 if name == "pinsage" else 0.33  # which eight steps teach nothing yet
        assert least < result.metrics["recall@20"][0] <= 1
    assert found["ease-selected"].config["regularisation"] in GRID["regularisation"]
    assert "chosen on validation" in found["ease-selected"].note  # of the trials beside the result
    assert found["lightgcn"].steps >= found["bpr-mf-selected"].steps > 0


@pytest.mark.long
def test_tiny_rows_that_read_attributes_run_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    rows = ("eges-selected", "deepwalk", "rcf-selected")
    monkeypatch.setattr(
        sys, "argv", [experiment.__name__, "--tiny", "--rows", *rows, "--seeds", "3", *places]
    )
    experiment.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(rows)


def test_attributes_are_those_that_a_model_reads() -> None:
    config = experiment.Config(dataset="ml-100k")
    split = lightgcn_data.load(config)
    found = lightgcn_data.attributes_of(config, split)
    assert found is not None
    assert found.ids.shape == (split.sequences.num_items + 1, 2, 6)
    columns = retrieval.resident(split)
    widths = {
        name: lightgcn_data.read_by(experiment.METHODS[name], columns, found).columns["attributes"].shape[1:]
        for name in ("eges", "rcf")
    }
    assert widths == {"eges": (1, 1), "rcf": (2, 6)}
    assert "attributes" not in lightgcn_data.read_by(experiment.METHODS["pinsage"], columns, found).columns
    with pytest.raises(ValueError, match="item_attributes='a.csv': is for your own file"):
        lightgcn_data.attributes_of(experiment.Config(item_attributes="a.csv"), split)


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ("lightgcn", {}, {"recall@20": 0.1820, "ndcg@20": 0.1547}),
        ("lightgcn-selected", {}, {"recall@20": 0.1820, "ndcg@20": 0.1547}),
        ("pinsage", {}, {"recall@20": 0.1380, "ndcg@20": 0.1196}),
        ("lightgcn", {"epochs": 5}, {}),
        ("lightgcn", {"evaluate_every": 5}, {"recall@20": 0.1820, "ndcg@20": 0.1547}),
        ("lightgcn", {"dataset": "lastfm"}, {}),
        ("ease", {"epochs": 5}, {"recall@20": 0.1765, "ndcg@20": 0.1467}),
        ("ease-selected", {}, {}),
        ("random", {}, {}),
    ],
)
def test_published_numbers_stand_beside_published_settings_alone(
    row: str, options: dict[str, Any], expected: dict[str, float]
) -> None:
    config = dataclasses.replace(experiment.Config(), **options)
    assert dict(experiment.published_numbers(row, config).values) == expected


def test_settings_that_are_not_the_published_ones_are_told() -> None:
    config = dataclasses.replace(experiment.Config(), epochs=100, evaluate_every=10, learning_rate=0.01)
    assert experiment.changed("lightgcn", config) == {"epochs": 100, "learning_rate": 0.01}
    assert experiment.changed("ease-selected", config) == {}  # reads neither
    assert experiment.changed("lightgcn", dataclasses.replace(config, tiny=True)) == {}


@pytest.mark.parametrize(
    ("options", "match"),
    [({"rows": ("lightgnc",)}, "nearest is 'lightgcn'"), ({"num_layers": 0}, "num_layers=0")],
)
def test_settings_are_checked(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(experiment.Config(), **options)
