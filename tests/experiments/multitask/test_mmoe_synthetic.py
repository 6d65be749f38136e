"""The synthetic study of task correlation: its sizes, settings, and a run to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.multitask import mmoe_synthetic
from jaxrec.protocols import impressions
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(mmoe_synthetic, tmp_path, "--rows", "mmoe", "--correlations", "0.5")
    assert {model: result.protocol.loss for model, result in results.items()} == {"mmoe": "mse"}
    result = results["mmoe"]
    assert result.experiment == "mmoe_synthetic" and result.steps > 0
    assert result.dataset == "tiny-p0.5" and result.config["correlation"] == 0.5
    assert len(result.metrics["mse"]) == 2
    assert result.protocol.candidates == "impressions"
    assert not result.published


def test_a_correlation_has_one_folder_whichever_others_are_run(tmp_path: Path) -> None:
    tiny = ("--rows", "shared-bottom", "--num-rows", "40", "--dim", "4", "--epochs", "1")
    for correlations in (("0.5",), ("1", "0.5")):
        results_of(mmoe_synthetic, tmp_path, *tiny, "--correlations", *correlations)
    assert {path.parent.name for path in (tmp_path / "work").glob("*/shared-bottom")} == {
        "tiny-p=0.5",
        "tiny-p=1",
    }
    for folder in (tmp_path / "work").glob("*/shared-bottom"):
        assert len(list(folder.iterdir())) == 1


def test_a_grid_of_learning_rates_is_chosen_from_on_validation(tmp_path: Path) -> None:
    tiny = ("--rows", "mmoe", "--correlations", "0.5", "--num-rows", "40", "--dim", "4", "--epochs", "1")
    (result,) = results_of(mmoe_synthetic, tmp_path, *tiny, "--learning-rates", "1e-9", "1e-2").values()
    assert result.model == "mmoe+chosen-rate" and result.config["learning_rate"] == 1e-2
    assert result.note.startswith("mean validation mse by learning rate: 1e-09: ")
    small, large = (float(part.split(": ")[-1]) for part in result.note.split(", "))
    assert large < small
    config = {"learning_rate", "learning_rates"} & set(result.config)
    assert config == {"learning_rate"}
    assert len(list((tmp_path / "work").glob("*/mmoe/*"))) == 2  # a run for each


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"correlations": (0.5, 2.0)}, "each in -1..1"),
        ({"learning_rates": (0.1, 0.0)}, "each must be positive and finite"),
        ({"learning_rates": (0.1, 0.1)}, "given once"),
        ({"rows": ("mmoo",)}, "the nearest is 'mmoe'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmoe_synthetic.Config(**change)


def test_the_models_of_the_synthetic_study_are_of_one_size() -> None:
    """The paper's numbers: 100·16·8 + 16·8·2 weights of experts and towers; 113 shared units."""
    config = mmoe_synthetic.Config(num_rows=20)
    columns = mmoe_synthetic.load(config, 0.5)
    sizes = {}
    for row in ("shared-bottom", "mmoe"):
        task, _ = mmoe_synthetic.build(row, columns, config)
        sizes[row] = impressions.num_parameters(task, columns)
    gates, biases, heads = 2 * (100 * 8 + 8), 8 * 16 + 2 * 8, 2 * (8 + 1)
    assert sizes["mmoe"] == 100 * 16 * 8 + 16 * 8 * 2 + gates + biases + heads
    assert abs(sizes["shared-bottom"] - (100 * 113 + 113 * 8 * 2)) < 200
