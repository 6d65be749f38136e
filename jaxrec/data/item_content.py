"""Content of items, such as words or tags, as vectors of a fixed width: TF-IDF, then a truncated SVD.

Everything that is learned (which words exist, how rare they are, the directions of the SVD) is learned of the
fitted items alone, so that the content of items that are held out changes no vector of another item.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from jaxrec.data.validation import check_dtype

OVERSAMPLED, ITERATIONS = 20, 6


def content_vectors(
    counts: scipy.sparse.csr_matrix, *, fitted: np.ndarray, dim: int, seed: int = 0
) -> np.ndarray:
    """Vectors of items from how often each has each word or tag: float32 [V + 1, dim], row 0 is 0.

    An item's vector is its row of `tf_idf` times the right singular vectors of the fitted rows with the
    largest singular values (latent semantic analysis, Deerwester et al., JASIS 1990), the largest first. All
    are multiplied by one number, such that the squares of the fitted items' entries have the mean 1. An item
    none of whose words a fitted item has gets the vector 0.

    Equal arguments give equal vectors; see `largest_directions`, which reads `seed`.

    Args:
      counts: of items 0..V (item 0 is padding) and words, [V + 1, W], none negative.
      fitted: True for the items that may be learned from, bool [V + 1].
      dim: below the number of fitted items that have content and the number of words that they have.

    Raises:
      ValueError: counts are negative, not finite or of padding; `fitted` has another shape; `dim` is out of
        range.
    """
    weighted = tf_idf(counts, fitted=fitted)
    known = weighted[np.flatnonzero(fitted)]
    known = known[np.diff(known.indptr) > 0]
    words = np.unique(known.indices)
    most = min(known.shape[0], len(words)) - 1
    if not 1 <= dim <= most:
        raise ValueError(
            f"dim={dim}: must be in 1..{most}, below the number of fitted items with content "
            f"({known.shape[0]:,}) and of their words ({len(words):,})"
        )
    right = largest_directions(known[:, words], dim, seed=seed)
    scale = np.sqrt(np.mean((known[:, words] @ right) ** 2))
    return np.asarray(weighted[:, words] @ right / scale, np.float32)


def largest_directions(matrix: scipy.sparse.csr_matrix, dim: int, *, seed: int) -> np.ndarray:
    """The right singular vectors of the `dim` largest singular values of a matrix [N, W]: float64 [W, dim].

    By subspace iterations (Halko, Martinsson and Tropp, SIAM Review 2011, algorithms 4.4 and 5.1) from
    `dim` + OVERSAMPLED directions drawn from `seed`, exact where the matrix has no larger rank. The entry of
    largest absolute value of each is positive.
    """
    size = min(dim + OVERSAMPLED, *matrix.shape)
    basis = np.random.default_rng(seed).normal(size=(matrix.shape[1], size))
    for _ in range(ITERATIONS):
        image = matrix.T @ (matrix @ basis)
        value, rotation = np.linalg.eigh(image.T @ image)  # cheaper than a QR decomposition of the image
        kept = value > 1e-14 * value[-1]
        basis = image @ (rotation * np.where(kept, np.where(kept, value, 1.0) ** -0.5, 0.0))
    image = matrix @ basis
    _, rotation = np.linalg.eigh(image.T @ image)
    found = basis @ rotation[:, : -dim - 1 : -1]
    return np.asarray(found * np.sign(found[np.abs(found).argmax(axis=0), np.arange(dim)]))


def tf_idf(counts: scipy.sparse.csr_matrix, *, fitted: np.ndarray) -> scipy.sparse.csr_matrix:
    """(1 + ln n) · ln(N / df) of a word that an item has n times and df of the N fitted items have.

    Rows have length 1, or are empty. Words that no fitted item has, or that all have, count for nothing.
    Float64 [V + 1, W]; arguments and errors as of `content_vectors`.
    """
    matrix = scipy.sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    check_dtype(fitted, np.bool_, "fitted")  # type: ignore[arg-type]
    if fitted.shape != (matrix.shape[0],):
        raise ValueError(f"fitted: {len(fitted):,} entries for {matrix.shape[0]:,} rows of counts")
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError("counts: some are negative or not finite; give how often an item has each word")
    if matrix.indptr[1] or fitted[0]:
        raise ValueError("counts, fitted: row 0 is padding; it has no content and is not fitted")
    rows = matrix[np.flatnonzero(fitted)]
    having = np.bincount(rows.indices, minlength=matrix.shape[1])
    rarity = np.log(np.divide(rows.shape[0], having, out=np.ones(len(having)), where=having > 0))
    matrix.data = (1 + np.log(np.maximum(matrix.data, 1e-300))) * rarity[matrix.indices]
    matrix.eliminate_zeros()
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).reshape(-1)
    matrix.data /= np.repeat(length, np.diff(matrix.indptr))
    return matrix


def attribute_counts(attributes: np.ndarray) -> scipy.sparse.csr_matrix:
    """1 where an item has an attribute: ids from 1, padded with 0, int [V + 1, A] → [V + 1, attributes]."""
    item, place = np.nonzero(attributes)
    found = (np.ones(len(item)), (item, attributes[item, place] - 1))
    matrix = scipy.sparse.csr_matrix(found, shape=(len(attributes), int(attributes.max(initial=1))))
    matrix.data[:] = 1.0
    return matrix
