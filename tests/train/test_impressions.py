"""Evaluation and selection on labelled impressions."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.protocols import impressions
from jaxrec.train import parallel
from jaxrec.train.evaluate import CompiledMeasure, impression_metrics, make_scores
from jaxrec.types import Array, Batch, GroupSums, Variables
from tests.train import toy

SHAPE = (4, 6)


@pytest.fixture(scope="module")
def queries() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=SHAPE).astype(np.float32),
        "mask": np.arange(24).reshape(SHAPE) < 21,
        "label/click": (rng.random(SHAPE) < 0.5).astype(np.float32),
        "label/time": rng.normal(size=SHAPE).astype(np.float32),
        "space/time": rng.random(SHAPE) < 0.6,
        "user": rng.integers(0, 3, SHAPE).astype(np.int32),
    }


def predict(variables: Variables, batch: Batch) -> Array:
    return jnp.stack([variables["params"]["w"] * batch["x"], batch["x"] - 1], axis=-1)


def test_scores_and_metrics_of_each_task_over_its_space(queries: dict[str, np.ndarray]) -> None:
    variables = {"params": {"w": jnp.array([2.0, -1.0])}}  # two seeds
    values = CompiledMeasure(make_scores(predict), 1)(variables, queries, {})
    assert values.shape == (2, *SHAPE, 2)
    summarise = impression_metrics(("click", "time"), errors=("time",), group="user")
    first, second = (summarise(v, queries) for v in values)
    real, timed = queries["mask"], queries["mask"] & queries["space/time"]
    x, label = queries["x"], queries["label/click"]
    assert first["auc/click"] == float(metrics.auc(x[real], label[real]))
    assert np.isclose(first["auc/click"] + second["auc/click"], 1, atol=1e-6)
    assert np.isclose(first["log_loss/click"], metrics.log_loss(2 * x[real], label[real]), atol=1e-6)
    expected = metrics.gauc(x[real], label[real], queries["user"][real]).gauc
    assert np.isclose(first["gauc/click"], expected, atol=1e-6)
    assert np.isclose(first["mse/time"], np.mean((x[timed] - 1 - queries["label/time"][timed]) ** 2))
    assert set(first) == {"auc/click", "log_loss/click", "gauc/click", "mse/time"}


def test_numbers_that_were_predicted_elsewhere_have_errors_and_no_auc(queries: dict[str, np.ndarray]) -> None:
    data = impressions.Data("x", "rule", ("click", "time"), ("time",), ("time",), {}, queries, queries)
    mask, rng = queries["mask"], np.random.default_rng(0)
    found = rng.normal(size=(1, mask.sum(), 2)).astype(np.float32)
    tested = impressions.measure_scores(data, impressions.targets(data), found)
    assert set(tested.metrics[0]) == {"auc/click", "log_loss/click", "mse/time"}
    timed = queries["space/time"][mask]
    expected = np.mean((found[0, timed, 1] - queries["label/time"][mask][timed]) ** 2)
    assert np.isclose(tested.metrics[0]["mse/time"], expected)
    assert isinstance(tested.values, GroupSums)
    sums = tested.values.sums["mse/time"].sum() / tested.values.weights["mse/time"].sum()
    assert np.isclose(sums, expected)


def test_several_tasks_of_a_kind_have_a_mean(queries: dict[str, np.ndarray]) -> None:
    rows = {**queries, "label/buy": 1 - queries["label/click"], "label/more": queries["label/time"] + 1}
    values = np.repeat(queries["x"][..., None], 4, axis=-1)
    found = impression_metrics(("click", "buy", "time", "more"), errors=("time", "more"))(values, rows)
    assert np.isclose(found["auc"], (found["auc/click"] + found["auc/buy"]) / 2)
    assert np.isclose(found["auc"], 0.5)  # the second asks for the contrary of the first
    assert np.isclose(found["mse"], (found["mse/time"] + found["mse/more"]) / 2)


def test_calibration_is_measured_where_it_is_asked_for(queries: dict[str, np.ndarray]) -> None:
    values = 3 * queries["x"][..., None]
    found = impression_metrics(("click",), calibration=True)(values, queries)
    score, label = 3 * queries["x"][queries["mask"]], queries["label/click"][queries["mask"]]
    prob = 1 / (1 + np.exp(-score))
    assert np.isclose(found["calibration_ratio/click"], prob.mean() / label.mean(), rtol=1e-5)
    bins = np.minimum((10 * prob).astype(int), 9)
    gaps = [abs((prob - label)[bins == b].sum()) for b in range(10)]
    assert np.isclose(found["ece/click"], sum(gaps) / len(prob), atol=1e-6)
    assert set(found) == {"auc/click", "log_loss/click", "ece/click", "calibration_ratio/click"}


def test_padded_rows_may_score_anything(queries: dict[str, np.ndarray]) -> None:
    broken = {**queries, "x": np.where(queries["mask"], queries["x"], np.nan)}
    variables = {"params": {"w": jnp.ones(1)}}
    found = [
        impression_metrics(("click",))(CompiledMeasure(make_scores(predict), 1)(variables, q, {})[0], q)
        for q in (queries, broken)
    ]
    assert found[0] == found[1]


def test_a_real_row_without_a_finite_score_is_an_error(queries: dict[str, np.ndarray]) -> None:
    variables = {"params": {"w": jnp.full(1, jnp.nan)}}
    with pytest.raises(ValueError, match="21 queries have NaN or infinite scores"):
        CompiledMeasure(make_scores(predict), 1)(variables, queries, {})


def test_devices_give_the_same_scores(queries: dict[str, np.ndarray]) -> None:
    variables = {"params": {"w": jnp.array([2.0, -1.0])}}
    one = CompiledMeasure(make_scores(predict), 1)(variables, queries, {})
    two = CompiledMeasure(make_scores(predict), 2)(
        parallel.replicate(variables, 2), parallel.split_leading(queries, 2), parallel.replicate({}, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_a_task_whose_rows_are_of_one_class_is_an_error(queries: dict[str, np.ndarray]) -> None:
    ones = {**queries, "label/click": np.ones(SHAPE, np.float32)}
    with pytest.raises(ValueError, match="auc/click is nan: the evaluated impressions .* one class"):
        impression_metrics(("click",))(np.zeros((*SHAPE, 1)), ones)


def test_an_error_is_selected_by_its_minimum(tmp_path: Path) -> None:
    """The same numbers, negated and named an error, select the same epochs."""

    def negated(values: np.ndarray, queries: object) -> dict[str, float]:
        return {"error": -toy.evaluation().summarise(values, toy.queries())[toy.METRIC]}

    plain = toy.run(tmp_path / "a", epochs=(4,))
    error = toy.selection(toy.evaluation(summarise=negated), metric="error", lower_is_better=True)
    turned = toy.run(tmp_path / "b", epochs=(4,), selection=error)
    assert turned.best_epoch == plain.best_epoch
    assert turned.best_value == [-value for value in plain.best_value]
    toy.same_bits(turned.variables, plain.variables)
