"""The SASRec experiment runs to its end on tiny data and on a file, and its rows are what they are called."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments.common import NONE, check_label, shrink_if_tiny
from experiments.sequential import sasrec as experiment
from jaxrec.data.events.split import leave_one_out
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols import next_item
from jaxrec.types import Result
from tests.experiments.multitask.runs import results_of
from tests.experiments.own_files import write_events


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("sasrec")
    return results_of(experiment, folder, "--rows", "random", "popularity", "gru4rec-bce")


@pytest.fixture(scope="module")
def columns() -> next_item.Data:
    return next_item.resident(leave_one_out(experiment.load(experiment.Config(tiny=True))))


def test_every_row_is_ranked_among_sampled_and_among_all_items(tiny: dict[str, Result]) -> None:
    rows = ("random", "popularity", "gru4rec-bce")
    assert set(tiny) == {f"{row}{ending}" for row in rows for ending in ("", "-full")}
    for name, result in tiny.items():
        assert result.experiment == "sasrec" and result.dataset == "chain-96x40"
        assert result.protocol.candidates == ("all" if name.endswith("-full") else "sampled-100")
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert not result.published  # nothing was published about made-up data
        assert ("validation item" in result.note) == (not name.endswith("-full"))


def test_a_trained_row_says_how(tiny: dict[str, Result]) -> None:
    sampled, full = tiny["gru4rec-bce"], tiny["gru4rec-bce-full"]
    assert sampled.protocol.loss == full.protocol.loss == "bce"
    assert sampled.protocol.selection == "ndcg@10"
    assert full.protocol.selection == "ndcg@10 among sampled-100"
    assert sampled.steps == full.steps == 2 * 3  # epochs × batches of 32 of 96 users
    assert sampled.config["dim"] == 8
    baseline = tiny["popularity"]
    assert (baseline.protocol.loss, baseline.protocol.selection, baseline.steps) == ("", "none", 0)
    assert dict(baseline.config) == {"num_candidates": 100}


@pytest.mark.long
def test_a_file_of_yours_runs_to_the_end(tmp_path: Path) -> None:
    path = write_events(tmp_path / "shop.csv")
    names = ("--data", path, "--user", "uid", "--item", "sku", "--time", "ts")
    found = results_of(
        experiment, tmp_path, *names, "--rows", "popularity", "sasrec-ce", "--num-candidates", 5
    )
    assert set(found) == {"popularity", "popularity-full", "sasrec-ce", "sasrec-ce-full"}
    result = found["sasrec-ce"]
    assert result.dataset == "shop.csv"
    assert result.protocol.loss == "ce"
    assert not result.published


def test_tiny_changes_defaults_only() -> None:
    config = shrink_if_tiny(experiment.Config(tiny=True, dim=12), **experiment.TINY)
    assert (config.dim, config.epochs, config.evaluate_every) == (12, 2, 1)
    default = experiment.Config()
    assert shrink_if_tiny(default, **experiment.TINY) == default


@pytest.mark.parametrize("field", ["dim", "epochs", "evaluate_every", "num_candidates", "save_every"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        dataclasses.replace(experiment.Config(), **{field: 0})


@pytest.mark.parametrize(
    "change", [{"patience": -1}, {"dropout": 1.0}, {"num_heads": 3}, {"seeds": ()}, {"seeds": (0, 0)}]
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(experiment.Config(), **change)  # type: ignore[arg-type]


def test_an_unknown_row_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'sasrec-bc' is none of .*; the nearest is 'sasrec-bce'"):
        experiment.Config(rows=("sasrec-bc",))


def test_encoders_of_the_rows() -> None:
    config = experiment.Config()
    original, post, gru = (
        experiment.ROWS[row].encoder(9, config)
        for row in ("sasrec-bce", "sasrec-bce-postnorm", "gru4rec-bce")
    )
    assert isinstance(original, SASRecOriginal) and isinstance(post, SASRec) and isinstance(gru, GRU4Rec)
    sizes: list[Any] = [(m.dim, m.num_layers, m.num_heads, m.max_len, m.dropout) for m in (original, post)]
    assert sizes == [(50, 2, 1, 50, 0.5)] * 2
    assert isinstance(experiment.ROWS["sasrec-ce"].encoder(9, config), SASRecOriginal)
    assert gru.max_len == 50


@pytest.mark.parametrize("change", [{"dim": 64}, {"num_candidates": 500}, {"epochs": 20}, {"tiny": True}])
def test_published_numbers_stand_beside_the_authors_settings_alone(change: dict[str, object]) -> None:
    official = experiment.Config()
    assert experiment.published_numbers("sasrec-bce", official).values["hit@10"] == 0.7410
    other = dataclasses.replace(official, **change)  # type: ignore[arg-type]
    assert experiment.published_numbers("sasrec-bce", other) == NONE
    baseline = experiment.published_numbers("popularity", other)
    assert (baseline == NONE) == ("num_candidates" in change or "tiny" in change)


@pytest.mark.parametrize("row", ["sasrec-bce", "popularity"])
def test_nothing_was_published_about_a_file_of_yours(row: str) -> None:
    assert experiment.published_numbers(row, experiment.Config(data="shop.csv")) == NONE


def test_the_papers_gru4rec_is_another_model() -> None:
    assert "session-based" in experiment.published_numbers("gru4rec-bce", experiment.Config()).incomparable


@pytest.mark.parametrize("row", experiment.ROWS)
def test_the_loss_is_part_of_every_name(row: str, columns: next_item.Data) -> None:
    objective = experiment.ROWS[row].objective(columns)
    check_label(row, objective.name)
    assert objective.name == {"sasrec-ce": "ce"}.get(row, "bce")


def test_a_name_says_how_users_are_drawn() -> None:
    permuted = experiment.Config(replacement=False)
    assert experiment.model_name("sasrec-ce", permuted) == "sasrec-ce+permuted"
    assert experiment.model_name("random", permuted) == "random"
