"""What `fit` refuses before the first step, having written nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from optax import contrib

from jaxrec.train.evaluate import impression_metrics
from tests.train import toy

ZERO_QUERIES: dict[str, np.ndarray] = {**toy.queries(), "mask": np.zeros((4, 3), bool)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"selection": toy.selection(patience=0)},
            "selection.patience=0: must be a whole number, at least 1",
        ),
        ({"selection": toy.selection(patience=-1)}, "selection.patience=-1"),
        ({"selection": toy.selection(every=0)}, "selection.every=0"),
        ({"selection": toy.selection(every=-1)}, "selection.every=-1"),
        ({"selection": toy.selection(every=9)}, "the phases have 3 epochs, so nothing would be selected"),
        ({"selection": toy.selection(metric="ndcg@7")}, "'ndcg@7' is not among"),
        ({"selection": toy.selection(toy.evaluation(queries={}))}, "no column"),
        ({"selection": toy.selection(toy.evaluation(queries=ZERO_QUERIES))}, "every query is masked"),
        ({"save_every": 0}, "save_every=0"),
        ({"save_every": 1.5}, "save_every=1.5: must be a whole number"),
        ({"calls": 0}, "calls=0"),
        ({"stop_after": 0}, "stop_after=0: must be a whole number, at least 1, or None"),
        ({"num_devices": 0}, "num_devices=0"),
        ({"seeds": (1.5,)}, "1.5 is no whole number"),
        ({"seeds": (-1,)}, "-1 is no whole number within 0..4294967295"),
        ({"seeds": (2**32,)}, "within 0..4294967295"),
        ({"seeds": (True,)}, "True is no whole number"),
        ({"epochs": (4, -1)}, "phase 'p1': epochs=-1"),
        ({"epochs": (1.5,)}, r"epochs=1.5: must be a whole number"),
        (
            {"tx": contrib.schedule_free_adamw(0.1)},
            "ScheduleFreeState: such an optimiser has other parameters",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_trains_nothing_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy.run(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_numpy_integers_are_whole_numbers(tmp_path: Path) -> None:
    fitted = toy.run(tmp_path, epochs=(1,), seeds=tuple(np.arange(1)), save_every=np.int64(1))
    assert fitted.steps == 3


def test_a_metric_that_is_not_defined_for_the_queries_is_told_before_training(tmp_path: Path) -> None:
    """A validation split of one class has no AUC, which must not wait for the first epoch's end."""

    def measure(variables: Any, queries: Any, context: Any) -> Any:
        return queries["label/buy"][..., None] * 1.0, queries["mask"].sum(axis=1) * 0

    queries = {"label/buy": np.zeros((2, 3), np.float32), "mask": np.ones((2, 3), bool)}
    asked = toy.evaluation(measure=measure, queries=queries, summarise=impression_metrics(["buy"]))
    selection = toy.selection(asked, metric="auc/buy")
    with pytest.raises(ValueError, match="auc/buy is nan"):
        toy.run(tmp_path / "run", selection=selection)
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_work_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: is a file; name a folder"):
        toy.run(tmp_path / "file")


def test_a_plain_optimiser_with_a_schedule_is_taken(tmp_path: Path) -> None:
    assert toy.run(tmp_path, epochs=(1,), tx=optax.adamw(optax.constant_schedule(0.1))).steps == 3
