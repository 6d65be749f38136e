"""Click models on synthetic data of the size of Amazon Electronics: 63,001 items, 801 categories.

Training examples per second in batches of 1,024, with embeddings of width 10: DIN (a unit of 64 with Dice, an
MLP of 512, 128, 64) and DIEN (the same, without its auxiliary loss) of histories of 50; SIM and ETA of
histories of 1,000 and 10,000, of which they read 50. Also the memory of the compiled step for intermediate
values, with the history in blocks (the default) and whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.timing import Figure, time_epoch
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.sim import SIM
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.epoch import Plan, make_epoch, shuffled
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Task

ITEMS, CATEGORIES = 63_001, 801
DIM, SHORT, LONG = 10, 50, (1_000, 10_000)


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Measures each model of short histories, then each model of long ones at each length."""
    batch_size, steps = (32, 2) if tiny else (1024, 10)
    data = columns(batch_size * steps, {"history": SHORT})
    for name, task in short_models().items():
        yield from time_epoch(
            f"ranking/{name}",
            task,
            static(),
            shuffled(batch_size * steps, batch_size),
            data,
            repeats,
            count=batch_size * steps,
            of="samples",
        )
    for length in (60, 120) if tiny else LONG:
        data = columns(batch_size, {"long": length, "short": SHORT})
        plan = shuffled(batch_size, batch_size)
        for name, task in long_models(block=1024).items():
            name = f"ranking/{name}_{length}"
            yield from time_epoch(name, task, static(), plan, data, repeats, count=batch_size, of="samples")
            yield memory(f"{name}:memory", task, plan, data)
        for name, task in long_models(block=None).items():
            yield memory(f"ranking/{name}_{length}_whole:memory", task, plan, data)


def columns(rows: int, histories: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Targets, histories without padding, and a label."""
    rng = np.random.default_rng(0)
    category = np.append(0, rng.integers(1, CATEGORIES + 1, ITEMS)).astype(np.int32)
    item = rng.integers(1, ITEMS + 1, rows).astype(np.int32)
    data = {
        "item": item,
        "category": category[item],
        "label/click": (rng.random(rows) < 0.5).astype(np.float32),
    }
    for name, length in histories.items():
        events = rng.integers(1, ITEMS + 1, (rows, length)).astype(np.int32)
        data |= {f"{name}_item": events, f"{name}_category": category[events]}
    return data


def fields(prefix: str = "") -> tuple[Categorical, ...]:
    """Columns of an item; a history shares the tables of the target."""
    return (
        Categorical(f"{prefix}item", ITEMS + 1, DIM, vocabulary="item"),
        Categorical(f"{prefix}category", CATEGORIES + 1, DIM, vocabulary="category"),
    )


def short_models() -> dict[str, Task]:
    """Models that read all of a short history."""
    dims = (512, 128, 64)
    bodies: dict[str, nn.Module] = {
        "din": DIN(dims, ActivationUnit((64,)), mlp=MLP),
        "dien": DIEN(dims, mlp=MLP),
    }
    return {
        name: multitask(
            WithHistory(
                FeatureEmbedding((*fields(), *fields("history_"))),
                body,
                targets=("item", "category"),
                histories=("history_item", "history_category"),
            ),
            [Target("click", None, "label/click")],
        )
        for name, body in bodies.items()
    }


def long_models(block: int | None) -> dict[str, Task]:
    """Models that search a long history."""
    hard = SIM(fields(), category="category")
    both = [Target("click", "ctr", "label/click"), Target("search", "search", "label/click")]
    return {
        "sim_hard": multitask(Sequenced(hard), both[:1]),
        "sim_soft": multitask(Sequenced(SIM(fields(), block=block)), both),
        "eta": multitask(Sequenced(ETA(fields(), block=block)), [Target("click", None, "label/click")]),
    }


def memory(name: str, task: Task, plan: Plan, data: Mapping[str, Any]) -> Figure:
    """Memory that XLA allocates for intermediate values of one compiled step, without data and state."""
    tx, weighting = optax.adam(1e-3), static()
    context = jax.tree.map(jnp.asarray, dict(data))
    rows = jax.tree.map(lambda x: x[0], plan.draw(jax.random.key(0), context)[0])
    state = jax.eval_shape(lambda key: create(task, tx, weighting, key, rows, context), jax.random.key(0))
    epoch = jax.jit(make_epoch(make_step(task, tx, weighting), plan), donate_argnums=0)
    compiled = epoch.lower(state, context, jnp.int32(0), jnp.int32(0)).compile()
    needed: Any = compiled.memory_analysis()
    size = needed.temp_size_in_bytes / 2**20
    return Figure(name, "MiB", size, size, size, 1)
