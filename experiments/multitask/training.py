"""What the tables of several tasks share: a row is one model or several, trained and tested for all seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optax

from jaxrec.optim.loss_weighting import Weighting
from jaxrec.protocols import impressions
from jaxrec.recipes.multitask import Training
from jaxrec.tasks.multitask import Target
from jaxrec.tasks.objectives import loss_name
from jaxrec.train.fit import Fitted
from jaxrec.types import Task


class Model(NamedTuple):
    """A model, and how it is trained and measured.

    name: of its folder. targets: what it learns. selection: the validation metric that chooses parameters.
    tested: what the test measures besides the targets. terms: names of its losses besides those of the
    targets. weighting: of all losses.
    """

    name: str
    task: Task
    targets: Sequence[Target]
    selection: str
    tested: Sequence[Target] = ()
    terms: tuple[str, ...] = ()
    weighting: Weighting = impressions.EQUAL

    @property
    def loss(self) -> str:
        """The losses that it is trained with, as a protocol says them."""
        return " + ".join([*dict.fromkeys(loss_name(target.loss) for target in self.targets), *self.terms])


class Trained(NamedTuple):
    """A trained model, and its test metrics by seed."""

    fitted: Fitted
    metrics: list[dict[str, float]]


def groups(tasks: Sequence[str], *, alone: bool) -> list[Sequence[str]]:
    """The tasks of each model of a row: all of them, or each for itself."""
    return [[task] for task in tasks] if alone else [tasks]


def count_parameters(models: Mapping[str, Sequence[Model]], columns: impressions.Data) -> dict[str, int]:
    """Parameters of each row, all its models together.

    Whatever is wrong with any of them is raised here, before the first is trained.
    """
    return {
        row: sum(impressions.num_parameters(model.task, columns) for model in of_row)
        for row, of_row in models.items()
    }


def train(
    model: Model, columns: impressions.Data, recipe: Training, *, calibration: bool = False, **options: Any
) -> Trained:
    """Trains and tests a model for all seeds.

    calibration: whether the test measures that too. options: where and how the run is kept, as
    `common.training_options` gives them.
    """
    fitted = impressions.train(
        columns,
        model.task,
        model.targets,
        model.selection,
        optax.adam(recipe.learning_rate),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        patience=recipe.patience,
        weighting=model.weighting,
        **options,
    )
    metrics = impressions.test(
        columns,
        model.task,
        [*model.targets, *model.tested],
        fitted.variables,
        calibration=calibration,
        num_devices=options["num_devices"],
    )
    return Trained(fitted, metrics)


def joined(runs: Sequence[Trained], keep: Callable[[str], bool]) -> list[dict[str, float]]:
    """The metrics of all models of a row together, by seed: those whose name is to be kept."""
    by_seed = zip(*(run.metrics for run in runs), strict=True)
    return [{k: v for found in seed for k, v in found.items() if keep(k)} for seed in by_seed]
