"""Weights of DGL's EGES example and of PyTorch Geometric's Node2Vec to EGES and back.

Their ids start at 0, ours are theirs plus 1. Both have one table for centres and contexts.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, shape
from jaxrec.nn.retrieval.eges import EGES

ITEM = jnp.ones(1, jnp.int32)
WEIGHTS = "net.side_info_weights.weight"


def dgl_eges(state: State) -> Converted:
    """EGES; embedding 0 is that of the item.

    Without side information its table of weights is left out: the weight of the one embedding is 1.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    items, dim = shape(state, "embeds.0.weight")
    fields = count(state, r"embeds\.(\d+)\.weight") - 1
    sizes = tuple(shape(state, f"embeds.{field + 1}.weight")[0] for field in range(fields))
    locations: Locations = {"embeds.0.weight": Location(("params", "item_embedding"), padded=True)}
    if fields:
        locations[WEIGHTS] = Location(("params", "weight"), padded=True)
    else:
        state = {key: value for key, value in state.items() if key != WEIGHTS}
    for field in range(fields):
        name = ("params", f"side_embedding_{field}")
        locations[f"embeds.{field + 1}.weight"] = Location(name, padded=True)
    model = EGES(items, sizes, dim, tied=True)
    side = jnp.zeros((items + 1, fields), jnp.int32)
    return convert(model, state, locations, ITEM, ITEM[:, None], side, train=False)


def pyg_node2vec(state: State) -> Converted:
    """EGES without side information.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    items, dim = shape(state, "embedding.weight")
    locations: Locations = {"embedding.weight": Location(("params", "item_embedding"), padded=True)}
    model = EGES(items, dim=dim, tied=True)
    return convert(model, state, locations, ITEM, ITEM[:, None], train=False)
