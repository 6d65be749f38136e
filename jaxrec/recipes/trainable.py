"""What `jaxrec train` knows of a model: its settings, and the functions that build and teach it.

Each file of this folder lists its models as `MODELS`, a dictionary whose keys are written out: that is all it
takes to add one to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrec import losses
from jaxrec.data.events.ratings import Ratings
from jaxrec.data.tables.click_histories import Clicks
from jaxrec.data.tables.impressions import Impressions
from jaxrec.nn.layers.features import FeatureEmbedding
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.protocols import impressions, items, next_item, retrieval, sessions
from jaxrec.tasks.ctr import ctr
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.item_pairs import Finish
from jaxrec.tasks.multitask import Term
from jaxrec.tasks.objectives import Objective, full_softmax, sampled
from jaxrec.train.epoch import Plan
from jaxrec.train.fit import Fitted
from jaxrec.types import Baseline, Context, Protocol, Retriever, Scorer, Task, Variables

SPARE_ROOM = 4.5  # of packed rows, in standard deviations: enough for epochs of a million steps

Events = next_item.Data | sessions.Data
# (data, recipe) -> how hidden states are scored against next items
MakeObjective = Callable[[Any, Any], Objective]


# --- losses that every encoder can have --------------------------------------------------------------


def ce(data: Events, recipe: Any) -> Objective:
    """Cross-entropy over all items."""
    return full_softmax()


def bce(data: Events, recipe: Any) -> Objective:
    """Binary cross-entropy with one negative an event, outside the user's training events."""
    return _sampled(losses.bce, data)


def bpr(data: Events, recipe: Any) -> Objective:
    """Bayesian personalised ranking with one negative an event, outside the user's training events."""
    return _sampled(losses.bpr, data)


def _sampled(loss: Callable[..., Any], data: Events) -> Objective:
    if isinstance(data, sessions.Data):
        raise ValueError(
            f"loss={loss.__name__!r}: draws negatives outside a user's training events, which click sessions "
            "do not have; use --loss ce, or another split than 'sessions'"
        )
    return sampled(loss, data.num_items, data.excluded_width)


# --- how an encoder learns ---------------------------------------------------------------------------


def as_it_is(recipe: Any, loss: str) -> Any:
    """The settings do not depend on the loss."""
    return recipe


def by_user(
    encoder: Encoder,
    objective: Objective,
    data: next_item.Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    recipe: Any,
    *,
    shortening: next_item.Shortening | None = None,
    **options: Any,
) -> Fitted:
    """Every event of a user's training sequence predicts the next, a user an example."""
    return next_item.train(
        encoder,
        objective,
        data,
        protocol,
        tx,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        every=evaluate_every(recipe),
        patience=recipe.patience or None,
        replacement=getattr(recipe, "replacement", False),
        shortening=shortening,
        deviations=SPARE_ROOM,
        table_dropout=getattr(recipe, "table_dropout", 0.0),
        **options,
    )


def by_session(
    encoder: Encoder, objective: Objective, data: sessions.Data, recipe: Any, num_devices: int
) -> sessions.Training:
    """Every click of a session predicts the next, a session an example."""
    return sessions.by_session(
        encoder, objective, data, recipe.batch_size, deviations=SPARE_ROOM, num_devices=num_devices
    )


def evaluate_every(recipe: Any) -> int:
    """Epochs between evaluations, at most as many as are trained."""
    return min(getattr(recipe, "evaluate_every", 1), recipe.epochs)


class SequenceModel(NamedTuple):
    """An encoder of the events of users or sessions, which is taught to predict the next item.

    recipe: the dataclass of its settings, or an object of it whose values are the defaults, with `epochs`,
    `batch_size` and `patience` (evaluations without a better one, 0 for never) and, if it likes,
    `evaluate_every`, `replacement` and `table_dropout`.
    encoder: (number of items, recipe) -> the module.
    objectives: the losses it can be taught by; the first is the default.
    optimiser: recipe -> the optimiser.
    documented: the dataclass whose comments say what each setting is; None: the recipe itself.
    settle: (recipe, loss) -> the recipe with what depends on the loss.
    train: how it learns from sequences of users, see `by_user`.
    sessions: how it learns from click sessions, see `by_session`; None: it does not.
    session_optimiser: the optimiser for those; None: the same.
    multi_interest: the module gives the vectors of a user's interests, for `tasks.interests`, in place of a
    vector for each event.
    own: where a module of one's own was imported from, "my_models:MyModel".
    """

    recipe: Any
    encoder: Callable[[int, Any], Any]
    objectives: Mapping[str, MakeObjective]
    optimiser: Callable[[Any], optax.GradientTransformation]
    documented: type | None = None
    settle: Callable[[Any, str], Any] = as_it_is
    train: Callable[..., Fitted] = by_user
    sessions: Callable[..., sessions.Training] | None = by_session
    session_optimiser: Callable[[Any], optax.GradientTransformation] | None = None
    multi_interest: bool = False
    own: str = ""


