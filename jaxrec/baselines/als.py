"""Alternating least squares on one or several devices; `jaxrec.optim.least_squares` solves the rows.

With several devices, both tables are split by rows, as in ALX (Mehta et al., 2021, arXiv:2112.02194): the
Gramian is a sum over devices, and the rows that a device's histories need are looked up with fixed shapes, a
chunk of histories at a time. Departs from ALX: a half-step writes no rows by id (see `als_layout`), rows
without history are 0 from the start, and all arithmetic is float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxrec.baselines.als_layout import Bucket, Pairs, lay_out
from jaxrec.optim.least_squares import Exact, Rows, Solver, after
from jaxrec.train import parallel
from jaxrec.types import Array

Tables = tuple[Array, Array]  # of users and of items


class Penalty(NamedTuple):
    """The numbers of the loss. A row with n pairs, with m rows in the other table, has λ (n + α₀ m)^ν."""

    regularisation: float | Array
    alpha0: float | Array
    nu: float | Array

    def ridge(self, number: Any, others: Any) -> Any:
        """λ of rows by the number of their pairs and of the other table's rows."""
        return self.regularisation * (number + self.alpha0 * others) ** self.nu


class ALS(NamedTuple):
    """A factorisation that is set up; tables lie as `als_layout` says.

    start(users [U, D], items [I, D]) -> tables; rows without pairs are 0. finish(tables) -> users [U, D],
    items [I, D]. sweep(tables) -> tables: one epoch, of users and then of items. half(tables, of_users) ->
    tables: a half-step, of one of both. toward(tables, means [I, D]) -> tables: a half-step of items whose
    penalty is λ |h - m|², which needs `Exact`.
    """

    start: Callable[[ArrayLike, ArrayLike], Tables]
    finish: Callable[[Tables], Tables]
    sweep: Callable[[Tables], Tables]
    half: Callable[[Tables, bool], Tables]
    toward: Callable[[Tables, ArrayLike], Tables]


def alternating(
    pairs: Pairs,
    num_users: int,
    num_items: int,
    *,
    penalty: Penalty,
    solver: Solver,
    num_devices: int = 1,
) -> ALS:
    """Sets up alternating least squares for these pairs. Runs that differ in `penalty` alone share a program.

    Raises:
      ValueError: there are not as many devices.
    """
    parallel.axis_name(num_devices)
    of_users, of_items = lay_out(pairs, num_users, num_items, num_devices)
    shard = functools.partial(parallel.shard_rows, num_devices=num_devices)
    buckets = [jax.tree.map(shard, side.buckets) for side in (of_users, of_items)]
    numbers = Penalty(*(jnp.float32(number) for number in penalty))
    others = jnp.float32(num_items), jnp.float32(num_users)
    both, one, around = _programs(solver, num_devices)

    def start(users: ArrayLike, items: ArrayLike) -> Tables:
        return shard(of_users.stored(np.asarray(users))), shard(of_items.stored(np.asarray(items)))

    def finish(tables: Tables) -> Tables:
        return jnp.asarray(tables[0])[of_users.place], jnp.asarray(tables[1])[of_items.place]

    def sweep(tables: Tables) -> Tables:
        return both(*tables, *buckets, *others, numbers)

    def half(tables: Tables, users: bool) -> Tables:
        if users:
            return one(*tables, buckets[0], others[0], numbers), tables[1]
        return tables[0], one(*tables[::-1], buckets[1], others[1], numbers)

    def toward(tables: Tables, means: ArrayLike) -> Tables:
        if not isinstance(solver, Exact):
            raise ValueError(f"solver={solver}: must be Exact() where rows have a prior mean")
        stored = shard(of_items.stored(np.asarray(means)))
        return tables[0], around(*tables[::-1], buckets[1], stored, others[1], numbers)

    return ALS(start, finish, sweep, half, toward)


@functools.cache
def _programs(solver: Solver, num_devices: int) -> tuple[Callable[..., Any], ...]:
    """A sweep, a half-step, and one with means."""
    one = functools.partial(half_step, solver)

    def both(
        users: Array,
        items: Array,
        of_users: list[Bucket],
        of_items: list[Bucket],
        num_items: Array,
        num_users: Array,
        penalty: Penalty,
    ) -> Tables:
        users = one(users, items, of_users, num_items, penalty)
        return users, one(items, users, of_items, num_users, penalty)

    def around(
        own: Array, other: Array, buckets: list[Bucket], means: Array, others: Array, penalty: Penalty
    ) -> Array:
        return half_step(solver, own, other, buckets, others, penalty, means)

    return (
        parallel.over_shards(both, num_devices, (True,) * 4 + (False,) * 3),
        parallel.over_shards(one, num_devices, (True,) * 3 + (False,) * 2),
        parallel.over_shards(around, num_devices, (True,) * 4 + (False,) * 2),
    )


def half_step(
    solver: Solver,
    own: Array,
    other: Array,
    buckets: list[Bucket],
    others: Array,
    penalty: Penalty,
    means: Array | None = None,
) -> Array:
    """Renews this device's rows of a table, inside `over_shards`: [P, D], [Q, D] -> [P, D].

    others: the number of rows of the other table, on all devices. means: of the rows' priors, [P, D].
    """
    basis = solver.basis(jax.lax.psum(other.T @ other, parallel.AXIS))
    rotated, previous = other @ basis.rotation, own @ basis.rotation
    drawn = None if means is None else means @ basis.rotation

    def solve(chunk: tuple[Bucket, Array, Array, Array | None]) -> Array:
        bucket, before, ridge, mean = chunk
        response = (bucket.place >= 0).astype(own.dtype) if bucket.response is None else bucket.response
        rows = Rows(look_up(rotated, bucket.place), response, bucket.weight, ridge, before, mean)
        return solver.solve(rows, basis, penalty.alpha0)

    solved, start = list[Array](), 0
    for bucket in buckets:
        chunks, size, _ = bucket.place.shape
        own_rows = slice(start, start + chunks * size)
        before = previous[own_rows].reshape(chunks, size, -1)
        mean = None if drawn is None else drawn[own_rows].reshape(chunks, size, -1)
        start += chunks * size
        ridge = after(solved, penalty.ridge(bucket.number, others))
        solved.append(jax.lax.map(solve, (bucket, before, ridge, mean)).reshape(chunks * size, -1))
    return jnp.concatenate(solved) @ basis.rotation.T


def look_up(table: Array, place: Array) -> Array:
    """Rows of a sharded table, 0 where the place is -1: int32 [R, L] -> [R, L, D]."""
    if jax.lax.axis_size(parallel.AXIS) == 1:
        return table.at[place].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    return parallel.lookup_sharded(table, place.reshape(-1)).reshape(*place.shape, -1)
