"""Models of a user's and an item's vector: BPR-MF, MF-CCL, SimpleX and UltraGCN, with settings for Gowalla.

BPR-MF: PureMF of gusye1234/LightGCN-PyTorch at that code's defaults; the settings behind BARS' re-tuned .1627
were not found. MF-CCL and SimpleX (Mao et al., CIKM 2021), UltraGCN (Mao et al., CIKM 2021): reczoo/RecZoo.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
import optax

from jaxrec import losses
from jaxrec.data.events.co_occurrence import constraint_columns
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.simplex import SimpleX
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.tasks.ultragcn import Weights, ultragcn
from jaxrec.train.epoch import Plan, by_group, shuffled
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How BPR-MF is trained."""

    dim: int = 64  # width of the vectors
    init_std: float = 0.1  # of normal initial vectors
    negatives: int = 1  # sampled items per observed pair, none that the user has
    l2: float = 1e-4  # half of it times the squares of a pair's vectors enters the loss
    batch_size: int = 2048  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 1000  # epochs to train
    evaluate_every: int = 20  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class ContrastiveRecipe:
    """How MF-CCL is trained."""

    dim: int = 64  # width of the vectors
    init_std: float = 1e-4  # of normal initial vectors
    dropout: float = 0.1  # of users' vectors
    negatives: int = 800  # sampled items per observed pair, of all items
    margin: float = 0.9  # cosines of negatives below it cost nothing
    negative_weight: float = 150.0  # of the mean over negatives
    l2: float = 1e-8  # half of it times the squares of all parameters enters the loss
    batch_size: int = 256  # observed pairs per step
    learning_rate: float = 1e-4  # of Adam
    epochs: int = 100  # epochs to train, at most
    evaluate_every: int = 1  # epochs between evaluations
    patience: int = 3  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class SimpleXRecipe(ContrastiveRecipe):
    """How SimpleX is trained."""

    negatives: int = 2000  # sampled items per observed pair, of all items
    negative_weight: float = 250.0  # of the mean over negatives
    l2: float = 1e-7  # half of it times the squares of all parameters enters the loss
    gamma: float = 0.8  # weight of a user's own vector beside its items


@dataclasses.dataclass(frozen=True)
class UltraGCNRecipe:
    """How UltraGCN is trained."""

    dim: int = 64  # width of the vectors
    init_std: float = 1e-4  # of normal initial vectors
    negatives: int = 1500  # sampled items per observed pair, of all items
    negative_weight: float = 300.0  # of the mean over negatives
    neighbours: int = 10  # items near each item
    near_weight: float = 5e-4  # of the items near the observed one
    l2: float = 1e-4  # half of it times the squares of all parameters enters the loss, a sum over pairs
    batch_size: int = 512  # observed pairs per step
    learning_rate: float = 1e-4  # of Adam
    epochs: int = 2000  # epochs to train, at most
    evaluate_every: int = 5  # epochs between evaluations
    patience: int = 30  # evaluations without improvement before a seed stops; 0: never


def mf(data: Data, recipe: Recipe | UltraGCNRecipe) -> PairModel:
    """Matrix factorisation without biases."""
    return MF(data.num_users, data.num_items, recipe.dim, init_std=recipe.init_std)


def cosine_mf(data: Data, recipe: ContrastiveRecipe) -> PairModel:
    """Matrix factorisation whose scores are cosines."""
    return MF(
        data.num_users,
        data.num_items,
        recipe.dim,
        cosine=True,
        init_std=recipe.init_std,
        dropout=recipe.dropout,
        bits=counter_bits,
    )


def simplex(data: Data, recipe: SimpleXRecipe) -> PairModel:
    """SimpleX with attention over all training items of a user, its softmax as in the authors' code."""
    return SimpleX(
        num_users=data.num_users,
        num_items=data.num_items,
        dim=recipe.dim,
        max_history=data.most,
        gamma=recipe.gamma,
        dropout=recipe.dropout,
        count_padding=True,
        init_std=recipe.init_std,
        bits=counter_bits,
    )


def ranked(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """BPR against items that the user does not have."""
    sampler = pairs.unseen(data.num_items, data.most)
    return pairs.pairwise(model, sampler=sampler, negatives=recipe.negatives, l2=recipe.l2)


def contrasted(model: PairModel, data: Data, recipe: ContrastiveRecipe) -> Task:
    """The cosine contrastive loss, against items of which some may be the user's."""
    loss = functools.partial(losses.ccl, margin=recipe.margin, weight=recipe.negative_weight)
    return pairs.pairwise(model, loss, sampler=pairs.uniform(data.num_items), negatives=recipe.negatives)


def constrained(model: PairModel, data: Data, recipe: UltraGCNRecipe) -> Task:
    """UltraGCN's losses, against items of which some may be the user's."""
    weights = Weights(negatives=recipe.negative_weight, near=recipe.near_weight)
    sampler = pairs.uniform(data.num_items)
    return ultragcn(
        model, sampler=sampler, negatives=recipe.negatives, weights=weights, batch_size=recipe.batch_size
    )


def degrees(data: Data, recipe: UltraGCNRecipe) -> Context:
    """What UltraGCN reads of the graph, with the weights of near items as the authors' code has them."""
    events = data.split.training_events()
    made = constraint_columns(events, num_users=data.num_users, neighbours=recipe.neighbours, as_code=True)
    return {name: jnp.asarray(column) for name, column in made.items()}


def users_first(data: Data, recipe: Recipe) -> Plan:
    """As many draws an epoch as pairs, of a user uniformly and then of a pair, as in LightGCN's code."""
    size = len(data.columns["pair_user"])
    return by_group(size, min(recipe.batch_size, size), start="excluded_start", count="excluded_length")


def every_pair(data: Data, recipe: ContrastiveRecipe | UltraGCNRecipe) -> Plan:
    """Every training pair once an epoch."""
    size = len(data.columns["pair_user"])
    return shuffled(size, min(recipe.batch_size, size))


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


def decayed_adam(recipe: ContrastiveRecipe | UltraGCNRecipe) -> optax.GradientTransformation:
    """Adam on the gradient of the loss and of l2 / 2 times the squares of all parameters."""
    return optax.chain(optax.add_decayed_weights(recipe.l2), optax.adam(recipe.learning_rate))


def summed_adam(recipe: UltraGCNRecipe) -> optax.GradientTransformation:
    """`decayed_adam` on a sum over a step's pairs, as in the authors' code: losses are such sums by
    `batch_size` (`constrained`)."""
    return optax.chain(optax.scale(recipe.batch_size), decayed_adam(recipe))


MODELS: Mapping[str, RetrievalModel] = {
    "bpr-mf": RetrievalModel(Recipe, mf, ranked, users_first, adam, "BPR"),
    "mf-ccl": RetrievalModel(
        ContrastiveRecipe, cosine_mf, contrasted, every_pair, decayed_adam, "cosine contrastive loss"
    ),
    "simplex": RetrievalModel(
        SimpleXRecipe, simplex, contrasted, every_pair, decayed_adam, "cosine contrastive loss"
    ),
    "ultragcn": RetrievalModel(
        UltraGCNRecipe, mf, constrained, every_pair, summed_adam, "constraint losses of UltraGCN", degrees
    ),
}