# --- labelled rows -----------------------------------------------------------------------------------


class Table(NamedTuple):
    """The labelled rows that a model is built for.

    axis_name: of the devices that share a batch; None for a single one.
    """

    rows: Impressions
    axis_name: str | None = None

    @property
    def num_tasks(self) -> int:
        """Labels, a task each."""
        return len(self.rows.tasks)

    def features(self, dim: int) -> FeatureEmbedding:
        """A vector of `dim` for each column of categories; numbers as they are."""
        return impressions.features(self.rows, dim)


class ExtraLoss(NamedTuple):
    """A loss in addition to those of the tasks.

    weight: factor of the loss. Where it is 0 the model is trained without the loss, and `without` is appended
    to the name of its row.
    """

    loss: Term
    weight: float
    without: str


Outputs = Mapping[str, int | str | None]


def a_column_each(tasks: Sequence[str]) -> Outputs:
    """Output t of [B, T] belongs to the t-th label."""
    return {task: number for number, task in enumerate(tasks)}


def one_logit(tasks: Sequence[str]) -> Outputs:
    """The output is one logit, [B].

    Raises:
      ValueError: there are several labels.
    """
    if len(tasks) != 1:
        raise ValueError(
            f"labels={tuple(tasks)}: this model predicts one label; name one, or take a model of several, "
            "such as mmoe"
        )
    return {tasks[0]: None}


def no_extra_losses(tasks: Sequence[str], recipe: Any) -> Mapping[str, ExtraLoss]:
    """No losses in addition to those of the tasks."""
    return {}


def any_table(table: Impressions) -> None:
    """Whatever the rows, they will do."""


class TableModel(NamedTuple):
    """A model of labelled rows, of one label or several.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `learning_rate` and `patience` (epochs
    without a better one, 0 for never).
    module: (table, recipe) -> the module, called with the columns of a batch.
    outputs: labels -> which of its outputs is the logit of each; labels left out have none.
    extra_losses: (labels, recipe) -> losses in addition to those of the labels.
    check: raises ValueError for rows that the model is not for.
    own: where a module of one's own was imported from, "my_models:MyModel".
    """

    recipe: Any
    module: Callable[[Table, Any], nn.Module]
    outputs: Callable[[Sequence[str]], Outputs] = a_column_each
    extra_losses: Callable[[Sequence[str], Any], Mapping[str, ExtraLoss]] = no_extra_losses
    check: Callable[[Impressions], None] = any_table
    own: str = ""


# --- events, each with a sampled item that was not clicked -------------------------------------------


class ClickTask(NamedTuple):
    """What a click model learns. weights: of its losses, "click" among them; loss: as a protocol says it."""

    task: Task
    weights: Mapping[str, float]
    loss: str


def clicks_alone(module: nn.Module, clicks: Clicks, recipe: Any) -> ClickTask:
    """Binary cross-entropy of the click is the only loss."""
    return ClickTask(ctr(module, length=recipe.length), {"click": 1.0}, "bce")


class ClickModel(NamedTuple):
    """A model that says whether an item is clicked after a history of events.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `learning_rate`, `patience` (epochs
    without a better one, 0 for never) and `length`, events of a history that are read.
    module: (clicks, recipe, axis name) -> the module, called with a batch of `tasks.ctr.behaviours`. The axis
    is that of devices that share a batch; None: there is one.
    learn: (module, clicks, recipe) -> what it is taught by.
    category: whether it reads a category of each item, the column "category" of the side information.
    """

    recipe: Any
    module: Callable[[Clicks, Any, str | None], nn.Module]
    learn: Callable[[nn.Module, Clicks, Any], ClickTask] = clicks_alone
    category: bool = False


# --- interaction matrices -----------------------------------------------------------------------------


def no_columns(data: retrieval.Data, recipe: Any) -> Context:
    """No resident columns besides those of the data."""
    return {}


def module_itself(module: Any, data: retrieval.Data) -> retrieval.Ranked:
    """A module that is ranked itself."""
    return module


def equal_weights(data: retrieval.Data, recipe: Any) -> Weighting:
    """Every loss has the weight 1."""
    return static()


