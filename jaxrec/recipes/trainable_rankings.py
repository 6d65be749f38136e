"""What `jaxrec train` knows of models that rank by scores of their own, beside those of `trainable`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxrec.protocols import actions, next_item
from jaxrec.tasks.objectives import Objective
from jaxrec.train.epoch import Plan
from jaxrec.types import Context, Scorer, Task


class Training(NamedTuple):
    """How a row is trained: its task, the plan of an epoch, and the columns it reads."""

    task: Task
    plan: Plan
    columns: dict[str, Any]


class RankedModel(NamedTuple):
    """A model of the events of users in order, ranked by scores of its own, after anybody's history.

    recipe, optimiser, loss: as of `RetrievalModel`.
    module: (number of items, recipe) -> the module.
    columns: (data, recipe) -> columns that the scores read and a run keeps, such as clusters of the items.
    learn: (module, data, columns, recipe, pieces that packed rows are cut into) -> how it is trained; its
    columns are those of the data and all others.
    ranked: (module, recipe, whether items of the history are left out) -> the scores, of variables
    `tasks.pairs.with_columns`.
    """

    recipe: Any
    module: Callable[[int, Any], Any]
    columns: Callable[[next_item.Data, Any], Context]
    learn: Callable[[Any, next_item.Data, Context, Any, int], Training]
    ranked: Callable[[Any, Any, bool], Scorer]
    optimiser: Callable[[Any], optax.GradientTransformation]
    loss: str


class ActionModel(NamedTuple):
    """A model of items and actions in turn, which predicts the next item and the action on an item.

    recipe: the dataclass of its settings, with `epochs`, `batch_size`, `every` (epochs between evaluations)
    and `patience` (evaluations without a better one, 0 for never).
    module: (data, recipe) -> the module, with fields `num_items` and `num_actions`, for `tasks.generative`.
    objective: (data, recipe) -> the loss of the next item. optimiser: recipe -> the optimiser.
    """

    recipe: Any
    module: Callable[[actions.Data, Any], Any]
    objective: Callable[[actions.Data, Any], Objective]
    optimiser: Callable[[Any], optax.GradientTransformation]
