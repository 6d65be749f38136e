"""(XᵀX + λ I)^-1 of a sparse X in the memory of the result, by products of panels.

LAPACK's inversion by Cholesky (potrf and potri) in blocks, with the same number of operations: what LAPACK
builds read with 32-bit indices fails for matrices of 40,000 rows.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.sparse import csr_matrix

from jaxrec.baselines.matrix import multiply

PANEL = 1024  # rows of a block, of which a few are held beside the matrix


def inverse_gram(users: csr_matrix, regularisation: float) -> np.ndarray:
    """(XᵀX + λ I)^-1 for X [N, M], float32 [M, M].

    With fewer rows than columns by the smaller matrix of rows: (I - Xᵀ (X Xᵀ + λ I)^-1 X) / λ (Woodbury). So
    at most twice the memory of the result is held.

    Raises:
      ValueError: the matrix is not positive definite in float32.
    """
    if users.shape[0] >= users.shape[1]:
        return invert(gram(users, regularisation))
    inner = invert(gram(users.T.tocsr(), regularisation))
    columns, size = users.T.tocsr(), users.shape[1]
    dense = aligned_zeros(size)
    for start in range(0, size, PANEL):
        part = columns[start : start + PANEL] @ inner
        dense[start : start + PANEL] = (columns @ part.T).T
    dense /= -regularisation
    dense[np.diag_indices(size)] += 1 / regularisation
    return dense


def gram(users: csr_matrix, regularisation: float) -> np.ndarray:
    """XᵀX + λ I, float32 [M, M]."""
    dense = aligned_zeros(users.shape[1])
    for start, product in multiply(users.T.tocsr(), users):
        product.toarray(out=dense[start : start + product.shape[0]])
    dense[np.diag_indices(len(dense))] += regularisation
    return dense


def aligned_zeros(size: int) -> np.ndarray:
    """float32 [size, size], where a device on the CPU takes it without a copy."""
    room = np.zeros(size * size + 16, np.float32)
    first = -room.ctypes.data % 64 // 4
    return room[first : first + size * size].reshape(size, size)


def invert(matrix: np.ndarray, panel: int = PANEL) -> np.ndarray:
    """Puts the inverse of a symmetric positive definite matrix in its place, and returns it.

    The lower triangle becomes L, then L^-1, then L^-T L^-1, a panel after the other.

    Raises:
      ValueError: it is not positive definite in its precision.
    """
    size = len(matrix)
    panels = [slice(start, min(start + panel, size)) for start in range(0, size, panel)]
    for here in panels:
        before, below = slice(0, here.start), slice(here.stop, size)
        matrix[here.start :, here] -= matrix[here.start :, before] @ matrix[here, before].T
        matrix[here, here] = _cholesky(matrix[here, here])
        matrix[below, here] = _solve(matrix[here, here], matrix[below, here].T).T
    for here in panels:
        corner = _solve(matrix[here, here], np.eye(here.stop - here.start, dtype=matrix.dtype))
        matrix[here, here.stop :] = 0
        for first in range(0, here.start, 4 * panel):
            there = slice(first, min(first + 4 * panel, here.start))
            rows = slice(first, here.start)  # above them L^-1 is 0
            matrix[here, there] = -corner @ (matrix[here, rows] @ matrix[rows, there])
        matrix[here, here] = corner
    for here in panels:
        matrix[here, : here.stop] = matrix[here.start :, here].T @ matrix[here.start :, : here.stop]
    for here in panels:
        matrix[: here.start, here] = matrix[here, : here.start].T
    return matrix


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(scipy.linalg.cholesky(matrix, lower=True))
    except (np.linalg.LinAlgError, ValueError) as error:
        raise ValueError("not positive definite in float32; raise the regularisation") from error


def _solve(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.linalg.solve_triangular(lower, right, lower=True, check_finite=False))
