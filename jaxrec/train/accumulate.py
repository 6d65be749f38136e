"""Gradient accumulation: the losses of a batch, one part of it after the other, in the memory of one part.

A task gives each device its share of a loss: sums over its own examples, divided by sums over all devices
such as the number of real examples (`types.Task`). Parts of a batch are devices in this sense, that are
computed one after the other. Two passes do it: the first adds up what the losses divide by, which parameters
do not enter, and the second the shares and their gradients. So means with any weights are those of the whole
batch, in a ragged tail and where some parts have no real example at all.

What needs all examples at once, such as negatives that are other examples of the batch or statistics of
batch normalisation, cannot be computed so, and is refused while tracing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxrec.segments import TableByRows
from jaxrec.train.state import PROBES
from jaxrec.types import SHARED, Array, Batch, Key, Task, Variables

PARTS = "parts"  # the name of the axis of parts
ROW = "row"  # a batch's column of numbers of examples, from which their noise derives


def accumulated(task: Task, steps: int) -> Task:
    """The task whose losses go through a batch in `steps` parts, each a contiguous piece of a device's share.

    Losses and gradients are those of the whole batch, to rounding, and one update follows. A part is computed
    a second time when its gradient is: a step takes about a third more arithmetic, and in place of the
    activations of a batch it holds those of a part. Noise is that of the whole batch where it derives from
    the numbers of examples (`row`), and drawn for each part where there are none.

    The task itself for steps=1.

    Raises (while tracing):
      ValueError: steps is below 1 or does not divide a column of the batch; a loss needs all of its examples
        at once, or its model remembers statistics of batches; the weighting reads gradients of
        representations.
    """
    if steps < 1:
        raise ValueError(f"accumulate_steps={steps}: must be at least 1")
    if steps == 1:
        return task

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        if jax.tree.leaves(variables.get(PROBES, {})):
            _refuse("the weighting reads gradients of representations of the whole batch")
        if any(isinstance(leaf, TableByRows) for leaf in jax.tree.leaves(variables)):
            _refuse("tables are sparse, of which a step must see all ids that it looks up")
        axes = (PARTS,) if axis_name is None else (axis_name, PARTS)
        pieces, whole = _split(batch, steps)
        numbered = any(_is_under(path, ROW) for path, _ in jax.tree_util.tree_leaves_with_path(batch))

        def share(variables: Variables, piece: Any) -> dict[str, Array]:
            own = key if numbered else jax.random.fold_in(key, jax.lax.axis_index(PARTS))
            found, updates = task.losses(variables, whole(piece), own, axes)
            if jax.tree.leaves(updates):
                _refuse(f"its model remembers {sorted(updates)}, which would be of parts")
            return found

        return _sum_of_shares(share, variables, pieces, steps, axis_name), {}

    return task._replace(losses=losses)


def num_shares(num_devices: int, accumulate_steps: int = 1) -> int:
    """Pieces that a step's batch is cut into: over devices, and one after the other.

    The number of packed rows has to be a multiple of it. `fit` refuses numbers below 1; here they count as 1.

    >>> num_shares(2, accumulate_steps=4)
    8
    """
    return max(num_devices, 1) * max(accumulate_steps, 1)


def _sum_of_shares(share: Any, variables: Any, pieces: Any, steps: int, axis_name: str | None) -> Any:
    """The sum over parts of share(variables, piece), where `share` may sum over the axis PARTS."""
    first = jax.tree.map(lambda x: x[0], pieces)
    traced, shapes = jax.make_jaxpr(share, axis_env=[(PARTS, steps)], return_shape=True)(variables, first)
    two = _two_passes(traced.jaxpr, len(jax.tree.leaves(variables)))
    sums, shares = (
        core.jaxpr_as_fun(core.ClosedJaxpr(part, traced.consts)) for part in (two.sums, two.shares)
    )
    number = (pieces, jnp.arange(steps, dtype=jnp.int32))
    given = jax.tree.leaves(variables)

    def add(carry: Any, found: Any) -> Any:
        return jax.tree.map(jnp.add, carry, found)

    def count(carry: list[Array], x: Any) -> tuple[list[Array], None]:
        piece, index = x
        inputs = [*given, *jax.tree.leaves(piece), *[index] * two.indices]
        return add(carry, sums(*inputs)), None

    avals: list[Any] = [var.aval for var in two.sums.outvars]
    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]
    totals, _ = jax.lax.scan(count, zeros, number)
    over = [axis_name if axis_name in axes else None for axes in two.axes]
    totals = [x if name is None else jax.lax.psum(x, name) for x, name in zip(totals, over, strict=True)]

    @jax.checkpoint
    def one(given: list[Array], piece: Any, index: Array) -> list[Array]:
        inputs = [*given, *jax.tree.leaves(piece), *[index] * two.indices, *totals]
        return shares(*inputs)

    def step(carry: list[Array], x: Any) -> tuple[list[Array], None]:
        return add(carry, one(given, *x)), None

    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in jax.tree.leaves(shapes)]
    found, _ = jax.lax.scan(step, zeros, number)
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


class _TwoPasses(NamedTuple):
    """A program that sums over parts as two without such sums.

    sums: (inputs, index of the part …) -> what is summed over parts, and over other axes by `axes`. shares:
    (inputs, index …, the sums) -> the outputs. indices: how often the index of the part is an argument.
    """

    sums: core.Jaxpr
    shares: core.Jaxpr
    axes: list[tuple[Any, ...]]
    indices: int


def _two_passes(program: core.Jaxpr, num_variables: int) -> _TwoPasses:
    """Cuts a program at its sums over parts. Its first `num_variables` inputs are those that are trained.

    Raises:
      ValueError: a sum depends on what is trained, or on another sum; parts exchange something else.
    """
    late = set(program.invars[:num_variables])  # not known before the sums are
    kept: list[Any] = []
    indices: list[Any] = []
    sums: list[Any] = []
    inputs: list[Any] = []
    axes: list[tuple[Any, ...]] = []
    for eqn in program.eqns:
        depends = any(isinstance(x, core.Var) and x in late for x in eqn.invars)
        if not _names_parts(eqn.params):
            kept.append(eqn)
            late |= set(eqn.outvars) if depends else set()
        elif eqn.primitive.name == "axis_index":
            indices += eqn.outvars
        elif eqn.primitive.name == "psum" and not depends:
            inputs, sums = inputs + eqn.invars, sums + eqn.outvars
            axes += [eqn.params["axes"]] * len(eqn.invars)
            late |= set(eqn.outvars)
        else:
            _refuse(f"parts exchange what they compute of their examples (`{eqn.primitive.name}`)")
    starts = [*program.invars, *indices]
    return _TwoPasses(
        _cut(program, starts, _needed(kept, inputs), inputs),
        _cut(program, [*starts, *sums], kept, program.outvars),
        axes,
        len(indices),
    )


def _cut(program: core.Jaxpr, invars: Any, eqns: Any, outvars: Any) -> core.Jaxpr:
    """A part of a program with the same constants."""
    named = program.debug_info._replace(arg_names=None, result_paths=None)
    return program.replace(invars=invars, eqns=eqns, outvars=outvars, debug_info=named)


def _needed(eqns: Any, outvars: Any) -> list[Any]:
    """The equations that the results are made by, in their order."""
    wanted, found = {x for x in outvars if isinstance(x, core.Var)}, []
    for eqn in reversed(eqns):
        if wanted & set(eqn.outvars):
            found.append(eqn)
            wanted |= {x for x in eqn.invars if isinstance(x, core.Var)}
    return found[::-1]


def _names_parts(params: Mapping[str, Any]) -> bool:
    """Whether an equation, or one inside it, has to do with the axis of parts."""

    def names(value: Any) -> bool:
        if isinstance(value, core.ClosedJaxpr):
            value = value.jaxpr
        if isinstance(value, core.Jaxpr):
            return any(_names_parts(eqn.params) for eqn in value.eqns)
        if isinstance(value, tuple | list):
            return any(names(each) for each in value)
        return isinstance(value, str) and value == PARTS

    return any(names(value) for value in params.values())


def _split(batch: Batch, steps: int) -> tuple[list[Array], Any]:
    """Columns of a batch as [steps, B / steps, …], and the function from one piece of them to its batch."""
    paths, tree = jax.tree_util.tree_flatten_with_path(batch)
    shared = [_is_under(path, SHARED) for path, _ in paths]
    pieces = []
    for (path, x), is_shared in zip(paths, shared, strict=True):
        if is_shared:
            continue
        if x.shape[0] % steps:
            raise ValueError(
                f"accumulate_steps={steps}: the batch column {jax.tree_util.keystr(path)} of shape {x.shape} "
                "(of each device) does not split into as many parts; choose a batch size and a number of "
                "packed rows that it divides"
            )
        pieces.append(x.reshape(steps, x.shape[0] // steps, *x.shape[1:]))

    def whole(piece: list[Array]) -> Batch:
        own = iter(piece)
        leaves = [x if is_shared else next(own) for (_, x), is_shared in zip(paths, shared, strict=True)]
        found: Batch = jax.tree.unflatten(tree, leaves)
        return found

    return pieces, whole


def _is_under(path: Any, name: str) -> bool:
    """Whether a column has this name, or is part of one that has."""
    return jax.tree_util.DictKey(name) in path


def _refuse(why: str) -> None:
    raise ValueError(
        f"accumulate_steps: a batch cannot be cut into parts, since {why}; train with accumulate_steps=1 and "
        "a smaller batch, or recompute blocks in the backward pass (`remat`)"
    )
