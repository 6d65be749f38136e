"""Methods without gradient descent that read the order of events: co-visitation, Markov chain, last-item KNN.

Co-visitation's settings are ours; the other two have those of their papers (Ludewig and Jannach, UMUAI 2018;
Hidasi et al., ICLR 2016).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrec import baselines
from jaxrec.baselines.co_visitation import by_distance
from jaxrec.protocols import next_item
from jaxrec.recipes.trainable import SuccessorModel
from jaxrec.types import Baseline


@dataclasses.dataclass(frozen=True)
class CoVisits:
    """Co-visitation by distance."""

    window: int = 0  # largest distance of two events that count as a pair; 0: any
    by_distance: bool = True  # a pair counts 1 / distance; no: 1 whatever its distance
    forward: bool = True  # items that come after an item count
    backward: bool = True  # items that come before it count
    history: int = 10  # last events of a user that are read, weighted by 1 / (1 + events after)
    neighbours: int = 0  # largest weights of an item that are kept; 0: all


@dataclasses.dataclass(frozen=True)
class Chain:
    """A Markov chain of first order."""

    neighbours: int = 100  # most frequent successors of an item that are kept


@dataclasses.dataclass(frozen=True)
class LastItem:
    """The nearest items of a user's last one."""

    neighbours: int = 100  # nearest items of an item
    regularisation: float = 20.0  # added to the number of users of each of two items, against chance


def co_visitation(data: next_item.Data, recipe: CoVisits, seed: int) -> Baseline:
    """Co-visitation; sizes of 0 are no limit."""
    given = dataclasses.asdict(recipe)
    given |= {name: given[name] or None for name in ("window", "neighbours")}
    decay = by_distance if given.pop("by_distance") else np.ones_like
    return baselines.co_visitation(data, **given, decay=decay)


def _named(make: Callable[..., Baseline]) -> Callable[[next_item.Data, Any, int], Baseline]:
    return lambda data, recipe, seed: make(data, **dataclasses.asdict(recipe))


MODELS: Mapping[str, SuccessorModel] = {
    "co-visitation": SuccessorModel(CoVisits, co_visitation),
    "markov": SuccessorModel(Chain, _named(baselines.markov)),
    "item-knn": SuccessorModel(LastItem, _named(baselines.item_knn)),
}
