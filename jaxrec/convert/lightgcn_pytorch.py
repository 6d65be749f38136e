"""Weights of gusye1234/LightGCN-PyTorch to LightGCN and back: its ids start at 0, ours are theirs plus 1."""

from __future__ import annotations

from typing import Any

from jaxrec.convert.recbole_graphs import one_edge
from jaxrec.convert.recbole_pairs import ITEM, USER
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.retrieval.lightgcn import LightGCN


def from_state_dict(state: State, **fields: Any) -> Converted:
    """LightGCN; its number of layers is a field, as no parameter tells it.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    users, dim = shape(state, "embedding_user.weight")
    items, _ = shape(state, "embedding_item.weight")
    locations: Locations = {
        f"embedding_{side}.weight": Location(("params", f"{side}_embedding"), padded=True)
        for side in ("user", "item")
    }
    model = LightGCN(users, items, dim, **fields)
    return convert(model, state, locations, USER, ITEM, {"graph": one_edge(users, items)}, train=False)
