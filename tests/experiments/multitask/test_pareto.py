"""Fronts of two objectives: their points, the weights of users, and a run on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import floors
from experiments.multitask import pareto
from jaxrec.protocols import impressions
from tests.experiments.multitask.runs import results_of

CONFIG = pareto.Config(tiny=True, actor_dims=(4,))


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    rows = ("logistic-regression", "static", "paperec")
    results = results_of(pareto, tmp_path, "--rows", *rows, "--points", 0.3, 0.7)
    assert set(results) == {"logistic-regression", "static-0.3", "static-0.7", "paperec"}
    for name, result in results.items():
        assert {"auc/click", "auc/stay"} <= set(result.metrics)
        assert result.baseline == (name == "logistic-regression")
        assert not result.published
    paperec = results["paperec"].metrics
    assert all(0.1 <= value <= 0.9 for value in paperec["weight/click"])
    assert min(paperec["residual"]) > 0 and len(paperec["weight_spread"]) == 2
    assert results["paperec"].protocol.loss == "bce + actor"
    assert (tmp_path / "results" / "pareto" / "two-objectives-600" / "fronts.png").exists()


@pytest.mark.parametrize("row", pareto.ROWS)
def test_every_row_has_the_losses_of_its_weighting(row: str) -> None:
    split = pareto.load(CONFIG)
    columns = impressions.resident(split)
    targets = impressions.targets(columns)
    models = pareto.build(row, 0.3, targets, impressions.features(split.impressions, 4), CONFIG)
    batch = {name: column[:6] for name, column in columns.columns.items()} | {"mask": jnp.ones(6, bool)}
    key = jax.random.key(0)
    for model in models:
        losses = jax.eval_shape(lambda b, task=model.task: task.losses(task.init(key, b), b, key)[0], batch)
        names = [target.name for target in model.targets]
        assert set(losses) == {*names, *model.terms}
        assert len(names) == (1 if pareto.ROWS[row].alone else 2)


def test_bounds_of_a_front_leave_some_slack() -> None:
    weighting: Any = pareto.bounded(["click", "stay"], 0.25, pareto.Config(slack=0.2))
    gram = jnp.diag(jnp.array([1.0, 1e6]))  # nearly all weight to the first, but for the other's bound
    found, _ = weighting.balance({}, {"click": 1.0, "stay": 1.0}, gram, jax.random.key(0))
    np.testing.assert_allclose(found, [0.4, 0.6], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": ()}, "give at least one"),
        ({"points": (0.0,)}, "each between 0 and 1"),
        ({"slack": 2.0}, r"slack=2\.0: must be in 0\.\.1"),
        ({"rows": ("pareto",)}, "the nearest is"),
        ({"seeds": (1, 1)}, "each once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pareto.Config(**change)


def test_the_floors_are_rows_of_the_table() -> None:
    assert set(floors.CLICKS) <= set(pareto.Config().rows)
