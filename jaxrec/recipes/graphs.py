"""Graph models of users and items, with the settings that their codes state for Gowalla.

LightGCN: gusye1234/LightGCN-PyTorch at its defaults, which are the paper's (He et al., SIGIR 2020). NGCF: the
command of xiangwang1223/neural_graph_collaborative_filtering, whose penalty is of the final vectors; ours is
of the embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec.data.events.graph import bipartite
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.nn.retrieval.ngcf import NGCF
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes import factors
from jaxrec.recipes.factors import adam, ranked, users_first
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks.pairs import PairModel
from jaxrec.types import Context


@dataclasses.dataclass(frozen=True)
class Recipe(factors.Recipe):
    """How LightGCN is trained."""

    num_layers: int = 3  # propagations
    edge_dropout: float = 0.0  # share of messages that are dropped in training


@dataclasses.dataclass(frozen=True)
class NGCFRecipe(factors.Recipe):
    """How NGCF is trained."""

    num_layers: int = 3  # propagations, each of the width of the embeddings
    node_dropout: float = 0.1  # share of nodes whose messages are dropped in training
    message_dropout: float = 0.1  # share of units of each layer's output that are dropped in training
    l2: float = 1e-5  # half of it times the squares of a pair's embeddings enters the loss
    batch_size: int = 1024  # observed pairs per step
    learning_rate: float = 1e-4  # of Adam
    epochs: int = 400  # epochs to train


def lightgcn(data: Data, recipe: Recipe) -> PairModel:
    """LightGCN, the mean of its layers."""
    return LightGCN(
        data.num_users,
        data.num_items,
        recipe.dim,
        num_layers=recipe.num_layers,
        edge_dropout=recipe.edge_dropout,
        init_std=recipe.init_std,
    )


def ngcf(data: Data, recipe: NGCFRecipe) -> PairModel:
    """NGCF with layers as wide as the embeddings."""
    return NGCF(
        data.num_users,
        data.num_items,
        recipe.dim,
        (recipe.dim,) * recipe.num_layers,
        node_dropout=recipe.node_dropout,
        message_dropout=recipe.message_dropout,
    )


def graph(data: Data, recipe: factors.Recipe) -> Context:
    """The graph of the interactions of training."""
    made = bipartite(data.split.training_events(), num_users=data.num_users)
    return {"graph": jax.tree.map(jnp.asarray, made)}


MODELS: Mapping[str, RetrievalModel] = {
    "lightgcn": RetrievalModel(Recipe, lightgcn, ranked, users_first, adam, "BPR", graph),
    "ngcf": RetrievalModel(NGCFRecipe, ngcf, ranked, users_first, adam, "BPR", graph),
}
