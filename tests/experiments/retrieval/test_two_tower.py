"""The experiment of two towers: it runs to its end on tiny data; which rows the data allow."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from experiments.retrieval import feature_sets
from experiments.retrieval import two_tower as experiment
from experiments.retrieval import two_tower_rows as rows_of_towers
from jaxrec.protocols import retrieval
from jaxrec.report.results import read_results

ROWS = (
    "popularity", "mixed-softmax-logq-features", "hard-hinge", "youtube-softmax",
    "batch-softmax-logq-streaming", "pdn-bce",
)  # fmt: skip
LONG = (
    "uniform-softmax", "batch-softmax", "batch-softmax-logq", "mixed-softmax-logq-history",
    "mv-dssm-softmax-logq", "dfn-bce", "uniform-hinge", "uniform-hard-hinge",
)  # fmt: skip


def run(rows: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(folder / "results"), "--workdir", str(folder / "work"))
    arguments = ("--tiny", "--rows", *rows, "--seeds", "3", *places)
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *arguments])
    experiment.main()
    found = {record.result.model: record.result for record in read_results(folder / "results")}
    assert set(found) == set(rows)
    for name, result in found.items():
        assert 0 <= result.metrics["ndcg@10"][0] <= result.metrics["hit@10"][0] <= 1
        assert not result.published  # the data are made up
        trained = name in rows_of_towers.ROWS
        assert result.protocol.selection == ("ndcg@20" if trained else "none")
        assert (result.steps > 0) == trained
        assert result.protocol.loss == (rows_of_towers.ROWS[name].loss if trained else "")


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ROWS, tmp_path, monkeypatch)


@pytest.mark.long
def test_the_other_rows_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(LONG, tmp_path, monkeypatch)


def test_rows_of_features_need_some() -> None:
    config = experiment.Config(tiny=True)
    columns = feature_sets.load("ml-1m", config, split_seed=0)
    assert experiment.rows_of(config, columns) == experiment.ALL
    none = columns._replace(items=None)
    assert set(experiment.ALL) - set(experiment.rows_of(config, none)) == set(experiment.NEED_FEATURES)
    asked = dataclasses.replace(config, rows=("mixed-softmax-logq-features",))
    with pytest.raises(ValueError, match="the data have no features; leave them out"):
        experiment.rows_of(asked, none)


def test_other_models_have_their_own_negatives_and_the_towers_sizes() -> None:
    config = experiment.Config(dim=12)
    for row, view in (("mv-dssm-softmax-logq", "genres"), ("pdn-bce", None), ("dfn-bce", None)):
        recipe = rows_of_towers.recipe_of(row, config)
        assert recipe.dim == 12 and getattr(recipe, "view", None) == view
        assert recipe.negatives == (1024 if view else 4)
    own = dataclasses.replace(config, data="a.csv")
    assert rows_of_towers.recipe_of("mv-dssm-softmax-logq", own).view == ""
    columns = feature_sets.load("ml-1m", experiment.Config(tiny=True), split_seed=0)
    assert not set(experiment.OF_PAIRS) & set(experiment.rows_of(own, columns))


def test_towers_of_features_alone_have_no_ids() -> None:
    """Users of the synthetic data have no features: they are known by those of their items."""
    config = experiment.Config(tiny=True)
    columns = feature_sets.load("ml-1m", config, split_seed=0)
    model, _ = rows_of_towers.build("mixed-softmax-logq-features", columns, config)
    assert [field.name for field in (*model.user_fields, *model.item_fields)] == [
        "history_group",
        "item_group",
    ]
    model, read = rows_of_towers.build("mixed-softmax-logq-ids", columns, config)
    assert [field.name for field in (*model.user_fields, *model.item_fields)] == ["user_id", "item_id"]
    assert read.items is None


def test_movielens_has_features_and_a_validation_item_of_each_user(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    columns = feature_sets.load("ml-1m", experiment.Config(), split_seed=0)
    assert isinstance(columns, retrieval.Data) and columns.users is not None and columns.items is not None
    assert (columns.num_users, columns.num_items) == (columns.users.num_entities, columns.items.num_entities)
    assert (columns.split.validation.number == 1).all()
    protocol = experiment.protocol_of(columns.split, "softmax")
    assert (protocol.candidates, protocol.selection) == ("given-99", "ndcg@10")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rows": ("hard-hing",)}, "nearest is 'hard-hinge'"),
        ({"dataset": "ml-20m"}, "nearest is 'ml-1m'"),
        ({"negatives": 0}, "negatives=0"),
        ({"id_dropout": 1.0}, r"id_dropout=1\.0"),
    ],
)
def test_settings_are_checked(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(experiment.Config(), **options)
