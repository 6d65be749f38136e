"""Similarities of two items by the users that have both (or of two users by their items).

Each is a function of `Pairs` and gives a numerator and a denominator, to which a shrinkage is added: it keeps
what few users have from being similar by chance. For interactions of 0 and 1 the sums are numbers of users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.baselines.matrix import transform_product


class Pairs(NamedTuple):
    """Sums over the N rows x of a matrix for pairs of its columns i and j, [P] each.

    both: Σ x_i x_j. square_i, square_j: Σ x_i² and Σ x_j². sum_i, sum_j: Σ x_i and Σ x_j. number: N.
    """

    both: np.ndarray
    square_i: np.ndarray
    square_j: np.ndarray
    sum_i: np.ndarray
    sum_j: np.ndarray
    number: int


Similarity = Callable[[Pairs], tuple[np.ndarray, np.ndarray | float]]


def dot(pairs: Pairs) -> tuple[np.ndarray, float]:
    """Σ x_i x_j: the number of users that have both."""
    return pairs.both, 1.0


def cosine(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Σ x_i x_j / sqrt(Σ x_i² Σ x_j²)."""
    return pairs.both, np.sqrt(pairs.square_i) * np.sqrt(pairs.square_j)


def asymmetric_cosine(pairs: Pairs, *, alpha: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Σ x_i x_j / ((Σ x_i²)^α (Σ x_j²)^(1 - α)) (Aiolli, RecSys 2013, section 3).

    doi:10.1145/2507157.2507189. i is the one whose neighbours are sought. α = 0.5 is the cosine, α = 1 the
    share of the users of i that have j.
    """
    return pairs.both, pairs.square_i**alpha * pairs.square_j ** (1.0 - alpha)


def jaccard(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The users that have both by the users that have one; for real x the Tanimoto coefficient."""
    return pairs.both, pairs.square_i + pairs.square_j - pairs.both


def tversky(pairs: Pairs, *, alpha: float = 1.0, beta: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """n_ij / (n_ij + α (n_i - n_ij) + β (n_j - n_ij)) (Tversky, Psychological Review 84, 1977).

    α = β = 1 is the Jaccard similarity, α = β = 0.5 that of Dice.
    """
    only_i, only_j = pairs.square_i - pairs.both, pairs.square_j - pairs.both
    return pairs.both, pairs.both + alpha * only_i + beta * only_j


def pearson(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The correlation of x_i and x_j over all N rows, those of 0 too."""
    numerator = pairs.both - pairs.sum_i * pairs.sum_j / pairs.number
    variances = [
        np.maximum(square - total**2 / pairs.number, 0)
        for square, total in ((pairs.square_i, pairs.sum_i), (pairs.square_j, pairs.sum_j))
    ]
    return numerator, np.sqrt(variances[0]) * np.sqrt(variances[1])


def nearest(
    matrix: csr_matrix, similarity: Similarity, *, neighbours: int | None, shrinkage: float = 0.0
) -> csr_matrix:
    """The most similar other columns of each column of [N, M]: float32 [M, M], row j has those of column j.

    Only columns that share a row with j and have a similarity above 0 are its neighbours, at most
    `neighbours` of them (None: all); of equal ones the smaller column is kept.

    Raises:
      ValueError: neighbours is below 1, or the shrinkage is negative or not a number.
    """
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage={shrinkage}: must be 0 or more")
    exact = matrix.astype(np.float64)
    square = np.asarray(exact.multiply(exact).sum(axis=0)).reshape(-1)
    total = np.asarray(exact.sum(axis=0)).reshape(-1)

    def values(row: np.ndarray, col: np.ndarray, both: np.ndarray) -> np.ndarray:
        pairs = Pairs(both, square[row], square[col], total[row], total[col], matrix.shape[0])
        numerator, denominator = similarity(pairs)
        denominator = np.broadcast_to(denominator + shrinkage, numerator.shape)
        return np.divide(numerator, denominator, out=np.zeros(len(both)), where=denominator > 0)

    return transform_product(matrix.T.tocsr(), matrix, values, neighbours=neighbours)
