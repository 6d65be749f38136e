"""Training with tables whose rows are sharded over devices, beside layers that every device holds whole.

The model does not know of it. In a step each device collects the distinct ids of its share of the batch,
pulls their rows from the devices that own them, and numbers the ids anew within these rows; so the model,
built for `capacity` ids, sees a small table as if it were all. The gradients of these rows go back to the
owners, and each owner changes its own rows: neither a table, nor its gradient, nor what its optimiser
remembers is ever whole on a device, and a step does not move more where the table is larger.

    tables = {"item_embedding": Table(("item", "history"), num_rows=10**9, dim=64, capacity=50_000)}
    trained = train(task, tx, tables, plan, context, num_devices=8, epochs=3, workdir="runs/sharded")

where `task` is of a model built with num_items=50_000.

Only for tables that are read by id: what multiplies a query with the whole table, such as a full softmax,
needs sampled or in-batch negatives instead. As elsewhere the global batch is that of one device, of which
each makes its share, so the result does not depend on the number of devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxrec.segments import sum_by_id
from jaxrec.train import divergence, identity, parallel
from jaxrec.train.arguments import check_at_least_one, check_folder, check_optimiser, check_seeds
from jaxrec.train.checkpoint import Checkpoints, held
from jaxrec.train.epoch import Plan, make_epoch
from jaxrec.train.exchange import NOWHERE, Route, Tables, distinct
from jaxrec.train.exchange import Table as Table
from jaxrec.train.parallel import AXIS
from jaxrec.train.state import INIT, STEP
from jaxrec.types import Array, Batch, Context, Key, Outputs, Task, Variables

TABLE_INIT = 3  # below a run's key, next to those of `train.state`


class Rows(NamedTuple):
    """values: [V rounded up, D] in the order of `Layout`, sharded. memory: what its optimiser remembers."""

    values: Array
    memory: Any


class ShardedState(flax.struct.PyTreeNode):
    """What `train.state.TrainState` is for a model with sharded tables.

    params: all but the tables, nested. tables: by path. refused: by path, how many ids found no room,
    int32 [2], among a device's distinct ids and on the way to an owner. From the first such step on nothing
    changes any more, so nothing wrong is ever stored.
    """

    step: Array
    key: Key
    params: Any
    collections: Any
    opt_state: Any
    tables: dict[str, Rows]
    refused: dict[str, Array]


class Trained(NamedTuple):
    """The state after the last epoch, and each epoch's means of the losses. made_by: as of `run.Fitted`."""

    state: ShardedState
    history: list[dict[str, float]]
    made_by: Sequence[Mapping[str, Any]] = ()


def create(
    task: Task,
    tx: optax.GradientTransformation,
    tables: Tables,
    key: Key,
    examples: Mapping[str, Any],
    context: Context,
    *,
    num_devices: int = 1,
) -> ShardedState:
    """The state before the first step, on the devices; no device ever holds a whole table.

    task: of a model built for `capacity` ids. examples: of one step, of which only shapes matter.

    Raises:
      ValueError: the model has no parameter of a table's path, or not of the shape [capacity + 1, dim]; a
        table's optimiser does not work row by row; the devices cannot share the rows.
    """
    for table in tables.values():
        table.layout.check(num_devices)

    def begin(key: Key, examples: Any, context: Context) -> ShardedState:
        init_key = jax.random.fold_in(key, INIT)
        variables = dict(task.init(init_key, task.prepare(init_key, examples, context)))
        params = _without_tables(variables.pop("params"), tables)
        table_key = jax.random.fold_in(key, TABLE_INIT)
        drawn = {}
        for number, (name, table) in enumerate(sorted(tables.items())):
            shape = (table.layout.padded, table.dim)
            values = table.init(jax.random.fold_in(table_key, number), shape)
            values = jnp.where(jnp.arange(shape[0])[:, None] == 0, 0, values)  # without a scatter
            drawn[name] = Rows(values, table.tx.init(values))
        return ShardedState(
            step=jnp.int32(0),
            key=key,
            params=params,
            collections=variables,
            opt_state=tx.init(params),
            tables=drawn,
            refused={name: jnp.zeros(2, jnp.int32) for name in tables},
        )

    shape = jax.eval_shape(begin, key, examples, context)
    _check_memory(shape, tables)
    parts = sharded_parts(shape, tables)
    state: ShardedState = parallel.create_placed(begin, parts, num_devices)(key, examples, context)
    return state


