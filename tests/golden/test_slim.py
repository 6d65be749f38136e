"""SLIM as RecBole has it, solved to its optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from jaxrec.baselines.slim import slim_weights
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("slim"))
def test_weights_and_scores(path: Path) -> None:
    """The reference stops early: its own weights are as near as its tolerance."""
    golden = read(path)
    x = golden.inputs["interaction_matrix"].astype(np.float64)
    for number, variant in enumerate(golden.meta["config"]["variants"]):
        weights = slim_weights(
            scipy.sparse.csr_matrix(x),
            alpha=variant["alpha"],
            l1_ratio=variant["l1_ratio"],
            positive=variant["positive_only"],
            tolerance=1e-9,
            max_steps=20_000,
            own=not variant["hide_item"],
        ).toarray()
        out = {key: golden.outputs[f"v{number}/{key}"] for key in ("W", "W_converged", "scores")}
        np.testing.assert_allclose(weights, out["W_converged"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(weights, out["W"], atol=5e-3)
        np.testing.assert_allclose(x @ weights, out["scores"], atol=2e-2)
        error = 0.5 * ((x - x @ weights) ** 2).sum(axis=0) / len(x)
        size = variant["l1_ratio"] * np.abs(weights).sum(axis=0)
        size += (1 - variant["l1_ratio"]) / 2 * (weights**2).sum(axis=0)
        objective = golden.outputs[f"v{number}/objective_converged"]
        np.testing.assert_allclose(error + variant["alpha"] * size, objective, rtol=1e-7, atol=1e-9)
