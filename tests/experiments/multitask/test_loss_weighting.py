"""Ways to weigh losses: every row, settings, and runs on made-up data and on a user's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.multitask import census, loss_weighting
from jaxrec.optim.loss_weighting import LossWeighting
from jaxrec.protocols import impressions
from tests.experiments.multitask.runs import FEATURES, results_of, run_main, write_table


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(loss_weighting, tmp_path, "--rows", "mgda-ub")
    assert {model: r.protocol.loss for model, r in results.items()} == {"shared-bottom+mgda-ub": "bce"}
    for result in results.values():
        assert result.experiment == "loss_weighting" and result.steps > 0
        assert len(result.metrics["auc"]) == 2
        assert result.protocol.candidates == "impressions" and result.protocol.selection == "auc"
        assert not result.published


def test_a_table_of_the_users_is_trained_and_tested(tmp_path: Path) -> None:
    table = write_table(tmp_path / "shop.csv")
    options = ("--data", table, "--labels", "click", "cart", "order", *FEATURES)
    (result,) = results_of(loss_weighting, tmp_path, *options, "--rows", "scheduled").values()
    assert (result.dataset, result.model) == ("shop.csv", "shared-bottom+scheduled")
    assert {"auc", "auc/click", "auc/cart", "auc/order"} <= set(result.metrics)


def test_one_label_leaves_nothing_to_weigh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "shop.csv")
    with pytest.raises(SystemExit):
        run_main(loss_weighting, "--data", table, "--labels", "click", *FEATURES, "--workdir", tmp_path / "w")
    assert "one label (click): there is nothing to weight; name two or more" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"rows": ("pcgrat",)}, "the nearest is 'pcgrad'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_weighting.Config(**change)


def test_every_row_trains_the_same_model_with_its_own_weighting() -> None:
    config = loss_weighting.Config(tiny=True)
    split = census.load(config, config.group)
    columns = impressions.resident(split)
    models = loss_weighting.build(config, columns, impressions.features(split.impressions, config.dim))
    assert list(models) == list(loss_weighting.ROWS)
    assert len({id(model.task) for model in models.values()}) == 1
    assert len({id(model.weighting) for model in models.values()}) == len(models)


def test_the_schedule_is_the_recipes() -> None:
    """One step an epoch: after two epochs the first task weighs 1, the others rate²."""
    row = loss_weighting.ROWS["scheduled"]
    weighting = row.weighting(("a", "b", "c"), loss_weighting.Config(rate=0.5), 1)
    assert isinstance(weighting, LossWeighting)
    learned, state = weighting.init()
    for _ in range(3):
        _, state, weights = weighting.combine(learned, state, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert {name: float(weight) for name, weight in weights.items()} == {"a": 1.0, "b": 0.25, "c": 0.25}