def make_step(task: Task, tx: optax.GradientTransformation, tables: Tables) -> Callable[..., Any]:
    """step(state, examples, context) -> (state, logs), to run inside `over_devices`.

    task: of a model built for `capacity` ids, whose losses are added up. tx: of all other parameters.

    Raises (while tracing):
      ValueError: a batch lacks a column of a table.
    """

    def step(state: ShardedState, examples: Mapping[str, Array], context: Context) -> tuple[Any, Any]:
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, STEP), state.step)
        prepare_key, loss_key = jax.random.split(step_key)
        batch = task.prepare(prepare_key, parallel.whole(examples, AXIS), context)
        parts = (sharded_parts(state, tables), False)
        return parallel.in_shares(update, AXIS, sharded=parts, result=parts)(batch, state, loss_key)

    def update(batch: Batch, state: ShardedState, loss_key: Key) -> tuple[Any, Any]:
        batch, routes, overflow = _number_anew(tables, state, batch)
        refused = jax.tree.map(jnp.add, state.refused, jax.lax.psum(overflow, AXIS))
        ok = jnp.array([jnp.sum(count) for count in refused.values()]).sum() == 0

        def loss(params: Any, read: dict[str, Array]) -> tuple[Array, Any]:
            variables = {"params": _with_tables(params, read), **state.collections}
            named, rest = task.losses(variables, batch, loss_key, AXIS)
            return sum(named.values(), jnp.float32(0)), (named, rest)

        gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)
        read = _pull(tables, state, routes)
        (total, (named, rest)), (dense, of_rows) = gradients(state.params, read)
        dense, logs = jax.lax.psum((dense, {**named, "loss": total}), AXIS)
        change, opt_state = tx.update(dense, state.opt_state, state.params)
        changed = {}
        for name, table in tables.items():
            pushed = table.exchange.push(of_rows[name], routes[name])
            changed[name] = _change(table.tx, state.tables[name], routes[name].asked, pushed, ok)
        moved = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, change),
            collections={**state.collections, **rest},
            opt_state=opt_state,
        )
        small = jax.tree.map(lambda new, old: jnp.where(ok, new, old), _small(moved), _small(state))
        return state.replace(**small, tables=changed, refused=refused), logs

    return step


def make_predict(task: Task, tables: Tables, state: Any, num_devices: int) -> Callable[..., Outputs]:
    """predict(state, batch) -> the task's outputs [B, …], compiled; the devices share the batch.

    state: one, or its shapes. An id outside its table or without room gives NaN.
    """

    def predict(state: ShardedState, batch: Batch) -> Outputs:
        batch, routes, _ = _number_anew(tables, state, batch)
        params = _with_tables(state.params, _pull(tables, state, routes))
        return task.predict({"params": params, **state.collections}, batch)

    return parallel.over_shards(predict, num_devices, (sharded_parts(state, tables), True))


def over_devices(
    fn: Callable[..., Any], state: Any, tables: Tables, num_devices: int, *, others: int = 2
) -> Callable[..., Any]:
    """Compiles fn(state, …) -> (state, what is the same on every device); the state's buffers are reused.

    state: one, or its shapes. others: arguments beside it, whole on every device.
    """
    parts = sharded_parts(state, tables)
    return parallel.over_rows(fn, num_devices, (parts, *[False] * others), (parts, False))


def sharded_parts(state: Any, tables: Tables) -> Any:
    """A state with True in place of each array that is sharded by rows, False in place of every other."""
    rows = {
        name: jax.tree.map(lambda x, n=table.layout.padded: x.shape[:1] == (n,), state.tables[name])
        for name, table in tables.items()
    }
    return jax.tree.map(lambda _: False, state).replace(tables=rows)


def collect(state: ShardedState, tables: Tables) -> Variables:
    """The variables of the whole model on the host, as one without sharded tables has them: tables [V, D]."""
    values = parallel.fetch({name: rows.values for name, rows in state.tables.items()})
    whole = {name: table.layout.collect(values[name]) for name, table in tables.items()}
    params, collections = parallel.fetch((state.params, state.collections))
    return {"params": _with_tables(params, whole), **collections}


