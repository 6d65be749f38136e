"""Models of feature interaction, from the command line to their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.ranking import feature_interaction
from jaxrec.report.results import read_results
from tests.experiments.own_files import write_events, write_table
from tests.experiments.test_tiny import call

OF_EACH = ("auc", "log_loss", "ece", "calibration_ratio")


def tiny(module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, Any]:
    """Results of a tiny run with two seeds, by row."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", folder / "results", "--workdir", folder / "work", "--seeds", 3, 4)
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


@pytest.mark.parametrize("dataset", ["ml-100k", "census"])
def test_every_row_has_a_logit_and_its_loss(dataset: Any) -> None:
    config = feature_interaction.Config(dataset=dataset, tiny=True)
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
    assert len(setting.rows) == (14 if dataset == "ml-100k" else 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"dataset": "census", "rows": ("deep", "can")}, r"rows=\['can'\]: census has no histories"),
        ({"data": "x.csv", "labels": ("click",), "time": "ts"}, "time='ts': is not read of a table"),
        ({"data": "x.csv", "labels": ("click",), "k_core": 5}, "k_core=5: is not read of a table"),
        ({"data": "x.csv", "numeric": ("price",)}, "is not read of events, without --labels"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_interaction.Config(**change)


@pytest.mark.long
def test_a_file_of_events_has_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_events(tmp_path / "mine.csv")
    options = ("--rows", "deep", "base", "--data", path, "--user", "uid", "--item", "sku", "--time", "ts")
    found = tiny(feature_interaction, tmp_path, monkeypatch, *options)
    assert set(found) == {"deep", "base"}
    assert {result.dataset for result in found.values()} == {"mine.csv"}


@pytest.mark.long
def test_a_table_of_ones_own_has_no_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "mine.csv", labels=("click",))
    columns = ("--labels", "click", "--categorical", "city", "--numeric", "price")
    found = tiny(feature_interaction, tmp_path, monkeypatch, "--rows", "deepfm", "--data", path, *columns)
    assert found["deepfm"].metrics.keys() == {f"{name}/click" for name in OF_EACH}
    with pytest.raises(ValueError, match=r"rows=\['din'\]: .*mine.csv has no histories"):
        feature_interaction.Config(data=str(path), labels=("click",), rows=("din",))
