"""RecBole's EASE: weights and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from jaxrec.baselines.ease import ease_weights
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("ease"))
def test_weights_and_scores(path: Path) -> None:
    golden = read(path)
    x = golden.inputs["interaction_matrix"].astype(np.float32)
    names = {name.split("/")[0]: 0.0 for name in golden.outputs}
    names = {name: float(name.removeprefix("reg").replace("p", ".")) for name in names}
    np.testing.assert_allclose(sorted(names.values()), sorted(golden.meta["config"]["reg_weights"]))
    for name, regularisation in names.items():
        weights = ease_weights(scipy.sparse.csr_matrix(x), regularisation)
        out = {
            key.split("/")[1]: value for key, value in golden.outputs.items() if key.startswith(f"{name}/")
        }
        np.testing.assert_allclose(weights, out["B_float64"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(weights, out["B"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(x @ weights, out["scores"], rtol=1e-4, atol=1e-5)
        chosen = x[golden.inputs["user_id"]] @ weights
        np.testing.assert_allclose(chosen, out["full_sort"].reshape(chosen.shape), rtol=1e-4, atol=1e-5)
