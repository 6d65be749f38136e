"""Weights of torch-rechub's STAMP to our module and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, dense, shape
from jaxrec.nn.sequential.stamp import STAMP


def from_state_dict(state: State, **fields: Any) -> Converted:
    """STAMP with attention weights that add up to one, and tanh before its last linear layers.

    Its id 0 is padding, as ours is. `fields` are those that shapes do not tell, such as max_len.
    """
    rows, dim = shape(state, "item_emb.weight")
    locations: Locations = {
        "item_emb.weight": Location(("params", "item_embedding")),
        "b_a": Location(("params", "from_item", "bias")),
        "w_0": Location(("params", "weight", "kernel")),
    }
    for number, ours in enumerate(("from_item", "from_last", "from_mean"), 1):
        locations[f"w_{number}_t"] = Location(("params", ours, "kernel"))
    locations |= dense("f_s.1", ("session",)) | dense("f_t.1", ("click",))
    model = STAMP(rows - 1, dim, **{"normalised": True, "tanh_first": True, **fields})
    return convert(model, state, locations, np.zeros((1, 1), np.int32))
