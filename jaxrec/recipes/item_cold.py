"""Models of items that have no interaction, from their content: DropoutNet, CB2CF and EGES.

Content is a column of the data, `item_content`, and of users `user_content` (`with_content`). DropoutNet and
CB2CF read the vectors of a factor model, iALS, that is fitted to the training interactions (`teacher`).
Settings of DropoutNet are those of layer6ai-labs/DropoutNet for CiteULike as far as they carry over: its
gradient descent with steps of 100 pairs, 5,000 an epoch of each user, is Adam here with larger steps and
fewer pairs; those of CB2CF are irspack's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxrec import baselines
from jaxrec.data.events.factor_columns import check_content, factor_columns
from jaxrec.data.events.item_graph import item_graph
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.retrieval.cb2cf import CB2CF
from jaxrec.nn.retrieval.dropoutnet import DropoutNet
from jaxrec.nn.retrieval.eges import EGES
from jaxrec.protocols.retrieval import Data
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.tasks import cb2cf as of_cb2cf
from jaxrec.tasks import dropoutnet as of_dropoutnet
from jaxrec.tasks import skip_gram
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Context, Task


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The factor model that is read, iALS."""

    teacher_dim: int = 100  # width of its vectors
    teacher_regularisation: float = 0.003  # λ of its loss
    teacher_alpha0: float = 0.1  # weight of pairs without interaction
    teacher_epochs: int = 16  # epochs of users, then items


@dataclasses.dataclass(frozen=True)
class Recipe(Teacher):
    """How DropoutNet is trained."""

    hidden_dim: int = 200  # width of the hidden layer of both towers
    dim: int = 100  # width of the new vectors
    dropout: float = 0.5  # share of pairs whose user factors are hidden, and of those whose item factors are
    transform: float = 0.0  # share of pairs with the mean of the other side's factors in their place
    pairs_per_user: int = 32  # items drawn for each user of a step
    top: int = 2500  # best items of each user by the factor model, of which half are drawn
    batch_size: int = 32  # users per step
    learning_rate: float = 2e-3  # of Adam
    epochs: int = 60  # epochs to train, at most
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class CB2CFRecipe(Teacher):
    """How CB2CF is trained."""

    hidden_dim: int = 256  # width of the hidden layer; 0: the map is linear
    dropout: float = 0.0  # of what the hidden layer reads
    damping: float = 0.0  # c of an item's weight n / (n + c) for its n training interactions
    by_scores: bool = False  # the loss measures differences of all users' scores, not of vectors
    batch_size: int = 128  # items per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 100  # epochs to train, at most
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 10  # evaluations without improvement before a seed stops; 0: never


@dataclasses.dataclass(frozen=True)
class EGESRecipe:
    """How EGES is trained."""

    dim: int = 160  # width of the vectors
    length: int = 10  # items of a walk
    window: int = 5  # largest distance of a pair in a walk
    negatives: int = 5  # sampled items per pair
    batch_size: int = 256  # walks per step
    learning_rate: float = 2.5e-3  # of Adam
    epochs: int = 40  # epochs to train, at most, each a walk from every item
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never


def with_content(
    data: Data, item_content: np.ndarray | None = None, user_content: np.ndarray | None = None
) -> Data:
    """The data with contents as resident columns.

    item_content [I + 1, F], user_content [U + 1, G]: finite, of one width, row 0 padding.

    Raises:
      ValueError: content of another number of rows, or not finite.
    """
    found = {}
    if item_content is not None:
        found["item_content"] = check_content("item_content", item_content, data.num_items + 1)
    if user_content is not None:
        found["user_content"] = check_content("user_content", user_content, data.num_users + 1)
    return data._replace(columns={**data.columns, **found})


def teacher(data: Data, recipe: Teacher, *, empty: Any = "refuse") -> dict[str, np.ndarray]:
    """`factor_columns` of iALS, fitted to the training interactions, and of the data's content."""
    fitted = baselines.ials(
        data,
        dim=recipe.teacher_dim,
        regularisation=recipe.teacher_regularisation,
        alpha0=recipe.teacher_alpha0,
        epochs=recipe.teacher_epochs,
    )
    content = {name: data.columns.get(name) for name in ("item_content", "user_content")}
    events, tables = data.split.training_events(), fitted.variables
    return factor_columns(
        tables["users"], tables["items"], events, num_users=data.num_users, empty=empty, **content
    )


