"""Retrieval by clusters of items (Zhang et al., arXiv:2302.02657): settings, models and training.

Sizes are ours, for MovieLens-100K; the paper's are for data that were not available.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import packing
from jaxrec.augment.item2vec import item_vectors
from jaxrec.data.events.clusters import Clusters, cluster_examples, clusters_from_labels, kmeans
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.protocols.next_item import Data, packing_of, plan
from jaxrec.recipes.trainable import SPARE_ROOM
from jaxrec.recipes.trainable_rankings import RankedModel, Training
from jaxrec.tasks.cluster_ranking import cluster_scorer
from jaxrec.tasks.cluster_retrieval import cluster_retrieval, in_cluster_softmax
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.train.epoch import shuffled
from jaxrec.types import Array, Context, Scorer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained."""

    clusters: int = 5  # number of clusters of the items, by K-means
    alpha: float = 1.0  # exponent of the quotas: 0 is equal shares, inf the most probable cluster first
    cluster_seed: int = 0  # of the vectors and K-means, so that all runs have the same clusters
    vector_dim: int = 20  # width of the vectors that are clustered
    vector_epochs: int = 20  # epochs of training of the vectors
    dim: int = 64  # width of the encoder
    inner_dim: int = 256  # inner width of its blocks
    num_layers: int = 2  # blocks
    num_heads: int = 2  # attention heads
    intent_dim: int = 32  # width of the intent model
    intent_layers: int = 1  # its blocks; 0: it reads only the last item
    max_len: int = 50  # most recent events read
    dropout: float = 0.3  # of embeddings, attention weights and layers
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 128  # users per step; with prompts, all their (user, cluster) pairs
    num_samples: int = 100  # negatives of each event
    epochs: int = 100  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


def cluster_items(data: Data, recipe: Recipe) -> Clusters:
    """K-means over unit vectors of the items. Those without a training event join the largest cluster."""
    sequences, lengths = data.split.sequences, data.split.train_length
    parts = [sequences.user_items(user)[:length] for user, length in enumerate(lengths)]
    table = np.asarray(
        item_vectors(
            jax.random.key(recipe.cluster_seed),
            parts,
            num_items=data.num_items,
            dim=recipe.vector_dim,
            epochs=recipe.vector_epochs,
        )
    )
    seen = np.unique(np.concatenate(parts))
    unit = table[seen] / np.linalg.norm(table[seen], axis=1, keepdims=True)
    found = kmeans(unit, recipe.clusters, seed=recipe.cluster_seed)
    labels = np.full(data.num_items, np.bincount(found.labels).argmax())
    labels[seen - 1] = found.labels
    return clusters_from_labels(labels)


def sasrec(num_items: int, recipe: Recipe) -> SASRec:
    """One vector per user, for all items."""
    return SASRec(
        num_items=num_items,
        dim=recipe.dim,
        inner_dim=recipe.inner_dim,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.dropout,
        bits=counter_bits,
    )


def with_intents(num_items: int, recipe: Recipe) -> KuaishouEBR:
    """A vector per user and cluster, and a model of the user's intent."""
    encoder = sasrec(num_items, recipe)
    intent = encoder.clone(
        dim=recipe.intent_dim, inner_dim=4 * recipe.intent_dim, num_layers=recipe.intent_layers
    )
    return KuaishouEBR(encoder, intent, num_clusters=recipe.clusters)


def by_user(
    model: Encoder,
    data: Data,
    clusters: Clusters,
    recipe: Recipe,
    *,
    intents: bool,
    num_devices: int,
    deviations: float = 3.0,
) -> Training:
    """An example is a user. intents: negatives are of the positive's cluster, and intents have a loss.

    num_devices: of `protocols.next_item.packing_of`. deviations: spare room of packed rows, as of
    `packing.rows_needed`.
    """
    packed = packing_of(data, model, recipe.batch_size, num_devices=num_devices, deviations=deviations)
    objective = in_cluster_softmax(clusters, recipe.num_samples)
    if intents:
        task = cluster_retrieval(model, objective, packed=packed, prompted=False)
    else:
        task = next_item(model, objective, packed=packed)
    return Training(task, plan(data, model, recipe.batch_size, packed), _columns(data, clusters, objective))


