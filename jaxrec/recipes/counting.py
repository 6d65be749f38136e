"""Methods without gradient descent: nearest neighbours, random walks and linear models of a matrix.

Settings published for Gowalla: EASE and SLIM of Open-CF-Benchmark, item-KNN of BARS (cosine, 100 neighbours;
Zhu et al., SIGIR 2022, arXiv:2205.09626), user-KNN and RP3beta of Anelli et al. (RecSys 2023,
arXiv:2308.00404), chosen by their authors, likely on the test part, as the data have no other. The others
have those of their papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxrec import baselines
from jaxrec.baselines import similarity
from jaxrec.baselines.matrix_knn import Weighting, bm25, tf_idf
from jaxrec.optim.least_squares import Blocks, ConjugateGradients, Exact, Solver
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import CountingModel
from jaxrec.types import Baseline

Name = Literal["cosine", "asymmetric", "jaccard", "tversky", "pearson", "dot"]
SIMILARITIES: Mapping[str, similarity.Similarity] = {
    "cosine": similarity.cosine,
    "asymmetric": similarity.asymmetric_cosine,
    "jaccard": similarity.jaccard,
    "tversky": similarity.tversky,
    "pearson": similarity.pearson,
    "dot": similarity.dot,
}
WEIGHTINGS: Mapping[str, Weighting | None] = {"none": None, "bm25": bm25, "tf-idf": tf_idf}


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Nearest items or users."""

    similarity: Name = "cosine"  # of two items by the users that have both, or of two users by their items
    neighbours: int = 100  # nearest items of an item, or users of a user
    shrinkage: float = 0.0  # added below the fraction, so that pairs seen rarely are less similar


@dataclasses.dataclass(frozen=True)
class ItemNeighbours(Neighbours):
    """Nearest items, as BARS has them."""

    weighting: Literal["none", "bm25", "tf-idf"] = "none"  # of interactions before items are compared
    normalise: bool = True  # the similarities of an item's neighbours add up to 1
    average_bias: bool = True  # scores are differences from the items' shares of users


@dataclasses.dataclass(frozen=True)
class CoOccurrence:
    """Item-based collaborative filtering."""

    alpha: float = 0.5  # how much popular items are damped, from 0 to 1
    shrinkage: float = 0.0  # b of the factor n / (n + b) of a pair that n users have
    neighbours: int = 100  # nearest items of an item
    most_items: int = 500  # last items of a user that are counted
    inverse_user_frequency: bool = False  # active users count less: ItemCF-IUF


@dataclasses.dataclass(frozen=True)
class Walks:
    """Random walks of three steps."""

    alpha: float = 0.5664  # power of the probability of each step
    beta: float = 0.00109  # power of an item's number of users that its score is divided by
    neighbours: int = 777  # items that an item keeps
    normalise: bool = True  # the weights of an item's neighbours add up to 1
    cut_columns: bool = True  # then as many items are kept that lead to an item


@dataclasses.dataclass(frozen=True)
class Swings:
    """Swing."""

    alpha: float = 1.0  # added to the number of items that two users share
    power: float = 0.5  # of a user's number of items that its weight is divided by
    neighbours: int = 100  # items that an item keeps


@dataclasses.dataclass(frozen=True)
class ElasticNet:
    """SLIM."""

    alpha: float = 0.005  # of both penalties, as scikit-learn's ElasticNet has it
    l1_ratio: float = 1e-6  # share of the absolute values among the penalties
    neighbours: int = 100  # largest weights of an item that are kept


@dataclasses.dataclass(frozen=True)
class Ridge:
    """EASE."""

    regularisation: float = 80.0  # λ, of the squares of the weights
    max_gib: float = 8.0  # largest matrix of items by items, in GiB


@dataclasses.dataclass(frozen=True)
class Factors:
    """Implicit alternating least squares. Defaults: of the authors for MovieLens-1M, but for the width."""

    dim: int = 64  # width of the vectors
    regularisation: float = 0.007  # λ, of the squares of the vectors
    alpha0: float = 0.3  # weight of all pairs of a user and an item beside those that were observed
    nu: float = 1.0  # power of the number of pairs of a user or item that its λ is multiplied by
    epochs: int = 12  # of users, then items
    solver: Literal["exact", "blocks", "cg"] = "exact"  # of each vector's equations; blocks is iALS++


SOLVERS: Mapping[str, Solver] = {"exact": Exact(), "blocks": Blocks(), "cg": ConjugateGradients()}


def _ials(data: Data, recipe: Factors, seed: int) -> Baseline:
    """Users are answered by the vector of their history, so that new ones are too."""
    given = {**dataclasses.asdict(recipe), "solver": SOLVERS[recipe.solver]}
    return baselines.ials(data, **given, seed=seed, project=True)


def _knn(make: Callable[..., Baseline]) -> Callable[[Data, Neighbours, int], Baseline]:
    def fit(data: Data, recipe: Neighbours, seed: int) -> Baseline:
        fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
        if isinstance(recipe, ItemNeighbours):
            fields["weighting"] = WEIGHTINGS[recipe.weighting]
        return make(data, **{**fields, "similarity": SIMILARITIES[recipe.similarity]})

    return fit


def _item_cf(data: Data, recipe: CoOccurrence, seed: int) -> Baseline:
    fields = dataclasses.asdict(recipe)
    return baselines.item_cf(data, max_items=fields.pop("most_items"), **fields)


def _named(make: Callable[..., Baseline]) -> Callable[[Data, Any, int], Baseline]:
    """A method whose arguments are the fields of its recipe."""

    def fit(data: Data, recipe: Any, seed: int) -> Baseline:
        fields = (field.name for field in dataclasses.fields(type(recipe)))
        return make(data, **{name: getattr(recipe, name) for name in fields})

    return fit


MODELS: Mapping[str, CountingModel] = {
    "matrix-item-knn": CountingModel(ItemNeighbours, _knn(baselines.matrix_item_knn)),
    "matrix-user-knn": CountingModel(
        Neighbours(neighbours=146), _knn(baselines.matrix_user_knn), of_users=True
    ),
    "item-cf": CountingModel(CoOccurrence, _item_cf),
    "rp3beta": CountingModel(Walks, _named(baselines.rp3beta)),
    "swing": CountingModel(Swings, _named(baselines.swing)),
    "slim": CountingModel(ElasticNet, _named(baselines.slim)),
    "ease": CountingModel(Ridge, _named(baselines.ease)),
    "ials": CountingModel(Factors, _ials, drawn=True),
}
