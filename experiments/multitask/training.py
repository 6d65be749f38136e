"""Training of the rows of multi-task tables: a row is one model, or one for each task."""

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
from jaxrec.train.trial import Trial
from jaxrec.tuning.reads import optimiser
from jaxrec.types import GroupSums, Task, Tested

Build = Callable[[Any], optax.GradientTransformation]


class Model(NamedTuple):
    """A model, and how it is trained and measured.

    name: of its folder. targets: the tasks it learns. selection: the validation metric that chooses
    parameters. tested: targets that are tested in addition. terms: names of its losses in addition to those
    of the targets. weighting: of all losses.
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
        """Names of its losses, for the protocol."""
        return " + ".join([*dict.fromkeys(loss_name(target.loss) for target in self.targets), *self.terms])


class Trained(NamedTuple):
    """A trained model, and its test."""

    fitted: Fitted
    test: Tested


def groups(tasks: Sequence[str], *, alone: bool) -> list[Sequence[str]]:
    """The tasks of each model of a row: one model for all, or one for each task (alone)."""
    return [[task] for task in tasks] if alone else [tasks]


def count_parameters(models: Mapping[str, Sequence[Model]], columns: impressions.Data) -> dict[str, int]:
    """The number of parameters of each row, over all its models.

    An error of any of the models is raised here, before the first is trained.
    """
    return {
        row: sum(impressions.num_parameters(model.task, columns) for model in of_row)
        for row, of_row in models.items()
    }


def adam(recipe: Training) -> optax.GradientTransformation:
    """The optimiser of all rows."""
    return optax.adam(recipe.learning_rate)


def train(
    model: Model, columns: impressions.Data, recipe: Training, build: Build = adam, **options: Any
) -> Trained:
    """Trains and tests a model for all seeds. options: see `common.training_options`."""
    fitted = fit(model, columns, recipe, build, **options)
    test = impressions.run_test(
        columns,
        model.task,
        [*model.targets, *model.tested],
        fitted.variables,
        num_devices=options["num_devices"],
    )
    return Trained(fitted, test)


def fit(
    model: Model,
    columns: impressions.Data,
    recipe: Training,
    build: Build = adam,
    *,
    trial: Trial | None = None,
    **options: Any,
) -> Fitted:
    """Trains a model for all seeds.

    build: makes the optimiser of a recipe. trial: of a search of settings. options:
    `common.training_options`.
    """
    return impressions.train(
        columns,
        model.task,
        model.targets,
        model.selection,
        optimiser(build, recipe, trial),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        patience=recipe.patience,
        weighting=model.weighting,
        trial=trial,
        **options,
    )


def join_tests(runs: Sequence[Trained], keep: Callable[[str], bool]) -> Tested:
    """The tests of all models of a row together, with the metrics whose name passes `keep`."""
    by_seed = zip(*(run.test.metrics for run in runs), strict=True)
    metrics = [{k: v for found in seed for k, v in found.items() if keep(k)} for seed in by_seed]
    kept = [run.test.values for run in runs if isinstance(run.test.values, GroupSums)]  # of the same examples
    sums, weights, labels = (
        {k: column for values in kept for k, column in getattr(values, part).items()}
        for part in ("sums", "weights", "labels")
    )
    curves = {k: v for run in runs for k, v in run.test.reliability.items() if keep(f"auc/{k}")}
    return Tested(metrics, GroupSums(kept[0].group, sums, weights, labels) if kept else None, curves)