# --- DropoutNet ----------------------------------------------------------------------------------------


def dropoutnet(data: Data, recipe: Recipe) -> DropoutNet:
    """Towers of one hidden layer."""
    return DropoutNet((recipe.hidden_dim,), recipe.dim)


def regressed(model: Any, data: Data, recipe: Recipe) -> Task:
    """The factor model's scores, of pairs whose factors are hidden at random."""
    return of_dropoutnet.dropoutnet(
        model,
        pairs_per_user=recipe.pairs_per_user,
        dropout=recipe.dropout,
        transform=recipe.transform,
    )


def dropoutnet_columns(factors: Mapping[str, np.ndarray], recipe: Recipe) -> Context:
    """What the task and the module read."""
    return of_dropoutnet.columns(factors, top=recipe.top)


def every_user(data: Data, recipe: Recipe) -> Plan:
    """Every user with training interactions once an epoch."""
    known = np.flatnonzero(data.split.train_length)
    return shuffled(data.num_users, min(recipe.batch_size, len(known)), examples=known)


# --- CB2CF ---------------------------------------------------------------------------------------------


def cb2cf(data: Data, recipe: CB2CFRecipe) -> CB2CF:
    """A tower of one hidden layer, or a linear map."""
    hidden = (recipe.hidden_dim,) if recipe.hidden_dim else ()
    return CB2CF(recipe.teacher_dim, hidden, recipe.dropout)


def mapped(model: Any, data: Data, recipe: CB2CFRecipe) -> Task:
    """The factor model's vectors of items, or the scores that they give."""
    loss: Any = "scores" if recipe.by_scores else "vectors"
    return of_cb2cf.cb2cf(model, loss=loss, damping=recipe.damping)


def cb2cf_columns(factors: Mapping[str, np.ndarray], recipe: CB2CFRecipe) -> Context:
    """What the task and the module read."""
    return of_cb2cf.columns(factors)


def every_item(data: Data, recipe: CB2CFRecipe) -> Plan:
    """Every item with training interactions once an epoch."""
    count = len(np.unique(data.split.training_events().item))
    return shuffled(count, min(recipe.batch_size, count))


# --- EGES ----------------------------------------------------------------------------------------------


def eges(data: Data, recipe: EGESRecipe, *, side_sizes: tuple[int, ...]) -> EGES:
    """Vectors of items and of their side information."""
    return EGES(data.num_items, side_sizes, recipe.dim)


def eges_columns(events: TrainingEvents, side: np.ndarray) -> Context:
    """The graph of items that follow one another. events: of training, in the order of time. side: ids of
    each item's fields, [I + 1, n]."""
    return skip_gram.columns(item_graph(events), side=side)


def walked(model: EGES, data: Data, recipe: EGESRecipe) -> Task:
    """Items that are near in a walk against sampled ones."""
    return skip_gram.skip_gram(model, length=recipe.length, window=recipe.window, negatives=recipe.negatives)


def every_start(columns: Context, recipe: EGESRecipe) -> Plan:
    """A walk from every item that another one follows, once an epoch."""
    count = len(columns["walk_start"])
    return shuffled(count, min(recipe.batch_size, count))


def adam(recipe: Recipe | CB2CFRecipe | EGESRecipe) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(recipe.learning_rate)


MODELS: Mapping[str, RetrievalModel] = {
    "dropoutnet": RetrievalModel(
        Recipe,
        dropoutnet,
        regressed,
        every_user,
        adam,
        "squared error of iALS's scores",
        lambda data, recipe: dropoutnet_columns(teacher(data, recipe, empty="keep"), recipe),
        factors=lambda recipe: int(recipe.teacher_dim),
    ),
}
NEEDS: Mapping[str, str] = {  # what `jaxrec train` does not read
    "cb2cf": "items that are held out, by which it is selected: see experiments/retrieval/cold_items.py",
}
