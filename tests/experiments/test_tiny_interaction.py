"""Models of feature interaction and of scenarios, from the command line to their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.multitask import scenarios
from experiments.ranking import feature_interaction
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.tables.features import FIRST_VALUE
from jaxrec.report.results import read_results
from jaxrec.tasks.multitask import stacked
from tests.experiments.test_tiny import call

OF_EACH = ("auc", "log_loss", "ece", "calibration_ratio")


def tiny(module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, Any]:
    """Results of a tiny run with two seeds, by row."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", folder / "results", "--workdir", folder, "--seeds", 3, 4)
    call(module, monkeypatch, "--tiny", *options, *places)
    found = {record.result.model: record.result for record in read_results(folder / "results")}
    for result in found.values():
        assert result.steps > 0 and result.protocol.loss == "bce"
        assert result.protocol.candidates == "impressions"
        assert not result.published  # no paper reports these splits
    return found


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny(feature_interaction, tmp_path, monkeypatch, "--rows", "can")
    assert set(found) == {"can"}
    for result in found.values():
        assert result.experiment == "feature_interaction"
        assert all(len(result.metrics[f"{name}/click"]) == 2 for name in OF_EACH)
        assert result.protocol.selection == "auc/click"
        assert result.config["parameters"] > 0


@pytest.mark.parametrize("data", ["ml-100k", "census"])
def test_every_row_has_a_logit_and_its_loss(data: Any) -> None:
    config = feature_interaction.Config(data=data, tiny=True)
    setting = feature_interaction.load(config)
    batch: Any = {name: ids[0, :5] for name, ids in setting.data.test.items()}
    if setting.data.expand is not None:
        batch = setting.data.expand(batch, setting.data.columns)
    for row in setting.rows:
        task = feature_interaction.task_of(row, setting, config)

        def both(key: Any, batch: Any, task: Any = task) -> Any:
            variables = task.init(key, batch)
            return task.predict(variables, batch), task.losses(variables, batch, key)[0]

        logits, losses = jax.eval_shape(both, jax.random.key(0), batch)
        assert logits.shape == (5,), row
        assert list(losses) == [setting.target.name], row
    assert len(setting.rows) == (14 if data == "ml-100k" else 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length=0: must be at least 1"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"data": "census", "rows": ("deep", "can")}, r"rows=\['can'\]: census has no histories"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_interaction.Config(**change)


# --- scenarios ------------------------------------------------------------------------------------------


def test_scenarios_run_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny(scenarios, tmp_path, monkeypatch, "--rows", "mlp", "star")
    assert set(found) == {"mlp", "star"}
    metrics = found["mlp"].metrics
    assert found["mlp"].dataset.endswith("-by-item_id")
    assert set(metrics) == {f"{name}/ctr" for name in OF_EACH} | {"auc/scenarios", "auc/0", "auc/1"}
    areas = [metrics["auc/0"], metrics["auc/1"]]
    np.testing.assert_allclose(metrics["auc/scenarios"], np.mean(areas, axis=0))


def test_every_row_of_scenarios_has_a_logit_for_each_target() -> None:
    config = scenarios.Config(tiny=True)
    setting = scenarios.load(config)
    batch: Any = {name: column[0, :5] for name, column in setting.data.test.items()}
    for row in scenarios.ROWS:
        task, targets = scenarios.task_of(row, setting, config)

        def outputs(key: Any, batch: Any, task: Any = task, targets: Any = targets) -> Any:
            return stacked(task.predict(task.init(key, batch), batch), targets)

        assert jax.eval_shape(outputs, jax.random.key(0), batch).shape == (5, 3), row


def test_scenarios_part_the_test_rows() -> None:
    test = scenarios.load(scenarios.Config(tiny=True)).data.test
    spaces = np.stack([test["space/0"], test["space/1"]])
    assert (spaces.sum(axis=0)[test["mask"]] == 1).all()
    assert (test["item_id"][spaces[1]] == FIRST_VALUE + 1).all()


def test_rows_without_a_scenario_are_refused() -> None:
    split = funnel(400, num_users=150, num_items=2).split
    with pytest.raises(ValueError, match="user_id: .* rows have no value that training rows know"):
        scenarios.by_scenario(split, "user_id")


def test_settings_of_scenarios_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        scenarios.Config(batch_size=0)
