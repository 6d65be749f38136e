"""Runs with sparse tables: seeds, several devices, resumed checkpoints, selection on validation."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.embedding import lookup
from jaxrec.optim import sparse
from jaxrec.optim.loss_weighting import static
from jaxrec.train import parallel
from jaxrec.train.epoch import make_epoch
from jaxrec.train.fit import Fitted
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Batch, Key, Task, Variables
from tests.train import toy

KINDS = ("rowwise-adagrad", "lazy-adam-corrected")


def factors() -> Task:
    """`toy.factors` that looks its two tables up by id, and multiplies with a dense vector."""
    base = toy.factors()

    def init(key: Key, batch: Batch) -> Variables:
        return {"params": {**base.init(key, batch)["params"], "scale": jnp.ones(4)}}

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        params: Mapping[str, Any] = variables["params"]
        query = lookup(params["users"], batch["user"]) * params["scale"]
        pos, neg = (
            jnp.sum(query * lookup(params["items"], batch[side]), -1) for side in ("positive", "negative")
        )
        return {"bce": losses.bce(pos, neg, where=batch["mask"], axis_name=axis_name)}, {}

    return base._replace(init=init, losses=loss)


def optimiser(kind: str) -> optax.GradientTransformation:
    return sparse.by_name(kind, optax.adam(0.05), 0.05, tables=["users", "items"])  # type: ignore[arg-type]


def run(folder: Path, kind: str = KINDS[1], **options: Any) -> Fitted:
    return toy.run(
        folder, task=factors(), **{"tx": optimiser(kind), "epochs": (4,), "seeds": (0, 7), **options}
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return run(tmp_path_factory.mktemp("straight"))


def test_a_resumed_run_ends_with_the_same_bits(straight: Fitted, tmp_path: Path) -> None:
    run(tmp_path, stop_after=2)
    resumed = run(tmp_path)
    toy.same_bits(resumed.variables, straight.variables)
    assert toy.without_times(resumed.history) == toy.without_times(straight.history)


def test_a_seed_in_a_group_equals_the_seed_alone(straight: Fitted, tmp_path: Path) -> None:
    alone = run(tmp_path, seeds=(7,))
    toy.same_bits(alone.variables, jax.tree.map(lambda x: x[1:], straight.variables))


def test_the_variables_have_the_shapes_of_the_model(straight: Fitted) -> None:
    assert jax.tree.map(jnp.shape, straight.variables) == {
        "params": {"users": (2, toy.NUM_USERS, 4), "items": (2, toy.NUM_ITEMS + 1, 4), "scale": (2, 4)}
    }
    assert straight.history[-1]["bce"][0] < straight.history[0]["bce"][0]


@pytest.mark.long
def test_a_checkpoint_of_one_device_continues_on_four(straight: Fitted, tmp_path: Path) -> None:
    run(tmp_path, stop_after=2)
    shared = run(tmp_path, num_devices=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        shared.variables,
        straight.variables,
    )


@functools.cache
def trained(kind: str, num_devices: int, seeds: str) -> tuple[Any, Any]:
    """Losses and the state after an epoch of two seeds on several devices."""
    task, tx, plan = factors(), optimiser(kind), toy.plan()
    columns: Any = jax.tree.map(jnp.asarray, toy.context())

    def start(key: Key) -> Any:
        drawn, _ = plan.draw(key, columns)
        return create(task, tx, static(), key, jax.tree.map(lambda x: x[0], drawn), columns)

    state = jax.vmap(start)(jax.random.split(jax.random.key(0), 2))
    epoch = make_epoch(make_step(task, tx, static(), parallel.axis_name(num_devices)), plan)
    over = (
        jax.vmap(epoch, in_axes=(0, None, None, None))
        if seeds == "vmap"
        else parallel.over_seeds(epoch, carried=True)
    )
    program = parallel.over_devices(over, num_devices, (0, 0, None, None))
    state, logs = program(
        parallel.replicate(state, num_devices),
        parallel.replicate(columns, num_devices),
        jnp.int32(0),
        jnp.int32(0),
    )
    for leaf in jax.tree.leaves(state.params) if num_devices > 1 else []:
        assert all((np.asarray(leaf[i]) == np.asarray(leaf[0])).all() for i in range(num_devices))
    return parallel.unreplicate(logs, num_devices), parallel.unreplicate(state.params, num_devices)


@pytest.mark.parametrize(
    ("kind", "num_devices", "seeds"),
    [
        pytest.param(KINDS[0], 4, "one by one", marks=pytest.mark.long),
        (KINDS[1], 4, "one by one"),
        (KINDS[0], 1, "vmap"),
        pytest.param(KINDS[1], 1, "vmap", marks=pytest.mark.long),
    ],
)
def test_devices_and_batched_seeds_change_no_result(kind: str, num_devices: int, seeds: str) -> None:
    alone, found = trained(kind, 1, "one by one"), trained(kind, num_devices, seeds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, alone)


def test_a_whole_run_with_seeds_is_in_place() -> None:
    """One seed's copy of a table is all that a call of an epoch adds to the donated state."""
    rows, dim = 50_000, 32
    big = factors()._replace(
        init=lambda key, batch: {
            "params": {
                "users": jnp.zeros((rows, dim)),
                "items": jnp.zeros((rows, dim)),
                "scale": jnp.ones(dim),
            }
        }
    )
    tx, plan = optimiser("lazy-adam"), toy.plan()
    columns: Any = jax.tree.map(jnp.asarray, toy.context())

    def start(key: Key) -> Any:
        drawn, _ = plan.draw(key, columns)
        return create(big, tx, static(), key, jax.tree.map(lambda x: x[0], drawn), columns)

    packed = 2 * 3 * rows * dim * 4  # tables and moments of a seed
    for seeds, copies in ((1, 0), (3, 1)):
        state = jax.eval_shape(jax.vmap(start), jax.random.split(jax.random.key(0), seeds))
        program = parallel.over_seeds(make_epoch(make_step(big, tx, static()), plan), carried=True)
        compiled = (
            jax.jit(program, donate_argnums=0).lower(state, columns, jnp.int32(0), jnp.int32(0)).compile()
        )
        memory: Any = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= seeds * packed
        assert memory.temp_size_in_bytes < (copies + 0.05) * packed
