"""Watch times: impressions in three parts, each with a duration, and how predictions are measured.

The metrics are over all impressions of a part: `xauc`, `xgauc` (within users), `xauc_within` (within groups
of durations, where a prediction by duration alone has 1/2) and `mae`, in the unit of the watch times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import metrics
from jaxrec.data.tables.duration_groups import DurationGroups
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import make_scores, measure_queries
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import group_sums
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Evaluation, GroupSums, Outputs, Protocol, Task, Tested, Variables

Columns = Mapping[str, np.ndarray]
BATCH = 4096  # impressions that are scored at once


class Data(NamedTuple):
    """Impressions with watch times as the training loop reads them.

    rule: how they were split. columns: of the training part, "user", "item", "duration", "duration_group",
    "watch_time", "quantile" and "watched" (above a quantile of all training watch times), [N] each; on the
    device. validation, test: the same in batches [batches, B], with "mask". groups: of the training part.
    """

    name: str
    rule: str
    columns: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    groups: DurationGroups


def resident(
    name: str,
    rule: str,
    columns: Columns,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    groups: DurationGroups,
    *,
    within: DurationGroups | None = None,
    watched_above: float = 0.6,
) -> Data:
    """Columns "user", "item", "duration" and "watch_time" of N impressions, and what is derived of them.

    parts: numbers of the impressions that train, validate and test. within: the groups of `xauc_within`, by
    default `groups`; rows with other groups are compared by the same ones. watched_above: the quantile of
    training watch times above which an impression counts as watched (Zhan et al., KDD 2022, take 0.6).

    Raises:
      ValueError: a part is empty, or watched_above is not in 0..1, 1 excluded.
    """
    if not 0 <= watched_above < 1:
        raise ValueError(f"watched_above={watched_above}: must lie in 0..1, 1 excluded")
    names = ("train", "validation", "test")
    if empty := [part for part, rows in zip(names, parts, strict=True) if not rows.size]:
        raise ValueError(f"{name}: the {empty[0]} part has no impression; take other shares ({rule})")
    train = parts[0]
    time = np.asarray(columns["watch_time"], np.float32)
    group = groups.group(columns["duration"])
    known = {
        "user": np.asarray(columns["user"], np.int32),
        "item": np.asarray(columns["item"], np.int32),
        "duration": np.asarray(columns["duration"], np.float32),
        "duration_group": group,
        "watch_time": time,
        "quantile": groups.quantile(time, group),
        "within": group if within is None else within.group(columns["duration"]),
        "watched": (time > np.quantile(time[train], watched_above)).astype(np.float32),
    }
    validation, test = (_batched(known, rows) for rows in parts[1:])
    return Data(name, rule, {key: column[train] for key, column in known.items()}, validation, test, groups)


def _batched(columns: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    size = min(BATCH, len(rows))
    number = -(-len(rows) // size)
    filled = np.concatenate([rows, np.full(number * size - len(rows), rows[0])])
    found = {name: column[filled].reshape(number, size) for name, column in columns.items()}
    return {**found, "mask": (np.arange(number * size) < len(rows)).reshape(number, size)}


def protocol(data: Data, selection: str, loss: str = "") -> Protocol:
    """Every impression of the split is predicted once; ties of predictions count 1/2."""
    return Protocol(
        split=data.rule, candidates="impressions", seen="keep", ties="half", ks=(), loss=loss,
        selection=selection,
    )  # fmt: skip


def summarise(predicted: np.ndarray, queries: Columns) -> dict[str, float]:
    """The metrics of predicted watch times [batches, B].

    Raises:
      ValueError: one is not defined, as no two watch times of a user, or of a group of durations, differ.
    """
    real = np.asarray(queries["mask"]).reshape(-1)
    time, user, group = (np.asarray(queries[name]).reshape(-1) for name in ("watch_time", "user", "within"))
    score = np.asarray(predicted, np.float32).reshape(-1)
    found = {
        "xauc": float(_xauc(score, time, where=real)),
        "xgauc": float(_xgauc(score, time, user, where=real).xgauc),
        "xauc_within": float(_xgauc(score, time, group, where=real).xgauc),
        "mae": float(np.abs(score - time)[real].mean(dtype=np.float64)),
    }
    for name, value in found.items():
        if not np.isfinite(value):
            raise ValueError(f"{name} is {value}: there are no two different watch times to compare")
    return found


_xauc, _xgauc = jax.jit(metrics.xauc), jax.jit(metrics.xgauc)


def keep(predicted: np.ndarray, queries: Columns) -> GroupSums:
    """Absolute errors of predictions [S, batches, B] as sums over users."""
    mask = np.asarray(queries["mask"]).reshape(-1)
    time, user = (np.asarray(queries[name]).reshape(-1)[mask] for name in ("watch_time", "user"))
    of_seeds = np.asarray(predicted, np.float64).reshape(len(predicted), -1)[:, mask]
    return group_sums(user, {"mae": (np.abs(of_seeds - time), None)}, {"watch_time": time})


def predicted_time(outputs: Outputs) -> Array:
    """The watch times that a task predicts, [B]: its outputs or, of a dict, "watch_time"."""
    return jnp.asarray(outputs["watch_time"] if isinstance(outputs, Mapping) else outputs)


def evaluation(data: Data, task: Task, part: Literal["validation", "test"], measured: Protocol) -> Evaluation:
    """Predicts the watch times of a part."""

    def predict(variables: Variables, batch: Any) -> Array:
        return predicted_time(task.predict(variables, batch))

    queries = data.validation if part == "validation" else data.test
    return Evaluation(make_scores(predict), queries, summarise, measured, keep)


def train(
    data: Data,
    task: Task,
    selection: str,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    patience: int | None = None,
    **options: Any,
) -> Fitted:
    """Trains a task for all seeds at once; each keeps its best epoch by a validation metric.

    selection: such as "xauc" or "mae". options: of `train.fit.fit`.
    """
    chosen = evaluation(data, task, "validation", protocol(data, selection))
    return fit_reusing(
        [Phase("train", task, epochs)],
        tx,
        shuffled(len(data.columns["user"]), batch_size),
        data.columns,
        Selection(chosen, selection, patience=patience, lower_is_better=selection == "mae"),
        **options,
    )


def run_test(data: Data, task: Task, variables: Variables, *, num_devices: int = 1) -> Tested:
    """Test metrics of each seed, and absolute errors by user: variables have a leading seeds axis."""
    return tested(data, predict_test(data, task, variables, num_devices=num_devices))


def predict_test(data: Data, task: Task, variables: Variables, *, num_devices: int = 1) -> np.ndarray:
    """Predicted watch times of the test part, [S, batches, B]: variables have a leading seeds axis."""
    asked = evaluation(data, task, "test", protocol(data, ""))
    return measure_queries(asked, variables, {}, num_devices=num_devices)


def tested(data: Data, predicted: np.ndarray) -> Tested:
    """What `run_test` returns, of predicted watch times of the test part, [S, batches, B]."""
    return Tested([summarise(of_seed, data.test) for of_seed in predicted], keep(predicted, data.test))
