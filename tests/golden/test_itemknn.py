"""RecBole's ItemKNN and UserKNN: similarities and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from jaxrec.baselines.similarity import cosine, nearest
from tests.golden.fixtures import golden_files, read


@pytest.mark.parametrize("path", golden_files("itemknn"))
def test_similarities_and_scores(path: Path) -> None:
    """An item's neighbours are a column of the reference's W, a user's a row; ours are rows.

    The reference adds 1e-6 to every denominator, which orders similarities that are equal without it.
    """
    golden = read(path)
    ratings = golden.inputs["ratings"]
    for number, variant in enumerate(golden.meta["config"]["variants"]):
        of_items = variant["knn_method"] == "item"
        matrix = scipy.sparse.csr_matrix(ratings if of_items else ratings.T)
        shrinkage = variant["shrink"] + 1e-6
        near = nearest(matrix, cosine, neighbours=variant["k"], shrinkage=shrinkage).toarray()
        weights, scores = golden.outputs[f"v{number}/W"], golden.outputs[f"v{number}/scores"]
        np.testing.assert_allclose(near.T if of_items else near, weights, rtol=1e-5, atol=1e-7)
        found = ratings @ near.T if of_items else near @ ratings
        np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)
