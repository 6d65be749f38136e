"""DUPN on generated behaviours: what they show, rows, and a run to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.multitask import dupn
from jaxrec.data.synthetic.behaviours import BUY, behaviours
from jaxrec.tasks.multitask import stacked
from tests.experiments.multitask.runs import results_of

MADE = behaviours(4000, length=20, noise=0.1)


def test_purchases_show_style_and_level_and_views_do_not() -> None:
    items, kinds = MADE.columns["history_item"], MADE.columns["history_kind"]
    assert ((items == 0) == (kinds == 0)).all() and items.max() == MADE.num_items
    level = (items - 1) % 2
    label = MADE.columns["label/level"][:, None]
    bought, viewed = kinds == BUY, kinds == 1
    agreed = (level == label).astype(float)
    np.testing.assert_allclose(agreed[bought].mean(), 0.9**2 + 0.1**2, atol=0.02)
    np.testing.assert_allclose(agreed[viewed].mean(), 0.5, atol=0.02)
    target = MADE.columns["item"]
    same = (items - 1) // 4 == ((target - 1) // 4)[:, None]
    style = ((items - 1) % 4 // 2 == ((target - 1) % 4 // 2)[:, None]) == MADE.columns["label/click"][:, None]
    np.testing.assert_allclose(style[bought & same & (items > 0)].mean(), 0.82, atol=0.03)
    assert ((target - 1) // 4 + 1 == MADE.columns["query"]).all()


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    results = results_of(dupn, tmp_path, "--rows", "base-rate", "dupn", "dupn-single")
    assert set(results) == {"base-rate", "dupn", "dupn-single"}
    for name, result in results.items():
        assert set(result.metrics) >= {"auc/click", "auc/level"}
        assert result.baseline == (name == "base-rate")
    assert results["dupn-single"].protocol.selection == "each task's auc"


@pytest.mark.parametrize("row", dupn.ROWS)
def test_every_row_has_a_logit_for_each_of_its_tasks(row: str) -> None:
    config = dupn.Config(hidden_dim=4)
    model = dupn.build(row, ["click", "level"], MADE, config)
    batch = {name: column[:3] for name, column in MADE.columns.items()} | {"mask": np.ones(3, bool)}
    key = jax.random.key(0)
    found = jax.eval_shape(
        lambda b: stacked(model.task.predict(model.task.init(key, b), b), model.targets), batch
    )
    assert found.shape == (3, 2) and model.loss == "bce"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: behaviours(buys=2.0), "buys=2.0: must be in 0..1"),
        (lambda: behaviours(0), "num_users=0: must be at least 1"),
        (lambda: dupn.Config(hidden_dim=0), "hidden_dim=0"),
        (lambda: dupn.Config(rows=("dupm",)), "the nearest is 'dupn'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
