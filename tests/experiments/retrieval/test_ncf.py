"""The experiment of neural collaborative filtering: it runs to its end on tiny data; published numbers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.retrieval import ncf as experiment
from jaxrec import baselines
from jaxrec.baselines.ials import TRAINED
from jaxrec.recipes.trainable import fit_seeds
from jaxrec.report.results import read_results
from jaxrec.types import Baseline

ROWS = ("popularity", "ease", "neumf-pretrained-selected")


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    arguments = ("--tiny", "--rows", *ROWS, "--seeds", "3", *places)
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *arguments])
    experiment.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == {"popularity", "ease", "neumf-pretrained-selected-4"}
    for result in found.values():
        assert result.protocol.candidates == "sampled-99"  # synthetic data have no given ones
        assert not result.published
        assert 0 <= result.metrics["ndcg@10"][0] <= result.metrics["hit@10"][0] <= 1
    assert found["popularity"].protocol.selection == "none"
    trained = found["neumf-pretrained-selected-4"]
    assert trained.protocol.selection == "ndcg@10"
    assert "one training item of each user" in trained.protocol.split
    assert trained.steps > 0
    runs = {path.name for path in (tmp_path / "work").glob("*/*")}
    assert {"gmf-selected", "mlp-selected", "neumf-pretrained-selected"} <= runs


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ("neumf", {}, {"hit@10": 0.688, "ndcg@10": 0.410}),
        ("neumf-pretrained", {"factors": 64}, {"hit@10": 0.730, "ndcg@10": 0.447}),
        (
            "neumf-pretrained",
            {"factors": 64, "mlp_layers": 2, "finish": "sgd"},
            {"hit@10": 0.7093, "ndcg@10": 0.4349},
        ),
        ("neumf-pretrained", {"factors": 64, "finish": "sgd"}, {}),
        ("neumf", {"factors": 64, "mlp_layers": 2}, {}),
        ("mlp", {"finish": "sgd"}, {"ndcg@10": 0.399}),
        ("neumf-selected", {"factors": 16}, {"hit@10": 0.696, "ndcg@10": 0.420}),
        ("neumf", {"factors": 24}, {}),
        ("neumf", {"learning_rate": 0.1}, {}),
        ("mf", {"learning_rate": 0.1}, {"hit@10": 0.7294, "ndcg@10": 0.4523}),
        ("mf", {"mf_dim": 16}, {}),
        ("gmf", {}, {}),
        ("mlp", {}, {"ndcg@10": 0.399}),
        ("ease", {"learning_rate": 0.1}, {"hit@10": 0.7192, "ndcg@10": 0.4494}),
        ("ease", {"tiny": True}, {}),
    ],
)
def test_published_numbers_stand_beside_published_settings_alone(
    row: str, options: dict[str, float], expected: dict[str, float]
) -> None:
    config = dataclasses.replace(experiment.Config(), **options)
    assert dict(experiment.published_numbers(row, config).values) == expected


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 1.5}, r"alpha=1\.5"),
        ({"finish": "sdg"}, "finish: 'sdg'"),
        ({"mlp_layers": 0}, "mlp_layers=0"),
        ({"rows": ("neumff",)}, "nearest is 'neumf'"),
        ({"mf_dim": 0}, "mf_dim=0"),
    ],
)
def test_settings_are_checked(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(experiment.Config(), **options)


def test_a_selected_row_learns_without_one_item_of_each_user() -> None:
    split = experiment.load(experiment.Config(tiny=True))
    assert (split.test.number == 1).all() and not split.validation.user.size
    assert (split.train_length == split.sequences.lengths - 1).all()
    held = experiment.without_one_item(split, seed=0)
    assert (held.validation.number == 1).all()
    assert (held.train_length == split.train_length - 1).all()
    np.testing.assert_array_equal(held.test.length, split.test.length)


def test_each_seed_of_ials_starts_from_vectors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is drawn but random scores: these rows have one seed."""

    def ials(data: Any, *, seed: int, **settings: Any) -> Baseline:
        return Baseline("ials", TRAINED, {"items": np.full((1, 1), seed)})

    monkeypatch.setattr(baselines, "ials", ials)
    made: Any = experiment.BASELINES["ials"]
    nothing: Any = None
    assert fit_seeds(made, nothing, nothing, (3, 5))[1]["items"].ravel().tolist() == [3, 5]
    assert {name for name, entry in experiment.BASELINES.items() if entry.drawn} == {"random", "ials"}
