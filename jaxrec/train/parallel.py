"""Devices, processes and seeds: the only file that knows how many of each there are.

A program for several devices is written as if there were one (`over_devices`): it sees whole arrays, which
each device computes alike, and within a step the batch is split (`in_shares`, through `jax.shard_map`), so
that XLA splits the work of making it too. Runs of several seeds share one program with a leading seeds axis,
by `vmap` on accelerators and one after the other on CPU, where a `vmap` gains nothing. Tables that do not fit
on one device are sharded by rows.

Every process runs the same program. What several devices share lies behind a leading axis of all devices, of
which a process holds its own; what one device has is the process' own, computed by each alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrec.segments import rows_by_id
from jaxrec.types import SHARED, Array, Batch

AXIS = "devices"


def axis_name(num_devices: int) -> str | None:
    """The name a step gives to the axis of devices, None for a single one.

    Raises:
      ValueError: there are not as many devices, or fewer than one is requested; several processes would not
        use all that they have.
    """
    available = jax.device_count()
    if not 1 <= num_devices <= available:
        whose = "this process has" if not several_processes() else "the processes together have"
        raise ValueError(f"num_devices={num_devices}: {whose} {available} ({jax.default_backend()})")
    if several_processes() and num_devices not in (1, available):
        raise ValueError(
            f"num_devices={num_devices}: {jax.process_count()} processes have {available} devices and share "
            f"the work of all; give num_devices={available}"
        )
    return None if num_devices == 1 else AXIS


def several_processes() -> bool:
    """Whether this is one of several processes that run the same program, see `jaxrec.launch`."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes what is written once: logs, results, messages."""
    return jax.process_index() == 0


def check_one_process(what: str) -> None:
    """Raises ValueError for what several processes cannot do together."""
    if several_processes():
        raise ValueError(
            f"{what}: is for one process, and this is one of {jax.process_count()} with {jax.device_count()} "
            "devices together; start it alone, or let all devices share the work (num_devices)"
        )


def any_process(flag: bool) -> bool:
    """Whether the flag is True in any process; all wait for each other here."""
    if not several_processes():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def from_first(number: float) -> float:
    """The first process' number, such as what its clock says, so that all decide alike."""
    if not several_processes():
        return number
    bits = np.array([number]).view(np.uint32)  # all of a float64, of which JAX would keep a half
    return float(np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)[0])


def check_parts(parts: int) -> None:
    """Raises ValueError where batches come in parts and there are not as many processes to read them."""
    if parts not in (1, jax.process_count()):
        raise ValueError(
            f"processes={parts}: the source gives a part of each batch to each of so many processes, and "
            f"there are {jax.process_count()}; give processes=jax.process_count()"
        )


def from_parts(tree: Any, parts: int) -> Any:
    """Host arrays of each process joined along their leading axes, in the order of processes, in each."""
    return tree if parts == 1 else multihost_utils.process_allgather(tree, tiled=True)


def wait_for_all(where: str) -> None:
    """Returns once every process is here; `where` names the place."""
    if several_processes():
        multihost_utils.sync_global_devices(where)


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


def pick_by_seed(first: Any, second: Any, take_second: Array) -> Any:
    """Of two trees with a leading seeds axis, each seed's part of one. take_second: bool [S]."""
    return jax.tree.map(
        lambda a, b: jnp.where(take_second.reshape(-1, *[1] * (a.ndim - 1)), b, a), first, second
    )


def over_devices(
    fn: Callable[..., Any], num_devices: int, in_axes: tuple[int | None, ...], *, donate: bool = True
) -> Callable[..., Any]:
    """Compiles fn for one device, or for several with a leading axis of copies where in_axes says 0.

    fn sees one copy of each argument and gives one of its result, which every device computes alike, but for
    what it splits by `in_shares`.

    donate: the buffers of the first argument become those of the result.
    """
    donated = (0,) if donate else ()
    if num_devices == 1:
        return jax.jit(fn, donate_argnums=donated)
    mesh, copies = _mesh(num_devices), PartitionSpec(AXIS)
    first = _on_each(lambda tree: jax.tree.map(lambda x: x[0], tree), copies, PartitionSpec(), mesh)
    again = _on_each(lambda tree: jax.tree.map(lambda x: x[None], tree), PartitionSpec(), copies, mesh)

    def run(*args: Any) -> Any:
        seen = [x if axis is None else first(x) for x, axis in zip(args, in_axes, strict=True)]
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return again(fn(*seen))

    return jax.jit(run, donate_argnums=donated)


