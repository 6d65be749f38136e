"""The generative form learns from the ratings that stand before a movie, on tiny data and on a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.common import check_label, shrink_if_tiny
from experiments.sequential import hstu_generative as experiment
from jaxrec.protocols import actions
from jaxrec.recipes import hstu_generative as recipes
from jaxrec.report.results import read_results
from jaxrec.types import Result
from tests.experiments.multitask.runs import run_main
from tests.experiments.own_files import write_events


def by_question(folder: Path, dataset: str, *options: object) -> dict[str, dict[str, Result]]:
    """Results of a run with --tiny by row, of each question."""
    kept = ("--results", folder / "results", "--workdir", folder / "work", "--seeds", 0)
    run_main(experiment, "--tiny", *options, *kept)
    found = [record.result for record in read_results(folder / "results")]
    assert {result.dataset for result in found} <= {f"{dataset}-ranking", f"{dataset}-retrieval"}
    return {
        question: {result.model: result for result in found if result.dataset == f"{dataset}-{question}"}
        for question in ("ranking", "retrieval")
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Result]]:
    longer = ("--epochs", 40, "--every", 4, "--patience", 0, "--learning-rate", 0.01, "--batch-size", 16)
    rows = ("--rows", "rates", "popularity", "generative", "generative-ranking")
    return by_question(tmp_path_factory.mktemp("generative"), "tiny", *rows, *longer)


@pytest.mark.long
def test_it_learns_tastes_that_only_earlier_ratings_tell(tiny: dict[str, dict[str, Result]]) -> None:
    """Who likes which half of the movies is known from the user's ratings alone, so rates tell nothing."""
    ranking, retrieval = tiny["ranking"], tiny["retrieval"]
    assert set(ranking) == {"rates", "generative-bce-ssm", "generative-ranking-bce"}
    assert set(retrieval) == {"popularity", "generative-bce-ssm"}
    alone, retrieved = ranking["generative-ranking-bce"], retrieval["generative-bce-ssm"]
    assert alone.metrics["auc"][0] > 0.7 > 0.1 + ranking["rates"].metrics["auc"][0]
    assert retrieved.metrics["ndcg@10"][0] > 1.2 * retrieval["popularity"].metrics["ndcg@10"][0]


@pytest.mark.long
def test_each_question_has_its_protocol(tiny: dict[str, dict[str, Result]]) -> None:
    ranking, retrieval = tiny["ranking"], tiny["retrieval"]
    for result in ranking.values():
        assert set(result.metrics) == {"auc", "log_loss", "normalized_entropy"}
        assert (result.protocol.candidates, result.protocol.ties) == ("impressions", "half")
    both, retrieved = ranking["generative-bce-ssm"], retrieval["generative-bce-ssm"]
    assert both.protocol.selection == retrieved.protocol.selection == "ndcg@10"
    assert both.protocol.loss == "ranking + retrieval"
    alone = ranking["generative-ranking-bce"]
    assert (alone.protocol.selection, alone.protocol.loss) == ("auc", "ranking")
    assert retrieved.protocol.split.endswith("of rating 4 or 5")
    assert {result.protocol.selection for result in (ranking["rates"], retrieval["popularity"])} == {"none"}


@pytest.mark.long
def test_a_file_of_yours_runs_to_the_end(tmp_path: Path) -> None:
    path = write_events(tmp_path / "shop.csv")
    names = ("--data", path, "--user", "uid", "--item", "sku", "--time", "ts", "--value", "stars")
    options = ("--liked", 3, 4, 5, "--rows", "rates", "random", "generative")
    found = by_question(tmp_path, "shop.csv", *names, *options)
    assert set(found["ranking"]) == {"rates", "generative-bce-ssm"}
    assert set(found["retrieval"]) == {"random", "generative-bce-ssm"}
    assert found["retrieval"]["random"].protocol.split.endswith("of rating 3 or 4 or 5")


@pytest.mark.long
def test_short_runs_are_evaluated_once_all_the_same(tmp_path: Path) -> None:
    """Though there are fewer epochs than there are between two evaluations."""
    (result,) = by_question(tmp_path, "tiny", "--rows", "generative-ranking", "--epochs", 1, "--every", 3)[
        "ranking"
    ].values()
    assert result.steps > 0


def test_tiny_changes_defaults_only() -> None:
    config = shrink_if_tiny(experiment.Config(tiny=True, dim=12), **experiment.TINY)
    assert (config.dim, config.epochs, config.every) == (12, 2, 1)


@pytest.mark.parametrize("row", experiment.ROWS)
def test_the_losses_are_part_of_every_name(row: str) -> None:
    data = actions.resident(experiment.synthetic_events(), positive=(4, 5))
    objective = recipes.ssm(data, experiment.Config())
    weights, name = experiment.ROWS[row].weights, experiment.model_name(row)
    assert ("ssm" in name.split("-")) == (weights["retrieval"] > 0)
    assert ("bce" in name.split("-")) == (weights["ranking"] > 0)
    if weights["retrieval"]:
        check_label(name, objective.name)


@pytest.mark.parametrize(
    "change", [{"max_len": 1}, {"dropout": 1.0}, {"every": 0}, {"learning_rate": 0.0}, {"patience": -1}]
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        experiment.Config(**change)
