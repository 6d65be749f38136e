"""Models with shared parameters: rows, published numbers, and runs on made-up data and on a user's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.common import NONE
from experiments.multitask import census
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.snr import SNR
from jaxrec.protocols import impressions
from jaxrec.recipes import multitask as recipes
from tests.experiments.multitask.runs import FEATURES, results_of, run_main, write_table

CONFIG = census.Config(tiny=True)


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(census, tmp_path, "--rows", "single-task")
    assert {row: result.protocol.loss for row, result in results.items()} == {"single-task": "bce"}
    result = results["single-task"]
    assert result.experiment == "census" and result.steps > 0
    of_each = ("auc", "log_loss", "ece", "calibration_ratio")
    assert set(result.metrics) == {f"{name}/{task}" for name in of_each for task in ("ctr", "ctcvr")}
    assert len(result.metrics["auc/ctr"]) == 2
    assert result.protocol.candidates == "impressions" and result.protocol.selection == "each task's auc"
    assert not result.published  # nothing was published about made-up data


@pytest.mark.long
def test_a_table_of_the_users_is_trained_and_tested(tmp_path: Path) -> None:
    table = write_table(tmp_path / "shop.csv")
    options = ("--data", table, "--labels", "click", "order", *FEATURES)
    (result,) = results_of(census, tmp_path, *options, "--rows", "mmoe").values()
    assert (result.dataset, result.model) == ("shop.csv", "mmoe")
    assert {"auc/click", "auc/order"} <= set(result.metrics)
    assert result.protocol.selection == "auc/click"
    assert not result.published


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"num_experts": 0}, "num_experts=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"rows": ("mmoe", "mmoo")}, "the nearest is 'mmoe'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        census.Config(**change)


def test_a_wrong_size_of_a_later_row_is_found_before_the_first_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rows", "mmoe", "snr-trans", "--subnet-dims", "64", "0")
    with pytest.raises(SystemExit):
        run_main(census, "--tiny", *options, "--results", tmp_path / "r", "--workdir", tmp_path / "w")
    assert "each layer needs a width of at least 1" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("row", census.ROWS)
def test_every_row_of_census_gives_a_logit_a_task(row: str) -> None:
    x = jax.ShapeDtypeStruct((5, 7), jnp.float32)
    key = jax.random.key(0)
    outputs, _ = jax.eval_shape(lambda x: census.ROWS[row].body(2, CONFIG).init_with_output(key, x), x)
    assert outputs.shape == (5, 2)


@pytest.mark.parametrize("row", census.ROWS)
def test_every_row_is_trained_with_the_loss_its_protocol_says(row: str) -> None:
    split = census.load(CONFIG, CONFIG.group)
    columns = impressions.resident(split)
    model = census.build(row, ["ctr", "ctcvr"], split, columns, CONFIG)
    batch = {name: column[:4] for name, column in columns.columns.items()} | {"mask": jnp.ones(4, bool)}
    key = jax.random.key(0)
    losses = jax.eval_shape(lambda b: model.task.losses(model.task.init(key, b), b, key)[0], batch)
    assert set(losses) == {"ctr", "ctcvr"}
    assert model.loss == "bce"


def test_sizes_are_those_of_the_recipe() -> None:
    recipe = recipes.Recipe(expert_dims=(24, 12), num_levels=3, subnet_dims=(10, 6, 4), num_subnets=2)
    ple = recipes.ple(2, recipe)
    assert isinstance(ple, PLE) and ple.expert_dims == ((24, 12),) * 3
    snr = recipes.snr_aver(2, recipe)
    assert isinstance(snr, SNR)
    assert (snr.num_subnets, snr.dims, snr.transform) == ((2, 2, 2), ((10,), (6,), (4,)), False)


@pytest.mark.parametrize("group", ["income", "education"])
def test_census_has_no_difference_from_models_of_other_columns(group: Any) -> None:
    config = census.Config(group=group)
    found = census.published_numbers("mmoe", config)
    assert found.values and "seven numeric columns" in found.incomparable
    assert not census.published_numbers("cgc", config).values


@pytest.mark.parametrize("change", [{"tiny": True}, {"data": "shop.csv"}])
def test_nothing_was_published_about_other_data(change: dict[str, Any]) -> None:
    assert census.published_numbers("mmoe", census.Config(**change)) == NONE
