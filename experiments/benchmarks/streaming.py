"""An epoch over impressions on disk against the same epoch in memory: rows per second, and peak memory.

Generated impressions (data.synthetic.impressions: six columns of ids, three of numbers, two labels whose
truth is known) are written to Parquet shards block by block. MMoE is then trained on them for an epoch by two
paths: streamed, through grain from the shards (data.tables.shard_batches, train.stream), and resident, with
all columns in memory and the epoch as one compiled call. Each runs in a process of its own, in turn, and
gives the rows per second of the epoch (compilation and, of the resident path, reading are not in it), the
largest memory of its process (ru_maxrss), and the test log loss, beside which the truth's own is printed.

Run:     python -m experiments.benchmarks.streaming --rows 50_000_000
Also:    --window 32, --threads 2, --path streamed (for what does not fit into memory)
Shards are kept in --shards, one folder for each number of rows, and found there again.
Writes (runs/results/streaming.json) a list of {name, unit, median, min, max, repeats}.
Expect:  (the command above with --repeats 1, two cores, nothing else running) streamed 343,000 rows/s and 926
         MiB, resident 275,000 rows/s and 5,276 MiB, of which 311 and 286 before any row is read; 8.8 s to
         read all rows. Test log loss .3676 and .3674, that of the truth .3652.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tabulate import tabulate

from experiments.benchmarks.timing import Figure
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic import impressions
from jaxrec.data.tables.shard_batches import ShardBatches
from jaxrec.data.tables.shards import Shards, open_shards, read_group, write_shards
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.optim.loss_weighting import static
from jaxrec.report.results import write_atomically
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train import parallel
from jaxrec.train.epoch import make_epoch, shuffled
from jaxrec.train.state import TrainState, create
from jaxrec.train.step import make_step
from jaxrec.train.stream import StreamedEpoch
from jaxrec.types import Task, Variables

PATHS = ("streamed", "resident")
UNITS = {"rows": "rows/s", "memory": "MiB", "before": "MiB", "loss": "nats", "read": "s"}
TX = optax.adam(1e-3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the data, the stream and the model."""

    rows: int = 5_000_000  # impressions
    num_users: int = 50_000
    num_items: int = 20_000
    batch_size: int = 4096
    group: int = 65_536  # rows of a row group
    window: int = 8  # row groups that are shuffled together
    prefetch: int = 4  # batches read ahead
    threads: int = 1  # that read
    dim: int = 8  # width of vectors
    repeats: int = 2  # runs of each path, in turn
    test_rows: int = 100_000  # of the test log loss
    path: Literal["both", "streamed", "resident", "write"] = "both"  # one runs here; both: in two processes
    seed: int = 0
    tiny: bool = False  # some thousand rows, in seconds, to check that everything runs
    shards: str = "runs/streaming"  # folder of the shards
    results: str = "runs/results"  # folder of streaming.json

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < (field.name != "seed"):
                raise ValueError(f"{field.name}={value}: must be at least {int(field.name != 'seed')}")


def shrink_if_tiny(config: Config) -> Config:
    """The settings with those of --tiny."""
    if not config.tiny:
        return config
    small: Mapping[str, Any] = {"rows": 3000, "num_users": 50, "num_items": 30, "batch_size": 128}
    return dataclasses.replace(config, **small, group=256, dim=2, repeats=1, test_rows=500)


def folder_of(config: Config) -> Path:
    """Where the shards of these settings are."""
    names = (config.rows, config.num_users, config.num_items, config.group, config.seed)
    return Path(config.shards) / "-".join(map(str, names))


def write(config: Config) -> None:
    """Writes the shards, unless they are there."""
    truth = impressions.draw_truth(config.num_users, config.num_items, seed=config.seed)
    blocks = impressions.impression_blocks(truth, config.rows, seed=config.seed)
    columns = impressions.shard_columns(config.num_users, config.num_items)
    if not (folder_of(config) / "shards.json").exists():
        start = time.perf_counter()
        write_shards(folder_of(config), blocks, columns, rows_per_group=config.group)
        print(f"{config.rows:,} rows written in {time.perf_counter() - start:.1f} s", flush=True)


def make_task(config: Config) -> Task:
    """MMoE of both labels."""
    sizes = impressions.vocabularies(config.num_users, config.num_items)
    fields = [Categorical(name, size, config.dim) for name, size in sizes.items()]
    embedding = FeatureEmbedding((*fields, *(Numeric(name) for name in impressions.NUMBERS)))
    model = MMoE(2, num_experts=4, expert_dims=(64,), tower_dims=(32,))
    return multitask(Featured(embedding, model), [Target(n, i, n) for i, n in enumerate(impressions.LABELS)])


def first_state(task: Task, examples: Any, columns: Any, seed: int) -> TrainState:
    make = jax.jit(lambda key, examples, columns: create(task, TX, static(), key, examples, columns))
    state: TrainState = parallel.replicate(make(jax.random.key(seed), examples, columns), 1)
    return state


