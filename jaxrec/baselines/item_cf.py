"""ItemCF: co-occurrence of items, damped by their popularity and, in ItemCF-IUF, by users' activity.

Linden, Smith and York, IEEE Internet Computing 2003, doi:10.1109/MIC.2003.1167344; the weight of users is a
common form without a paper of its own.
"""

from __future__ import annotations

import numpy as np

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import interactions, last_events, scale_rows, transform_product
from jaxrec.baselines.rows import score_by_history
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def item_cf(
    data: EventData | TrainingEvents,
    *,
    alpha: float = 0.5,
    shrinkage: float = 0.0,
    neighbours: int | None = 100,
    max_items: int | None = 500,
    inverse_user_frequency: bool = False,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of s(i, j), s(i, j) = n_ij / (n_i^(1 - α) n_j^α).

    n_ij users have both items in training, n_i and n_j one. α = 0.5 is the cosine; a larger α damps popular
    items j more. With a shrinkage b s is multiplied by n_ij / (n_ij + b). Each item i of the history brings
    its `neighbours` most similar items (None: all), of equal ones those of the smaller ids.

    max_items: of a user's training events only as many of the last ones are counted; None: all.
    inverse_user_frequency: Σ 1 / log(1 + |I_u|) over the users u that have both items stands in place of
    n_ij; the method is then ItemCF-IUF.

    Raises:
      ValueError: alpha isn't in 0..1, the shrinkage is negative or not a number, or neighbours or max_items
        is below 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: must lie in 0..1")
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage={shrinkage}: must be 0 or more")
    users = interactions(last_events(training_events(data), max_items))
    count = np.asarray(users.sum(axis=0)).reshape(-1)
    activity = np.diff(users.indptr)
    weighted = scale_rows(users, 1 / np.log1p(activity)) if inverse_user_frequency else users

    def values(row: np.ndarray, col: np.ndarray, both: np.ndarray) -> np.ndarray:
        return both / (count[row] ** (1 - alpha) * count[col] ** alpha) * (both / (both + shrinkage))

    name = "item-cf-iuf" if inverse_user_frequency else "item-cf"
    return score_by_history(name, transform_product(weighted.T.tocsr(), users, values, neighbours=neighbours))
