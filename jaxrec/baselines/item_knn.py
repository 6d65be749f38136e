"""Item-KNN: the nearest items of the last one (Hidasi et al., ICLR 2016, arXiv:1511.06939, section 4)."""

from __future__ import annotations

import numpy as np

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.last_item import count_pairs, score_after_last
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def item_knn(
    data: EventData | TrainingEvents, *, neighbours: int = 100, regularisation: float = 20.0
) -> Baseline:
    """score(l, i) = n_li / sqrt((n_l + λ)(n_i + λ)) if i is one of the nearest items of the last one l, or 0.

    The cosine of two items' vectors of sessions (or users): n_li training sessions hold both items, n_l and
    n_i hold one. The regularisation λ keeps rare items from being similar by chance. λ and the number of
    neighbours are those of the authors' code, which counts an item's clicks in n_l and n_i, repeated ones
    too, where this counts sessions. The counts of pairs are a sparse product. After no item all scores are 0.

    Raises:
      ValueError: neighbours is below 1, or the regularisation is negative or not a number.
    """
    if not regularisation >= 0:
        raise ValueError(f"regularisation={regularisation}: must be 0 or more")
    events = training_events(data)
    session = np.cumsum(np.diff(events.group, prepend=events.group[0]) != 0)
    held = count_pairs(session, events.item, (int(session[-1]) + 1, events.num_items + 1))
    held.data[:] = 1.0  # an item clicked twice in a session is held once
    both = (held.T @ held).tocoo()
    alone = np.asarray(held.sum(axis=0)).reshape(-1) + regularisation
    others = both.row != both.col
    row, col = both.row[others], both.col[others]
    cosine = both.data[others] / np.sqrt(alone[row] * alone[col])
    return score_after_last("item-knn", row, col, cosine, num_items=events.num_items, neighbours=neighbours)
