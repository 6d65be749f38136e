"""The strong recipe runs to its end on tiny data, and its rows are what they are called."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments.common import NONE
from experiments.sequential import strong_recipe as experiment
from jaxrec.nn.sequential.ligr import LiGR
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols.known_items import TRAINED
from jaxrec.recipes import strong as recipes
from jaxrec.types import Protocol, Result
from tests.experiments.multitask.runs import results_of

BENCHMARK = Protocol(candidates=TRAINED)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    rows = ("popularity", "co-visitation", "item-knn-selected", "ligr-ssm")
    return results_of(experiment, tmp_path_factory.mktemp("strong"), "--rows", *rows)


def test_every_row_is_measured_by_two_protocols(tiny: dict[str, Result]) -> None:
    rows = ("popularity", "co-visitation", "item-knn-selected", "ligr-ssm")
    assert set(tiny) == {f"{row}{ending}" for row in rows for ending in ("", experiment.BENCHMARK)}
    for name, result in tiny.items():
        assert result.protocol.seen == "exclude" and not result.published
        assert result.protocol.candidates == (TRAINED if name.endswith("-benchmark") else "all")
        assert ("users left out" in result.note) == name.endswith("-benchmark")
        assert ("known before" in result.protocol.split) == name.endswith("-benchmark")


def test_a_trained_row_says_how(tiny: dict[str, Result]) -> None:
    plain, benchmark = tiny["ligr-ssm"], tiny["ligr-ssm-benchmark"]
    assert plain.protocol.loss == "ssm, 16 negatives an event from all items"
    assert (plain.protocol.selection, benchmark.protocol.selection) == ("hit@10", "hit@10 among all items")
    assert plain.steps == benchmark.steps == 2 * 3  # epochs × batches of 32 of 96 users
    assert plain.config["recipe"]["num_negatives"] == 16


@pytest.mark.long
def test_a_row_with_views_runs_to_its_end(tmp_path: Path) -> None:
    found = results_of(experiment, tmp_path, "--rows", "ligr-ssm+coserec")
    assert set(found) == {"ligr-ssm+coserec", "ligr-ssm+coserec-benchmark"}
    loss = "ssm, 16 negatives an event from all items + contrastive"
    assert {result.protocol.loss for result in found.values()} == {loss}


def test_views_have_the_settings_of_coserec_and_the_budget_of_the_other_rows() -> None:
    recipe = experiment.recipe_of(experiment.Config(max_len=30, patience=0))
    given = recipes.with_views(recipe, "Beauty")
    assert (given.weight, given.by_gaps, given.short, given.threshold) == (0.1, False, "SIMRC", 12)
    assert (given.max_len, given.epochs, given.patience, given.batch_size) == (30, 200, 200, 128)
    with pytest.raises(ValueError, match="evaluate_every=2: must be 1 for rows with views"):
        experiment.Config(rows=("ligr-ssm+coserec",), evaluate_every=2)


def test_encoders_of_the_rows() -> None:
    recipe = experiment.recipe_of(experiment.Config(dataset="Sports"))
    assert (recipe.dim, recipe.inner_factor, recipe.num_negatives, recipe.epochs) == (64, 2, 256, 200)
    assert experiment.Config().rows == (*experiment.BASELINES, *experiment.PLAIN)
    for row, made in experiment.ROWS.items():
        model: Any = made.encoder(9, recipe)
        assert isinstance(model, LiGR if row.startswith("ligr") else SASRecOriginal)
        assert (model.dim, model.num_layers, model.num_heads, model.max_len, model.dropout) == (
            64,
            1,
            1,
            50,
            0.2,
        )
        if isinstance(model, LiGR):
            assert model.inner_dim == 2 * 64


@pytest.mark.parametrize(
    "change",
    [{"dropout": 0.5}, {"table_dropout": 0.0}, {"num_negatives": 64}, {"epochs": 20}, {"tiny": True}],
)
def test_published_numbers_stand_beside_the_benchmark_alone(change: dict[str, Any]) -> None:
    for official in (experiment.Config(), experiment.Config(dim=64), experiment.Config(dim=256)):
        found = experiment.published_numbers("ligr-ssm", official, BENCHMARK)
        assert found.values == {"hit@10": 0.0928, "ndcg@10": 0.0523} and not found.incomparable
        assert experiment.published_numbers("ligr-ssm", official, Protocol()) == NONE
        other = dataclasses.replace(official, **change)
        assert experiment.published_numbers("ligr-ssm", other, BENCHMARK) == NONE
    assert experiment.published_numbers("ligr-ssm", experiment.Config(dim=128), BENCHMARK) == NONE
    assert experiment.published_numbers("sasrec-bce", experiment.Config(), BENCHMARK).incomparable


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dim": 0}, "dim=0"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"calibration": 1.5}, "calibration=1.5"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"table_dropout": 1.0}, "table_dropout=1.0"),
        ({"patience": -1}, "patience=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        experiment.Config(**change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "sasrec-ssm"),
        ({"table_dropout": 0.2}, "sasrec-ssm"),
        ({"table_dropout": 0.0}, "sasrec-ssm+table-dropout-0"),
        ({"table_dropout": 0.5, "dim": 256}, "sasrec-ssm+d256+table-dropout-0.5"),
        ({"table_dropout": 0.2, "dataset": "ml-100k"}, "sasrec-ssm+table-dropout-0.2"),
    ],
)
def test_names_say_what_is_not_the_default(change: dict[str, Any], expected: str) -> None:
    config = experiment.Config(**change)
    assert experiment.model_name("sasrec-ssm", config) == expected
    assert experiment.model_name("popularity", config) == "popularity"


def test_an_unknown_row_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'ligr-sm' is none of .*; the nearest is 'ligr-ssm'"):
        experiment.Config(rows=("ligr-sm",))
