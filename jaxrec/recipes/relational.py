"""RCF, with the settings of its authors' code (Xin et al., SIGIR 2019, arXiv:1904.12796).

Their code keeps half of the units of two layers in training, where this has no dropout, and reads all items
of a user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.data.item_attributes import relation_columns
from jaxrec.nn.retrieval.rcf import RCF
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import pairs
from jaxrec.tasks.relations import with_relations
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How RCF is trained."""

    dim: int = 64  # width of the vectors
    attention_dim: int = 32  # hidden width of both attentions
    hidden_dim: int = 64  # hidden width of the MLP
    power: float = 0.5  # of the sum that the attention inside a relation is divided by, from 0 to 1
    max_history: int = 50  # last items of a user that are read
    negatives: int = 1  # sampled items per observed pair, none that the user has
    weight: float = 0.01  # of the loss of related items
    l2: float = 0.0  # half of it times the squares of a pair's vectors enters the loss
    batch_size: int = 512  # observed pairs per step
    learning_rate: float = 0.05  # of Adagrad
    epochs: int = 50  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


def attributes(data: Data) -> np.ndarray:
    """The attributes of the items, or their features, int32 [I + 1, T, M].

    Raises:
      ValueError: the data have none.
    """
    found = data.columns.get("attributes")
    if found is None and data.items is not None:
        found = data.items.as_ids()
    if found is None:
        raise ValueError(
            f"{data.split.sequences.name}: has no attributes of items, by which RCF relates them; name a "
            "file of them by --item-attributes, with a line for each item: its id, and columns such as genre"
        )
    return np.asarray(found)


def rcf(data: Data, recipe: Recipe) -> RCF:
    """RCF with a relation for each attribute, beside that of items without a value in common."""
    return RCF(
        data.num_users,
        data.num_items,
        tuple(int(size) for size in attributes(data).max(axis=(0, 2))),
        recipe.dim,
        max_history=recipe.max_history,
        attention_dim=recipe.attention_dim,
        hidden_dims=(recipe.hidden_dim,),
        power=recipe.power,
    )


def ranked_and_related(model: RCF, data: Data, recipe: Recipe) -> Task:
    """BPR against items that the user does not have, and of related items against others."""
    sampler = pairs.unseen(data.num_items, data.most)
    task = pairs.pairwise(model, sampler=sampler, negatives=recipe.negatives, l2=recipe.l2)
    return with_relations(task, model, num_items=data.num_items)


def relations(data: Data, recipe: Recipe) -> Context:
    """The items of each value of the attributes."""
    return {name: jnp.asarray(column) for name, column in relation_columns(attributes(data)).items()}


def weights(data: Data, recipe: Recipe) -> Weighting:
    """The loss of related items has a weight of its own."""
    of_penalty = {"l2": 1.0} if recipe.l2 > 0 else {}
    return static({"pairs": 1.0, "relation": recipe.weight, **of_penalty})


def every_pair(data: Data, recipe: Recipe) -> Plan:
    """Every training pair once an epoch."""
    size = len(data.columns["pair_user"])
    return shuffled(size, min(recipe.batch_size, size))


def adagrad(recipe: Recipe) -> optax.GradientTransformation:
    """Adagrad, whose accumulators begin at 1e-8."""
    return optax.adagrad(recipe.learning_rate, initial_accumulator_value=1e-8)


MODELS: Mapping[str, RetrievalModel] = {
    "rcf": RetrievalModel(
        Recipe,
        rcf,
        ranked_and_related,
        every_pair,
        adagrad,
        "BPR of items and of relations",
        relations,
        weighting=weights,
        attributes=True,
        reads=("items", "start", "length", "attributes"),
    ),
}
