"""Evaluation on the device: any measure over seeds and devices; means of ranks; scores of impressions.

Ranks are counted by `index.rank`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.train import parallel
from jaxrec.train.compiled import Compiled
from jaxrec.types import Array, Batch, Context, Evaluation, Measure, Summarise, Tested, Variables

SEEN_TARGETS = "seen_targets"  # a metric of a ranking that takes seen items out


def evaluate(
    evaluation: Evaluation, variables: Variables, context: Context, *, num_devices: int = 1
) -> list[dict[str, float]]:
    """Named numbers of each seed, see `measure_queries`."""
    values = measure_queries(evaluation, variables, context, num_devices=num_devices)
    return [evaluation.summarise(of_seed, evaluation.queries) for of_seed in values]


def evaluate_and_keep(
    evaluation: Evaluation, variables: Variables, context: Context, *, num_devices: int = 1
) -> Tested:
    """Named numbers of each seed, as `evaluate` returns them, with what `evaluation.keep` keeps."""
    values = measure_queries(evaluation, variables, context, num_devices=num_devices)
    metrics = [evaluation.summarise(of_seed, evaluation.queries) for of_seed in values]
    queries = evaluation.queries
    return Tested(
        metrics,
        None if evaluation.keep is None else evaluation.keep(values, queries),
        {} if evaluation.curves is None else evaluation.curves(values, queries),
    )


def measure_queries(
    evaluation: Evaluation, variables: Variables, context: Context, *, num_devices: int = 1
) -> np.ndarray:
    """The measured values of every seed and query, [S, batches, B, …]: variables have a leading seeds axis.

    context: the resident columns that the measure reads. Batches of queries are shared by the devices,
    filled up with masked ones.

    Raises:
      ValueError: a query has no value, see `check_finite`.
    """
    measure = CompiledMeasure(evaluation.measure, num_devices)
    return measure(
        parallel.replicate(variables, num_devices),
        measure.placed(evaluation.queries),
        parallel.replicate(dict(context), num_devices),
    )


class CompiledMeasure:
    """A measure over seeds and devices, compiled once: (variables, queries, context) -> [S, batches, B, …].

    variables have a leading seeds axis; they and the context are on every device (`parallel.replicate`),
    queries are `placed`.

    Raises:
      ValueError: a query has no value, see `check_finite`.
    """

    def __init__(self, measure: Measure, num_devices: int) -> None:
        self.num_devices = num_devices
        self._program = Compiled(parallel.over_parts(parallel.over_seeds(measure), num_devices))
        self._batches: int | None = None  # all of them

    @property
    def seconds(self) -> float:
        return self._program.seconds

    def placed(self, queries: Mapping[str, np.ndarray]) -> Any:
        """Queries [batches, B, …] on the devices, filled up with batches of zeros, which no mask holds
        for."""
        self._batches = len(next(iter(queries.values())))
        pad = -self._batches % self.num_devices
        filled = {
            name: np.concatenate([column, np.zeros_like(column, shape=(pad, *column.shape[1:]))])
            for name, column in ((name, np.asarray(column)) for name, column in queries.items())
        }
        return parallel.split_leading(filled, self.num_devices)

    def compile(self, variables: Variables, queries: Any, context: Any) -> Any:
        """Compiles for these arguments and returns the shape of the values."""
        values, _ = self._program.compile(variables, queries, context)
        return jax.eval_shape(self._gather, values)

    def _gather(self, values: Any) -> Any:
        if self.num_devices > 1:
            values = jnp.moveaxis(values, 0, 1).reshape(values.shape[1], -1, *values.shape[3:])
        return values[:, : self._batches]

    def __call__(self, variables: Variables, queries: Any, context: Any) -> np.ndarray:
        values, bad = parallel.fetch(self._program(variables, queries, context))
        check_finite(bad, "evaluation")
        return np.asarray(self._gather(values))


def ranking_means(ranks: np.ndarray, mask: np.ndarray, ks: tuple[int, ...]) -> dict[str, float]:
    """Means over real queries, summed in float64: hit@k and ndcg@k for each k, and mrr.

    A rank of `metrics.MISS` adds 0 to each: the target is no candidate, as it was seen before and taken out
    (or is unknown, see `protocols.known_items`). Where there are such, their share is `seen_targets`.

    ranks, mask: any one shape.
    """
    real, rank = real_ranks(ranks, mask)

    def mean(values: Array) -> float:
        return float(np.asarray(values, np.float64)[: len(real)].mean())

    found = {}
    for k in ks:
        found[f"hit@{k}"] = mean(metrics.hit(rank, k=k))
        found[f"ndcg@{k}"] = mean(metrics.ndcg(rank, k=k))
    return found | {"mrr": mean(metrics.mrr(rank))} | seen_targets(real)


def real_ranks(ranks: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Array]:
    """Ranks of real queries [N]; and the same on a device with ones behind them, a power of two long.

    Slices of queries have many sizes N; metrics of the filled ranks are compiled for few lengths.
    """
    real = np.asarray(ranks)[np.asarray(mask)]
    filling = (1 << (len(real) - 1).bit_length()) - len(real)
    return real, jnp.asarray(np.pad(real, (0, filling), constant_values=1))


def seen_targets(rank: np.ndarray) -> dict[str, float]:
    """The share of targets that are no candidates, as those seen before; nothing where there are none."""
    share = float(np.mean(rank == metrics.MISS)) if np.size(rank) else 0.0
    return {SEEN_TARGETS: share} if share else {}


def ranking_metrics(ks: tuple[int, ...] = (5, 10, 20)) -> Summarise:
    """Means of hit@k, ndcg@k and mrr over the ranks of real queries."""
    return lambda ranks, queries: ranking_means(ranks, queries["mask"], ks)


def make_scores(
    predict: Callable[[Variables, Batch], Array], expand: Callable[[Batch, Context], Batch] | None = None
) -> Measure:
    """Scores of impressions: predict(variables, batch) -> [B, …], on each batch of the columns.

    expand: makes the batch that the model reads of columns and resident context, such as histories.
    """

    def measure(variables: Variables, queries: Batch, context: Context) -> tuple[Array, Array]:
        def batch(columns: Batch) -> tuple[Array, Array]:
            scores = predict(variables, columns if expand is None else expand(columns, context))
            finite = jnp.isfinite(scores.reshape(scores.shape[0], -1)).all(axis=1)
            return scores, jnp.sum(~finite & columns["mask"])

        return jax.lax.map(batch, dict(queries))

    return measure


def impression_metrics(
    tasks: Sequence[str],
    *,
    errors: Sequence[str] = (),
    group: str | None = None,
    calibration: bool = False,
    fields: Sequence[str] = (),
) -> Summarise:
    """Metrics of each task over its sample space, all impressions at once.

    The scores of task t are values[..., t], logits against the column `label/<task>` where `mask` and, if
    there is one, `space/<task>` hold: `auc/<task>`, `log_loss/<task>` and, with a `group` column of users,
    `gauc/<task>`; with `calibration` also `ece/<task>`, of ten bins of equal width,
    `calibration_ratio/<task>`, and for each of `fields`, columns of ids, `ece_by_<field>/<task>`. A task in
    `errors` is a regression: `mse/<task>`. Where there are several, `auc` and `mse` are means over tasks.

    Raises (when called):
      ValueError: an AUC is not defined, because the impressions are of one class only.
    """

    def task_metrics(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {}
        for t, task in enumerate(tasks):
            real, label = _space_and_label(queries, task)
            score = np.asarray(values[..., t]).reshape(-1)
            if task in errors:
                found[f"mse/{task}"] = float(np.mean(np.square(score[real] - label[real]), dtype=np.float64))
                continue
            found[f"auc/{task}"] = float(_auc(score, label, where=real))
            found[f"log_loss/{task}"] = float(_log_loss(score, label, where=real))
            if calibration:
                found[f"ece/{task}"] = float(_ece(score, label, where=real))
                found[f"calibration_ratio/{task}"] = float(_calibration_ratio(score, label, where=real))
                for field in fields:
                    ids = np.asarray(queries[field]).reshape(-1)
                    found[f"ece_by_{field}/{task}"] = float(_field_error(score, label, ids, where=real))
            if group is not None:
                users = np.asarray(queries[group]).reshape(-1)
                metrics.check_group(users)
                found[f"gauc/{task}"] = float(_gauc(score, label, users, where=real).gauc)
        for kind in ("auc", "mse"):
            of_kind = [value for name, value in found.items() if name.startswith(f"{kind}/")]
            if len(of_kind) > 1:
                found[kind] = float(np.mean(of_kind))
        for name, value in found.items():
            if not np.isfinite(value):
                raise ValueError(
                    f"{name} is {value}: the evaluated impressions of this task are none, or of one class; "
                    "evaluate on more impressions"
                )
        return found

    return task_metrics


def reliability_curves(
    tasks: Sequence[str], *, errors: Sequence[str] = (), num_bins: int = 10
) -> Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """`Tested.reliability` of tasks as `impression_metrics` reads them, in bins of as many examples each."""

    def curves(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {}
        for t, task in enumerate(tasks):
            if task not in errors:
                real, label = _space_and_label(queries, task)
                each = [_reliability(of[..., t].reshape(-1), label, real, num_bins) for of in values]
                found[task] = np.stack([np.asarray(curve) for curve in each], axis=1)
        return found

    return curves


def _space_and_label(queries: Mapping[str, np.ndarray], task: str) -> tuple[np.ndarray, np.ndarray]:
    """Which impressions a task is measured on, bool [N], and its labels, float32 [N]."""
    real = np.asarray(queries["mask"] & queries.get(f"space/{task}", True)).reshape(-1)
    return real, np.asarray(queries[f"label/{task}"], np.float32).reshape(-1)


@functools.partial(jax.jit, static_argnames="num_bins")
def _reliability(score: Array, label: Array, where: Array, num_bins: int) -> metrics.Reliability:
    return metrics.reliability(score, label, num_bins=num_bins, equal_mass=True, where=where)


_auc, _gauc, _log_loss = jax.jit(metrics.auc), jax.jit(metrics.gauc), jax.jit(metrics.log_loss)
_ece, _calibration_ratio = jax.jit(metrics.expected_calibration_error), jax.jit(metrics.calibration_ratio)
_field_error = jax.jit(metrics.field_calibration_error)


def check_finite(bad: np.ndarray, what: str) -> None:
    """Raises if any query had a score that is NaN or infinite, or an id of none: it has no rank."""
    if np.any(bad):
        raise ValueError(
            f"{what}: {int(np.sum(bad))} queries have NaN or infinite scores, or an id outside its table, so "
            "they have no rank. Either training diverged (lower the learning rate) or the parameters are "
            "damaged; or the model was not built for an id of the data: a target, a candidate, a feature, a "
            "domain (scenario) that only these queries have, a user whose events are not in the columns. "
            "Build it with the sizes of all the data, those of validation and test too"
        )
