"""ETREC: the item-based collaborative filtering of Alibaba Cloud PAI (component `pai_etrec`).

There is no paper and no open code; the documented parameters and their defaults are kept. The weighting
behind "wbcosine" and the place of the power aren't documented: both are our choice.
"""

from __future__ import annotations

import numpy as np

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import interactions, scale_rows, users_with_items
from jaxrec.baselines.rows import score_by_history
from jaxrec.baselines.similarity import Similarity, cosine, nearest
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def etrec(
    data: EventData | TrainingEvents,
    *,
    similarity: Similarity = cosine,
    user_weight: bool = False,
    power: float = 1.0,
    neighbours: int = 2000,
    min_items: int = 2,
    max_items: int = 500,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of s(i, j)^power if j is a neighbour of i, else 0.

    similarity: `cosine` ("wbcosine"), `jaccard`, or `asymmetric_cosine` with the α of the component
    ("asymcosine"). user_weight: a user u counts 1 / log2(1 + |I_u|) in every sum. neighbours: most similar
    items of each i ("topN"), of equal ones those of the smaller ids. min_items, max_items: users with fewer
    or more different training items are left out ("minUserBehavior", "maxUserBehavior").

    Raises:
      ValueError: neighbours or min_items is below 1, max_items is below min_items, the power is not a
        positive number, or no user is left.
    """
    if not 0 < power < np.inf:
        raise ValueError(f"power={power}: must be a positive number")
    users = users_with_items(interactions(training_events(data)), min_items, max_items)
    if user_weight:
        users = scale_rows(users, np.log2(1.0 + np.diff(users.indptr)) ** -0.5)
    near = nearest(users, similarity, neighbours=neighbours)
    near.data **= np.float32(power)
    return score_by_history("etrec", near)
