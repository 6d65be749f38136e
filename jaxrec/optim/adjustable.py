"""Optimisers whose numbers, such as the learning rate, are part of their state and not of the program.

`optax.inject_hyperparams` does this for the arguments of one optimiser; here it is any function of named
numbers, such as a recipe's, so that a chain of several transformations keeps the names of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrec.optim.row_optimisers import RowOptimiser
from jaxrec.optim.sparse import SparseTransformation
from jaxrec.types import Array

Build = Callable[[Mapping[str, Any]], optax.GradientTransformation]


class AdjustableState(NamedTuple):
    """numbers: of the optimiser, float32 scalars by name. inner: the state of the optimiser built from
    them.
    """

    numbers: dict[str, Array]
    inner: Any


def adjustable(build: Build, numbers: Mapping[str, float]) -> optax.GradientTransformation:
    """The optimiser `build(numbers)`, which reads its numbers from its state at every step.

    Runs that differ in these numbers alone share one compiled program, see `with_numbers`.

    build: from named numbers, which are traced, to an optimiser. Their values may not decide the structure of
    its state.
    """

    def init(params: Any) -> AdjustableState:
        values = {name: jnp.float32(value) for name, value in numbers.items()}
        return AdjustableState(values, build(values).init(params))

    def update(gradient: Any, state: AdjustableState, params: Any = None) -> tuple[Any, AdjustableState]:
        change, inner = build(state.numbers).update(gradient, state.inner, params)
        return change, state._replace(inner=inner)

    made = build(numbers)
    if isinstance(made, SparseTransformation):

        def rows(state: AdjustableState) -> RowOptimiser:
            built = build(state.numbers)
            assert isinstance(built, SparseTransformation)
            return built.rows(state.inner)

        return SparseTransformation(init, update, rows, made.tables)
    return optax.GradientTransformation(init, update)


def with_numbers(opt_state: Any, numbers: Mapping[str, Sequence[float]]) -> Any:
    """An optimiser state behind a leading axis of runs [S, …], with these numbers, S of each.

    Raises:
      ValueError: no `adjustable` optimiser has a number of that name, or there is not one value per run.
    """
    missing = set(numbers)

    def is_adjustable(node: Any) -> bool:
        return isinstance(node, AdjustableState)

    def put(node: Any) -> Any:
        if not is_adjustable(node):
            return node
        values = dict(node.numbers)
        for name, old in node.numbers.items():
            if name in numbers:
                values[name] = jnp.asarray(numbers[name], jnp.float32)
                if values[name].shape != old.shape:
                    raise ValueError(
                        f"{name}={list(numbers[name])}: must be one value for each of {old.shape[0]} runs"
                    )
                missing.discard(name)
        return node._replace(numbers=values)

    changed = jax.tree.map(put, opt_state, is_leaf=is_adjustable)
    if missing:
        raise ValueError(
            f"numbers {sorted(missing)}: the optimiser does not read them from its state; build it by "
            "optim.adjustable with these names"
        )
    return changed
