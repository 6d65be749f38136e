"""Vectors of items by a truncated singular value decomposition: of co-visits, or of attributes.

They are no ranking by themselves: others learn from them, such as codes of items (`recipes.tiger`).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags

from jaxrec.baselines.co_visitation import Decay, by_distance, count_by_distance
from jaxrec.data.events.training_events import TrainingEvents

SPARE, ROUNDS = 16, 10  # directions beside those wanted, and rounds, of the decomposition


def co_visit_vectors(
    events: TrainingEvents, *, dim: int, window: int | None = None, decay: Decay = by_distance, seed: int = 0
) -> np.ndarray:
    """Vectors of items 1 .. I, float32 [I, dim], whose products follow how near items stand to each other.

    The counts of `co_visitation`, both directions added, are divided by √(row sum · column sum) and
    decomposed; a vector is the item's row of left singular vectors times the roots of the singular values,
    scaled to length 1. An item without a neighbour in training gets a random direction.

    Raises:
      ValueError: dim is not in 1..I-1.
    """
    after = count_by_distance(events, window, decay)
    counts = (after + after.T).tocsr()[1:, 1:]
    total = np.asarray(counts.sum(axis=1)).reshape(-1)
    scale = diags(1 / np.sqrt(np.where(total > 0, total, 1.0)))
    return _vectors(scale @ counts @ scale, dim, seed)


def attribute_vectors(attributes: np.ndarray, *, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors of items 1 .. I, float32 [I, dim], from their values of attributes int32 [I + 1, M], 0 is none.

    The multi-hot rows, each value weighted by log(I / its items), are scaled to length 1 and decomposed; the
    rest as of `co_visit_vectors`. Items of the same values have the same vector.

    Raises:
      ValueError: attributes are no integers [I + 1, M] of at least 0; dim is not below both I and the number
        of values.
    """
    if attributes.ndim != 2 or attributes.dtype.kind not in "iu" or attributes.min(initial=0) < 0:
        raise ValueError(
            f"attributes: {attributes.dtype}{list(attributes.shape)}: must be integers [items + 1, values] "
            "of at least 0"
        )
    item, place = np.nonzero(attributes[1:])
    value, number = attributes[1:][item, place] - 1, len(attributes) - 1
    weight = np.log(number / np.maximum(np.bincount(value), 1))[value]
    hot = csr_matrix((weight, (item, value)), shape=(number, int(attributes.max(initial=1))))
    length = np.sqrt(np.asarray(hot.multiply(hot).sum(axis=1)).reshape(-1))
    return _vectors(diags(1 / np.where(length > 0, length, 1.0)) @ hot, dim, seed)


def _vectors(matrix: csr_matrix, dim: int, seed: int) -> np.ndarray:
    """Rows of U √S, each of length 1; those of empty rows random.

    By subspace iteration from random directions (Halko et al., SIAM Review 2011, algorithm 4.4).
    """
    if not 1 <= dim < min(matrix.shape):
        raise ValueError(
            f"dim={dim}: must lie in 1..{min(matrix.shape) - 1}, below the sizes of a matrix {matrix.shape}"
        )
    drawn = np.random.default_rng(seed)
    size, wide = min(dim + SPARE, *matrix.shape), matrix.astype(np.float64)
    basis = np.linalg.qr(wide @ drawn.normal(size=(matrix.shape[1], size)))[0]
    for _ in range(ROUNDS):
        basis = np.linalg.qr(wide @ np.linalg.qr(wide.T @ basis)[0])[0]
    inner, values, _ = np.linalg.svd((wide.T @ basis).T, full_matrices=False)
    found = (basis @ inner)[:, :dim] * np.sqrt(values[:dim])
    length = np.linalg.norm(found, axis=1, keepdims=True)
    found = np.where(length > 1e-6, found, drawn.normal(size=found.shape))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
