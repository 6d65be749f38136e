"""Models of explicit ratings: matrix factorisation with biases.

Koren, Bell and Volinsky, IEEE Computer 42(8), 2009, doi:10.1109/MC.2009.263. The article states no
settings; these are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxrec.baselines.biased_mf import biased_mf
from jaxrec.data.events.ratings import Ratings
from jaxrec.recipes.trainable import RatingModel
from jaxrec.types import Baseline


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How matrix factorisation with biases is fitted."""

    factors: int = 16  # width of the vectors; 0: biases alone
    regularisation: float = 0.1  # λ, of the squares of a rating's vectors and biases
    epochs: int = 20  # of users, then items
    init_std: float = 0.1  # of normal initial vectors of items


def fit(ratings: Ratings, recipe: Recipe, seed: int) -> Baseline:
    """Alternating least squares."""
    return biased_mf(
        ratings,
        dim=recipe.factors,
        regularisation=recipe.regularisation,
        epochs=recipe.epochs,
        stddev=recipe.init_std,
        seed=seed,
    )


MODELS: Mapping[str, RatingModel] = {"biased-mf": RatingModel(Recipe, fit)}