def over_parts(fn: Callable[..., Any], num_devices: int) -> Callable[..., Any]:
    """Compiles fn for one device, or for several, each with its own part of every argument, behind a leading
    axis of devices; so are the results."""
    if num_devices == 1:
        return jax.jit(fn)

    def one(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], args)))

    return jax.jit(_on_each(one, PartitionSpec(AXIS), PartitionSpec(AXIS), _mesh(num_devices)))


def in_shares(
    fn: Callable[..., Any], axis_name: str | None, *, sharded: tuple[Any, ...] = (), result: Any = False
) -> Callable[..., Any]:
    """fn(batch, …) on every device with its part of each leading axis of the batch, inside `over_devices`.

    What the batch has under SHARED is whole there. The batch is computed in parts too: of what has a row for
    each of its rows a device computes its own, and as a whole what all of its rows need, such as where they
    are packed. Without an axis name fn itself.

    sharded: which of the other arguments a device has its rows of, a bool or a tree of them for each; result:
    the same of the result. By default the former are whole, and the latter is the same on all devices.

    Raises (while tracing):
      ValueError: the number of devices does not divide a leading axis.
    """
    if axis_name is None:
        return fn

    def run(batch: Batch, *others: Any) -> Any:
        devices = jax.sharding.get_abstract_mesh().shape[axis_name]

        def spec(path: tuple[Any, ...], x: Array) -> PartitionSpec:
            if jax.tree_util.DictKey(SHARED) in path:
                return PartitionSpec()
            if x.shape[0] % devices:
                raise ValueError(
                    f"a batch column of shape {x.shape} does not split over {devices} devices: "
                    "choose a batch size and a number of packed rows that the number of devices divides"
                )
            return PartitionSpec(axis_name)

        parts = _specs(sharded or (False,) * len(others))
        specs = (jax.tree_util.tree_map_with_path(spec, batch), *parts)
        return _on_each(fn, specs, _specs(result))(batch, *others)

    return run


def whole(tree: Any, axis_name: str | None) -> Any:
    """Arrays that every device has as a whole, whatever is computed of them, inside `over_devices`."""
    return tree if axis_name is None else jax.lax.with_sharding_constraint(tree, PartitionSpec())


def replicate(tree: Any, num_devices: int) -> Any:
    """A copy on every device, behind a leading axis; the tree itself on a single one."""
    if num_devices == 1:
        return jax.device_put(tree, jax.local_devices()[0])

    def copies(x: Any) -> Array:
        x = jnp.asarray(_whole(x))
        return _behind_an_axis([x[None]] * num_devices, num_devices)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any, num_devices: int) -> Any:
    """The first device's copy, in each process that of the first of its own."""
    if num_devices == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def storable(tree: Any, num_devices: int) -> Any:
    """`unreplicate` as a checkpoint takes it: of several processes, copies that are known to be the same."""
    if not several_processes():
        return unreplicate(tree, num_devices)
    sharding = NamedSharding(_mesh(num_devices), PartitionSpec())

    def same(x: Array) -> Array:
        own = [shard.data[0] for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(own[0].shape, sharding, own)

    return jax.tree.map(same, tree)


def split_leading(tree: Any, num_devices: int) -> Any:
    """Leading axes [n, …] cut into [devices, n / devices, …] and put there; the tree itself on one."""
    if num_devices == 1:
        return jax.device_put(tree, jax.local_devices()[0])

    def split(x: Any) -> Any:
        parts = np.asarray(x).reshape(num_devices, -1, *x.shape[1:])
        return _behind_an_axis([part[None] for part in parts], num_devices)

    return jax.tree.map(split, tree)


def fetch(tree: Any) -> Any:
    """Arrays on the host, with the parts that devices of other processes hold."""
    if several_processes():
        tree = jax.tree.map(
            lambda x: x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True), tree
        )
    return jax.device_get(tree)


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
    fn: Callable[..., Any],
    num_devices: int,
    sharded: tuple[Any, ...],
    *,
    gathered: Any = False,
) -> Callable[..., Any]:
    """Compiles fn to run on every device with its rows of the arguments that `sharded` marks.

    The other arguments are whole on every device. The result is sharded by rows, or the same on every
    device where it is `gathered`. Inside, `lookup_sharded` reads rows of other devices; the axis is named
    AXIS.

    sharded: for each argument a bool, or a tree of them, of which one stands for all below it; gathered: the
    same of the result.
    """
    axis_name(num_devices)

    return jax.jit(_on_each(fn, _specs(sharded), _specs(gathered, False), _mesh(num_devices)))


