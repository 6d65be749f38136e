"""Distillation from the command line to its results, and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.ranking import distillation, distillation_data
from jaxrec.tasks.distillation import TEACHER
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    rows = ("base-rate", "pfd-frozen")
    found = results_of(distillation, tmp_path, "--rows", *rows)
    assert set(found) == set(rows)
    for row, result in found.items():
        assert result.experiment == "distillation" and result.dataset == "tiny-generated"
        assert result.protocol.candidates == "impressions" and not result.published
        assert result.config["best_auc"] < result.config["best_auc_privileged"]
        assert len(result.metrics["auc/conversion"]) == (1 if row == "base-rate" else 2)
        assert result.baseline == (row == "base-rate")
    assert found["base-rate"].metrics["auc/conversion"] == (0.5,)
    assert found["pfd-frozen"].protocol.loss == "bce + distillation"


@pytest.fixture(scope="module", params=["generated", "ml-100k"])
def setting(request: Any) -> Any:
    return distillation.load(distillation.Config(dataset=request.param, tiny=True, num_examples=300))


def test_every_row_scores_and_no_student_reads_a_privileged_column(setting: Any) -> None:
    config = distillation.Config(tiny=True, dim=2, dims=(3,), large_dims=(4,))
    batch = {name: column[0, :4] for name, column in setting.data.test.items()}
    hidden = [field.name for field in setting.columns.privileged]
    assert hidden and not {field.name for field in setting.columns.fields} & set(hidden)
    served = {name: column for name, column in batch.items() if name not in hidden}
    for row, build in distillation.ROWS.items():
        if build is None:
            continue
        made = build(setting.columns, config)

        def both(key: Any, batch: Any, served: Any, made: Any = made) -> Any:
            variables = made.task.init(key, batch)
            return made.task.predict(variables, served), made.task.losses(variables, batch, key)[0]

        if row == "teacher":
            with pytest.raises(ValueError, match=f"field {hidden[0]}: not in the batch"):
                jax.eval_shape(both, jax.random.key(0), batch, served)
            continue
        logits, losses = jax.eval_shape(both, jax.random.key(0), batch, served)
        assert jax.tree.leaves(logits)[0].shape == (4,), row
        taught = row.startswith(("kd", "pfd"))
        label = setting.columns.label
        expected = {label} | ({"distillation"} if taught else set())
        joint = taught and row != "pfd-frozen"
        assert set(losses) == expected | ({f"{TEACHER}_{label}"} if joint else set()), row


def test_what_comes_next_stays_within_its_part() -> None:
    split = distillation_data.small_ratings()
    table = split.impressions
    assert table.group is not None and table.time is not None
    field = next(f for f in table.fields if f.name == "next_rating")
    found = table.raw_values("next_rating", np.arange(table.num_rows))
    assert set(field.raw) == {1, 2, 3, 4, 5}
    for part in (split.train, split.validation, split.test):
        for user in np.unique(table.group[part])[:8]:
            rows = part[table.group[part] == user]
            rows = rows[np.argsort(table.time[rows], kind="stable")]
            assert found[rows[-1]] == "<missing>"
            liked = [value >= 4 for value in found[rows[:-1]]]
            np.testing.assert_array_equal(liked, table.labels["liked"][rows[1:]] > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 1.5}, "weight=1.5, warm_up=100: must be in 0..1"),
        ({"warm_up": -1}, "warm_up=-1: must be in 0..1, and at least 0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"noise": 0.0}, "noise=0.0: must be above 0"),
        ({"rows": ("pdf",)}, "the nearest is 'pfd'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation.Config(**change)


@pytest.mark.long
def test_ratings_run_to_the_end(tmp_path: Path) -> None:
    found = results_of(
        distillation, tmp_path, "--rows", *("student", "pfd", "pfd-shared"), "--dataset", "ml-100k"
    )
    assert {result.dataset for result in found.values()} == {"tiny-ml-100k"}
    assert len({result.config["parameters"] for result in found.values()}) == 1  # those that are served
