"""MeLU (Lee et al., KDD 2019, arXiv:1908.00413): published settings, and models of ratings from content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from jaxrec.data.tables.rating_tasks import RatedContent
from jaxrec.nn.layers.content import Column
from jaxrec.nn.ranking.poso_rating import PersonalRating
from jaxrec.nn.ranking.wide_deep import WideDeep
from jaxrec.nn.retrieval.melu import MeLU
from jaxrec.tasks.meta import Adaptation, RatingModel, meta
from jaxrec.types import Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a row is trained; the defaults are the paper's for MovieLens-1M."""

    dim: int = 32  # width of the vector of a column
    hidden_dims: tuple[int, ...] = (64, 64)  # widths of the hidden layers
    gate_dim: int = 16  # of POSO's gates
    local_learning_rate: float = 5e-6  # of the inner loop
    learning_rate: float = 5e-5  # of Adam, in the outer loop and for models without adaptation
    batch_size: int = 32  # users of a step
    epochs: int = 30  # the authors' code has 20
    evaluate_every: int = 1  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never


Columns = tuple[tuple[Column, ...], tuple[Column, ...]]
Build = Callable[[Columns, Recipe], RatingModel]


class Row(NamedTuple):
    """A trained row. steps: of the inner loop. loss_of: of `tasks.meta.meta`."""

    model: Build
    steps: int = 0
    first_order: bool = False
    loss_of: Literal["query", "all"] = "query"

    @property
    def loss(self) -> str:
        """The outer loss in words."""
        return f"squared error, {self.loss_of}"

    def adaptation(self, recipe: Recipe) -> Adaptation:
        return Adaptation(self.steps, recipe.local_learning_rate, self.first_order)

    def task(self, content: RatedContent, recipe: Recipe) -> tuple[RatingModel, Task]:
        """The model and its task, for content of these columns."""
        model = self.model(columns_of(content), recipe)
        return model, meta(model, self.adaptation(recipe), loss_of=self.loss_of)


def columns_of(content: RatedContent) -> Columns:
    """The columns of items and of users."""
    items, users = (
        tuple(Column(name, len(content.values[name]), column.ndim == 2) for name, column in part.items())
        for part in (content.items, content.users)
    )
    return items, users


def melu(columns: Columns, recipe: Recipe) -> MeLU:
    """The paper's model."""
    return MeLU(*columns, recipe.dim, recipe.hidden_dims)


def wide_deep(columns: Columns, recipe: Recipe) -> WideDeep:
    """Wide & Deep, of the same sizes."""
    return WideDeep(*columns, recipe.dim, recipe.hidden_dims)


def poso(columns: Columns, recipe: Recipe) -> PersonalRating:
    """Gates that see the number of the user's ratings."""
    return PersonalRating(*columns, recipe.dim, recipe.hidden_dims, recipe.gate_dim)


def poso_mean(columns: Columns, recipe: Recipe) -> PersonalRating:
    """Gates that see the mean of the user's ratings too."""
    return PersonalRating(*columns, recipe.dim, recipe.hidden_dims, recipe.gate_dim, mean_rating=True)


ROWS: Mapping[str, Row] = {
    "melu-1": Row(melu, 1),
    "melu-5": Row(melu, 5),
    "melu-1-first-order": Row(melu, 1, first_order=True),
    "no-adaptation": Row(melu),
    "wide-deep": Row(wide_deep, loss_of="all"),
    "poso": Row(poso),
    "poso-mean": Row(poso_mean),
}
NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "melu": "ratings beside what is known of users and items: see experiments/retrieval/melu.py",
}
