"""Weights of RecBole's BPR and NeuMF to our modules and back. Row 0 of its tables is padding, as of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.retrieval.mf import MF

USER, ITEM = np.ones(1, np.int32), np.ones((1, 1), np.int32)


def table(theirs: str, ours: str) -> Locations:
    """Of an embedding table."""
    return {f"{theirs}.weight": Location(("params", ours))}


def bpr(state: State, **fields: Any) -> Converted:
    """Matrix factorisation without biases.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    users, dim = shape(state, "user_embedding.weight")
    items, _ = shape(state, "item_embedding.weight")
    locations = table("user_embedding", "user_embedding") | table("item_embedding", "item_embedding")
    return convert(MF(users - 1, items - 1, dim, **fields), state, locations, USER, ITEM, {}, train=False)
