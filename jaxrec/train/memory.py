"""What a run will hold on a device, and how much memory, from shapes alone, before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.train.epoch import Plan
from jaxrec.train.state import create
from jaxrec.types import Array, Context, Key, Task, Variables

GIB = 2.0**30
WORTH_SAYING = GIB  # bytes above which `fit` prints the estimate


class Memory(NamedTuple):
    """Bytes on each device.

    parameters: of all seeds, with other collections. optimiser: what it remembers. best: the copy of the best
    epoch's parameters, kept beside. columns: of the context. batch: of a step as the model reads it, before
    its vectors and activations, which are not counted: the compiled program alone knows them.
    """

    parameters: int
    optimiser: int
    best: int
    columns: int
    batch: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in self._asdict().items())
        return f"{sum(self) / GIB:.2f} GiB on each device ({parts}) and what a step needs besides"


def drawn_variables(task: Task, plan: Plan, context: Context) -> Variables:
    """Shapes and types of the variables that a task draws for one seed."""

    def drawn(key: Key, columns: Context) -> Variables:
        drawn, _ = plan.draw(key, columns)
        examples = jax.tree.map(lambda x: x[0], drawn)
        return create(task, optax.identity(), static(), key, examples, columns).variables

    shapes: Variables = jax.eval_shape(drawn, jax.eval_shape(lambda: jax.random.key(0)), dict(context))
    return shapes


def estimate_memory(
    task: Task,
    tx: optax.GradientTransformation,
    plan: Plan,
    context: Context,
    *,
    weighting: Weighting | None = None,
    seeds: int = 1,
) -> Memory:
    """What `train.fit.fit` will hold on each device, whatever their number: every one holds parameters,
    optimiser and columns whole, and prepares the whole of each batch. Of sharded tables see
    `train.communication.predicted_memory`. weighting: of the losses; None: they are added up.
    """
    weights = static() if weighting is None else weighting

    def begin(key: Key, columns: Context) -> Any:
        drawn, _ = plan.draw(key, columns)
        examples: Mapping[str, Array] = jax.tree.map(lambda x: x[0], drawn)
        state = create(task, tx, weights, key, examples, columns)
        return state, task.prepare(key, examples, columns)

    state, batch = jax.eval_shape(begin, jax.eval_shape(lambda: jax.random.key(0)), dict(context))
    parameters = seeds * tree_bytes((state.params, state.collections))
    return Memory(
        parameters=parameters,
        optimiser=seeds * tree_bytes((state.opt_state, state.weighting)),
        best=seeds * tree_bytes(jax.eval_shape(lambda state: state.variables, state)),
        columns=tree_bytes(context),
        batch=seeds * tree_bytes(batch),
    )


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""

    def size(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 8 * math.prod(leaf.shape)
        return math.prod(leaf.shape) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
