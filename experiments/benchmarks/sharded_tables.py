"""DIN with its item table sharded over devices: bytes between devices and on each, predicted and measured.

Generated clicks: a user's events follow a power law over items; a target is clicked more often if its number
modulo 16 is that of the last event. The table of items and what Adagrad remembers of it lie on the devices by
rows (jaxrec.train.sharded); all other layers are on every device. Prints, for both exchanges of rows, the
bytes a device sends in a step by formula (`train.communication.predicted_bytes`) and by the compiled program,
and the memory of the state on each device; then trains by the exchange of the options.

Run:     python -m experiments.benchmarks.sharded_tables --num-devices 4
Also:    --exchange bucketed --bucket 2000, --num-items 100000000; in several processes: docs/scale.md
Writes (runs/results/sharded_tables.json) a list of {name, unit, median, min, max, repeats}.
Expect:  no result is stored yet.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tabulate import tabulate

from experiments.benchmarks.timing import Figure
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.tables.click_histories import SHARED
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.ranking.din import DIN
from jaxrec.report.results import write_atomically
from jaxrec.tasks.ctr import LABEL, ctr
from jaxrec.train import parallel, sharded
from jaxrec.train.communication import (
    TableCost,
    collectives,
    predicted_bytes,
    predicted_memory,
    sent_bytes,
)
from jaxrec.train.epoch import shuffled
from jaxrec.train.exchange import bucketed, gathered
from jaxrec.types import HISTORY, Task

TABLE = "embedding/item_embedding"
EXCHANGES = ("gathered", "bucketed")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of generated clicks."""

    num_items: int = 1_000_000  # rows of the table
    dim: int = 32  # width of the table
    examples: int = 20_000  # clicks and non-clicks
    length: int = 20  # events of a history
    batch_size: int = 1000  # examples of a step, which the devices share
    capacity: int = 0  # distinct items of a device's share of a batch; 0: as many as there can be
    exchange: Literal["gathered", "bucketed"] = "gathered"  # how rows move between devices
    bucket: int = 0  # ids from a device to an owner, of "bucketed"; 0: twice the mean
    learning_rate: float = 0.1  # of Adagrad, on the table
    epochs: int = 2  # trained
    seed: int = 0  # of parameters and order
    num_devices: int = 1  # devices that share the table and each batch
    repeats: int = 5  # timed steps
    tiny: bool = False  # a small table and one epoch, in seconds, to check that everything runs
    results: str = "runs/results"  # folder of sharded_tables.json
    workdir: str = "runs"  # folder of checkpoints; a run found there is continued
    accept_changed_code: bool = False  # continue a run that other code trained

    def __post_init__(self) -> None:
        for name in (
            "num_items",
            "dim",
            "examples",
            "length",
            "batch_size",
            "epochs",
            "num_devices",
            "repeats",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("capacity", "bucket"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1, or 0 for a default")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: must be positive and finite")

    @property
    def distinct_items(self) -> int:
        """The capacity: that of the options, or every id of a share if all differ."""
        most = self.batch_size // self.num_devices * (1 + self.length)
        return self.capacity or min(most, self.num_items)

    @property
    def bucket_size(self) -> int:
        mean = -(-self.distinct_items // self.num_devices)
        return self.bucket or min(2 * mean, self.distinct_items + 1)


class Parts(NamedTuple):
    """What is trained."""

    task: Task
    tx: optax.GradientTransformation
    tables: dict[str, sharded.Table]


class Measured(NamedTuple):
    """Of one exchange: bytes that a device sends in a step, by kind, and of the state on it; seconds."""

    exchange: str
    predicted: dict[str, float]
    sent: dict[str, float]
    predicted_state: int
    state: int
    seconds: list[float]


def shrink_if_tiny(config: Config) -> Config:
    """The settings with those of --tiny."""
    if not config.tiny:
        return config
    return dataclasses.replace(
        config, num_items=500, dim=4, examples=96, length=4, batch_size=32, epochs=1, repeats=2
    )


def generate(config: Config) -> dict[str, Any]:
    """Columns of impressions, as `tasks.ctr.ctr` reads them."""
    rng = np.random.default_rng(0)
    num_events = config.examples + config.length

    def items(count: int) -> np.ndarray:
        return (1 + config.num_items * rng.random(count) ** 3).astype(np.int32)

    events, target = items(num_events), items(config.examples)
    end = np.arange(config.examples, dtype=np.int32) + rng.integers(1, config.length + 1, config.examples)
    liked = target % 16 == events[end - 1] % 16
    click = rng.random(config.examples) < np.where(liked, 0.9, 0.3)
    columns = {"user": np.ones_like(target), "item": target, "end": end.astype(np.int32), LABEL: click}
    columns["start"] = np.maximum(end - config.length, 0).astype(np.int32)
    columns[LABEL] = click.astype(np.float32)
    return {**columns, SHARED: {"events": events, "items": {}, "users": {}}}


def make(config: Config, exchange: str) -> Parts:
    """DIN of as many items as a device's share of a batch can hold, and the table of all items."""
    capacity = config.distinct_items
    columns = ("item", f"{HISTORY}item")
    fields = tuple(Categorical(name, capacity + 1, config.dim, "item") for name in columns)
    module = WithHistory(FeatureEmbedding(fields), DIN((64, 32)), targets=columns[:1], histories=columns[1:])
    table = sharded.Table(
        columns=columns,
        num_rows=config.num_items + 1,
        dim=config.dim,
        capacity=capacity,
        tx=optax.adagrad(config.learning_rate),
        exchange=gathered() if exchange == "gathered" else bucketed(config.bucket_size),
    )
    return Parts(ctr(module, length=config.length), optax.adam(1e-3), {TABLE: table})


def measure(config: Config, exchange: str) -> Measured:
    """Compiles a step, reads its collectives, and times it."""
    task, tx, tables = make(config, exchange)
    context = jax.tree.map(jnp.asarray, generate(config))
    key = jax.random.key(config.seed)
    plan = shuffled(config.examples, config.batch_size)
    examples = jax.tree.map(lambda x: x[0], plan.draw(key, context)[0])
    state = sharded.create(task, tx, tables, key, examples, context, num_devices=config.num_devices)
    bytes_of_state = sum(
        leaf.addressable_shards[0].data.nbytes
        for leaf in jax.tree.leaves((state.params, state.opt_state, state.tables))
    )
    dense = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step: Any = sharded.over_devices(sharded.make_step(task, tx, tables), state, tables, config.num_devices)
    examples, context = parallel.place((examples, context), False, config.num_devices)
    program = step.lower(state, examples, context).compile()
    seconds = []
    for _ in range(config.repeats + 1):
        start = time.perf_counter()
        state, logs = program(state, examples, context)
        jax.block_until_ready(logs)
        seconds.append(time.perf_counter() - start)
    bucket = None if exchange == "gathered" else config.bucket_size
    costs = [TableCost(tables[TABLE].layout.padded, config.dim, config.distinct_items, bucket)]
    return Measured(
        exchange,
        predicted_bytes(costs, dense, config.num_devices),
        sent_bytes(collectives(program.as_text()), config.num_devices),
        predicted_memory(costs, dense, config.num_devices),
        bytes_of_state,
        seconds[1:],
    )


def figures(found: Measured) -> Iterator[Figure]:
    """The lines of the stored list."""
    name = f"sharded_tables/{found.exchange}"
    yield Figure(
        name, "s", float(np.median(found.seconds)), min(found.seconds), max(found.seconds), len(found.seconds)
    )
    numbers = {
        "sent": sum(found.sent.values()),
        "sent_predicted": sum(found.predicted.values()),
        "state": found.state,
        "state_predicted": found.predicted_state,
    }
    for of, value in numbers.items():
        yield Figure(f"{name}:{of}", "bytes", value, value, value, 1)


def table(measured: list[Measured]) -> str:
    """One line for each kind of collective of an exchange, and the memory."""
    lines: list[list[Any]] = []
    for found in measured:
        for kind in sorted({*found.sent, *found.predicted}):
            lines.append([found.exchange, kind, found.predicted.get(kind, 0), found.sent.get(kind, 0)])
        lines.append([found.exchange, "state on a device", found.predicted_state, found.state])
    return tabulate(lines, ["exchange", "bytes of a device", "predicted", "measured"], floatfmt=".0f")


def run(config: Config) -> sharded.Trained:
    """Measures both exchanges, prints and stores the numbers, and trains."""
    check_run(config)
    config = shrink_if_tiny(config)
    if config.batch_size % config.num_devices:
        raise ValueError(f"num_devices={config.num_devices}: must divide batch_size={config.batch_size}")
    measured = [measure(config, exchange) for exchange in EXCHANGES]
    if parallel.is_first():
        path = Path(config.results) / "sharded_tables.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = [figure for found in measured for figure in figures(found)]
        write_atomically(path, json.dumps([figure._asdict() for figure in stored], indent=1) + "\n")
    print(table(measured), flush=True)
    parts = make(config, config.exchange)
    kept = ("num_items", "dim", "examples", "length", "batch_size", "learning_rate")
    trained = sharded.train(
        *parts,
        shuffled(config.examples, config.batch_size),
        generate(config),
        epochs=config.epochs,
        seed=config.seed,
        num_devices=config.num_devices,
        workdir=Path(config.workdir) / "sharded_tables",
        description={name: getattr(config, name) for name in kept},
        accept_changed_code=config.accept_changed_code,
    )
    for epoch, means in enumerate(trained.history):
        print(f"epoch {epoch}: " + ", ".join(f"{name} {value:.6f}" for name, value in means.items()))
    return trained


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
