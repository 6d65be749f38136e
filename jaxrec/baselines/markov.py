"""A first-order Markov chain over items (MC in Ludewig and Jannach, UMUAI 2018, arXiv:1803.09587).

Departs from it: a count is not divided by the sum of an item's counts, which changes no rank.
"""

from __future__ import annotations

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.last_item import count_pairs, score_after_last
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Baseline


def markov(data: EventData | TrainingEvents, *, neighbours: int = 100) -> Baseline:
    """score(l, i) = how often item i came right after item l in training, l being the last item; else 0.

    Only the `neighbours` most frequent successors of an item are kept. After no item all scores are 0.

    Raises:
      ValueError: neighbours is below 1.
    """
    events = training_events(data)
    inside = events.group[1:] == events.group[:-1]
    size = events.num_items + 1
    pairs = count_pairs(events.item[:-1][inside], events.item[1:][inside], (size, size)).tocoo()
    return score_after_last(
        "markov", pairs.row, pairs.col, pairs.data, num_items=events.num_items, neighbours=neighbours
    )
