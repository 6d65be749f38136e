"""What the experiments on labelled impressions share: resident rows, features, targets, training, testing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxrec import losses
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.tasks.multitask import Target, multitask, stacked
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import evaluate, impression_metrics, make_scores
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Batch, Context, Evaluation, Protocol, Task, Variables

EVALUATION_BATCH = 4096
EQUAL = static()  # the sum of the losses


class Data(NamedTuple):
    """Labelled rows as the training loop reads them.

    rule: how they were split. tasks: labels, of which those in `regression` are numbers and those in `spaces`
    have a column of the rows that have them. columns: of the training rows, to live on the device;
    validation, test: in batches, on the host. group: their column of users, for areas per user.
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
    def num_rows(self) -> int:
        """Training rows."""
        return len(self.columns[f"label/{self.tasks[0]}"])


def resident(split: ImpressionSplit) -> Data:
    """Columns of a split's training rows, and batches of its other parts.

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


def protocol_of(data: Data, selection: str, loss: str = "bce") -> Protocol:
    """Every labelled row of the split is scored once; areas under curves over all of them."""
    return Protocol(
        split=data.rule,
        candidates="impressions",
        seen="keep",
        ties="half",
        ks=(),
        loss=loss,
        selection=selection,
    )


class Run(NamedTuple):
    """What a training run needs beside its model and its data."""

    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    workdir: Path
    description: Mapping[str, Any]
    patience: int | None = None
    num_devices: int = 1
    save_every: int = 1
    accept_changed_code: bool = False


def train(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    selection: str,
    run: Run,
    *,
    weighting: Weighting = EQUAL,
    tx: optax.GradientTransformation | None = None,
    lower_is_better: bool = False,
    **options: Any,
) -> Fitted:
    """Trains for all seeds and keeps each seed's best epoch by the validation metric `selection`.

    options: further arguments of `train.reuse.fit_reusing`, such as `initial`.
    """
    return fit_reusing(
        [Phase("train", task, run.epochs, weighting)],
        optax.adam(run.learning_rate) if tx is None else tx,
        shuffled(data.num_rows, run.batch_size),
        data.columns,
        Selection(
            evaluation(data, task, evaluated, protocol_of(data, selection), "validation"),
            selection,
            patience=run.patience,
            lower_is_better=lower_is_better,
        ),
        seeds=run.seeds,
        workdir=run.workdir,
        description=run.description,
        num_devices=run.num_devices,
        save_every=run.save_every,
        accept_changed_code=run.accept_changed_code,
        **options,
    )


def evaluation(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    protocol: Protocol,
    part: Literal["validation", "test"],
    *,
    calibration: bool = False,
) -> Evaluation:
    """Scores the impressions of a part, see `impression_metrics`."""
    names = [target.name for target in evaluated]
    return Evaluation(
        make_scores(scores(task, evaluated), data.expand),
        data.validation if part == "validation" else data.test,
        impression_metrics(names, errors=data.regression, group=data.group, calibration=calibration),
        protocol,
    )


def test(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    variables: Variables,
    num_devices: int,
    *,
    calibration: bool = False,  # noqa: PT028
) -> list[dict[str, float]]:
    """Test metrics of each seed: variables have a leading seeds axis."""
    asked = evaluation(data, task, evaluated, protocol_of(data, ""), "test", calibration=calibration)
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


__all__ = [
    "Data",
    "Run",
    "features",
    "multitask",
    "num_parameters",
    "protocol_of",
    "resident",
    "targets",
    "test",
    "train",
]
