"""Watch times, as logistic regression weighted by them or as quantiles within groups of durations."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrec import losses
from jaxrec.data.tables.duration_groups import DurationGroups
from jaxrec.tasks.multitask import Model, Target, multitask
from jaxrec.types import Array, Batch, Key, Outputs, Task, Variables

QUANTILE = Target("quantile", "quantile", "quantile", losses.quantile_error)


def d2q(module: Model, groups: DurationGroups) -> Task:
    """The task of the column "quantile", by a module such as `D2Q`, whose tables are those of the groups.

    predict gives {"quantile": logit [B], "watch_time": [B]}.

    Raises (when variables are made):
      ValueError: the module has other numbers of groups or levels.
    """
    task = multitask(module, [QUANTILE])

    def init(key: Key, batch: Batch) -> Variables:
        tables = {"starts": jnp.append(0.0, groups.edges), "times": jnp.asarray(groups.times)}
        found = task.init(key, batch)
        expected = found["constants"]["times"].shape
        if expected != groups.times.shape:
            raise ValueError(
                f"the module has {expected[0]} groups of {expected[1]} levels, the tables "
                f"{groups.times.shape[0]} of {groups.times.shape[1]} (equal durations are in one group, so "
                "there may be fewer than asked for); give it groups.num_groups and len(groups.levels)"
            )
        return {**found, "constants": tables}

    return task._replace(init=init)


def weighted_logistic(
    module: Model, *, watched: str = "watched", time: str = "watch_time", exact: bool = False
) -> Task:
    """The task of a logit whose odds are the expected watch time, see `losses.watch_time`.

    predict gives the odds, a watch time [B].

    Args:
      module: called as module(batch, train=…), gives a logit [B].
      watched: column of the examples that count as watched. time: column of watch times.
      exact: odds are the mean watch time even where many are watched.
    """

    def logistic(
        logit: Array,
        label: Array,
        *,
        weight: Array,
        where: Array | None = None,
        axis_name: str | None = None,
    ) -> Array:
        return losses.watch_time(logit, label, weight, exact=exact, where=where, axis_name=axis_name)

    task = multitask(module, [Target("watch_time", None, watched, logistic, weight=time)])

    def predict(variables: Variables, batch: Batch) -> Outputs:
        return jnp.exp(task.predict(variables, batch))

    return task._replace(predict=predict)
