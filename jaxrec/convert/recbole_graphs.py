"""Weights of RecBole's graph models to our modules and back. Row 0 of its tables is padding, as of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.recbole_pairs import ITEM, USER, table
from jaxrec.convert.state_dict import Converted, Locations, State, convert, dense, shape
from jaxrec.data.events.graph import Graph, bipartite
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.nn.retrieval.ngcf import NGCF


def lightgcn(state: State, **fields: Any) -> Converted:
    """LightGCN; its number of layers is a field, as no parameter tells it.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    users, dim = shape(state, "user_embedding.weight")
    items, _ = shape(state, "item_embedding.weight")
    model = LightGCN(users - 1, items - 1, dim, **fields)
    context = {"graph": one_edge(users - 1, items - 1)}
    return convert(model, state, tables(), USER, ITEM, context, train=False)


def ngcf(state: State, **fields: Any) -> Converted:
    """NGCF, whose transforms have biases and whose layers read unit vectors.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    users, dim = shape(state, "user_embedding.weight")
    items, _ = shape(state, "item_embedding.weight")
    locations = tables()
    widths: list[int] = []
    while f"GNNlayers.{len(widths)}.linear.weight" in state:
        layer = len(widths)
        widths.append(shape(state, f"GNNlayers.{layer}.linear.weight")[0])
        locations |= dense(f"GNNlayers.{layer}.linear", (f"sums_{layer}",))
        locations |= dense(f"GNNlayers.{layer}.interActTransform", (f"products_{layer}",))
    model = NGCF(users - 1, items - 1, dim, tuple(widths), use_bias=True, read_unit=True, **fields)
    context = {"graph": one_edge(users - 1, items - 1)}
    return convert(model, state, locations, USER, ITEM, context, train=False)


def tables() -> Locations:
    """Of the embeddings of users and items."""
    return table("user_embedding", "user_embedding") | table("item_embedding", "item_embedding")


def one_edge(num_users: int, num_items: int) -> Graph:
    """A graph of this size, to find out the shapes of a model's parameters."""
    one = np.ones(1, np.int32)
    return bipartite(TrainingEvents(one - 1, one, num_items), num_users=num_users)