class RetrievalModel(NamedTuple):
    """A model of pairs of a user and an item, or of users' histories, trained on an interaction matrix.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `learning_rate` and `patience`
    (evaluations without a better one, 0 for never) and, if it likes, `evaluate_every`.
    module: (data, recipe) -> the module, such as a `tasks.pairs.PairModel`.
    task: (module, data, recipe) -> what it is taught.
    plan: (data, recipe) -> the examples of an epoch.
    optimiser: recipe -> the optimiser.
    loss: as a protocol says it.
    columns: (data, recipe) -> resident columns besides those of the data, such as a graph.
    ranked: (module, data) -> what is ranked, the module itself or, for one that is no `PairModel`, a scorer
    of histories.
    weighting: (data, recipe) -> the weights of the task's losses.
    attributes: whether it reads attributes of items, the column "attributes" of the data.
    reads: columns that its scores read, which a run keeps, with ids and features of users and items where it
    reads these; none of a model of final vectors or histories.
    reads_features: of which sides it reads the features of the data, if there are any: ("user", "item"), or
    ("user",). feedback: whether it reads what users disliked or were shown in vain (`feedback_lists`).
    factors: of a model that reads vectors of items' content, the column `item_content` of the data, and whose
    module gives new items vectors from it: recipe -> the width of the factors that these are made with. None:
    it reads no content.
    """

    recipe: Any
    module: Callable[[retrieval.Data, Any], Any]
    task: Callable[[Any, retrieval.Data, Any], Task]
    plan: Callable[[retrieval.Data, Any], Plan]
    optimiser: Callable[[Any], optax.GradientTransformation]
    loss: str
    columns: Callable[[retrieval.Data, Any], Context] = no_columns
    ranked: Callable[[Any, retrieval.Data], retrieval.Ranked] = module_itself
    weighting: Callable[[retrieval.Data, Any], Weighting] = equal_weights
    attributes: bool = False
    reads: tuple[str, ...] = ()
    reads_features: tuple[str, ...] = ()
    feedback: bool = False
    factors: Callable[[Any], int] | None = None


class CountingModel(NamedTuple):
    """A method without gradient descent (`jaxrec.baselines`), fitted to the interactions of training.

    recipe: the dataclass of its settings, or an object of it whose values are the defaults. make: (data,
    recipe, seed) -> the fitted method. drawn: whether it begins with random numbers, so that seeds differ.
    of_users: whether it knows users by their number, and reads no histories.
    """

    recipe: Any
    make: Callable[[retrieval.Data, Any, int], Baseline]
    drawn: bool = False
    of_users: bool = False


# --- items alone --------------------------------------------------------------------------------------


class ItemModel(NamedTuple):
    """A model of items, trained on the events of users and ranked by the items of a history, whoever's.

    recipe: as of `RetrievalModel`, with `history`, the last items of a user that the ranking reads.
    module, task, optimiser, loss, attributes: as of `RetrievalModel`, for sequences of events or a matrix. Of
    several tasks each is that of an epoch, the last one of all others (`protocols.items.train`).
    columns: (data, recipe) -> resident columns besides those of the data.
    plan: (data, columns, recipe) -> the examples of an epoch.
    finish: (module, recipe) -> final vectors of its variables, see `tasks.item_pairs`.
    """

    recipe: Any
    module: Callable[[items.Data, Any], Any]
    task: Callable[[Any, items.Data, Any], Task | Sequence[Task]]
    columns: Callable[[items.Data, Any], Context]
    plan: Callable[[items.Data, Context, Any], Plan]
    finish: Callable[[Any, Any], Finish]
    optimiser: Callable[[Any], optax.GradientTransformation]
    loss: str
    attributes: bool = False


class SuccessorModel(NamedTuple):
    """A method without gradient descent that reads the order of events, fitted to sequences of users.

    recipe: the dataclass of its settings. make: (data, recipe, seed) -> the fitted method.
    """

    recipe: Any
    make: Callable[[next_item.Data, Any, int], Baseline]


class RatingModel(NamedTuple):
    """A method fitted to explicit ratings, whose predictions are products of vectors.

    recipe: the dataclass of its settings. make: (ratings of training, recipe, seed) -> the fitted method, of
    variables "users" and "items" (`tasks.pairs.FACTORS`).
    """

    recipe: Any
    make: Callable[[Ratings, Any, int], Baseline]


def fit_seeds(
    entry: CountingModel, data: retrieval.Data, recipe: Any, seeds: Sequence[int]
) -> tuple[Retriever | Scorer, Variables]:
    """A method fitted for each seed: what is ranked, and its variables with a leading axis of seeds.

    One that draws no random numbers is fitted once.
    """
    if not entry.drawn:
        made = entry.make(data, recipe, seeds[0])
        return made.model, made.for_seeds(seeds)
    each = [entry.make(data, recipe, seed) for seed in seeds]
    of_seeds = [made.for_seeds([seed]) for made, seed in zip(each, seeds, strict=True)]
    return each[0].model, jax.tree.map(lambda *parts: jnp.concatenate(parts), *of_seeds)
