"""Tables that are sharded over devices, and how these read and change rows of each other: two exchanges.

`gathered`   every device sees all devices' ids, looks up its own rows, and sums are scattered back.
`bucketed`   every device sends each owner its own ids alone, through an all-to-all of stated capacity.

Both have fixed shapes and move distinct ids: a batch reads few rows many times. Everything here runs inside
`parallel.over_shards`, on each device's part; shape names: S rows of a shard, C distinct ids of a device,
N devices, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.segments import rows_by_id
from jaxrec.train.parallel import AXIS
from jaxrec.types import Array, Key

Init = Callable[[Key, tuple[int, ...]], Array]
NOWHERE = np.iinfo(np.int32).max  # the row of a place that holds no id


class Layout(NamedTuple):
    """Where the rows of a table lie: dealt in turn to blocks, of which every device has the same number.

    Popular items often have neighbouring ids; so they do not all lie on one device. The order does not depend
    on the number of devices, so a checkpoint fits any number that divides `blocks`.

    num_rows: V, that of id 0 counted. blocks: the number of devices must divide it.
    """

    num_rows: int
    blocks: int = 256

    @property
    def padded(self) -> int:
        """Rows with those of zeros that fill the last places: V rounded up to a multiple of the blocks."""
        return -(-self.num_rows // self.blocks) * self.blocks

    def row(self, ids: Array) -> Array:
        """The row where an id lies; `NOWHERE` for an id that is not in 0..V-1. Id 0 lies in row 0.

        >>> Layout(5, blocks=2).row(jnp.arange(5)).tolist()
        [0, 3, 1, 4, 2]
        """
        inside = (ids >= 0) & (ids < self.num_rows)
        return jnp.where(
            inside, ids % self.blocks * (self.padded // self.blocks) + ids // self.blocks, NOWHERE
        )

    def place(self, table: Any) -> np.ndarray:
        """A table [V, …] in the order of the rows, [padded, …]."""
        table = np.asarray(table)
        if len(table) != self.num_rows:
            raise ValueError(f"table of {len(table)} rows: the layout has num_rows={self.num_rows}")
        wide = np.pad(table, [(0, self.padded - len(table)), *[(0, 0)] * (table.ndim - 1)])
        dealt = wide.reshape(-1, self.blocks, *table.shape[1:]).swapaxes(0, 1)
        return np.ascontiguousarray(dealt).reshape(wide.shape)

    def collect(self, placed: Any) -> np.ndarray:
        """The table [V, …] of rows in their order, the inverse of `place`."""
        placed = np.asarray(placed)
        dealt = placed.reshape(self.blocks, -1, *placed.shape[1:]).swapaxes(0, 1)
        return dealt.reshape(placed.shape)[: self.num_rows]

    def check(self, num_devices: int) -> None:
        """Raises ValueError if the devices cannot have equal numbers of blocks."""
        if self.num_rows < 1 or self.blocks < 1:
            raise ValueError(f"num_rows={self.num_rows}, blocks={self.blocks}: must both be at least 1")
        if self.padded >= NOWHERE:
            raise ValueError(f"num_rows={self.num_rows}: more rows than int32 can number")
        if self.blocks % num_devices:
            raise ValueError(
                f"num_devices={num_devices}: does not divide blocks={self.blocks}, in which the rows of a "
                "table are dealt; choose a number of devices that does, or other blocks for a new run"
            )


class Distinct(NamedTuple):
    """Distinct values in ascending order, [C], the largest int32 where there are fewer.

    place: of each given value, int32 [M]: values[place[m]] is value m; C where it is the largest int32.
    overflow: how many distinct values found no room.
    """

    values: Array
    place: Array
    overflow: Array


def distinct(values: Array, capacity: int) -> Distinct:
    """The distinct values of int32 [M], at most `capacity`; `NOWHERE` is no value.

    >>> found = distinct(jnp.array([7, 3, 7], jnp.int32), 3)
    >>> found.values[:2].tolist(), found.place.tolist()
    ([3, 7], [1, 0, 1])
    """
    order = jnp.argsort(values)
    ascending = values[order]
    real = ascending != NOWHERE
    first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]]) & real
    number = jnp.cumsum(first, dtype=jnp.int32) - 1
    past = capacity + jnp.arange(len(values), dtype=jnp.int32)  # distinct, outside, dropped
    kept = jnp.full(capacity, NOWHERE, jnp.int32)
    kept = kept.at[jnp.where(first, number, past)].set(ascending, mode="drop", unique_indices=True)
    place = jnp.zeros_like(order, jnp.int32)
    place = place.at[order].set(jnp.where(real, jnp.minimum(number, capacity), capacity), unique_indices=True)
    return Distinct(kept, place, jnp.maximum(jnp.sum(first, dtype=jnp.int32) - capacity, 0))


class Route(NamedTuple):
    """The way of a device's distinct ids to the owners of their rows and back.

    asked: the rows of its own shard that other devices asked a device for, int32 [M]; S where nothing.
    slot: where each of a device's C distinct ids was sent, int32 [C]; past the end where nowhere.
    overflow: ids that found no room.
    """

    asked: Array
    slot: Array
    overflow: Array


class Exchange(NamedTuple):
    """Three pure functions of a device's part, inside `parallel.over_shards`.

    route(rows [C] in ascending order, distinct, `NOWHERE` at the end; shard_rows S) -> Route
    pull(shard [S, D], route) -> [C, D]: the rows, zeros where there is none.
    push(values [C, D], route) -> [M, D]: the values on their rows' owners, those of `route.asked`.
    """

    route: Callable[[Array, int], Route]
    pull: Callable[[Array, Route], Array]
    push: Callable[[Array, Route], Array]


def gathered() -> Exchange:
    """All-gather ids, masked local lookup, reduce-scatter rows (ALX: Mehta et al., arXiv:2112.02194, 4.3).

    There is always room. A device receives (N - 1) · C ids and as many rows, of which only one in N is not
    zero: for few devices. The transpose of the reduce-scatter brings the gradients of the rows to all
    devices, and each takes those of its own.
    """

    def route(rows: Array, shard_rows: int) -> Route:
        everywhere = jax.lax.all_gather(rows, AXIS, tiled=True)  # [N · C]
        slot = jnp.arange(len(rows), dtype=jnp.int32)
        return Route(_local(everywhere, shard_rows), slot, jnp.int32(0))

    def pull(shard: Array, route: Route) -> Array:
        return jax.lax.psum_scatter(_own_rows(shard, route.asked), AXIS, scatter_dimension=0, tiled=True)

    def push(values: Array, route: Route) -> Array:
        return jax.lax.all_gather(values, AXIS, tiled=True)

    return Exchange(route, pull, push)


def bucketed(capacity: int) -> Exchange:
    """All-to-all of ids and of rows, with room for `capacity` ids from each device to each owner.

    A device receives (N - 1) · capacity ids and rows. With rows dealt to devices in turn, C / N ids go to an
    owner in the mean; C always suffices. What finds no room is counted in `Route.overflow`.

    Raises:
      ValueError: the capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity}: must be at least 1 id from a device to an owner")

    def route(rows: Array, shard_rows: int) -> Route:
        devices = jax.lax.axis_size(AXIS)
        real = rows != NOWHERE
        owner = jnp.where(real, rows // shard_rows, devices)
        within = jnp.arange(len(rows), dtype=jnp.int32) - jnp.searchsorted(owner, owner).astype(jnp.int32)
        fits = real & (within < capacity)
        past = devices * capacity + jnp.arange(len(rows), dtype=jnp.int32)  # distinct, outside, dropped
        slot = jnp.where(fits, owner * capacity + within, past)
        sent = jnp.full(devices * capacity, NOWHERE, jnp.int32)
        sent = sent.at[slot].set(rows, mode="drop", unique_indices=True)
        return Route(_local(_to_owners(sent), shard_rows), slot, jnp.sum(real & ~fits, dtype=jnp.int32))

    def pull(shard: Array, route: Route) -> Array:
        back = _to_owners(_own_rows(shard, route.asked))
        return back.at[route.slot].get(mode="fill", fill_value=0)

    def push(values: Array, route: Route) -> Array:
        sent = jnp.zeros((len(route.asked), *values.shape[1:]), values.dtype)
        return _to_owners(sent.at[route.slot].set(values, mode="drop", unique_indices=True))

    return Exchange(route, pull, push)


def small_normal(key: Key, shape: tuple[int, ...]) -> Array:
    """Normal with standard deviation 0.01, as of `nn.layers.features`."""
    return 0.01 * jax.random.normal(key, shape)


class Table(NamedTuple):
    """A table of a model's parameters whose rows are sharded.

    columns: of a batch, int32 of any shape, that hold its ids; 0 is padding, whose row is zero and stays so.
    num_rows: V, the padding counted. dim: width.
    capacity: C, distinct ids other than 0 in a device's share of a batch; the model's own table has C + 1
        rows. More of them stop the run.
    tx: changes the rows that a batch read, each by its own gradient and state: any optax transformation that
        works on each entry alone. SGD and Adagrad then change a table as if it were whole; Adam is lazy: rows
        that a batch did not read keep their moments. Clipping by a norm would see these rows alone.
    exchange: `gathered()` or `bucketed(capacity)`.
    init: (key, shape) -> rows, in whatever order.
    blocks: see `Layout`; the number of devices must divide it.
    """

    columns: tuple[str, ...]
    num_rows: int
    dim: int
    capacity: int
    tx: optax.GradientTransformation = optax.adagrad(0.1)
    exchange: Exchange = gathered()
    init: Init = small_normal
    blocks: int = 256

    @property
    def layout(self) -> Layout:
        return Layout(self.num_rows, self.blocks)


Tables = Mapping[str, Table]  # by the path of the parameter below "params", such as "embed/item_embedding"


def _to_owners(values: Array) -> Array:
    """[N · K, …], K for each device → what the devices have for this one, [N · K, …]; its own inverse."""
    return jax.lax.all_to_all(values, AXIS, split_axis=0, concat_axis=0, tiled=True)


def _local(rows: Array, shard_rows: int) -> Array:
    """Rows of the whole table as those of this device's shard, S where they are another device's."""
    local = rows - jax.lax.axis_index(AXIS) * shard_rows
    return jnp.where((rows != NOWHERE) & (local >= 0) & (local < shard_rows), local, shard_rows)


def _own_rows(shard: Array, asked: Array) -> Array:
    rows = rows_by_id(shard, asked, clip=True)
    return jnp.where((asked < shard.shape[0]).reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
