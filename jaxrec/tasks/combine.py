"""Several tasks on the same model and examples as one task."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from jaxrec.types import Array, Batch, Context, Key, Task, Variables


def combine(**tasks: Task) -> Task:
    """A task whose losses are those of all `tasks`, each computed on a batch of its own.

    The first task initialises the variables, which all share. Losses keep their names; two tasks with a
    loss of one name, or that both update a collection such as batch statistics, raise ValueError while
    tracing.
    """
    if not tasks:
        raise ValueError("combine() was given no task")
    names = list(tasks)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        keys = jax.random.split(key, len(names))
        return {name: tasks[name].prepare(k, examples, context) for name, k in zip(names, keys, strict=True)}

    def init(key: Key, batch: Batch) -> Variables:
        return tasks[names[0]].init(key, batch[names[0]])

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        keys = jax.random.split(key, len(names))
        found: dict[str, Array] = {}
        updates: dict[str, Array] = {}
        for name, k in zip(names, keys, strict=True):
            values, changed = tasks[name].losses(variables, batch[name], k, axis_name)
            if found.keys() & values.keys():
                raise ValueError(f"task {name!r} names a loss {sorted(values)} that another task has")
            twice = sorted(updates.keys() & changed.keys())
            if twice:
                raise ValueError(
                    f"task {name!r} updates {', '.join(twice)}, which another task updates from a batch of "
                    "its own: one of the two would be lost; let one task keep them, or normalise without them"
                )
            found |= values
            updates |= changed
        return found, updates

    def predict(variables: Variables, batch: Batch) -> dict[str, Array]:
        return {name: tasks[name].predict(variables, batch[name]) for name in names}

    return Task(prepare, init, losses, predict)
