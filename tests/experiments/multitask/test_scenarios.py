"""Models of scenarios, from the command line to their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multitask import scenarios
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.tables.features import FIRST_VALUE
from jaxrec.tasks.multitask import stacked
from tests.experiments.multitask.runs import FEATURES, results_of, run_main, write_table

OF_EACH = ("auc", "log_loss", "ece", "calibration_ratio")
CONFIG = scenarios.Config(tiny=True, scenario="item_id")


@pytest.fixture(scope="module")
def setting() -> scenarios.Setting:
    return scenarios.load(CONFIG)


def test_scenarios_run_to_the_end(tmp_path: Path) -> None:
    found = results_of(scenarios, tmp_path, "--rows", "mlp", "star")
    assert set(found) == {"mlp", "star"}
    for result in found.values():
        assert result.steps > 0 and result.protocol.loss == "bce"
        assert result.protocol.candidates == "impressions"
        assert not result.published  # no paper reports these scenarios
    metrics = found["mlp"].metrics
    assert found["mlp"].dataset.endswith("-by-item_id")
    assert found["mlp"].config["scenario"] == "item_id"
    assert set(metrics) == {f"{name}/ctr" for name in OF_EACH} | {"auc/scenarios", "auc/0", "auc/1"}
    areas = [metrics["auc/0"], metrics["auc/1"]]
    np.testing.assert_allclose(metrics["auc/scenarios"], np.mean(areas, axis=0))


@pytest.mark.long
def test_a_table_of_the_users_is_trained_and_tested(tmp_path: Path) -> None:
    table = write_table(tmp_path / "shop.csv")
    options = ("--data", table, "--labels", "click", *FEATURES, "--scenario", "page")
    found = results_of(scenarios, tmp_path, *options, "--rows", "star")
    assert set(found) == {"star"}
    assert found["star"].dataset == "shop.csv-by-page"
    assert {"auc/click", "auc/scenarios", "auc/home", "auc/search"} <= set(found["star"].metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "click"), "scenario='tax_filer_stat': is not a column of categories"),
        (("--labels", "click", "--scenario", "price"), "take one of user_id, item_id, page"),
        (("--labels", "click", "cart", "--scenario", "page"), "this experiment has one task; name one label"),
    ],
)
def test_a_table_without_scenarios_leaves_no_file(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "shop.csv")
    work = ("--results", tmp_path / "r", "--workdir", tmp_path / "w")
    with pytest.raises(SystemExit):
        run_main(scenarios, "--tiny", "--data", table, *options, *FEATURES, *work)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


@pytest.mark.parametrize("row", scenarios.ROWS)
def test_every_row_of_scenarios_has_a_logit_for_each_target(row: str, setting: scenarios.Setting) -> None:
    batch: Any = {name: column[0, :5] for name, column in setting.columns.test.items()}
    model = scenarios.build(row, setting, CONFIG)

    def outputs(key: Any, batch: Any) -> Any:
        predicted = model.task.predict(model.task.init(key, batch), batch)
        return stacked(predicted, [*model.targets, *model.tested])

    assert jax.eval_shape(outputs, jax.random.key(0), batch).shape == (5, 3)


@pytest.mark.parametrize("row", scenarios.ROWS)
def test_every_row_is_trained_with_the_loss_its_protocol_says(row: str, setting: scenarios.Setting) -> None:
    model = scenarios.build(row, setting, CONFIG)
    examples = {name: column[:4] for name, column in setting.columns.columns.items()}
    key, batch = jax.random.key(0), {**examples, "mask": jnp.ones(4, bool)}
    losses = jax.eval_shape(lambda b: model.task.losses(model.task.init(key, b), b, key)[0], batch)
    assert list(losses) == ["ctr"] and model.loss == "bce"


def test_scenarios_part_the_test_examples(setting: scenarios.Setting) -> None:
    test = setting.columns.test
    spaces = np.stack([test["space/0"], test["space/1"]])
    assert (spaces.sum(axis=0)[test["mask"]] == 1).all()
    assert (test["item_id"][spaces[1]] == FIRST_VALUE + 1).all()


def test_examples_without_a_scenario_are_refused() -> None:
    split = funnel(400, num_users=150, num_items=2).split
    with pytest.raises(ValueError, match="user_id: .* examples have a value that no training example has"):
        scenarios.by_scenario(split, "user_id")


def test_a_scenario_of_one_class_is_refused() -> None:
    """Some of forty items have five test examples or fewer, all of one class."""
    split = funnel(1_600, num_users=5, num_items=40).split
    with pytest.raises(ValueError, match="item_id: test examples of the scenario .* both values of ctr"):
        scenarios.by_scenario(split, "item_id")


@pytest.mark.parametrize("values", [["a b", "a-b"], ["?", "a"], ["click", "a"], ["Scenarios"]])
def test_scenarios_that_have_no_name_of_their_own_are_refused(values: list[str]) -> None:
    with pytest.raises(ValueError, match="give the value another name"):
        scenarios.scenario_names(values, taken=("scenarios", "click"))


def test_names_of_scenarios_are_short() -> None:
    values = ["Joint both under 65", "Head of household"]
    assert scenarios.scenario_names(values, taken=()) == ("joint-both-under-65", "head-of-household")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_size": 0}, "batch_size=0: must be at least 1"), ({"rows": ("stat",)}, "the nearest is 'star'")],
)
def test_settings_of_scenarios_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenarios.Config(**change)
