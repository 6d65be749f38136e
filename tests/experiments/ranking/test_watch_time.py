"""The experiment on watch time runs on tiny data; D2Q's quantiles do not depend on durations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.ranking import watch_time
from jaxrec.data.synthetic.watch_times import watch_times
from jaxrec.protocols.watch_time import predicted_time
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(watch_time, tmp_path, "--rows", "mean", "duration-mean", "wlr", "d2q-1")
    assert results["d2q-1"].protocol.loss == "mse of quantiles" and results["d2q-1"].steps > 0
    assert results["mean"].baseline and results["mean"].metrics["xauc"] == (0.5,)
    assert results["duration-mean"].metrics["xauc_within"] == (0.5,)
    for result in results.values():
        assert {"xauc", "xgauc", "xauc_within", "mae", "quantile_shift", "xauc/best"} <= set(result.metrics)
        assert result.metrics["xauc/best"][0] > result.metrics["xauc"][0] and not result.published
    assert [len(results[row].seeds) for row in ("mean", "wlr")] == [1, 2]


@pytest.mark.parametrize(("row", "found"), [("d2q", True), ("d2q-1", False)])
def test_quantiles_are_free_of_durations_in_the_model_made_for_it(
    row: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        watch_time,
        "watch_times",
        lambda count, seed: watch_times(count, num_users=20, num_items=20, num_durations=4, seed=seed),
    )
    config = watch_time.Config(
        num_examples=12_000, epochs=8, batch_size=256, learning_rate=1e-2, dim=8, hidden_dims=(16,),
        seeds=(0,), workdir=str(tmp_path),
    )  # fmt: skip
    _, _, tested = watch_time.train(row, config)
    (metrics,) = tested.metrics
    assert (metrics["quantile_outside"] == 0) == found
    if found:
        assert metrics["xauc"] > metrics["xauc/best"] - 0.03


@pytest.mark.parametrize("row", watch_time.ROWS)
def test_every_row_predicts_a_watch_time(row: str) -> None:
    config = watch_time.Config(tiny=True, num_examples=200, dim=2, hidden_dims=(3,))
    setting = watch_time.load(config, watch_time.ROWS[row].groups or 5)
    task = watch_time.ROWS[row].task(setting, config)
    batch = {**{name: column[:7] for name, column in setting.data.columns.items()}, "mask": np.ones(7, bool)}
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    found = predicted_time(task.predict(variables, batch))
    assert found.shape == (7,) and np.isfinite(found).all()
    assert all(np.isfinite(loss) for loss in task.losses(variables, batch, jax.random.key(0))[0].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 0}, "groups=0: must be at least 1"),
        ({"rows": ("d3q",)}, "the nearest is 'd2q'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watch_time.Config(**change)
