"""Missing numbers and tied orders: rows, what they fill in, and a run on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multitask import missing_values as experiment
from jaxrec.data.synthetic.objectives import missing_numbers
from jaxrec.protocols import impressions
from tests.experiments.multitask.runs import results_of

CONFIG = experiment.Config(bottom_dims=(4,), tower_dims=(3,))
SPLIT = missing_numbers(800).split
COLUMNS = impressions.resident(SPLIT)


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(experiment, tmp_path, "--rows", "base-rate", "learned-kl", "learned-esmm")
    assert set(results) == {"base-rate", "learned-kl-0.1", "learned-esmm"}
    for name, result in results.items():
        assert {"auc/ctr", "auc/cvr", "auc/ctcvr"} <= set(result.metrics)
        assert ("gap" in result.metrics) == (name != "base-rate")
    assert max(results["learned-esmm"].metrics["gap"]) < 1e-6  # a product by construction
    assert min(results["learned-kl-0.1"].metrics["gap"]) > 1e-6
    assert results["learned-kl-0.1"].protocol.loss == "bce + divergence"


@pytest.mark.parametrize("row", experiment.ROWS)
def test_every_row_has_its_losses_and_a_value_for_what_is_missing(row: str) -> None:
    made, model = experiment.ROWS[row], experiment.build(row, SPLIT, COLUMNS, CONFIG)
    batch = {name: column[:6] for name, column in COLUMNS.columns.items()} | {"mask": jnp.ones(6, bool)}
    variables = model.task.init(jax.random.key(0), batch)
    found, _ = model.task.losses(variables, batch, jax.random.key(1))
    learned = {"ctr", "ctcvr"} if made.esmm else {"ctr", "cvr", "ctcvr"}
    assert set(found) == learned | ({"divergence"} if made.tied else set())
    assert [t.name for t in model.tested] == (["cvr"] if made.esmm else [])
    other = {n: np.where(batch.get(f"{n}_missing", 0) > 0, 99.0, c) for n, c in batch.items() if n[0] == "x"}
    moved, _ = model.task.losses(variables, {**batch, **other}, jax.random.key(1))
    np.testing.assert_allclose([*moved.values()], [*found.values()], rtol=1e-6)
    tables: Any = variables["params"].get("embedding", {})
    assert ("layer" in tables) == made.learned
    if made.learned:
        means = [experiment.seen_mean(SPLIT, f"x{i}") for i in range(8)]
        np.testing.assert_allclose(tables["layer"]["value"], means, rtol=1e-6)


def test_without_a_tie_nothing_is_added() -> None:
    model = experiment.build("learned-kl", SPLIT, COLUMNS, experiment.Config(tie=0.0))
    assert not model.terms and model.loss == "bce"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie": -1.0}, "tie=-1.0: must be at least 0"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"dim": 16}, "dim=16: no row of this experiment reads it"),
        ({"rows": ("learnt",)}, "the nearest is 'learned'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**change)
