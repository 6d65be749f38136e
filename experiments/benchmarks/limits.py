"""What a machine allows: how fast it multiplies matrices and copies memory, and what a program asks of it.

The work of a program is counted in its trace: the floating-point operations of matrix products, and the
bytes of table rows that are read or added to, both times the lengths of the scans around them. Of a branch
the lesser side counts, and a loop of unknown length counts once. Norms, activations, random numbers and
passes over whole tables are not counted, so the limit lies below what any implementation of the program
takes, unless the rows that it reads stay in the cache, which is faster than a copy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

SIDE, COPIED = 2048, 2**26  # of the matrices, and numbers in the array, that rates are measured with
READS = ("gather", "dynamic_slice")
WRITES = {"scatter": 2, "scatter-add": 2, "scatter_add": 2, "dynamic_update_slice": 1}  # where updates stand


class Work(NamedTuple):
    """Floating-point operations of matrix products, and bytes of rows that are read and written."""

    flops: float = 0.0
    moved: float = 0.0

    def times(self, number: float) -> Work:
        return Work(number * self.flops, number * self.moved)


class Rates(NamedTuple):
    """Floating-point operations and bytes in a second."""

    flops: float
    moved: float

    def seconds(self, work: Work) -> float:
        """The time below which no program with this work falls; 0 where none was counted."""
        return max(work.flops / self.flops, work.moved / self.moved)


def total(parts: Iterable[Work]) -> Work:
    """The sum of several."""
    every = list(parts)
    return Work(sum(part.flops for part in every), sum(part.moved for part in every))


def work(function: Callable[..., Any], *args: Any) -> Work:
    """Counts the work of a function of arrays, without running it."""
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: Jaxpr) -> Work:
    return total(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        depth = math.prod(shape[axis] for axis in contracted)
        return Work(flops=2.0 * depth * math.prod(equation.outvars[0].aval.shape))
    if name in READS:
        return Work(moved=_bytes(equation.outvars[0]))
    if name in WRITES:
        return Work(moved=2.0 * _bytes(equation.invars[WRITES[name]]))
    inner = [_of(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return Work(min(part.flops for part in inner), min(part.moved for part in inner))
    return total(inner).times(params["length"] if name == "scan" else 1)


def _bytes(variable: Any) -> float:
    shape, dtype = variable.aval.shape, variable.aval.dtype
    return float(math.prod(shape)) * dtype.itemsize


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """The programs within a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _jaxprs(part)


def measure(*, tiny: bool = False, repeats: int = 10) -> Rates:
    """The rates of this machine in float32, the best of several calls after one to compile.

    tiny: of small arrays, to check that everything runs.
    """
    side, copied = (64, 2**12) if tiny else (SIDE, COPIED)
    square = jnp.full((side, side), 0.5)
    multiply = jax.jit(lambda x: x @ x)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)  # in place: no new memory, which is slow to touch
    array = jnp.zeros(copied)

    def read_and_write() -> Any:
        nonlocal array
        array = add(array)
        return array

    flops = 2.0 * side**3 / _fastest(lambda: multiply(square), repeats)
    return Rates(flops, 2.0 * array.nbytes / _fastest(read_and_write, repeats))


def _fastest(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
