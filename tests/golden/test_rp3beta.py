"""RP3beta of Dacrema et al.: weights and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from jaxrec.baselines.rp3beta import walk_weights
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("rp3beta"))
def test_weights_and_scores(path: Path) -> None:
    golden = read(path)
    ratings = golden.inputs["ratings"]
    for number, variant in enumerate(golden.meta["config"]["variants"]):
        weights = walk_weights(
            scipy.sparse.csr_matrix(ratings),
            alpha=variant["alpha"],
            beta=variant["beta"],
            neighbours=variant["topK"],
            normalise=variant["normalize_similarity"],
            cut_columns=True,
        ).toarray()
        np.testing.assert_allclose(weights, golden.outputs[f"v{number}/W"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            ratings @ weights, golden.outputs[f"v{number}/scores"], rtol=1e-5, atol=1e-6
        )
