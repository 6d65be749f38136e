"""Runs as ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.data.tables.features import encode
from jaxrec.recipes import scenarios, search, stamp
from jaxrec.serve import onnx
from jaxrec.serve.export import export
from jaxrec.serve.programs import Program, weights_of
from jaxrec.serve.run_folder import Kept, write
from tests.serve import small_runs
from tests.serve.label_runs import RAW, click_run, table_run
from tests.serve.recipe_models import MODELS, NUM_ITEMS, Sequence, name_of
from tests.serve.test_export_models import program_and_inputs

INSTALLED = all(importlib.util.find_spec(name) for name in (*onnx.LIBRARIES, "flatbuffers"))
needs_onnx = pytest.mark.skipif(not INSTALLED, reason="jax2onnx and onnxruntime (extra `onnx`) are missing")
REFUSED = (stamp.stamp, stamp.stmp, search.eta, scenarios.star)  # by jax2onnx 0.17.1, see docs/export.md
CLOSE: Any = {"rtol": 1e-5, "atol": 1e-5}


def exported(kept: Kept, folder: Path) -> tuple[serve.Run, Any]:
    """A run, and the function that its ONNX model is: {input: array} -> {output: array}."""
    import onnxruntime

    write(folder / "run", kept)
    run = serve.load(folder / "run")
    export(run, folder / "e", onnx=True)
    session = onnxruntime.InferenceSession(folder / "e" / "model.onnx")
    names = [node.name for node in session.get_outputs()]
    return run, lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


@needs_onnx
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_an_encoder_scores_all_items(name: str, tmp_path: Path) -> None:
    run, call = exported(small_runs.kept(small_runs.MODULES[name]), tmp_path)
    items = np.array([[0, 0, 0, 3], [5, 2, 7, 1], [0, 1, 9, 2]], np.int32)
    hidden = run.module.apply(run.variables, items, train=False)[:, -1]
    expected = hidden @ run.module.apply(run.variables, method="item_table")[1:].T
    np.testing.assert_allclose(call({"items": items})["scores"], expected, **CLOSE)


@needs_onnx
def test_times_are_read(tmp_path: Path) -> None:
    run, call = exported(small_runs.kept(small_runs.MODULES["hstu"]), tmp_path)
    items, times = np.array([[0, 3, 4, 5]], np.int32), np.array([[0, 0, 70, 9_000]], np.int32)
    columns = {"times": times, "target_times": np.array([[0, 70, 9_000, 9_900]], np.int32)}
    hidden = run.module.apply(run.variables, items, **columns, train=False)[:, -1]
    expected = hidden @ run.module.apply(run.variables, method="item_table")[1:].T
    np.testing.assert_allclose(call({"items": items, **columns})["scores"], expected, **CLOSE)


@needs_onnx
def test_columns_give_probabilities(tmp_path: Path) -> None:
    run, call = exported(table_run(), tmp_path)
    assert run.kept.encoders is not None
    columns = encode(run.kept.encoders, RAW)
    expected = jax.nn.sigmoid(run.module.apply(run.variables, columns, train=False))
    found = call(columns)
    np.testing.assert_allclose(np.stack([found["click"], found["buy"]], axis=1), expected, **CLOSE)


@needs_onnx
def test_clicks_give_probabilities(tmp_path: Path) -> None:
    run, call = exported(click_run(), tmp_path)
    inputs = {
        "items": np.array([3, 4], np.int32),
        "users": np.array([2, 6], np.int32),
        "histories": np.array([[1, 0, 0, 0], [5, 6, 7, 8]], np.int32),
    }
    batch = {"item": inputs["items"], "user": inputs["users"]}
    batch["history_item"] = np.array([[0, 0, 1], [6, 7, 8]])
    expected = jax.nn.sigmoid(run.module.apply(run.variables, batch, train=False))
    np.testing.assert_allclose(call(inputs)["click"], expected, **CLOSE)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS, ids=name_of)
def test_which_models_are_converted(build: Any) -> None:
    model = MODELS[build]
    program, weights, _ = program_and_inputs(model)
    if isinstance(model, Sequence):
        kind: Any = "session" if build in (stamp.stamp, stamp.stmp) else "sequence"
        items = {"item": np.arange(NUM_ITEMS)}
        program = onnx.window_program(Kept(kind, "one", model.module, {}, (0,), items))
    else:
        program = _named(program)
    if build in REFUSED:
        with pytest.raises(ValueError, match="jax2onnx can't convert this model"):
            onnx.convert(program, weights, name="one")
    else:
        onnx.convert(program, weights, name="one")  # compares the outputs


def _named(program: Program) -> Program:
    """A program whose outputs are a dict."""

    def function(weights: Any, inputs: Any) -> Any:
        leaves = jax.tree.leaves(program.function(weights, inputs))
        return {f"output_{number}": leaf for number, leaf in enumerate(leaves)}

    return program._replace(function=function)


def test_a_baseline_has_no_onnx_form() -> None:
    kept = Kept("baseline", "popularity", None, {}, (0,), {"item": small_runs.ITEMS})
    with pytest.raises((ValueError, ImportError), match="baseline has no ONNX form|pip install"):
        onnx.to_onnx(kept, {})


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"jax2onnx and onnxruntime: pip install 'jaxrec\[onnx\]'"):
        onnx.to_onnx(table_run(), weights_of({}))
