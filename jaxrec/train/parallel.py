"""Devices and seeds: the only file that knows how many of either there are.

Data parallelism is replicated, through `jax.pmap`; runs of several seeds share one program with a
leading seeds axis, by `vmap` on accelerators and one after the other on CPU, where a `vmap` gains
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def over_seeds(fn: Callable[..., Any], *, mapped: int = 1) -> Callable[..., Any]:
    """fn over a leading seeds axis of its first `mapped` arguments, the others shared by all seeds."""

    def run(*args: Any) -> Any:
        varying, shared = args[:mapped], args[mapped:]
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda a: fn(*a, *shared), varying)
        return jax.vmap(lambda *a: fn(*a, *shared))(*varying)

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


def _sharding(num_devices: int) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()[:num_devices]), (AXIS,)), PartitionSpec(AXIS))
