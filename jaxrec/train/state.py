"""What a training run carries from step to step, and the tree of its random keys.

root ─ PLAN ─ epoch          order of the examples
     ├ STEP ─ step ─ prepare negatives, augmentation
     │             ├ losses  dropout
     │             └ WEIGHTING  order of tasks and the like
     └ INIT                  parameters

Every key is folded from the root by counting, so any step can be computed again, and a run resumed from
its state alone goes on with the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxrec.optim import sparse
from jaxrec.optim.loss_weighting import Weighting
from jaxrec.train.initial import put_in
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

INIT, PLAN, STEP = 0, 1, 2
WEIGHTING = 2  # below a step, next to the two keys of its split
PROBES = "perturbations"  # the collection of `self.perturb`: as large as a batch, and no state


class TrainState(flax.struct.PyTreeNode):
    """params: {"model": …, "weighting": …}, where a table of the model may be a `optim.sparse.SparseTable`;
    collections: what else the model holds, such as batch_stats.
    """

    step: Array
    key: Key
    params: Any
    collections: Any
    opt_state: Any
    weighting: Any

    @property
    def variables(self) -> Variables:
        """The model's variables, as its `apply` takes them."""
        return {"params": sparse.values(self.params["model"]), **self.collections}


def create(
    task: Task,
    tx: optax.GradientTransformation,
    weighting: Weighting,
    key: Key,
    examples: Any,
    context: Context,
    initial: Mapping[str, Array] | None = None,
) -> TrainState:
    """The state before the first step.

    examples: those of one step, of which only shapes matter. initial: values by path that stand in place of
    drawn ones, see `train.initial`.
    """
    init_key = jax.random.fold_in(key, INIT)
    batch: Batch = task.prepare(init_key, examples, context)
    variables = dict(task.init(init_key, batch))
    variables.pop(PROBES, None)
    variables = dict(put_in(variables, initial or {}))
    learned, remembered = weighting.init()
    params = {"model": sparse.with_tables(tx, variables.pop("params")), "weighting": learned}
    return TrainState(
        step=jnp.int32(0),
        key=key,
        params=params,
        collections=variables,
        opt_state=tx.init(sparse.hidden(params)),
        weighting=remembered,
    )


def caught_up(tx: optax.GradientTransformation, state: TrainState) -> TrainState:
    """The state in which rows of sparse tables have made up for skipped steps, where their optimiser does."""
    return state.replace(params=sparse.caught_up(tx, state.params, state.opt_state, state.step))
