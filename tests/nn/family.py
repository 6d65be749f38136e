"""What holds for every model that maps examples to logits, whatever its family; the tables call these checks.

A table names for each model a function of the axis of devices, so that one line says how it is built for one
device and for several. Inputs are arrays, or mappings of arrays, whose first axis is the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.nn.layers.dropout import across_devices, counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from tests.nn.drawn import applied, drawn

AXIS = "devices"
KEY = jax.random.key(3)
Build = Callable[[str | None], Any]  # axis of the devices, None for one device → a module


def noisy(axis: str | None, **fields: Any) -> Factory:
    """MLPs with dropout and batch norm, whose noise and statistics are those of the batch of all devices."""
    bits = across_devices(counter_bits, axis)
    return Factory(MLP, **{"dropout": 0.4, "batch_norm": True, "axis_name": axis, "bits": bits, **fields})


def take(inputs: Any, order: Any) -> Any:
    """The examples of these numbers."""
    return jax.tree.map(lambda column: column[np.asarray(order)], inputs)


def weights(module: Any, *inputs: Any) -> Any:
    """Drawn variables, without the places for gradients of a batch of one size (`nn.Module.perturb`)."""
    return {name: tree for name, tree in drawn(module, *inputs).items() if name != "perturbations"}


def leaves_close(ours: Any, theirs: Any, atol: float = 2e-5) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=atol)


def check_examples_do_not_see_each_other(build: Build, *inputs: Any) -> None:
    """In evaluation: another example in a slot changes the output of that slot alone, and so does `vmap`."""
    module = build(None)
    variables = weights(module, *inputs)
    outputs = applied(module, variables, *inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
    size = len(jax.tree.leaves(inputs)[0])
    other = [1, *range(1, size)]
    changed = applied(module, variables, *take(inputs, other))
    leaves_close(changed, take(outputs, other))
    assert not np.allclose(jax.tree.leaves(outputs)[0][0], jax.tree.leaves(changed)[0][0], atol=1e-4)

    def one(*example: Any) -> Any:
        alone = module.apply(variables, *jax.tree.map(lambda column: column[None], example))
        return jax.tree.map(lambda leaf: leaf[0], alone)

    leaves_close(jax.jit(jax.vmap(one))(*inputs), outputs)


def check_gradients_are_finite_and_reach_all(build: Build, *inputs: Any) -> None:
    """In training, with dropout: of every parameter. Biases before batch norm rightly have none."""
    module = build(None)
    variables = weights(module, *inputs)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def total(params: Any) -> Any:
        outputs, _ = module.apply(
            {**rest, "params": params}, *inputs, train=True, rngs={"dropout": KEY}, mutable=list(rest)
        )
        logits = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in logits)

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables["params"])):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), name
        assert np.any(leaf) or name.endswith("bias"), name


def check_devices_change_nothing(build: Build, *inputs: Any) -> None:
    """In training: outputs and running statistics are those of one device, whatever the number of devices."""
    module = build(None)
    variables = weights(module, *inputs)

    def train(module: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            return module.apply(
                variables, *inputs, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"]
            )

        return run

    outputs, state = jax.jit(train(module))(*inputs)
    again = jax.jit(train(module.clone()))(*inputs)[0]
    leaves_close(again, outputs, atol=0.0)
    halves = jax.tree.map(lambda column: column.reshape(2, len(column) // 2, *column.shape[1:]), inputs)
    shares, states = jax.jit(jax.vmap(train(build(AXIS)), axis_name=AXIS))(*halves)
    leaves_close(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), shares), outputs)
    for device in range(2):
        leaves_close(jax.tree.map(lambda leaf, d=device: leaf[d], states), state)
    served = jax.tree.leaves(applied(module, variables, *inputs))[0]
    assert not np.allclose(served, jax.tree.leaves(outputs)[0])
