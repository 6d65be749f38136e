"""Devices and seeds: the only file that knows how many of either there are.

Data parallelism is replicated, through `jax.pmap`; runs of several seeds share one program with a
leading seeds axis, by `vmap` on accelerators and one after the other on CPU, where a `vmap` gains
nothing. Tables that do not fit on one device are sharded by rows, through `jax.shard_map`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.segments import rows_by_id
from jaxrec.types import Array

AXIS = "devices"


def axis_name(num_devices: int) -> str | None:
    """The name a step gives to the axis of devices, None for a single one.

    Raises:
      ValueError: there are not as many devices, or fewer than one is requested.
    """
    available = jax.local_device_count()
    if not 1 <= num_devices <= available:
        raise ValueError(f"num_devices={num_devices}: this process has {available} ({jax.default_backend()})")
    return None if num_devices == 1 else AXIS


def over_seeds(fn: Callable[..., Any], *, mapped: int = 1, carried: bool = False) -> Callable[..., Any]:
    """fn over a leading seeds axis of its first `mapped` arguments, the others shared by all seeds.

    carried: fn gives a pair whose first part takes the place of the first argument, such as a state. On CPU
    it is written there, seed by seed, if its buffers are donated, and only one seed's copy is in memory.
    """

    def run(*args: Any) -> Any:
        varying, shared = args[:mapped], args[mapped:]
        if jax.default_backend() != "cpu":
            return jax.vmap(lambda *a: fn(*a, *shared))(*varying)
        if not carried:
            return jax.lax.map(lambda a: fn(*a, *shared), varying)

        def one(every: Any, rest: Any) -> tuple[Any, Any]:
            seed, others = rest
            own = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, seed, keepdims=False), every)
            new, found = fn(own, *others, *shared)
            put = jax.lax.dynamic_update_index_in_dim
            return jax.tree.map(lambda x, y: put(x, y, seed, 0), every, new), found

        count = jax.tree.leaves(varying[0])[0].shape[0]
        return jax.lax.scan(one, varying[0], (jnp.arange(count), varying[1:]))

    return run


def over_devices(
    fn: Callable[..., Any], num_devices: int, in_axes: tuple[int | None, ...], *, donate: bool = True
) -> Callable[..., Any]:
    """Compiles fn for one device, or for several with a leading axis of devices where in_axes says 0.

    donate: the buffers of the first argument become those of the result.
    """
    donated = (0,) if donate else ()
    if num_devices == 1:
        return jax.jit(fn, donate_argnums=donated)
    devices = jax.local_devices()[:num_devices]
    return jax.pmap(fn, AXIS, in_axes=in_axes, devices=devices, donate_argnums=donated)


def replicate(tree: Any, num_devices: int) -> Any:
    """A copy on every device, behind a leading axis; the tree itself on a single one."""
    if num_devices == 1:
        return jax.device_put(tree, jax.local_devices()[0])
    sharding = _sharding(num_devices)
    return jax.tree.map(
        lambda x: jax.device_put(jnp.broadcast_to(jnp.asarray(x)[None], (num_devices, *x.shape)), sharding),
        tree,
    )


def unreplicate(tree: Any, num_devices: int) -> Any:
    """The first device's copy."""
    if num_devices == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def split_leading(tree: Any, num_devices: int) -> Any:
    """Leading axes [n, …] cut into [devices, n / devices, …] and put there; the tree itself on one."""
    if num_devices == 1:
        return jax.device_put(tree, jax.local_devices()[0])
    sharding = _sharding(num_devices)

    def split(x: Any) -> Any:
        return jax.device_put(np.asarray(x).reshape(num_devices, -1, *x.shape[1:]), sharding)

    return jax.tree.map(split, tree)


def shard_rows(table: Any, num_devices: int) -> Array:
    """A table [V, …] with its rows split over the devices, in order; zeros fill the last shard.

    The result has V rounded up to a multiple of num_devices rows. Raises ValueError as `axis_name` does.
    """
    axis_name(num_devices)
    table = np.asarray(table)
    missing = -len(table) % num_devices
    table = np.pad(table, [(0, missing), *[(0, 0)] * (table.ndim - 1)])
    return jax.device_put(table, _sharding(num_devices))


def over_shards(
    fn: Callable[..., Any], num_devices: int, sharded: tuple[bool, ...], *, gathered: bool = False
) -> Callable[..., Any]:
    """Compiles fn to run on every device with its rows of the arguments that `sharded` marks.

    The other arguments are whole on every device. The result is sharded by rows, or the same on every
    device if `gathered`. Inside, `lookup_sharded` reads rows of other devices; the axis is named AXIS.
    """
    axis_name(num_devices)
    specs = tuple(PartitionSpec(AXIS) if split else PartitionSpec() for split in sharded)
    out = PartitionSpec() if gathered else PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(fn, mesh=_mesh(num_devices), in_specs=specs, out_specs=out, check_vma=False))


def lookup_sharded(shard: Array, ids: Array) -> Array:
    """Rows of a row-sharded table by global ids, inside `over_shards`: [V/n, …], int32 [B/n] → [B/n, …].

    All devices' ids are gathered, each device looks up those of its own rows, and the sums over devices are
    scattered back, as in ALX (Mehta et al., 2021, arXiv:2112.02194, section 4.3): both collectives have
    fixed shapes. The gradient of a shard is the sum over all devices' ids. An id that no shard has reads
    zeros.
    """
    everywhere = jax.lax.all_gather(ids, AXIS, tiled=True)
    local = everywhere - jax.lax.axis_index(AXIS) * shard.shape[0]
    inside = (local >= 0) & (local < shard.shape[0])
    rows = rows_by_id(shard, jnp.where(inside, local, 0))
    rows = jnp.where(inside.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
    return jax.lax.psum_scatter(rows, AXIS, scatter_dimension=0, tiled=True)


def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:num_devices]), (AXIS,))


def _sharding(num_devices: int) -> NamedSharding:
    return NamedSharding(_mesh(num_devices), PartitionSpec(AXIS))