def by_user_and_cluster(
    model: Encoder,
    data: Data,
    clusters: Clusters,
    recipe: Recipe,
    *,
    num_devices: int,
    deviations: float = 3.0,
) -> Training:
    """An example is a (user, cluster) pair; a step has all pairs of `batch_size` users.

    num_devices, deviations: as of `by_user`.
    """
    examples = cluster_examples(data.columns, clusters, recipe.max_len)
    user = examples["example_user"]
    lengths = np.minimum(data.inputs[user], recipe.max_len)
    steps = -(-data.split.sequences.num_users // recipe.batch_size)
    batch_size = -(-len(user) // steps)
    needed = packing.rows_needed(
        lengths, batch_size, recipe.max_len, multiple=num_devices, deviations=deviations
    )
    packed = Packing(needed, recipe.max_len)

    def length(context: Context, example: Array) -> Array:
        return jnp.clip(context["length"][context["example_user"][example]] - 1, 0, recipe.max_len)

    order = shuffled(len(user), batch_size, lengths=length, packing=packed)
    objective = in_cluster_softmax(clusters, recipe.num_samples)
    task = cluster_retrieval(model, objective, packed=packed)
    return Training(task, order, _columns(data, clusters, objective) | examples)


def _columns(data: Data, clusters: Clusters, objective: Objective) -> dict[str, Any]:
    return {**with_tables(data.columns, objective), "cluster": clusters.of}


# --- a model of events of one's own ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EventsRecipe(Recipe):
    """How retrieval by clusters is trained on events of one's own."""

    prompts: bool = True  # a user has a vector for each cluster; otherwise one for all clusters


def cluster_column(data: Data, recipe: EventsRecipe) -> dict[str, np.ndarray]:
    """The column `cluster` of each id, from vectors of the items of training.

    Raises:
      ValueError: there are fewer items with a training event than clusters, or no user has two of them.
    """
    if recipe.clusters < 1 or recipe.vector_epochs < 1:
        raise ValueError(
            f"clusters={recipe.clusters}, vector_epochs={recipe.vector_epochs}: must be at least 1"
        )
    if not data.inputs.any():
        raise ValueError(
            f"{data.split.sequences.name}: no user has two training events, so nothing says which items go "
            "together; give users with more events"
        )
    trained = len(np.unique(data.split.training_events().item))
    if trained < recipe.clusters:
        raise ValueError(
            f"clusters={recipe.clusters}: only {trained:,} items have a training event; give fewer"
        )
    return {"cluster": cluster_items(data, recipe).of}


def learn(
    model: KuaishouEBR, data: Data, columns: Context, recipe: EventsRecipe, num_devices: int
) -> Training:
    """Training within clusters, with prompts or without."""
    clusters = clusters_from_labels(np.asarray(columns["cluster"])[1:])
    more: dict[str, Any] = {"num_devices": num_devices, "deviations": SPARE_ROOM}
    if recipe.prompts:
        found = by_user_and_cluster(model, data, clusters, recipe, **more)
    else:
        found = by_user(model, data, clusters, recipe, intents=True, **more)
    return found._replace(columns={**found.columns, **columns})


def ranked(model: KuaishouEBR, recipe: EventsRecipe, exclude: bool) -> Scorer:
    """The order that merges the clusters' lists."""
    return cluster_scorer(model, alpha=recipe.alpha, exclude=exclude, prompted=recipe.prompts)


def adam(recipe: EventsRecipe) -> optax.GradientTransformation:
    """The optimiser."""
    return optax.adam(recipe.learning_rate)


MODELS: Mapping[str, RankedModel] = {
    "kuaishou-ebr": RankedModel(
        EventsRecipe, with_intents, cluster_column, learn, ranked, adam, "in-cluster sampled softmax + intent"
    ),
}
