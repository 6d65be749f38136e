"""Calibrators fitted to validation, which a test then applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxrec import calibration, metrics
from jaxrec.protocols import calibrating, impressions
from jaxrec.report import plots
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.types import Array

N = 1600
RNG = np.random.default_rng(0)


class TooSure(nn.Module):
    """Logits that are `scale` times the true ones, for two labels."""

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        return self.param("scale", nn.initializers.constant(3.0), (1, 2)) * batch["x"][:, None]


TASK = multitask(
    TooSure(),
    targets := [Target("click", 0, "label/click"), Target("buy", 1, "label/buy", space="space/buy")],
)
VARIABLES = {"params": {"scale": np.array([[[3.0, 3.0]], [[1.0, 0.3]]], np.float32)}}  # of two seeds


def part() -> dict[str, np.ndarray]:
    x = RNG.normal(size=N).astype(np.float32)
    click, buy = (RNG.random((2, N)) < 1 / (1 + np.exp(-x))).astype(np.float32)
    filled = {
        "x": x,
        "label/click": click,
        "label/buy": np.where(click > 0, buy, np.nan),
        "space/buy": click > 0,
    }
    filled |= {"mask": np.arange(N) < N - 20, "user": RNG.integers(0, 5, N).astype(np.int32)}
    return {name: column.reshape(4, -1) for name, column in filled.items()}


@pytest.fixture(scope="module")
def data() -> impressions.Data:
    validation, test = part(), part()
    test["label/buy"] = np.nan_to_num(test["label/buy"])
    columns = {"label/click": validation["label/click"].reshape(-1)}
    return impressions.Data("small", "random", ("click", "buy"), (), ("buy",), columns, validation, test)


def test_each_seed_and_label_has_its_own(data: impressions.Data) -> None:
    found = calibrating.calibrated(data, TASK, targets, VARIABLES, calibration.fit_platt)
    for t, target in enumerate(targets):
        real = data.validation["mask"] & (data.validation[target.space] if target.space else True)
        kept = found[calibration.COLLECTION][target.name]["Line"]
        for s, scale in enumerate(VARIABLES["params"]["scale"][:, 0, t]):
            logits = scale * data.validation["x"][real]
            expected = calibration.fit_platt(logits, data.validation[target.label][real])
            assert np.isclose(kept["slope"][s], expected.slope, rtol=1e-3)
    assert found["params"] is VARIABLES["params"]


def test_calibrators_are_replaced_not_applied_one_after_the_other(data: impressions.Data) -> None:
    once = calibrating.calibrated(data, TASK, targets, VARIABLES, calibration.fit_platt)
    twice = calibrating.calibrated(data, TASK, targets, once, calibration.fit_platt)
    jax.tree.map(np.testing.assert_array_equal, twice, once)


@pytest.mark.parametrize("kind", calibrating.FITS)
def test_a_test_is_of_the_calibrated_probabilities(data: impressions.Data, kind: str) -> None:
    calibrate = calibrating.of_option(kind, data, TASK, targets, 1)
    assert calibrate is not None
    found = calibrate(VARIABLES)
    before = impressions.run_test(data, TASK, targets, VARIABLES, fields=("user",))
    after = impressions.run_test(data, TASK, targets, found, fields=("user",))
    assert (
        set(before.metrics[0])
        == set(after.metrics[0])
        >= {"ece/click", "ece_by_user/click", "calibration_ratio/buy"}
    )
    for was, now in zip(before.metrics, after.metrics, strict=True):
        assert now["log_loss/click"] < was["log_loss/click"] + 0.03
        assert abs(now["auc/click"] - was["auc/click"]) < 0.02
    assert after.metrics[0]["ece/click"] < 0.6 * before.metrics[0]["ece/click"]
    real, label = data.test["mask"].reshape(-1), data.test["label/click"].reshape(-1)
    tree = jax.tree.map(lambda leaf: leaf[1], found[calibration.COLLECTION]["click"])
    logits = calibration.from_tree(tree).apply(data.test["x"].reshape(-1))
    assert np.isclose(
        after.metrics[1]["log_loss/click"], metrics.log_loss(logits, label, where=real), atol=1e-5
    )


def test_a_test_has_a_reliability_curve_of_each_label(data: impressions.Data, tmp_path: Any) -> None:
    found = impressions.run_test(data, TASK, targets, VARIABLES)
    assert {name: curve.shape for name, curve in found.reliability.items()} == {
        "click": (3, 2, 10),
        "buy": (3, 2, 10),
    }
    predicted, observed, count = found.reliability["click"][:, 0]
    assert count.sum() == N - 20 and (np.diff(predicted) > 0).all()
    assert np.isclose(
        (predicted @ count) / (observed @ count), found.metrics[0]["calibration_ratio/click"], rtol=1e-4
    )
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    path = plots.reliability_diagram(
        {"model": found.reliability["click"]}, tmp_path / "a.png", dataset="small"
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="curves a: no bin has an example"):
        plots.reliability_diagram({"a": np.zeros((3, 4))}, tmp_path / "b.png")


def test_what_cannot_be_calibrated(data: impressions.Data) -> None:
    ones = {**data.validation, "label/click": np.ones_like(data.validation["label/click"])}
    with pytest.raises(ValueError, match=r"click, validation: labels: all 1,580 are 1"):
        calibrating.calibrated(
            data._replace(validation=ones), TASK, targets, VARIABLES, calibration.fit_platt
        )
    numbers = data._replace(regression=("click", "buy"))
    with pytest.raises(ValueError, match="small: no label is 0 or 1"):
        calibrating.calibrated(numbers, TASK, targets, VARIABLES, calibration.fit_platt)
    with pytest.raises(ValueError, match="calibrate='beta': must be one of platt, histogram, isotonic"):
        calibrating.of_option("beta", data, TASK, targets, 1)
    assert calibrating.of_option(None, data, TASK, targets, 1) is None
