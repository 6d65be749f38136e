"""fun-rec's Swing: similarities with and without weights of users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from jaxrec.baselines.swing import swing_weights
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("swing"))
@pytest.mark.parametrize(("name", "power"), [("weighted", 0.5), ("unweighted", 0.0)])
def test_similarities(path: Path, name: str, power: float) -> None:
    """The reference counts every pair of users twice."""
    golden = read(path)
    users = scipy.sparse.csr_matrix(golden.inputs["interactions"].astype(np.float32))
    found = swing_weights(users, alpha=golden.meta["config"]["alpha"], power=power).toarray()
    np.testing.assert_allclose(2 * found, golden.outputs[f"similarity_{name}"], rtol=1e-5, atol=1e-7)
