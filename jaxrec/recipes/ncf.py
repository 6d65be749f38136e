"""GMF, MLP and NeuMF (He et al., WWW 2017), and matrix factorisation as Rendle et al., RecSys 2020, tune it.

Settings for MovieLens-1M as NCF distributes it. An example is an observed pair with its negatives, where the
codes mix labelled pairs: a step has as many labelled pairs as theirs, and negatives are uniform over all
items, a user's own among them, as both codes draw them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.ncf import GMF, MLPPairs, NeuMF
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How GMF, MLP and NeuMF are trained. Defaults: the authors' example commands."""

    factors: int = 8  # predictive factors: width of GMF and of the MLP's last layer
    mlp_layers: int = 3  # layers of the MLP, each half as wide as the one before
    negatives: int = 4  # sampled items per observed pair
    batch_size: int = 256  # labelled pairs per step, observed and sampled
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 20  # epochs to train
    evaluate_every: int = 1  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class MFRecipe:
    """How matrix factorisation is trained. Defaults: what its paper's code is tuned to."""

    dim: int = 192  # as the paper counts: the vectors have one less, and there are biases
    negatives: int = 8  # sampled items per observed pair
    l2: float = 5e-3  # half of it times the squares of each labelled pair's parameters enters the loss
    batch_size: int = 256  # labelled pairs per step, observed and sampled
    learning_rate: float = 2e-3  # of gradient descent, for each labelled pair
    epochs: int = 256  # epochs to train
    evaluate_every: int = 8  # epochs between evaluations
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


def gmf(data: Data, recipe: Recipe) -> PairModel:
    """GMF."""
    return GMF(data.num_users, data.num_items, recipe.factors)


def mlp(data: Data, recipe: Recipe) -> PairModel:
    """Layers that halve the width of the pair down to the predictive factors."""
    widths = mlp_widths(recipe)
    return MLPPairs(data.num_users, data.num_items, dim=widths[0], hidden_dims=widths)


def mlp_widths(recipe: Recipe) -> tuple[int, ...]:
    """Widths of the MLP's layers; an embedding is as wide as the first of them.

    Raises:
      ValueError: there is no layer.

    >>> mlp_widths(Recipe(factors=8)), mlp_widths(Recipe(factors=64, mlp_layers=2))
    ((32, 16, 8), (128, 64))
    """
    if recipe.mlp_layers < 1:
        raise ValueError(f"mlp_layers={recipe.mlp_layers}: must be at least 1")
    return tuple(recipe.factors * 2**power for power in reversed(range(recipe.mlp_layers)))


def neumf(data: Data, recipe: Recipe) -> PairModel:
    """GMF and this MLP under one output."""
    widths = mlp_widths(recipe)
    return NeuMF(data.num_users, data.num_items, dim=recipe.factors, mlp_dim=widths[0], hidden_dims=widths)


def biased_mf(data: Data, recipe: MFRecipe) -> PairModel:
    """Matrix factorisation with biases of users and items, and a global one."""
    if recipe.dim < 2:
        raise ValueError(f"dim={recipe.dim}: must be at least 2, of which one is for the biases")
    return MF(data.num_users, data.num_items, recipe.dim - 1, item_bias=True, user_bias=True)


def labelled(model: PairModel, data: Data, recipe: Recipe) -> Task:
    """Binary cross-entropy of observed and sampled pairs."""
    return pairs.pointwise(model, sampler=pairs.uniform(data.num_items), negatives=recipe.negatives)


def penalised(model: PairModel, data: Data, recipe: MFRecipe) -> Task:
    """Binary cross-entropy and the penalty, of observed and sampled pairs."""
    sampler = pairs.uniform(data.num_items)
    return pairs.pointwise(model, sampler=sampler, negatives=recipe.negatives, l2=recipe.l2)


def every_pair(data: Data, recipe: Recipe | MFRecipe) -> Plan:
    """Every training pair once an epoch."""
    size = len(data.columns["pair_user"])
    return shuffled(size, min(observed(recipe), size))


def observed(recipe: Recipe | MFRecipe) -> int:
    """Observed pairs of a step: with their negatives they are about `batch_size` labelled ones."""
    return max(1, round(recipe.batch_size / (1 + recipe.negatives)))


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


def averaged_sgd(recipe: Recipe) -> optax.GradientTransformation:
    """Gradient descent on the mean over a step's labelled pairs, with which pre-trained halves go on."""
    return optax.sgd(recipe.learning_rate / (1 + recipe.negatives))


def sgd(recipe: MFRecipe) -> optax.GradientTransformation:
    """Gradient descent on the sum over a step's pairs, without momentum; the code steps for each pair."""
    return optax.sgd(recipe.learning_rate * observed(recipe))


BCE = "binary cross-entropy"
MODELS: Mapping[str, RetrievalModel] = {
    "mf": RetrievalModel(MFRecipe, biased_mf, penalised, every_pair, sgd, BCE),
    "gmf": RetrievalModel(Recipe, gmf, labelled, every_pair, adam, BCE),
    "ncf-mlp": RetrievalModel(Recipe, mlp, labelled, every_pair, adam, BCE),
    "neumf": RetrievalModel(Recipe, neumf, labelled, every_pair, adam, BCE),
}
