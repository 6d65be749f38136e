"""Isotonic regression of scikit-learn."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.calibration import isotonic_regression
from tests.golden.compare import close_outputs
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("isotonic"))
def test_isotonic_regression_of_every_variant(path: Any) -> None:
    """A variant's name says what of the data it reads: `weighted_…`, `binary_…`, `…_decreasing`.

    Where the reference raises outside of the fitted range ("raise"), no query of it is outside.
    """
    golden = read(path)
    config = golden.meta["config"]
    outside = "nan" if config["out_of_bounds"] == "raise" else config["out_of_bounds"]
    ends = {"least": config.get("y_min"), "most": config.get("y_max")}
    found: dict[str, Any] = {}
    for variant in {name.partition("/")[0] for name in golden.outputs}:
        parts = set(variant.split("_"))
        assert parts <= {"weighted", "plain", "binary", "decreasing", "increasing"}
        fitted = isotonic_regression(
            golden.inputs["x"],
            golden.inputs["label" if "binary" in parts else "y"],
            golden.inputs["weight"] if "weighted" in parts else None,
            increasing="decreasing" not in parts,
            **{name: end for name, end in ends.items() if end is not None},
        )
        predict = jax.jit(lambda x, fitted=fitted: fitted.predict(x, outside=outside))
        found |= {f"{variant}/knots_x": fitted.x, f"{variant}/knots_y": fitted.y}
        found |= {
            f"{variant}/{of}": predict(golden.inputs[x]) for of, x in (("fitted", "x"), ("query", "query"))
        }
    close_outputs(found, golden.outputs)
    for name, value in golden.outputs.items():
        if "/knots_" in name:  # of float64
            np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12)
