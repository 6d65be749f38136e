"""Weights of RecBole's SINE to ours and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.retrieval.sine import SINE

ITEMS = np.zeros((1, 1), np.int32)


def from_state_dict(state: State, **fields: Any) -> Converted:
    """SINE without masks and positions, with one matrix for assignment and aggregation.

    RecBole takes the K prototypes in ascending order, ours are in descending one, so the weights of the
    interests change places. `fields` are those that shapes do not tell, such as temperature and max_len.
    """
    rows, dim = shape(state, "item_embedding.weight")
    interests = shape(state, "w_k_2")[0]
    order = tuple(range(interests))[::-1]
    locations: Locations = {
        "item_embedding.weight": Location(("params", "item_embedding")),
        "C.weight": Location(("params", "prototypes")),
        "w1": Location(("params", "concept_kernel")),
        "w2": Location(("params", "concept_weight")),
        "w3": Location(("params", "assign_kernel")),
        "w4": Location(("params", "next_weight")),
        "w_k_1": Location(("params", "weighting_kernel"), order=order),
        "w_k_2": Location(("params", "weighting_weight"), order=order),
    }
    for number in (2, 4):
        for theirs, ours in (("weight", "scale"), ("bias", "bias")):
            locations[f"ln{number}.{theirs}"] = Location(("params", f"norm_{number}", ours))
    form: dict[str, Any] = {
        "num_items": rows - 1,
        "dim": dim,
        "num_interests": interests,
        "num_prototypes": shape(state, "C.weight")[0],
        "norms": ("length", "layer", "length", "layer"),
        "positions": "none",
        "tied": True,
        "masked": False,
        "centred": "features",
    }
    return convert(SINE(**{**form, **fields}), state, locations, ITEMS, train=False)