def streamed(config: Config, task: Task, shards: Shards) -> tuple[Variables, dict[str, float]]:
    """An epoch through grain; the first step, which compiles, is not timed."""
    batches = ShardBatches(shards, config.batch_size, epochs=1, seed=config.seed, window=config.window)
    state = first_state(task, *batches[0], config.seed)
    step = make_step(task, TX, static())
    run = StreamedEpoch(step, batches, {}, prefetch=config.prefetch, threads=config.threads)
    state, _ = run(state, 1)
    start = time.perf_counter()
    state, _ = run(state)
    seconds = time.perf_counter() - start
    return state.variables, {"rows": (config.rows - config.batch_size) / seconds}


def resident(config: Config, task: Task, shards: Shards) -> tuple[Variables, dict[str, float]]:
    """An epoch as one compiled call over columns in memory."""
    start = time.perf_counter()
    whole = {
        c.name: np.empty(shards.num_rows, np.int32 if c.vocab_size else np.float32) for c in shards.columns
    }
    at = 0
    for group in shards.groups:
        for name, values in read_group(shards, group).items():
            whole[name][at : at + group.rows] = values
        at += group.rows
    context = {name: jnp.asarray(whole.pop(name)) for name in list(whole)}
    read = time.perf_counter() - start
    plan = shuffled(config.rows, config.batch_size)
    examples = {"example": np.zeros(config.batch_size, np.int32), "mask": np.ones(config.batch_size, bool)}
    state = first_state(task, examples, context, config.seed)
    epoch = jax.jit(make_epoch(make_step(task, TX, static()), plan), donate_argnums=0)
    compiled = epoch.lower(state, context, jnp.int32(0), jnp.int32(0)).compile()
    start = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, context, jnp.int32(0), jnp.int32(0)))
    return state.variables, {"rows": config.rows / (time.perf_counter() - start), "read": read}


def test_losses(config: Config, task: Task, variables: Variables) -> dict[str, float]:
    """Mean log loss of both labels on rows that are in no shard: of the model, and of the truth."""
    truth = impressions.draw_truth(config.num_users, config.num_items, seed=config.seed)
    first = 1 << 40  # no number of rows comes so far
    predict = jax.jit(task.predict)
    losses = []
    for rows in impressions.impression_blocks(truth, config.test_rows, seed=config.seed, first=first):
        labels = np.stack([rows[name] for name in impressions.LABELS], axis=1)
        for logits in (np.asarray(predict(variables, rows)), truth.logits(rows)):
            losses.append(np.sum(np.logaddexp(0, logits) - labels * logits) / labels.size * len(labels))
    model, best = np.sum(losses[::2]) / config.test_rows, np.sum(losses[1::2]) / config.test_rows
    return {"loss": float(model), "truth": float(best)}


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(config: Config) -> dict[str, float]:
    """One path in this process."""
    task = make_task(config)
    shards = open_shards(folder_of(config), impressions.shard_columns(config.num_users, config.num_items))
    jax.block_until_ready(jnp.zeros(1) + 1)
    before = peak()
    variables, found = {"streamed": streamed, "resident": resident}[config.path](config, task, shards)
    found |= {"memory": peak(), "before": before}
    return {**found, **test_losses(config, task, variables)}


def in_process(config: Config, path: str) -> dict[str, float]:
    """What another process prints in its last line."""
    words = [f"--{field.name.replace('_', '-')}={getattr(config, field.name)}"
             for field in dataclasses.fields(config) if field.name not in ("tiny", "path")]  # fmt: skip
    command = [sys.executable, "-m", "experiments.benchmarks.streaming", *words, f"--path={path}"]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"{path}: ended with code {done.returncode}: {' '.join(command)}")
    lines = done.stdout.splitlines()
    found: dict[str, float] = json.loads(lines[-1]) if path in PATHS else {}
    return found


def figures(found: Mapping[str, list[dict[str, float]]], config: Config) -> Iterator[Figure]:
    """The lines of the stored list."""
    for path, runs in found.items():
        for name in [name for name in UNITS if name in runs[0]]:
            values = [run[name] for run in runs]
            label = f"streaming/{path}_{config.rows}" + ("" if name == "rows" else f":{name}")
            yield Figure(label, UNITS[name], float(np.median(values)), min(values), max(values), len(values))
    truth = found["streamed"][0]["truth"]
    yield Figure(f"streaming/truth_{config.rows}:loss", "nats", truth, truth, truth, 1)


def run(config: Config) -> None:
    """Measures both paths in turn, prints and stores everything; or one path, here."""
    check_run(config)
    config = shrink_if_tiny(config)
    if config.path == "write":
        return write(config)
    if config.path != "both":
        print(json.dumps(measure(config)))
        return None
    in_process(config, "write")
    found: dict[str, list[dict[str, float]]] = {path: [] for path in PATHS}
    for _ in range(config.repeats):
        for path in PATHS:
            found[path].append(in_process(config, path))
    stored = list(figures(found, config))
    print(tabulate([(f.name, f.median, f.unit) for f in stored], floatfmt=".4g"))
    ratio = np.median([a["rows"] / b["rows"] for a, b in zip(*found.values(), strict=True)])
    print(f"streamed: {ratio:.2f} of the resident path's rows per second")
    file = Path(config.results) / "streaming.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps([figure._asdict() for figure in stored], indent=1) + "\n")
    return None


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
