"""Labelled impressions: the columns of a split on the device, training of a task, and its evaluation.

The metrics, such as AUC, are over all impressions of a part, see `train.evaluate.impression_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxrec import calibration as calibrators
from jaxrec import losses
from jaxrec.data.tables.click_histories import SHARED, Clicks
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.tasks.ctr import behaviours
from jaxrec.tasks.multitask import Target, stacked
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import evaluate_and_keep, impression_metrics, make_scores, reliability_curves
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_impressions
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Batch, Context, Evaluation, Protocol, Task, Tested, Variables

EVALUATION_BATCH = 4096
CLICKS_BATCH = 1024  # examples with histories, which take more memory
EQUAL = static()  # the sum of the losses


class Data(NamedTuple):
    """Labelled examples as the training loop reads them.

    rule: how they were split. tasks: names of the labels; those in `regression` are numbers, and those in
    `spaces` have a column that is True for the examples with a label. columns: of the training examples, on
    the device. validation, test: in batches, on the host. group: the column of users, for AUC per user.
    expand: (batch, columns) -> the columns that a model reads in evaluation; None: the batch unchanged.
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
        """The number of training examples."""
        return len(self.columns[f"label/{self.tasks[0]}"])


def resident(split: ImpressionSplit) -> Data:
    """Columns of a split's training examples, and batches of its other parts.

    Raises:
      ValueError: a task has a single class in a part, so that it cannot be trained or has no AUC.
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


def resident_clicks(clicks: Clicks, *, length: int, name: str = "", batch_size: int = CLICKS_BATCH) -> Data:
    """Training examples and the events of all histories, on the device; the other parts in batches.

    The metrics are AUC, log loss and, by user, GAUC.

    length: number of most recent events of a history that are read. name: of the data set; "": that of the
    clicks. batch_size: examples that are scored at a time.
    """

    def expand(batch: Batch, columns: Context) -> Batch:
        return behaviours(batch, columns[SHARED], length)

    validation, test = (
        clicks.batched(examples, min(batch_size, len(examples)))
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
    """An embedding of width `dim` for each categorical feature; numeric features unchanged."""
    return FeatureEmbedding(
        tuple(
            Numeric(field.name)
            if field.kind == "numeric"
            else Categorical(field.name, field.vocab_size, dim, field.vocabulary)
            for field in table.fields
        )
    )


def targets(data: Data, outputs: Mapping[str, int | str | None] | None = None) -> list[Target]:
    """A target for each task, in its sample space: cross-entropy of a logit, or squared error of a number.

    outputs: {task: output of the model, None where it has one alone}; None: column t for the t-th task.
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

    selection: the validation metric that chooses the parameters, or a description of the choice.
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
    fields: Sequence[str] = (),
) -> Evaluation:
    """Scores the impressions of a part, see `impression_metrics`."""
    names = [target.name for target in evaluated]
    return Evaluation(
        make_scores(scores(task, evaluated), data.expand),
        data.validation if part == "validation" else data.test,
        impression_metrics(
            names, errors=data.regression, group=data.group, calibration=calibration, fields=fields
        ),
        measured,
        keep_impressions(names, errors=data.regression, group=data.group),
        reliability_curves(names, errors=data.regression) if calibration else None,
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

    evaluated: the targets that are scored in validation. selection: the metric, such as "auc/click", or
    "auc", their mean. epochs: at most. batch_size: examples per step. patience: epochs without improvement
    before a seed stops; None: never. options: seeds, workdir, description and other arguments of
    `train.fit.fit`.
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
    calibration: bool = True,
    fields: Sequence[str] = (),
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Test metrics of each seed: variables have a leading seeds axis."""
    measured: dict[str, Any] = {"calibration": calibration, "fields": fields, "num_devices": num_devices}
    return run_test(data, task, evaluated, variables, **measured).metrics


def run_test(
    data: Data,
    task: Task,
    evaluated: Sequence[Target],
    variables: Variables,
    *,
    calibration: bool = True,
    fields: Sequence[str] = (),
    num_devices: int = 1,
) -> Tested:
    """Metrics as `test` returns them, with sums over users or blocks, to be stored beside the result.

    fields: columns of the test examples by whose values calibration is measured, too, such as "item".
    """
    found = evaluation(
        data, task, evaluated, "test", measured=protocol(data, ""), calibration=calibration, fields=fields
    )
    context = {} if data.expand is None else data.columns
    return evaluate_and_keep(found, variables, context, num_devices=num_devices)


def measure_scores(
    data: Data, evaluated: Sequence[Target], logits: np.ndarray, *, calibration: bool = False
) -> Tested:
    """Metrics of the test examples' logits, however they were made, as `run_test` returns them.

    logits: [S, N, T] of S seeds, the real test examples in their order, and the evaluated targets.

    Raises:
      ValueError: a logit is not finite, or there are not as many as test examples.
    """
    names = [target.name for target in evaluated]
    mask = data.test["mask"]
    if logits.shape[1:] != (mask.sum(), len(names)) or not np.isfinite(logits).all():
        raise ValueError(
            f"logits {logits.shape}: expected [seeds, {mask.sum()}, {len(names)}], test examples and "
            "targets, all finite"
        )
    values = np.zeros((len(logits), *mask.shape, len(names)), np.float32)
    values[:, mask] = logits
    summarise = impression_metrics(names, errors=data.regression, group=data.group, calibration=calibration)
    kept = keep_impressions(names, errors=data.regression, group=data.group)(values, data.test)
    return Tested([summarise(of_seed, data.test) for of_seed in values], kept)


def scores(task: Task, evaluated: Sequence[Target]) -> Any:
    """predict(variables, batch) -> [B, T], the outputs of the evaluated targets in their order.

    Where the variables hold calibrators (`calibrating.calibrated`), the outputs are corrected by them.
    """

    def predict(variables: Variables, batch: Batch) -> Array:
        variables, maps = calibrators.split(variables)
        logits = stacked(task.predict(variables, batch), evaluated)
        for t, target in enumerate(evaluated):
            if target.name in maps:
                logits = logits.at[:, t].set(calibrators.from_tree(maps[target.name]).apply(logits[:, t]))
        return logits

    return predict


def num_parameters(task: Task, data: Data) -> int:
    """The number of parameters of a task's model, including its embeddings."""
    batch = {name: column[:1] for name, column in data.columns.items()}
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
