"""Graph models of users and items, with the settings that their codes state for Gowalla.

LightGCN: gusye1234/LightGCN-PyTorch (three layers of width 64, batches of 2,048, Adam at 1e-3, λ 1e-4).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxrec.data.events.graph import bipartite
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.protocols.retrieval import Data
from jaxrec.tasks import pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.train.epoch import Plan, by_group
from jaxrec.types import Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a graph model is trained. Defaults: LightGCN's."""

    dim: int = 64  # width of the embeddings and of each layer
    num_layers: int = 3  # propagations
    edge_dropout: float = 0.0  # share of messages that are dropped in training
    batch_size: int = 2048  # triplets of a user, an item of its own and a sampled one
    learning_rate: float = 1e-3  # of Adam
    l2: float = 1e-4  # half of it times the squares of a triplet's embeddings enters the loss
    epochs: int = 1000  # epochs to train
    evaluate_every: int = 20  # epochs between evaluations


def lightgcn(num_users: int, num_items: int, recipe: Recipe) -> LightGCN:
    """LightGCN."""
    return LightGCN(
        num_users, num_items, recipe.dim, num_layers=recipe.num_layers, edge_dropout=recipe.edge_dropout
    )


def columns(data: Data) -> dict[str, Any]:
    """The graph of the training events, on the device, by its name in the context."""
    graph = bipartite(data.split.training_events(), num_users=data.num_users)
    return {"graph": type(graph)(*(_on_device(part) for part in graph))}


def task(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """Bayesian personalised ranking against one item that the user has no training event of."""
    return pairs.pairwise(model, sampler=pairs.unseen(data.num_items, data.most), l2=recipe.l2)


def plan(data: Data, recipe: Recipe) -> Plan:
    """As many triplets an epoch as training events, each a user at random and then one of its items."""
    return by_group(len(data.columns["pair_user"]), recipe.batch_size, start="pair_start", count="pair_count")


def _on_device(part: Any) -> Any:
    return type(part)(*map(jnp.asarray, part)) if isinstance(part, tuple) else jnp.asarray(part)
