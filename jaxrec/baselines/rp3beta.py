"""P3alpha and RP3beta: random walks of three steps over users and items.

Cooper et al., WWW 2014 companion, doi:10.1145/2567948.2579244 (P3alpha); Paudel et al., TiiS 2017,
doi:10.1145/2955101, section 4 (RP3beta).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import divide_rows, interactions, largest, transform_product
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def p3alpha(
    data: EventData | TrainingEvents,
    *,
    alpha: float = 1.0,
    neighbours: int | None = 100,
    normalise: bool = False,
    cut_columns: bool = False,
) -> Baseline:
    """`rp3beta` without the penalty of popular items, β = 0."""
    users = interactions(training_events(data))
    weights = walk_weights(
        users, alpha=alpha, beta=0.0, neighbours=neighbours, normalise=normalise, cut_columns=cut_columns
    )
    return score_by_history("p3alpha", weights)


def rp3beta(
    data: EventData | TrainingEvents,
    *,
    alpha: float = 1.0,
    beta: float = 0.6,
    neighbours: int | None = 100,
    normalise: bool = False,
    cut_columns: bool = False,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of w_ij = Σ_v (p_iv p_vj)^α / n_j^β, w_ii = 0.

    A walk goes from i to one of its n_i users, each with p_iv = 1 / n_i, and on to one of the user's items,
    each with p_vj = 1 / |I_v|. Of each i the `neighbours` largest weights are kept (None: all), of equal ones
    those of the smaller ids.

    normalise: the weights of each i are then divided by their sum. cut_columns: then as many of each j are
    kept, as the code of Dacrema et al. (TOIS 2021, arXiv:1911.07698) has it.

    Raises:
      ValueError: alpha is not a positive number, beta is not a number, or neighbours is below 1.
    """
    users = interactions(training_events(data))
    weights = walk_weights(
        users, alpha=alpha, beta=beta, neighbours=neighbours, normalise=normalise, cut_columns=cut_columns
    )
    return score_by_history("rp3beta", weights)


def walk_weights(
    users: csr_matrix,
    *,
    alpha: float,
    beta: float,
    neighbours: int | None,
    normalise: bool = False,
    cut_columns: bool = False,
) -> csr_matrix:
    """Weights of `rp3beta`, float32 [M, M], of a matrix [N, M] of non-negative float32, row i, column j.

    A walk leaves a user in proportion to its entries, and an item to each of its users alike.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha={alpha}: must be a positive number")
    if not np.isfinite(beta):
        raise ValueError(f"beta={beta}: must be a number")
    to_items, columns = divide_rows(users), users.T.tocsr()
    columns.data = np.ones_like(columns.data)
    to_users = divide_rows(columns)
    to_items.data **= np.float32(alpha)
    to_users.data **= np.float32(alpha)
    degree = np.maximum(np.diff(columns.indptr), 1)

    def values(row: np.ndarray, col: np.ndarray, reached: np.ndarray) -> np.ndarray:
        return reached * degree[col] ** -float(beta)

    weights = transform_product(to_users, to_items, values, neighbours=neighbours)
    if normalise:
        weights = divide_rows(weights)
    return largest(weights.T.tocsr(), neighbours).T.tocsr() if cut_columns else weights
