"""Labelled impressions: what of a split lives on the device, how a task is trained on it and measured.

The measures are AUC and its kin over all impressions of a part, see `train.evaluate.impression_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxrec import losses
from jaxrec.data.tables.click_histories import SHARED, Clicks
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.tasks.ctr import behaviours
from jaxrec.tasks.multitask import Target, stacked
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import evaluate, impression_metrics, make_scores
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Batch, Context, Evaluation, Protocol, Task, Variables

EVALUATION_BATCH = 4096
CLICKS_BATCH = 1024  # histories are expanded to their events
EQUAL = static()  # the sum of the losses


class Data(NamedTuple):
    """Labelled examples as the training loop reads them.

    rule: how they were split. tasks: labels, of which those in `regression` are numbers and those in `spaces`
    have a column that is True for the examples that have them. columns: of the training examples, to live on
    the device; validation, test: in batches, on the host. group: their column of users, for AUC per user.
    expand: (batch, columns) -> what a model reads of a batch for evaluation; None: the batch as it is.
    """

    name: str
    rule: str
    tasks: tuple[str, ...]
    regression: tuple[str, ...]
    spaces: tuple[str, ...]
    columns: dict[str, Any]
    validation: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    group: str | None = None
    expand: Callable[[Batch, Context], Batch] | None = None

    @property
    def num_examples(self) -> int:
        """Training examples."""
        return len(self.columns[f"label/{self.tasks[0]}"])


def resident(split: ImpressionSplit) -> Data:
    """Columns of a split's training examples, and batches of its other parts.

    Raises:
      ValueError: a task has one class in a part, so that it cannot be trained or has no AUC.
    """
    split.check_classes()
    table = split.impressions
    columns = {name: column[split.train] for name, column in table.columns_for_training().items()}
    validation, test = (
        table.batched(rows, min(EVALUATION_BATCH, len(rows))) for rows in (split.validation, split.test)
    )
    name = table.name.replace("/", "-")
    return Data(
        name, split.rule, table.tasks, table.regression, tuple(table.spaces), columns, validation, test
    )


def resident_clicks(clicks: Clicks, *, length: int, name: str = "") -> Data:
    """Training examples and the events that all share for the device; the other parts in batches.

    Measured are AUC, log loss and, by user, GAUC.

    length: most recent events of a history that are read. name: of the data set; "": that of the clicks.
    """

    def expand(batch: Batch, columns: Context) -> Batch:
        return behaviours(batch, columns[SHARED], length)

    validation, test = (
        clicks.batched(examples, min(CLICKS_BATCH, len(examples)))
        for examples in (clicks.validation, clicks.test)
    )
    return Data(
        name=name or clicks.name.replace("/", "-"),
        rule=clicks.rule,
        tasks=("click",),
        regression=(),
        spaces=(),
        columns=clicks.columns(),
        validation=validation,
        test=test,
        group="user",
        expand=expand,
    )


def features(table: Impressions, dim: int) -> FeatureEmbedding:
    """An embedding of `dim` for each categorical feature; numbers as they are."""
    return FeatureEmbedding(
        tuple(
            Numeric(field.name)
            if field.kind == "numeric"
            else Categorical(field.name, field.vocab_size, dim, field.vocabulary)
            for field in table.fields
        )
    )


def targets(data: Data, outputs: Mapping[str, int | str] | None = None) -> list[Target]:
    """A target for each task, over its space: cross-entropy of a logit, or the squared error of a number.

    outputs: which output of the model belongs to a task; None: column t to the t-th task.
    """
    return [
        Target(
            task,
            i if outputs is None else outputs[task],
            f"label/{task}",
            losses.squared_error if task in data.regression else losses.binary_cross_entropy,
            f"space/{task}" if task in data.spaces else None,
        )
        for i, task in enumerate(data.tasks)
        if outputs is None or task in outputs
    ]


def protocol(data: Data, selection: str, loss: str = "bce") -> Protocol:
    """Every labelled example of the split is scored once; AUC over all of them.

    selection: the validation metric that chooses the parameters, or what a note says of the choice.
    """
    return Protocol(
        split=data.rule,
        candidates="impressions",
        seen="keep",
        ties="half",
        ks=(),
        loss=loss,
        selection=selection,
    )


def evaluation(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    part: Literal["validation", "test"],
    *,
    measured: Protocol,
    calibration: bool = False,
) -> Evaluation:
    """Scores the impressions of a part, see `impression_metrics`."""
    names = [target.name for target in evaluated]
    return Evaluation(
        make_scores(scores(task, evaluated), data.expand),
        data.validation if part == "validation" else data.test,
        impression_metrics(names, errors=data.regression, group=data.group, calibration=calibration),
        measured,
    )


def train(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    selection: str,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    patience: int | None = None,
    weighting: Weighting = EQUAL,
    lower_is_better: bool = False,
    **options: Any,
) -> Fitted:
    """Trains a task for all seeds at once and keeps each seed's best epoch by a validation metric.

    evaluated: the targets that validation scores; selection: the metric, such as "auc/click", or "auc", the
    mean over them. epochs: at most. batch_size: examples a step. patience: epochs without a better one
    before a seed stops; None: never. options: seeds, workdir, description and what else `train.fit.fit`
    takes.
    """
    chosen = evaluation(data, task, evaluated, "validation", measured=protocol(data, selection))
    return fit_reusing(
        [Phase("train", task, epochs, weighting)],
        tx,
        shuffled(data.num_examples, batch_size),
        data.columns,
        Selection(chosen, selection, patience=patience, lower_is_better=lower_is_better),
        **options,
    )


def test(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    variables: Variables,
    *,
    calibration: bool = False,  # noqa: PT028
    num_devices: int = 1,  # noqa: PT028
) -> list[dict[str, float]]:
    """Test metrics of each seed: variables have a leading seeds axis."""
    asked = evaluation(data, task, evaluated, "test", measured=protocol(data, ""), calibration=calibration)
    return evaluate(asked, variables, {} if data.expand is None else data.columns, num_devices=num_devices)


def scores(task: Task, evaluated: Sequence[Target]) -> Any:
    """predict(variables, batch) -> [B, T], the outputs of the evaluated targets in their order."""

    def predict(variables: Variables, batch: Batch) -> Array:
        return stacked(task.predict(variables, batch), evaluated)

    return predict


def num_parameters(task: Task, data: Data) -> int:
    """Parameters of a task's model, those of its embeddings counted."""
    batch = {name: column[:1] for name, column in data.columns.items()}
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
