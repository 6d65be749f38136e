"""Content of items as vectors: TF-IDF by its formula, the SVD by NumPy's, and what new items may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from jaxrec.data.item_content import attribute_counts, content_vectors, largest_directions, tf_idf


def counts(items: int = 30, words: int = 20, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).poisson(0.4, (items + 1, words)).astype(float)
    found[0] = 0
    found[7] = 0  # an item without content
    return found


FITTED = np.arange(31) % 3 > 0


def test_tf_idf_by_its_formula() -> None:
    table = counts()
    table[:, 3] = np.where(FITTED, 0.0, 1.0)  # a word that no fitted item has
    table[0, 3] = 0
    having = (table[FITTED] > 0).sum(axis=0)
    weight = np.where(having > 0, np.log(FITTED.sum() / np.maximum(having, 1)), 0.0)
    expected = np.where(table > 0, (1 + np.log(np.maximum(table, 1))) * weight, 0.0)
    length = np.linalg.norm(expected, axis=1, keepdims=True)
    expected /= np.where(length > 0, length, 1)
    np.testing.assert_allclose(tf_idf(csr_matrix(table), fitted=FITTED).toarray(), expected, atol=1e-12)


def test_directions_are_singular_vectors() -> None:
    matrix = csr_matrix(counts(60, 24))  # of a rank that the iterations find whole
    _, values, right = np.linalg.svd(matrix.toarray())
    found = largest_directions(matrix, 5, seed=3)
    np.testing.assert_allclose(np.abs(found.T @ right[:5].T), np.eye(5), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(matrix @ found, axis=0), values[:5], rtol=1e-9)
    assert (found[np.abs(found).argmax(axis=0), np.arange(5)] > 0).all()
    np.testing.assert_allclose(largest_directions(matrix, 5, seed=4), found, atol=1e-5)


def test_what_is_not_fitted_changes_no_other_vector() -> None:
    table = counts()
    made = content_vectors(csr_matrix(table), fitted=FITTED, dim=4)
    changed = table.copy()
    changed[np.flatnonzero(~FITTED)[1:]] = counts(seed=5)[np.flatnonzero(~FITTED)[1:]]
    other = content_vectors(csr_matrix(changed), fitted=FITTED, dim=4)
    np.testing.assert_array_equal(made[FITTED], other[FITTED])
    assert not np.array_equal(made, other)
    again = content_vectors(csr_matrix(table), fitted=FITTED, dim=4)
    np.testing.assert_array_equal(made, again)
    assert made.dtype == np.float32 and made.shape == (31, 4)
    assert not made[0].any() and not made[7].any()
    known = FITTED & table.any(axis=1)
    np.testing.assert_allclose(np.mean(made[known] ** 2), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim=0: must be in 1..18"),
        ({"dim": 20}, "dim=20: must be in 1..18"),
        ({"fitted": FITTED[1:]}, "fitted: 30 entries for 31 rows"),
        ({"fitted": FITTED.astype(int)}, "fitted: int64"),
        ({"fitted": np.ones(31, bool)}, "row 0 is padding"),
        ({"counts": csr_matrix(-counts())}, "negative or not finite"),
        ({"counts": csr_matrix(np.where(counts() == 1, np.nan, counts()))}, "negative or not finite"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"counts": csr_matrix(counts()), "fitted": FITTED, "dim": 4} | change
    with pytest.raises(ValueError, match=message):
        content_vectors(given.pop("counts"), **given)


def test_attributes_count_once() -> None:
    found = attribute_counts(np.array([[0, 0], [3, 1], [2, 0], [0, 0]])).toarray()
    np.testing.assert_array_equal(found, [[0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]])
