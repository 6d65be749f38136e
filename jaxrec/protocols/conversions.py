"""Conversions that arrive late: training in the order of time up to a moment, test on the clicks after it.

The examples of `data.tables.conversions` are read as they become known: an epoch is a pass through them,
whose steps take consecutive batches of the columns on the device (`train.epoch.in_order`), so nothing is
shuffled across time. The parameters are those after the last step; no later label selects among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.protocols.impressions import EVALUATION_BATCH, Data
from jaxrec.tasks.delayed_feedback import CONVERSION, mean_logits, weight_models, weight_targets
from jaxrec.tasks.multitask import Model, Target
from jaxrec.train.epoch import in_order, shuffled
from jaxrec.train.evaluate import evaluate_and_keep, impression_metrics, make_scores, measure_queries
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.train.trial import check_validation
from jaxrec.types import Evaluation, Protocol, Summarise, Task, Tested, Variables

TRUTH = "truth"  # the column of true probabilities of the clicks of a test


def resident(
    name: str, columns: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], *, rule: str
) -> Data:
    """Columns of training examples in their order of time, and the clicks of the test in batches.

    test: columns with `label/conversion`, whether they convert at all, and `truth`. They are read as
    validation, too, which is logged and selects nothing.
    """
    batches = batched(test)
    return Data(name, rule, ("conversion",), (), (), dict(columns), batches, batches)


def batched(columns: Mapping[str, np.ndarray], size: int = EVALUATION_BATCH) -> dict[str, np.ndarray]:
    """Columns [N] as [batches, size], filled up with zeros that `mask` leaves out."""
    count = len(next(iter(columns.values())))
    size = min(size, count)
    filled = {**columns, "mask": np.ones(count, bool)}
    return {
        name: np.append(column, np.zeros(-count % size, column.dtype)).reshape(-1, size)
        for name, column in filled.items()
    }


def protocol(data: Data, loss: str) -> Protocol:
    """Clicks after the moment up to which was trained, each with its conversion however late."""
    return impressions.protocol(data, "none", loss)


def train(
    data: Data,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    epochs: int = 1,
    batch_size: int,
    evaluated: Sequence[Target] = (CONVERSION,),
    order: Literal["time", "shuffled"] = "time",
    **options: Any,
) -> Fitted:
    """Trains a task on the examples in their order, for all seeds at once.

    epochs: passes through time; each after the first begins anew at the oldest example. evaluated: what is
    logged of the clicks of the test. order: "shuffled" draws a random order of each epoch instead, as a
    snapshot allows, all of which is known at one moment. options: seeds, workdir, description and other
    arguments of `fit`.
    """
    check_validation(options.get("trial"), "test")
    logged = impressions.evaluation(data, task, evaluated, "validation", measured=protocol(data, ""))
    return fit_reusing(
        [Phase("train", task, epochs, static())],
        tx,
        (in_order if order == "time" else shuffled)(data.num_examples, batch_size),
        data.columns,
        Selection(logged, f"log_loss/{evaluated[0].name}", lower_is_better=True, keep="last"),
        **options,
    )


def evaluation(data: Data, task: Task) -> Evaluation:
    """Metrics of `impression_metrics`, and against the truth, see `against_truth`."""
    measured = impressions.evaluation(
        data, task, [CONVERSION], "test", measured=protocol(data, ""), calibration=True
    )
    return measured._replace(summarise=against_truth(measured.summarise))


def against_truth(summarise: Summarise) -> Summarise:
    """Adds `bias`, mean predicted minus mean true probability, and `prob_mae`, mean absolute difference."""

    def with_truth(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        real, score = queries["mask"], np.asarray(values[..., 0], np.float64)
        gap = (np.exp(-np.logaddexp(0.0, -score)) - queries[TRUTH])[real]
        found = {"bias": float(gap.mean()), "prob_mae": float(np.abs(gap).mean())}
        return {
            **summarise(values, queries),
            **{f"{name}/conversion": value for name, value in found.items()},
        }

    return with_truth


def run_test(data: Data, task: Task, variables: Variables, *, num_devices: int = 1) -> Tested:
    """Metrics of each seed, and their sums over blocks of clicks to compare results by."""
    return evaluate_and_keep(evaluation(data, task), variables, {}, num_devices=num_devices)


def test_constant(data: Data, prob: float, num_seeds: int) -> Tested:
    """A test of one probability for all clicks, such as the base rate.

    Raises:
      ValueError: it is not between 0 and 1.
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob={prob}: must lie between 0 and 1; train on more examples")
    logit = np.log(prob) - np.log1p(-prob)
    values = np.full((*data.test["mask"].shape, 1), logit, np.float32)
    measure = against_truth(impression_metrics(["conversion"], calibration=True))
    return Tested([measure(values, data.test)] * num_seeds)


def learn_weights(
    module: Model,
    labels: Sequence[str],
    learned: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    tx: optax.GradientTransformation,
    **options: Any,
) -> np.ndarray:
    """What weights are made of: trains `tasks.delayed_feedback.weight_models` on clicks in random order.

    All of their labels are known at one moment. In the order of time a model that reads the time since the
    click would see long times first and short ones last, and forget the former.

    learned: columns of the clicks that they learn from, with a label and a space for each of `labels`.
    columns: of the examples that get weights. options: of `train`.

    Returns:
      Logits [N, T] of the examples, of the mean probability over the seeds.
    """
    task, targets, known = weight_models(module, labels), weight_targets(labels), batched(learned)
    data = Data("weights", "", tuple(labels), (), tuple(labels), dict(learned), known, known)
    fitted = train(data, task, tx, evaluated=targets, order="shuffled", **options)
    queries = batched(columns)
    measure = make_scores(impressions.scores(task, targets))
    asked = Evaluation(measure, queries, lambda values, _: {}, Protocol())
    values = measure_queries(asked, fitted.variables, {})
    return np.asarray(mean_logits(jnp.asarray(values)))[queries["mask"]]
