"""Optimisers of single rows of a table: each step sees the rows that a batch has looked up, and no others.

    sgd, adagrad       equal to optax's dense ones, of which a row without a gradient does not change
    rowwise_adagrad    one accumulator a row, of the mean square of its gradient (as DLRM's open code has it:
                       Naumov et al., 2019, arXiv:1906.00091)
    lazy_adam          moments of a row decay only when it is looked up (PyTorch's SparseAdam, TensorFlow
                       Addons' LazyAdam); equal to the dense one while every row is looked up at every step
    lazy_adam with corrected=True
                       before a row is read, it makes up for the steps in which it was not looked up: dense
                       Adam would have moved it on by its decaying first moment

All take `weight_decay`, decoupled as in AdamW, and `max_norm`, the length to which a row is cut after its
update; both see a row when it is looked up. U rows looked up, D dim, V rows of the table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxrec.types import Array

Rate: TypeAlias = (
    float | Array | optax.Schedule
)  # of learning; a schedule is a function of the number of steps before
LEAST = 1e-7  # terms of the correction that are smaller, relative to the first, are left out


class Rows(NamedTuple):
    """Rows of a table and what an optimiser keeps of them.

    values: [U, D]; moments: arrays [U, D] by name; numbers: arrays [U] by name.
    """

    values: Array
    moments: Mapping[str, Array]
    numbers: Mapping[str, Array]


def unchanged(rows: Rows, step: Array) -> Rows:
    """The rows."""
    return rows


class RowOptimiser(NamedTuple):
    """update(rows, gradient [U, D], step) -> rows; step: how many steps of the run are done, int32.

    moments, numbers: initial values of what is kept of each row. catch_up(rows, step) -> rows: the rows as
    they are read, where they have to make up for steps in which they were not.
    """

    update: Callable[[Rows, Array, Array], Rows]
    moments: Mapping[str, float] = {}
    numbers: Mapping[str, float | int] = {}
    catch_up: Callable[[Rows, Array], Rows] = unchanged


def sgd(learning_rate: Rate, *, weight_decay: float = 0.0, max_norm: float | None = None) -> RowOptimiser:
    """Gradient descent. Raises ValueError for a rate or a number out of range, as all of this module do."""
    _check(learning_rate, weight_decay, max_norm)

    def update(rows: Rows, gradient: Array, step: Array) -> Rows:
        values = _moved(rows.values, gradient, _at(learning_rate, step), weight_decay, max_norm)
        return rows._replace(values=values)

    return RowOptimiser(update)


def adagrad(
    learning_rate: Rate,
    *,
    initial_accumulator: float = 0.1,
    eps: float = 1e-7,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> RowOptimiser:
    """Adagrad (Duchi et al., JMLR 2011), with the defaults of `optax.adagrad`."""
    _check(learning_rate, weight_decay, max_norm, eps=eps, initial_accumulator=initial_accumulator)

    def update(rows: Rows, gradient: Array, step: Array) -> Rows:
        total = jnp.square(gradient) + rows.moments["squares"]
        change = _inverse_root(total, eps) * gradient
        values = _moved(rows.values, change, _at(learning_rate, step), weight_decay, max_norm)
        return rows._replace(values=values, moments={"squares": total})

    return RowOptimiser(update, moments={"squares": initial_accumulator})


def rowwise_adagrad(
    learning_rate: Rate,
    *,
    initial_accumulator: float = 0.1,
    eps: float = 1e-7,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> RowOptimiser:
    """Adagrad with one accumulator for each row, of the mean over D of squared gradients: V numbers, not V·D.

    At D = 1 it is `adagrad`, whose defaults it has.
    """
    _check(learning_rate, weight_decay, max_norm, eps=eps, initial_accumulator=initial_accumulator)

    def update(rows: Rows, gradient: Array, step: Array) -> Rows:
        total = jnp.mean(jnp.square(gradient), axis=-1) + rows.numbers["squares"]
        change = _inverse_root(total, eps)[:, None] * gradient
        values = _moved(rows.values, change, _at(learning_rate, step), weight_decay, max_norm)
        return rows._replace(values=values, numbers={"squares": total})

    return RowOptimiser(update, numbers={"squares": initial_accumulator})


def lazy_adam(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    corrected: bool = False,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
) -> RowOptimiser:
    """Adam (Kingma and Ba, ICLR 2015) on rows that are looked up; bias is corrected by the steps of the run.

    corrected: a row first makes up for the k steps since it was last looked up. Its moments decay by b1^k and
    b2^k, and it moves by the k updates of dense Adam with gradients of 0. Departs from dense Adam: ε enters
    all k of them as it does the first, terms below 1e-7 of the first are left out, a schedule's rate is that
    of the present step, and weights do not decay meanwhile. A row lags behind until it is looked up, or a
    call of an epoch of `train.fit` ends (`sparse.caught_up`).

    Raises:
      ValueError: b1 or b2 outside [0, 1); eps not positive; corrected with b1 ≥ √b2, where skipped updates
        do not fade.
    """
    _check(learning_rate, weight_decay, max_norm, eps=eps)
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: must lie in [0, 1)")
    if corrected and not b1 < math.sqrt(b2):
        raise ValueError(
            f"b1={b1}, b2={b2}: corrected needs b1 below the root of b2, or skipped updates do not fade; "
            "lower b1, or leave the correction out"
        )

    def update(rows: Rows, gradient: Array, step: Array) -> Rows:
        mean = b1 * rows.moments["mean"] + (1 - b1) * gradient
        square = b2 * rows.moments["square"] + (1 - b2) * jnp.square(gradient)
        count = (step + 1).astype(jnp.float32)
        change = (mean / (1 - b1**count)) / (jnp.sqrt(square / (1 - b2**count)) + eps)
        values = _moved(rows.values, change, _at(learning_rate, step), weight_decay, max_norm)
        numbers = {name: jnp.full_like(last, step + 1) for name, last in rows.numbers.items()}
        return Rows(values, {"mean": mean, "square": square}, numbers)

    def catch_up(rows: Rows, step: Array) -> Rows:
        last = rows.numbers["steps"]
        mean, square = rows.moments["mean"], rows.moments["square"]
        first, total = _skipped(last, step, b1, b2)
        move = mean / (jnp.sqrt(square) + eps * first[:, None]) * total[:, None]
        skipped = (step - last).astype(jnp.float32)[:, None]
        moments = {"mean": mean * b1**skipped, "square": square * b2**skipped}
        return Rows(
            rows.values - _at(learning_rate, step) * move, moments, {"steps": jnp.full_like(last, step)}
        )

    moments = {"mean": 0.0, "square": 0.0}
    if not corrected:
        return RowOptimiser(update, moments)
    return RowOptimiser(update, moments, {"steps": 0}, catch_up)


def _skipped(last: Array, step: Array, b1: float, b2: float) -> tuple[Array, Array]:
    """The factors of the updates of Adam from `last` to `step` without a gradient: int32 [U] → [U], [U].

    Update j moves a row by m b1^j / (1 - b1^(last + j)) over √v / f_j, where f_j is the second factor of
    bias and decay, √(1 - b2^(last + j)) / √b2^j. Returns f_1, and the sum over j.
    """
    ratio = b1 / math.sqrt(b2) if b2 else 0.0
    most = math.ceil(math.log(LEAST) / math.log(ratio)) if ratio else 0
    skipped = step - last
    powers = tuple(b ** last.astype(jnp.float32) for b in (b1, b2))

    def term(carry: Any) -> Any:
        j, (of_mean, of_square), scale, total = carry
        of_mean, of_square, scale = of_mean * b1, of_square * b2, scale * ratio
        added = scale * jnp.sqrt(1 - of_square) / (1 - of_mean)
        return j + 1, (of_mean, of_square), scale, total + jnp.where(j < skipped, added, 0.0)

    start = (jnp.int32(0), powers, jnp.float32(1), jnp.zeros(last.shape))
    until = jnp.minimum(jnp.max(skipped, initial=0), most)
    *_, total = jax.lax.while_loop(lambda carry: carry[0] < until, term, start)
    first = jnp.sqrt(1 - powers[1] * b2) / math.sqrt(b2) if b2 else jnp.zeros(last.shape)
    return first, total


def _moved(values: Array, change: Array, rate: Any, weight_decay: float, max_norm: float | None) -> Array:
    """values - rate · (change + weight_decay · values), no longer than max_norm, [U, D]."""
    moved = values - rate * (change + weight_decay * values if weight_decay else change)
    if max_norm is None:
        return moved
    squares = jnp.sum(jnp.square(moved), axis=-1, keepdims=True)
    long = squares > max_norm**2
    return jnp.where(long, moved * (max_norm * jax.lax.rsqrt(jnp.where(long, squares, 1.0))), moved)


def _inverse_root(total: Array, eps: float) -> Array:
    return jnp.where(total > 0, jax.lax.rsqrt(total + eps), 0.0)


def _at(rate: Rate, step: Array) -> Any:
    return rate(step) if callable(rate) else rate


def _check(learning_rate: Rate, weight_decay: float, max_norm: float | None, **not_negative: float) -> None:
    if isinstance(learning_rate, int | float) and not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate}: must be positive and finite")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay={weight_decay}: must be 0 or positive, and finite")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm={max_norm}: must be positive, or None for no limit")
    for name, value in not_negative.items():
        least = "positive" if name == "eps" else "0 or positive"
        if not (value > 0 if name == "eps" else value >= 0):
            raise ValueError(f"{name}={value}: must be {least}")


KINDS: Mapping[str, Callable[..., RowOptimiser]] = {
    "sgd": sgd,
    "adagrad": adagrad,
    "rowwise-adagrad": rowwise_adagrad,
    "lazy-adam": lazy_adam,
    "lazy-adam-corrected": functools.partial(lazy_adam, corrected=True),
}