def train(
    task: Task,
    tx: optax.GradientTransformation,
    tables: Tables,
    plan: Plan,
    context: Context,
    *,
    epochs: int,
    seed: int = 0,
    num_devices: int = 1,
    workdir: str | Path | None = None,
    description: Mapping[str, Any] | None = None,
    accept_changed_code: bool = False,
) -> Trained:
    """Trains for so many epochs, each one compiled call, and saves the state after each.

    workdir: a run that finds its checkpoint there goes on from it, on any number of devices that divides the
    tables' `blocks`; None: nothing is stored. description: what identifies the run, any JSON, together with
    what this function adds to it: seed, tables, size of steps, columns' checksums, names of losses.
    accept_changed_code: go on with a run that other code trained; `Trained.made_by` then names both.

    Raises:
      ValueError: see `create`; an argument out of range; ids found no room in a table's capacity or its
        exchange's; a loss or a parameter is not finite; the checkpoint belongs to another run, or to more
        epochs, or was made by other code; another process holds workdir.
    """
    check_at_least_one("epochs", epochs)
    parallel.axis_name(num_devices)
    check_seeds([seed])
    key, context = jax.random.key(seed), jax.tree.map(jnp.asarray, dict(context))
    examples = jax.tree.map(lambda x: x[0], jax.jit(plan.draw)(key, context)[0])
    state = create(task, tx, tables, key, examples, context, num_devices=num_devices)
    check_optimiser((state.opt_state, {name: rows.memory for name, rows in state.tables.items()}))
    program = over_devices(
        make_epoch(make_step(task, tx, tables), plan), state, tables, num_devices, others=3
    )
    described = {
        **(description or {}),
        "seed": seed,
        "tables": {n: [t.num_rows, t.dim] for n, t in tables.items()},
        "fit": identity.of_task(task, plan, examples, context),
    }
    context = parallel.place(context, False, num_devices)
    history: list[dict[str, float]] = []
    made_by = identity.code_of_run(Path(), None, accept=accept_changed_code)
    kept: contextlib.AbstractContextManager[Checkpoints | None] = contextlib.nullcontext()
    if workdir is not None:
        kept = held(check_folder(workdir), described)
    with kept as stored:
        if stored is not None and (position := stored.check()) is not None:
            made_by = identity.code_of_run(stored.folder, position, accept=accept_changed_code)
            state, position = stored.restore(state)
            history = list(position["history"])
            identity.check_length(stored.folder, len(history), epochs, "epochs")
        for epoch in range(len(history), epochs):
            state, means = program(state, context, jnp.int32(epoch), jnp.int32(0))
            history.append(_checked(state, means, tables, epoch))
            if stored is not None:
                stored.save(
                    epoch + 1, jax.tree.map(jnp.copy, state), {"history": history, "made_by": made_by}
                )
    return Trained(state, history, made_by)


def _checked(state: ShardedState, means: Any, tables: Tables, epoch: int) -> dict[str, float]:
    """An epoch's entry of the history. Raises ValueError if ids found no room, or a loss or a parameter is
    not finite."""
    finite = divergence.all_finite({name: rows.values for name, rows in state.tables.items()})
    found, refused, finite = parallel.fetch((dict(means), state.refused, finite))
    (counts,) = divergence.taken([found])
    for name, (ids, sent) in refused.items():
        if ids or sent:
            what = f"capacity={tables[name].capacity}" if ids else "the capacity of its exchange"
            raise ValueError(
                f"epoch {epoch}, table {name!r}: {ids or sent} ids of a step found no room, {what} is too "
                "small; give more, or smaller batches. Nothing of that step or after it was stored"
            )
    if not found.pop("fits"):
        raise ValueError(f"epoch {epoch}: no order of the examples fits the packed rows; give more rows")
    entry = {name: float(value) for name, value in found.items()}
    if not np.isfinite(list(entry.values())).all():
        raise ValueError(
            f"epoch {epoch}: losses {entry}: training diverged (lower the learning rate), or an id lies "
            "outside its table"
        )
    if not (finite and counts[divergence.PARAMETERS]):
        raise ValueError(
            f"epoch {epoch}: a table or another parameter is NaN or infinite behind its last step: training "
            "diverged; lower the learning rate"
        )
    return entry


