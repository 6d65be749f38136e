"""Latent Cross: its rows, their sizes, and a run on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.sequential import latent_cross as experiment
from jaxrec.recipes import latent_cross as recipes
from jaxrec.tasks.encoder import reads_times
from tests.experiments.multitask.runs import results_of, run_main
from tests.experiments.own_files import write_events

CONFIG = experiment.Config(dim=6, hidden_dim=10, context_dim=3)


def count(model: Any) -> int:
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.ones((1, 4), np.int32), train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    rows = ("random", "item-knn-selected", "co-visitation", "all-ce")
    results = results_of(experiment, tmp_path, "--rows", *rows)
    assert set(results) == set(rows)
    assert {name for name, result in results.items() if result.baseline} == set(rows[:3])
    crossed = results["all-ce"]
    assert crossed.protocol.loss == "ce" and crossed.protocol.selection == "ndcg@10"
    assert crossed.note == "reads the time of the target" and not results["random"].note
    assert {"ndcg@10", "hit@10"} <= set(crossed.metrics)


@pytest.mark.parametrize("row", experiment.ROWS)
def test_sizes_are_counted_as_they_are(row: str) -> None:
    model = experiment.encoder(row, 9, CONFIG)
    made = experiment.ROWS[row]
    parts = {"pre": made.pre, "post": made.post, "concat": made.concat}
    wider = experiment.extra_units(9, CONFIG, **parts) if made.wide else 0
    assert count(model) == recipes.num_weights(9, CONFIG, wider, **parts)
    assert reads_times(model) == any(parts.values())


def test_the_wide_row_is_as_large_as_the_crossed_one() -> None:
    wide, crossed = (count(experiment.encoder(row, 9, CONFIG)) for row in ("concat-wide-ce", "all-ce"))
    narrow = count(experiment.encoder("concat-ce", 9, CONFIG))
    assert narrow < wide <= crossed and crossed - wide < (crossed - narrow) / 2


def test_data_without_times_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = write_events(tmp_path / "events.csv")
    columns = ("--user", "uid", "--item", "sku", "--time", "")
    with pytest.raises(SystemExit):
        run_main(experiment, "--data", events, *columns, "--workdir", tmp_path / "w")
    assert "has no times" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_dim": 0}, "hidden_dim=0: must be at least 1"),
        ({"patience": -1}, "patience=-1"),
        ({"rows": ("all",)}, "the nearest is 'all-ce'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**change)
