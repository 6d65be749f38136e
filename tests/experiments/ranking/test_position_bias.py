"""The experiment on position bias runs to its end on tiny data; PAL finds the curve, others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.ranking import position_bias, position_curves
from jaxrec.tasks.multitask import multitask
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(position_bias, tmp_path, "--rows", "base-rate", "click-rates", "pal")
    assert results["pal"].protocol.loss == "bce" and results["pal"].steps > 0
    assert results["pal"].protocol.selection == "log_loss/click"
    assert not results["pal"].baseline and results["base-rate"].baseline
    assert [len(results[row].seeds) for row in ("base-rate", "pal")] == [1, 2]
    assert results["base-rate"].metrics["auc/attracted"] == (0.5,)
    for result in results.values():
        assert {"auc/best", "curve_error", "curve_outside", "auc/click"} <= set(result.metrics)
        assert "auc" not in result.metrics and not result.published
        assert result.dataset == "tiny-examination-200"


@pytest.fixture(scope="module")
def setting() -> position_bias.Setting:
    return position_bias.load(position_bias.Config(num_lists=4_000, num_items=15, num_positions=4))


@pytest.mark.parametrize(("row", "found"), [("pal", True), ("no-position", False)])
def test_the_curve_is_found_by_the_model_made_for_it(
    row: str, found: bool, setting: position_bias.Setting, tmp_path: Path
) -> None:
    config = position_bias.Config(
        num_lists=4_000, num_items=15, num_positions=4, epochs=15, seeds=(0,), workdir=str(tmp_path),
        learning_rate=0.03, batch_size=512,
    )  # fmt: skip
    _, tested = position_bias.train(row, setting, config)
    (metrics,) = tested.metrics
    assert (metrics["curve_outside"] == 0) == found
    if row == "pal":
        assert metrics["auc/attracted"] > metrics["auc/best"] - 0.01


def test_rates_ignore_the_placement(setting: position_bias.Setting) -> None:
    (found,) = position_bias.count("click-rates", setting).metrics
    assert found["curve_outside"] > 0
    truth = np.log(setting.made.curve)
    exact = position_curves.distance(truth, setting.made, share=0.8)
    assert exact == {"curve_error": 0.0, "curve_outside": 0.0}


@pytest.mark.parametrize("row", position_bias.ROWS)
def test_what_is_served_has_no_position(row: str, setting: position_bias.Setting) -> None:
    task = multitask(position_bias.ROWS[row](position_bias.Config()), [position_bias.CLICK])
    batch = {name: column[:6] for name, column in setting.data.columns.items()}
    variables = task.init(jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: x + 0.1 * np.arange(x.size).reshape(x.shape), variables)
    predict = jax.jit(task.predict)
    moved = {**batch, "position": 5 - batch["position"]}
    before, after = predict(variables, batch), predict(variables, moved)
    np.testing.assert_array_equal(before["ctr"], after["ctr"])
    differs = not np.array_equal(before["observed"], after["observed"])
    assert differs == (row != "no-position")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"served_at": 11}, r"served_at=11: must lie in 1..10"),
        ({"rows": ("pall",)}, "the nearest is 'pal'"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        position_bias.Config(**change)