def over_rows(
    fn: Callable[..., Any], num_devices: int, sharded: tuple[Any, ...], result: Any
) -> Callable[..., Any]:
    """Compiles fn, which sees whole arrays and splits them by `in_shares`, as in `over_devices`.

    sharded, result: of which arguments and results a device has only its rows, as in `in_shares`. The first
    argument's buffers become those of the result.
    """
    axis_name(num_devices)
    mesh = _mesh(num_devices)
    specs = (_specs(sharded), _specs(result))
    before, after = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    def run(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return fn(*args)

    return jax.jit(run, in_shardings=before, out_shardings=after, donate_argnums=(0,))


def place(tree: Any, sharded: Any, num_devices: int) -> Any:
    """Arrays on the devices as `over_shards` takes them: whole, or by rows where `sharded`, a bool or a tree
    of them, says so. The number of devices must divide the rows.
    """

    def put(split: bool, below: Any) -> Any:
        sharding = NamedSharding(_mesh(num_devices), PartitionSpec(AXIS) if split else PartitionSpec())
        if not several_processes():
            return jax.device_put(below, sharding)
        host = jax.device_get(below)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), host)

    return jax.tree.map(put, sharded, tree)


def create_placed(fn: Callable[..., Any], sharded: Any, num_devices: int) -> Callable[..., Any]:
    """Compiles fn, of whole arguments, so that no device ever holds all of what is sharded of its result.

    sharded: a tree of bool with a leaf for each array of the result.
    """
    mesh = _mesh(num_devices)
    out = jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec(AXIS) if x else PartitionSpec()), sharded)
    return jax.jit(fn, out_shardings=out)


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


def _devices(num_devices: int) -> list[jax.Device]:
    return (jax.devices() if several_processes() else jax.local_devices())[:num_devices]


def _mesh(num_devices: int) -> Mesh:
    return Mesh(np.array(_devices(num_devices)), (AXIS,))


def _on_each(fn: Callable[..., Any], given: Any, result: Any, mesh: Mesh | None = None) -> Callable[..., Any]:
    """fn on every device with its part of the arguments; mesh: None for that of `over_devices`, inside it."""
    return jax.shard_map(fn, mesh=mesh, in_specs=given, out_specs=result, check_vma=False)


def _specs(tree: Any, split: bool = True) -> Any:
    """How arrays lie on devices: by rows where a tree of bool says `split`, else whole."""
    return jax.tree.map(lambda x: PartitionSpec(AXIS) if x == split else PartitionSpec(), tree)


def _sharding(num_devices: int) -> NamedSharding:
    return NamedSharding(_mesh(num_devices), PartitionSpec(AXIS))


def _whole(x: Any) -> Any:
    """An array that is the same on all devices as one of this process alone; others as they are."""
    return x.addressable_shards[0].data if isinstance(x, Array) and not x.is_fully_addressable else x


def _behind_an_axis(parts: Sequence[Any], num_devices: int) -> Array:
    """An array of one part [1, …] for each device, of which this process puts those of its own devices."""
    own = [
        jax.device_put(part, device)
        for part, device in zip(parts, _devices(num_devices), strict=True)
        if device.process_index == jax.process_index()
    ]
    shape = (num_devices, *parts[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, _sharding(num_devices), own)
