"""Multi-task training, dropout and batch norm included, gives the same on any number of devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.layers.dropout import across_devices, counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train import parallel
from jaxrec.train.epoch import make_epoch, shuffled
from jaxrec.train.state import create
from jaxrec.train.step import make_step

ROWS, BATCH = 40, 16  # a padded tail


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(ROWS, 6)).astype(np.float32),
        "label/a": (rng.random(ROWS) < 0.5).astype(np.float32),
        "label/b": (rng.random(ROWS) < 0.2).astype(np.float32),
        "space/b": rng.random(ROWS) < 0.4,
    }


def epoch(columns: dict[str, np.ndarray], num_devices: int) -> Any:
    """Losses and variables after an epoch."""
    axis = parallel.axis_name(num_devices)
    bits = across_devices(counter_bits, axis)
    mlp = Factory(MLP, dropout=0.4, batch_norm=True, axis_name=axis, bits=bits)
    model = MMoE(2, num_experts=3, expert_dims=(4,), tower_dims=(4,), mlp=mlp)
    targets = [Target("a", 0, "label/a"), Target("b", 1, "label/b", space="space/b")]
    task = multitask(model, targets, inputs=lambda batch: batch["x"])
    tx, plan = optax.sgd(0.1), shuffled(ROWS, BATCH)
    rows = jax.tree.map(lambda x: x[0], plan.draw(jax.random.key(0), columns)[0])
    single = multitask(
        model.clone(mlp=Factory(mlp, axis_name=None)), targets, inputs=lambda batch: batch["x"]
    )
    started = jax.jit(lambda key, rows, columns: create(single, tx, static(), key, rows, columns))
    state = started(jax.random.key(1), rows, columns)
    run = parallel.over_devices(
        make_epoch(make_step(task, tx, static(), axis), plan), num_devices, (0, 0, None, None)
    )
    state, logs = run(
        parallel.replicate(state, num_devices),
        parallel.replicate(columns, num_devices),
        jnp.int32(0),
        jnp.int32(0),
    )
    found = parallel.unreplicate((logs, state.variables), num_devices)
    return jax.tree.map(np.asarray, found)


@pytest.mark.long
def test_devices_share_a_batch_without_changing_the_result(columns: dict[str, np.ndarray]) -> None:
    jax.tree.map(
        lambda one, four: np.testing.assert_allclose(one, four, atol=1e-5),
        epoch(columns, 1),
        epoch(columns, 4),
    )
