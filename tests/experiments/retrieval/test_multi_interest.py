"""The experiment on models of several interests runs to its end on tiny data; its rows and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.retrieval import balances
from experiments.retrieval import multi_interest as experiment
from jaxrec.data.sources import coserec
from jaxrec.report.results import read_results
from jaxrec.types import Result
from tests.experiments.multitask.runs import results_of

ROWS = ("co-visitation", "comirec-sa-ce", "poly-encoder-in-batch")
LISTS = ("--balances", 0, 0.5, "--num-candidates", 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multi_interest")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> dict[str, Result]:
    return results_of(experiment, folder, "--rows", *ROWS, *LISTS)


def test_every_row_is_ranked_and_has_lists_at_each_balance(tiny: dict[str, Result]) -> None:
    endings = ("", "+balance-0", "+balance-0.5")
    assert set(tiny) == {"co-visitation", *(f"{row}{ending}" for row in ROWS[1:] for ending in endings)}
    for name, result in tiny.items():
        listed = "+balance-" in name
        assert result.experiment == "multi_interest" + "_diversity" * listed
        assert result.protocol.candidates == "all" and result.protocol.ks == (20, 50)
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert ("diversity@50" in result.metrics) == listed
        assert result.steps == (0 if name == "co-visitation" else tiny[ROWS[1]].steps)
    assert tiny["co-visitation"].config["window"] == 0  # the grid's first value with --tiny
    assert tiny["comirec-sa-ce"].protocol.loss == "ce"
    assert tiny["poly-encoder-in-batch"].protocol.loss == "softmax over the targets of the batch"


def test_values_of_users_are_kept_beside_the_rows(tiny: dict[str, Result], folder: Path) -> None:
    kept = {path.name.split(".")[0] for path in (folder / "results/multi_interest").rglob("*.npz")}
    assert kept == set(ROWS) <= set(tiny)


def test_lists_without_a_balance_have_the_accuracy_of_the_ranking(tiny: dict[str, Result]) -> None:
    for row in ROWS[1:]:
        for metric in ("hit@20", "ndcg@50"):
            assert tiny[f"{row}+balance-0"].metrics[metric] == pytest.approx(tiny[row].metrics[metric])
        mean = [np.mean(tiny[f"{row}+balance-{b}"].metrics["diversity@20"]) for b in ("0", "0.5")]
        assert mean[0] <= mean[1]


def test_the_plot_has_all_rows(tiny: dict[str, Result], folder: Path) -> None:
    pytest.importorskip("matplotlib")
    found = balances.draw(str(folder / "results"), experiment.EXPERIMENT, "chain-96x40", k=50)
    assert found is not None and found.read_bytes().startswith(b"\x89PNG")
    assert len(read_results(folder / "results")) == len(tiny)


@pytest.mark.parametrize("row", experiment.ROWS)
def test_rows_share_width_and_budget_and_have_their_papers_other_settings(row: str) -> None:
    recipe = experiment.recipe_of(row, experiment.Config())
    assert {name: getattr(recipe, name) for name in experiment.SHARED} == experiment.SHARED
    changed = experiment.recipe_of(row, experiment.Config(dim=16, epochs=3))
    assert (changed.dim, changed.epochs) == (16, 3)
    own = experiment.ROWS[row].entry.recipe
    own = own() if isinstance(own, type) else own
    for name in ("num_interests", "num_channels", "num_prototypes", "iterations", "short_len"):
        assert getattr(recipe, name, None) == getattr(own, name, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ("mind",)}, "the nearest is 'mind-ce'"),
        ({"num_candidates": 0}, "num_candidates=0: must be at least 1"),
        ({"dim": 0}, "dim=0: must be at least 1"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**changes)  # type: ignore[arg-type]


def test_an_items_category_is_its_attribute_that_most_items_have(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = np.array([[0, 0], [1, 2], [2, 0], [3, 2], [3, 0], [3, 4]], np.int32)
    monkeypatch.setattr(coserec, "load_attributes", lambda name: attributes)
    found = experiment.categories(experiment.Config(), 5)
    assert found is not None and found[1:].tolist() == [2, 2, 3, 3, 3]
    assert experiment.categories(experiment.Config(dataset="Games"), 5) is None
