"""`jaxrec train --calibrate`: what is tested, kept and scored are calibrated probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import calibration, serve
from jaxrec.commands.train import train
from jaxrec.report.results import read_results
from jaxrec.serve import run_folder
from tests.commands.small_data import EVENTS, write_events, write_rows

ROWS: dict[str, Any] = {
    "labels": ("click",),
    "categorical": ("city",),
    "numeric": ("price",),
    "epochs": 2,
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_rows(folder / "rows.csv", rows=600)
    train("deepfm", folder / "rows.csv", run=folder / "run", calibrate="platt", **ROWS)
    return folder


def test_a_run_keeps_its_calibrators_and_scores_by_them(files: Path) -> None:
    kept = run_folder.read(files / "run")
    assert kept.settings["calibrate"] == "platt"
    line = kept.variables[calibration.COLLECTION]["click"]["Line"]
    assert line["slope"].shape == (2,)
    rows = {"city": ["amsterdam", "delhi"], "price": [1.0, 2.0]}
    run = serve.load(files / "run", seed=1)
    found = calibration.logits_of(run.score(rows)["click"])
    plain = dict(run.variables)
    del plain[calibration.COLLECTION]
    object.__setattr__(run, "variables", plain)
    run.programs.clear()
    before = calibration.logits_of(run.score(rows)["click"])
    np.testing.assert_allclose(found, line["slope"][1] * before + line["intercept"][1], atol=1e-4)
    mean = serve.load(files / "run", seed="mean").score(rows)["click"]
    each = [serve.load(files / "run", seed=seed).score(rows)["click"] for seed in (0, 1)]
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-5)


def test_its_result_is_calibrated_and_has_a_diagram(files: Path) -> None:
    results = {record.result.model: record.result for record in read_results(files / "run" / "results")}
    assert {"ece/click", "calibration_ratio/click"} <= set(results["deepfm+platt"].metrics) & set(
        results["base-rate"].metrics
    )
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    assert [path.name for path in (files / "run" / "results").rglob("*.reliability.png")] == [
        "deepfm+platt.reliability.png"
    ]


@pytest.mark.long
def test_a_click_model_is_calibrated_and_exported(tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: the extra `export`")
    import importlib.util

    from jaxrec.serve.export import export

    write_events(tmp_path / "events.csv")
    options: dict[str, Any] = {**EVENTS, "dim": 4, "length": 6, "epochs": 1, "batch_size": 32}
    train("din", tmp_path / "events.csv", run=tmp_path / "run", calibrate="isotonic", **options)
    run = serve.load(tmp_path / "run")
    assert "Curve" in jax.tree.map(np.shape, dict(run.kept.variables))[calibration.COLLECTION]["click"]
    export(run, tmp_path / "export")
    spec = importlib.util.spec_from_file_location("reader", tmp_path / "export/reader.py")
    assert spec is not None and spec.loader is not None
    reader: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    histories = run.kept.histories
    assert histories is not None
    raw = run.vocabulary["item"][np.asarray(histories.items)[: histories.offsets[1]] - 1]
    asked = {"uid": run.vocabulary["user"][:1], "sku": raw[:1]}
    found = reader.Reader().score([raw[0]], [raw.tolist()])
    np.testing.assert_allclose(found["click"], run.score(asked)["click"], rtol=1e-4)