def _number_anew(
    tables: Tables, state: ShardedState, batch: Batch
) -> tuple[Batch, dict[str, Route], dict[str, Array]]:
    """The batch with ids as places among the rows it reads, the ways to these rows, and ids without room."""
    batch, routes, overflow = dict(batch), {}, {}
    for name, table in tables.items():
        absent = [column for column in table.columns if column not in batch]
        if absent or not table.columns:
            raise ValueError(
                f"table {name!r}: columns {absent or '()'} are none of the batch's {sorted(batch)}"
            )
        columns = {column: batch[column] for column in table.columns}
        ids = jnp.concatenate([jnp.zeros(1, jnp.int32), *(ids.reshape(-1) for ids in columns.values())])
        found = distinct(table.layout.row(ids), table.capacity + 1)  # padding's row 0 comes first
        shard_rows = table.layout.padded // jax.lax.axis_size(AXIS)
        routes[name] = table.exchange.route(found.values, shard_rows)
        overflow[name] = jnp.stack([found.overflow, routes[name].overflow])
        ends = np.cumsum([1, *(column.size for column in columns.values())])
        for (column, old), start in zip(columns.items(), ends[:-1], strict=True):
            batch[column] = found.place[start : start + old.size].reshape(old.shape)
    return batch, routes, overflow


def _small(state: ShardedState) -> dict[str, Any]:
    """What a step changes besides tables."""
    return {
        "step": state.step,
        "params": state.params,
        "collections": state.collections,
        "opt_state": state.opt_state,
    }


def _pull(tables: Tables, state: ShardedState, routes: Mapping[str, Route]) -> dict[str, Array]:
    return {name: t.exchange.pull(state.tables[name].values, routes[name]) for name, t in tables.items()}


def _change(tx: optax.GradientTransformation, rows: Rows, asked: Array, gradients: Array, ok: Array) -> Rows:
    """A shard after one update of the rows that were asked for, by the sums of their gradients, if `ok`."""
    size = rows.values.shape[0]
    found = distinct(jnp.where(asked < size, asked, NOWHERE), min(len(asked), size))
    sums = sum_by_id(gradients, found.place, len(found.values))
    real = found.values != NOWHERE
    at = jnp.where(real & ok, found.values, size + jnp.arange(len(found.values), dtype=jnp.int32))

    def read(x: Array) -> Array:
        return x.at[jnp.where(real, found.values, 0)].get(mode="clip") if x.shape[:1] == (size,) else x

    def write(x: Array, new: Array) -> Array:
        if x.shape[:1] != (size,):
            return jnp.where(ok, new, x)
        return x.at[at].set(new, mode="drop", unique_indices=True, indices_are_sorted=False)

    values = read(rows.values)
    change, memory = tx.update(sums, jax.tree.map(read, rows.memory), values)
    return Rows(
        write(rows.values, optax.apply_updates(values, change)), jax.tree.map(write, rows.memory, memory)
    )


def _check_memory(state: ShardedState, tables: Tables) -> None:
    for name, table in tables.items():
        for leaf in jax.tree.leaves(state.tables[name].memory):
            if leaf.shape and leaf.shape[0] != table.layout.padded:
                raise ValueError(
                    f"table {name!r}: its optimiser remembers an array {leaf.shape}, not one of "
                    f"{table.layout.padded} rows like the table's; choose one that works on each entry alone"
                )


def _without_tables(params: Any, tables: Tables) -> Any:
    flat = flatten_dict(params, sep="/")
    for name, table in tables.items():
        wanted = (table.capacity + 1, table.dim)
        if name not in flat or flat[name].shape != wanted:
            found = flat[name].shape if name in flat else f"missing among {sorted(flat)}"
            raise ValueError(
                f"table {name!r}: the model's parameter is {found}, expected {wanted}: build the model for "
                f"capacity={table.capacity} ids, padding not counted, of width {table.dim}"
            )
        del flat[name]
    return unflatten_dict(flat, sep="/")


def _with_tables(params: Any, rows: Mapping[str, Any]) -> Any:
    return unflatten_dict({**flatten_dict(params, sep="/"), **rows}, sep="/")
