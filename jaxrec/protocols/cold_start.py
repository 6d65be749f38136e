"""Ratings of new users and new items: each user's query ratings, predicted from content and a few of theirs.

Metrics are means over users: the mean absolute error of the query's ratings, and NDCG at 1 and 3 of the
query's items, ranked by prediction, with gain 2^rating - 1 (`ndcg@k`; Lee et al., KDD 2019, section 4.3) and
with the rating itself as gain (`ndcg_linear@k`). Equal predictions rank the item of the lowest rating first,
so that one number for all items earns as little as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import metrics
from jaxrec.data.tables.rating_tasks import RatedContent, UserTasks, check_tasks, joined
from jaxrec.tasks.meta import gather
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import measure_queries
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_means
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import (
    SHARED,
    Array,
    Batch,
    Context,
    Evaluation,
    Keep,
    Measure,
    Protocol,
    Task,
    Tested,
    Variables,
)

KS = (1, 3)
GAINS: Mapping[str, Callable[[Array], Array]] = {
    "ndcg": metrics.exponential_gain,
    "ndcg_linear": jnp.asarray,
}
METRICS = ("mae", *(f"{name}@{k}" for name in GAINS for k in KS))
SELECTION = "mae"
EVALUATION_BATCH = 64


class Data(NamedTuple):
    """What is trained on and measured.

    content: users, items and their columns. train, validation: users of training, and some of them that were
    held out to choose an epoch. tests: {state: tasks}.
    """

    content: RatedContent
    train: UserTasks
    validation: UserTasks
    tests: Mapping[str, UserTasks]

    def checked(self) -> Data:
        """Itself, every task of it checked (`rating_tasks.check_tasks`)."""
        for tasks in (self.train, self.validation, *self.tests.values()):
            check_tasks(tasks, self.content)
        return self

    @property
    def shared(self) -> Context:
        """The content columns, which evaluation reads."""
        return {SHARED: self.content.content()}


def protocol(tasks: UserTasks, loss: str = "", selection: str = SELECTION) -> Protocol:
    """Each user's query is predicted, and its items ranked against each other."""
    return Protocol(
        split=tasks.rule, candidates="query", seen="keep", ties="pessimistic", ks=KS, loss=loss,
        selection=selection,
    )  # fmt: skip


def user_metrics(predicted: Array, rating: Array, query: Array) -> Array:
    """Metrics of each user: predictions, ratings, and True for real ones, [..., Q] → [..., metrics]."""
    error = jnp.where(query, jnp.abs(predicted - rating), 0.0)
    mae = error.sum(axis=-1) / jnp.maximum(query.sum(axis=-1), 1)
    ranked = [
        metrics.graded_ndcg(predicted, rating, k=k, gain=gain, where=query)
        for gain in GAINS.values()
        for k in KS
    ]
    return jnp.stack([mae, *ranked], axis=-1)


