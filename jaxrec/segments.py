"""Sums of rows that share an id, which is also the gradient of every table lookup.

XLA compiles a float scatter-add on NVIDIA GPUs into a loop of compare-and-swap, 450 to 2,000 times slower
where ids repeat (jaxlib 0.10.2 to 0.11.0: jax issue 38806, xla issue 46225), and popular items repeat in
every batch. `sum_by_id` sorts instead and writes each id once there, in an order that does not depend on
the run; elsewhere it is a scatter-add, the fastest form on those devices.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.experimental import sparse

from jaxrec.types import Array


class TableByRows:
    """Stands for a table [V, …] of which only single rows can be read, by `rows_by_id`.

    Whatever would read the table as a whole is refused. Subclasses implement `read`.
    """

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name, self.shape, self.dtype, self.ndim = name, shape, dtype, len(shape)

    def read(self, ids: Array) -> Array:
        """Rows by id, int32 […] → [*ids.shape, …]; NaN where an id is not in 0..V-1."""
        raise NotImplementedError

    def __jax_array__(self) -> NoReturn:
        self._refuse()

    def __getitem__(self, index: Any) -> NoReturn:
        self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(refusal(self.name))

    __matmul__ = __rmatmul__ = __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __pow__ = _refuse
    T = at = astype = reshape = sum = property(_refuse)


def refusal(name: str) -> str:
    """The message of an error: a sparse table is read as a whole."""
    return (
        f"table {name!r}: is sparse, so that only its rows by id have a gradient, but it is read as a whole, "
        "as a softmax over all items or a penalty of all parameters does; choose a loss of sampled items, or "
        "leave this table dense"
    )


def sum_by_id(values: Array, ids: Array, num_ids: int) -> Array:
    """Sums of the values of each id: [N, …] and int32 [N] → [num_ids, …].

    Row i of the result is the sum of values[n] over all n with ids[n] == i; 0 for an id that does not occur.
    Ids that are not in 0..num_ids-1 are left out, as masked places need it.
    """
    if values.shape[0] != ids.shape[0] or ids.ndim != 1:
        raise ValueError(f"ids of shape {ids.shape}: must be [N], with values [N, …]; got {values.shape}")
    return _sum(_traced(values), _traced(_wide(ids)), num_ids)


def _wide(ids: Array) -> Array:
    """Ids as int32 at least: narrower ones would wrap where the number of rows does not fit them."""
    ids = jnp.asarray(ids)
    return ids.astype(jnp.int32) if jnp.iinfo(ids.dtype).bits < 32 else ids


def rows_by_id(table: Array | TableByRows, ids: Array, *, clip: bool = False) -> Array:
    """Rows of a table, [V, …] and int32 […] → [*ids.shape, …]; NaN where an id is not in 0..V-1
    (the lowest integer in a table of integers).

    clip: read the nearest row there instead, for places that are masked later: a NaN would reach the
    gradient through the mask.

    The gradient of the table is `sum_by_id`. There is no forward mode (`jax.jvp`) for a float table.
    """
    ids = _wide(ids)
    if clip:
        ids = jnp.clip(ids, 0, table.shape[0] - 1)
    if isinstance(table, TableByRows):
        return table.read(ids)
    table = jnp.asarray(table)
    if not jnp.issubdtype(table.dtype, jnp.inexact):
        return _gather(table, ids)
    return _rows(_traced(table), _traced(ids), table.shape[0])


def pick(values: Array, index: Array) -> Array:
    """Entries of each row by their place: [*B, L, …] and int32 [*B, Q] → [*B, Q, …]; NaN outside 0..L-1.

    `jnp.take_along_axis` with the gradient of `rows_by_id`.

    Raises:
      ValueError: there are more entries, B · L, than int32 can count.
    """
    length = values.shape[index.ndim - 1]
    entries = math.prod(values.shape[: index.ndim])
    if isinstance(entries, int) and entries > jnp.iinfo(jnp.int32).max:  # an export's size is a symbol
        raise ValueError(
            f"values of shape {values.shape}: more entries than int32 can count; take smaller batches"
        )
    first = jnp.arange(math.prod(index.shape[:-1])).reshape(*index.shape[:-1], 1) * length
    flat = values.reshape(-1, *values.shape[index.ndim :])
    return rows_by_id(flat, jnp.where((index >= 0) & (index < length), first + index, -1))


def sparse_product(start: Array, row: Array, column: Array, weight: Array, table: Array) -> Array:
    """Product of a sparse matrix of N rows and a table [V, …]: [N, …], zeros for an empty row.

    Row n is the sum of weight[e] · table[column[e]] over its entries e. On CPU it is one pass over entries
    without an array [E, …], ten times faster than a scatter; elsewhere running sums or a sorted scatter.
    There is no gradient here: that of a graph is the product with its edges sorted the other way
    (`nn.layers.propagation`).

    Args:
      start: entries are listed row after row, those of row n from start[n] to start[n + 1] - 1, int32
        [N + 1]; entries from start[N] on are padding.
      row, column: of each entry, int32 [E]; the row of padding is N. Columns must be in 0..V-1; it is not
        checked.
      weight: of each entry, [E].
    """
    flat = table.reshape(table.shape[0], -1)
    found = jax.lax.platform_dependent(
        *(start, row, column, weight, flat),
        cpu=_compressed_rows,
        cuda=_gathered_and_sorted,
        default=_gathered_and_scattered,
    )
    return found.reshape(-1, *table.shape[1:])


@jax.custom_batching.sequential_vmap
def _compressed_rows(start: Array, row: Array, column: Array, weight: Array, table: Array) -> Array:
    shape = (start.shape[0] - 1, table.shape[0])
    return sparse.BCSR((weight, column, start), shape=shape) @ table


def _gathered_and_sorted(start: Array, row: Array, column: Array, weight: Array, table: Array) -> Array:
    values = table.at[column].get(mode="clip") * weight[:, None]
    return _written_once(values, row, start.shape[0] - 1)


def _gathered_and_scattered(start: Array, row: Array, column: Array, weight: Array, table: Array) -> Array:
    values = table.at[column].get(mode="clip") * weight[:, None]
    zeros = jnp.zeros((start.shape[0] - 1, table.shape[1]), values.dtype)
    return zeros.at[row].add(values, mode="drop", indices_are_sorted=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sum(values: Array, ids: Array, num_ids: int) -> Array:
    return jax.lax.platform_dependent(
        values,
        ids,
        cuda=functools.partial(sum_sorted, num_ids=num_ids),
        default=functools.partial(sum_scattered, num_ids=num_ids),
    )


def _sum_forward(values: Array, ids: Array, num_ids: int) -> tuple[Array, Array]:
    return _sum(values, ids, num_ids), ids


def _sum_backward(num_ids: int, ids: Array, gradient: Array) -> tuple[Array, None]:
    inside = (ids >= 0) & (ids < num_ids)
    rows = rows_by_id(gradient, jnp.where(inside, ids, 0))
    return jnp.where(inside.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0), None


_sum.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(table: Array, ids: Array, num_rows: int) -> Array:
    return _gather(table, ids)


def _rows_forward(table: Array, ids: Array, num_rows: int) -> tuple[Array, Array]:
    return _gather(table, ids), ids


def _rows_backward(num_rows: int, ids: Array, gradient: Array) -> tuple[Array, None]:
    rows = gradient.reshape(-1, *gradient.shape[ids.ndim :])
    return _sum(rows, ids.reshape(-1), num_rows), None


_rows.defvjp(_rows_forward, _rows_backward)


def _traced(array: Array) -> Array:
    """The array; its copy while tracing: a vmap over NumPy arrays within jit holds them as such, which
    custom_vjp refuses."""
    return jnp.copy(array) if isinstance(array, jax.core.Tracer) else array


def _gather(table: Array, ids: Array) -> Array:
    return table.at[ids].get(mode="fill", wrap_negative_indices=False)


def sum_scattered(values: Array, ids: Array, num_ids: int) -> Array:
    """`sum_by_id` as a scatter-add."""
    zeros = jnp.zeros((num_ids, *values.shape[1:]), values.dtype)
    return zeros.at[ids].add(values, mode="drop", wrap_negative_indices=False)


def sum_sorted(values: Array, ids: Array, num_ids: int) -> Array:
    """`sum_by_id` by sorting the ids: running sums within each id, of which the last is written."""
    ids = _wide(ids)
    order = jnp.argsort(ids, stable=True)
    return _written_once(values[order], ids[order], num_ids)


def _written_once(values: Array, ids: Array, num_ids: int) -> Array:
    """Sums of the values of each id, the ids ascending."""
    starts = jnp.concatenate([jnp.ones(min(1, len(ids)), bool), ids[1:] != ids[:-1]])
    sums = _running_sums(values, starts)
    zeros = jnp.zeros((num_ids, *values.shape[1:]), values.dtype)
    return zeros.at[write_positions(ids, num_ids)].set(
        sums, mode="drop", unique_indices=True, wrap_negative_indices=False
    )


def write_positions(ids: Array, num_ids: int) -> Array:
    """Where the running sums of sorted ids are written: int32 [N], all distinct.

    The last place of an id in 0..num_ids-1 is written at that id; every other place n at num_ids + n, which
    is outside the result and dropped.
    """
    last = jnp.concatenate([ids[1:] != ids[:-1], jnp.ones(min(1, len(ids)), bool)])
    inside = (ids >= 0) & (ids < num_ids)
    return jnp.where(last & inside, ids, num_ids + jnp.arange(len(ids), dtype=ids.dtype))


def _running_sums(values: Array, starts: Array) -> Array:
    """Inclusive sums along axis 0 that begin anew wherever `starts` is True."""

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        (sums, seen), (more, new) = left, right
        return jnp.where(new, more, sums + more), seen | new

    flags = starts.reshape(-1, *[1] * (values.ndim - 1))
    return jax.lax.associative_scan(combine, (values, flags))[0]
