"""Weights of a Poly-Encoder over a table of token vectors (chijames/Poly-Encoder's head) to ours and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, State, convert, shape
from jaxrec.nn.retrieval.poly_encoder import PolyEncoder


def from_state_dict(state: State, **fields: Any) -> Converted:
    """The head alone, without positions and without a mask. Token 0 is a token: our ids are theirs plus 1."""
    rows, dim = shape(state, "bert.table.weight")
    locations = {
        "bert.table.weight": Location(("params", "item_embedding"), padded=True),
        "poly_code_embeddings.weight": Location(("params", "codes")),
    }
    codes = shape(state, "poly_code_embeddings.weight")[0]
    form: dict[str, Any] = {"num_interests": codes, "positions": False, "masked": False}
    model = PolyEncoder(rows, dim, **{**form, **fields})
    return convert(model, state, locations, np.zeros((1, 1), np.int32), train=False)