def batches(tasks: UserTasks, size: int = EVALUATION_BATCH) -> dict[str, np.ndarray]:
    """The tasks in batches, [batches, B, …], with a mask that is False for padding."""
    size = min(size, tasks.num_tasks)
    count = -(-tasks.num_tasks // size)
    columns = {**tasks.columns(), "mask": np.ones(tasks.num_tasks, bool)}
    pad = count * size - tasks.num_tasks
    return {
        name: np.pad(column, [(0, pad), *[(0, 0)] * (column.ndim - 1)]).reshape(
            count, size, *column.shape[1:]
        )
        for name, column in columns.items()
    }


def make_measure(task: Task) -> Measure:
    """Metrics of each user [batches, B, metrics], and how many users have a prediction that is not finite."""

    def measure(variables: Variables, queries: Batch, context: Context) -> tuple[Array, Array]:
        def batch(columns: Batch) -> tuple[Array, Array]:
            tasks = {name: column for name, column in columns.items() if name != "mask"}
            made = gather(tasks, context[SHARED])
            predicted = task.predict(variables, made)
            bad = jnp.any(~jnp.isfinite(predicted) & made["query"], axis=-1) & columns["mask"]
            return user_metrics(predicted, made["query_rating"], made["query"]), bad.sum()

        return jax.lax.map(batch, dict(queries))

    return measure


def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over users of values [batches, B, metrics]."""
    found = np.asarray(values, np.float64)[np.asarray(queries["mask"])]
    return {name: float(found[:, m].mean()) for m, name in enumerate(METRICS)}


def keep(data: Data) -> Keep:
    """Keeps the metrics of every user, by raw id."""
    return keep_means(METRICS, np.concatenate([data.content.user_ids[:1], data.content.user_ids]))


def evaluation(
    task: Task, data: Data, tasks: UserTasks, *, loss: str = "", selection: str = SELECTION
) -> Evaluation:
    """Measures a task of `tasks.meta` on users' query ratings, after adaptation to their support."""
    measured = protocol(tasks, loss, selection)
    return Evaluation(make_measure(task), batches(tasks), summarise, measured, keep(data))


def train(
    task: Task,
    data: Data,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    patience: int | None = None,
    every: int = 1,
    **options: Any,
) -> Fitted:
    """Trains on the users of training, all seeds at once; each seed keeps its best epoch on validation users.

    batch_size: users of a step. options: seeds, workdir, description and other arguments of
    `train.reuse.fit_reusing`.
    """
    return fit_reusing(
        [Phase("train", task, epochs)],
        tx,
        shuffled(data.train.num_tasks, min(batch_size, data.train.num_tasks)),
        {**data.train.columns(), **data.shared},
        Selection(evaluation(task, data, data.validation), SELECTION, every, patience, lower_is_better=True),
        **options,
    )


def run_tests(task: Task, data: Data, variables: Variables, *, num_devices: int = 1) -> dict[str, Tested]:
    """Test metrics of each state and seed, with those of every user, measured in one program.

    Raises:
      ValueError: a prediction is not finite.
    """
    together = joined(list(data.tests.values()))
    found = evaluation(task, data, together)
    values = measure_queries(found, variables, data.shared, num_devices=num_devices)
    flat = values.reshape(len(values), -1, len(METRICS))
    ends = np.cumsum([tasks.num_tasks for tasks in data.tests.values()])
    return {
        state: _tested(flat[:, end - tasks.num_tasks : end], tasks, data)
        for (state, tasks), end in zip(data.tests.items(), ends, strict=True)
    }


def _tested(values: np.ndarray, tasks: UserTasks, data: Data) -> Tested:
    """The test of values [S, T, metrics]."""
    queries = {"user": tasks.user[None], "mask": np.ones((1, tasks.num_tasks), bool)}
    of_seeds = [summarise(of_seed[None], queries) for of_seed in values]
    return Tested(of_seeds, keep(data)(values[:, None], queries))


def measure_predictions(data: Data, state: str, predictions: np.ndarray) -> Tested:
    """The same of ratings that were predicted elsewhere, for each seed and query of a state: [S, T, Q].

    Raises:
      ValueError: the data have no tasks of this state; predictions of another shape, or not finite.
    """
    tasks = tasks_of(data, state)
    rating, query = jnp.asarray(tasks.query_rating), jnp.asarray(tasks.query != 0)
    if predictions.shape[1:] != rating.shape or not np.isfinite(predictions).all():
        raise ValueError(
            f"predictions of shape {predictions.shape}: must be finite, [seeds, *{rating.shape}]"
        )
    values = np.stack([np.asarray(user_metrics(jnp.asarray(p), rating, query)) for p in predictions])
    return _tested(values, tasks, data)


def tasks_of(data: Data, state: str) -> UserTasks:
    """The tasks of a state.

    Raises:
      ValueError: there are none; the nearest and all states are named.
    """
    if state not in data.tests:
        data.content.state_index(state)
        raise ValueError(f"state {state!r}: not among the tests, which are of {', '.join(data.tests)}")
    return data.tests[state]
