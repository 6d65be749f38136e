"""Rows of the funnel, what they are trained on, and runs on made-up data and on a user's table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multitask import funnel
from jaxrec import losses
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.protocols import impressions
from jaxrec.recipes import funnel as recipes
from jaxrec.tasks.multitask import stacked
from tests.experiments.multitask.runs import FEATURES, results_of, run_main, write_table

TINY = funnel.Config(tiny=True, dim=4)
CARTLESS = ("esmm", "escm2-ips", "escm2-dr")
STAGES = ("click", "cart", "order")


@pytest.fixture(scope="module")
def split() -> ImpressionSplit:
    return funnel.load(TINY)


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(funnel, tmp_path, "--rows", "aitm", "escm2-dr")
    assert {model: result.protocol.loss for model, result in results.items()} == {
        "aitm": "bce + calibrator",
        "escm2-dr": "bce + counterfactual",
    }
    for result in results.values():
        assert result.experiment == "funnel" and result.steps > 0
        assert len(result.metrics["auc/buy_after_cart"]) == 2
        assert result.protocol.candidates == "impressions" and result.protocol.selection == "auc"
        assert not result.published
    assert results["escm2-dr"].note == "selected by the mean over view, buy"


@pytest.mark.long
def test_a_table_of_the_users_is_trained_and_tested(tmp_path: Path) -> None:
    table = write_table(tmp_path / "shop.csv")
    options = ("--data", table, "--labels", *STAGES, *FEATURES, "--counterfactual", "0")
    results = results_of(funnel, tmp_path, *options, "--rows", "escm2-ips", "nmtr")
    assert set(results) == {"escm2-ips+no-risk", "nmtr"}
    for result in results.values():
        assert result.dataset == "shop.csv"
        assert {"auc/click", "auc/order", "auc/order_after_cart"} <= set(result.metrics)
        assert result.protocol.loss == "bce"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "click", "order"), "2 labels (click, order): a funnel has three"),
        (("--labels", "cart", "click", "order"), "has click = 1 and cart = 0"),
        (("--labels", *STAGES, "--user", "visitor"), "user='visitor': NMTR reads a column of users"),
        (("--labels", *STAGES, "--item", "price"), "item='price': NMTR reads a column of users"),
    ],
)
def test_a_table_that_a_row_cannot_read_leaves_no_file(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "shop.csv")
    work = ("--results", tmp_path / "r", "--workdir", tmp_path / "w")
    with pytest.raises(SystemExit):
        run_main(funnel, "--data", table, *options, *FEATURES, "--rows", "mmoe", "nmtr", *work)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_a_last_stage_of_one_class_is_refused(split: ImpressionSplit) -> None:
    table = split.impressions
    whole = {**table.labels, "buy": table.labels["cart"]}  # whoever puts it in the cart buys
    columns = impressions.resident(
        dataclasses.replace(split, impressions=dataclasses.replace(table, labels=whole))
    )
    with pytest.raises(ValueError, match="with cart = 1 do not have both values of buy"):
        funnel.add_last_stage(columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"rows": ("esm",)}, "the nearest is 'esm"),
        ({"counterfactual": -0.1}, "counterfactual=-0.1: must be at least 0"),
        ({"calibrator": np.nan}, "calibrator=nan: must be at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        funnel.Config(**change)


@pytest.mark.parametrize("row", funnel.ROWS)
def test_every_row_of_the_funnel_has_the_outputs_it_is_judged_by(row: str, split: ImpressionSplit) -> None:
    data = impressions.resident(split)
    model = funnel.make_module(row, funnel.TASKS, impressions.features(split.impressions, 4), TINY)
    targets = impressions.targets(data, funnel.outputs(row, funnel.TASKS))
    batch = {name: column[:6] for name, column in data.columns.items()}
    key = jax.random.key(0)
    judged = jax.eval_shape(lambda b: stacked(model.init_with_output(key, b)[0], targets), batch)
    assert judged.shape == (6, len(targets))
    assert [target.name for target in targets] == [
        t for t in funnel.TASKS if row not in CARTLESS or t != "cart"
    ]


@pytest.mark.parametrize("weight", [0.5, 0.0])
@pytest.mark.parametrize("row", funnel.ROWS)
def test_every_row_is_trained_with_the_losses_its_protocol_says(
    row: str, weight: float, split: ImpressionSplit
) -> None:
    """With a weight of 0 the name says what is left out."""
    config = dataclasses.replace(TINY, counterfactual=weight, calibrator=weight)
    columns = funnel.add_last_stage(impressions.resident(split))
    model = funnel.build(row, columns.tasks, split, columns, config)
    batch = {name: column[:6] for name, column in columns.columns.items()} | {"mask": jnp.ones(6, bool)}
    key = jax.random.key(0)
    found = jax.eval_shape(lambda b: model.task.losses(model.task.init(key, b), b, key)[0], batch)
    further = [name for name in found if name not in columns.tasks]
    assert model.loss == " + ".join(["bce", *further])
    assert bool(further) == (row in ("escm2-ips", "escm2-dr", "aitm") and weight > 0)
    assert ("+no-" in funnel.model_name(row, columns.tasks, config)) == (
        row in ("escm2-ips", "escm2-dr", "aitm") and not weight
    )


def test_without_its_risk_escm2_has_the_losses_of_esmm() -> None:
    config = funnel.Config(counterfactual=0.0)
    tasks = funnel.TASKS
    for row in ("escm2-ips", "escm2-dr"):
        assert funnel.terms(row, tasks, config) == {} == funnel.terms("esmm", tasks, config)
        assert funnel.outputs(row, tasks) == funnel.outputs("esmm", tasks)
        assert funnel.model_name(row, tasks, config) == f"{row}+no-risk"
        assert funnel.model_name(row, tasks, funnel.Config()) == row


def test_without_the_calibrator_the_name_says_so() -> None:
    assert funnel.model_name("aitm", funnel.TASKS, funnel.Config(calibrator=0.0)) == "aitm+no-calibrator"


@pytest.mark.parametrize("unknown", [0.0, np.nan])
def test_the_risk_reads_purchases_among_views_only(unknown: float) -> None:
    view = np.array([1.0, 0.0, 1.0, 0.0], np.float32)
    buy = np.array([1.0, unknown, 0.0, unknown], np.float32)
    outputs = {"ctr": jnp.array([0.0, 1.0, 2.0, 3.0]), "cvr": jnp.array([0.5, -1.0, 1.5, 2.0])}
    batch = {"label/view": view, "label/buy": buy, "mask": np.ones(4, bool)}
    (further,) = recipes.inverse_propensity_risk(funnel.TASKS, funnel.Config()).values()
    term = further.loss
    errors = losses.sigmoid_cross_entropy(outputs["cvr"], np.array([1.0, 0, 0, 0]))
    share = 1 / (1 + np.exp(-np.asarray(outputs["ctr"])))
    expected = np.sum(view * np.asarray(errors) / np.maximum(share, 0.1)) / 4
    np.testing.assert_allclose(term(outputs, batch, None), expected, rtol=1e-6)
    of_cvr = jax.grad(lambda cvr: term({**outputs, "cvr": cvr}, batch, None))(outputs["cvr"])
    wrong = 1 / (1 + np.exp(-np.asarray(outputs["cvr"]))) - np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(of_cvr, view * wrong / np.maximum(share, 0.1) / 4, rtol=1e-5)
