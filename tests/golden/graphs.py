"""What tests of graph models read from a fixture: interactions as a graph, and triplets as a batch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.graph import Graph, bipartite
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import SHARED


def graph_of(interactions: np.ndarray, *, padded: bool) -> Graph:
    """The graph of a matrix of zeros and ones; `padded`: its row and column 0 are padding."""
    if not padded:
        interactions = np.pad(interactions, ((1, 0), (1, 0)))
    assert not interactions[0].any() and not interactions[:, 0].any()
    user, item = np.nonzero(interactions)
    events = TrainingEvents(user - 1, item, interactions.shape[1] - 1)
    return bipartite(events, num_users=interactions.shape[0] - 1)


def dense(graph: Graph, *, padded: bool) -> np.ndarray:
    """D^-1/2 A D^-1/2 over users, then items, from the edges in both directions."""
    users, items = len(graph.user_degree), len(graph.item_degree)
    found = np.zeros((users + items, users + items), np.float32)
    by_user, by_item = graph.by_user, graph.by_item
    found[by_user.row, users + by_user.column] = by_user.weight
    found[users + by_item.row, by_item.column] = by_item.weight
    if padded:
        return found
    return np.delete(np.delete(found, (0, users), 0), (0, users), 1)


def batch_of(user: np.ndarray, item: np.ndarray, negative: np.ndarray, context: Any) -> dict[str, Any]:
    """A batch of `tasks.pairs` with one negative each."""
    return {
        "user": jnp.asarray(user, jnp.int32),
        "item": jnp.asarray(item, jnp.int32),
        "negatives": jnp.asarray(negative, jnp.int32)[:, None],
        "mask": jnp.ones(len(user), bool),
        "row": jnp.arange(len(user)),
        SHARED: context,
    }
