"""Speed of the pieces that experiments spend their time in, each timed after compilation.

Run:     python -m experiments.speed --only ticoserec
Prints and writes (results/speed.json) a list of {name, unit, median, min, max, repeats}; with --only, the
figures of other families in the file stay. A figure in
seconds means little on its own: compare the pieces of one run with each other, or, with --baseline FILE
({"ticoserec/epoch_plain": seconds, …} measured on the same machine), with another program.

Beauty with width 64, batches of 256 users, sequences of 50: one epoch of SASRec with binary cross-entropy,
of that with contrastive views (flat: as the official code compares them), a full ranking of all users, and
augmentation of training sequences by each operator.

Multi-task: training rows a second of made-up data shaped as Census-Income (40 categorical columns, embeddings
of 8, two tasks, batches of 1024): MMoE with 8 experts of 16 units and towers of 8, PLE with one level of two
specific experts a task and one shared; and MMoE with 2 to 64 experts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tabulate import tabulate

from experiments import sequential as lab
from experiments import ticoserec as paper
from jaxrec import config as command_line
from jaxrec.augment.views import View
from jaxrec.data.split import leave_one_out
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.report.results import write_whole
from jaxrec.tasks.combine import combine
from jaxrec.tasks.multitask import Target
from jaxrec.tasks.multitask import multitask as labels_task
from jaxrec.tasks.next_item import next_item, retriever, sampled_bce
from jaxrec.train.epoch import Plan, make_epoch, shuffled
from jaxrec.train.evaluate import make_rank
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Protocol, Task

AUGMENTED_BATCH = 512


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time, and how often."""

    only: Literal["all", "ticoserec", "multitask"] = "all"  # one family of figures
    repeats: int = 5  # timed runs of each piece, after one that compiles and one that warms up
    baseline: str = ""  # JSON file of another program's figures by name, for ratios
    tiny: bool = False  # a synthetic set and small sizes, in seconds: to see that all works
    results: str = "results"  # folder of speed.json

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats}: must be at least 1")
        if self.baseline and not Path(self.baseline).is_file():
            raise ValueError(f"baseline={self.baseline!r}: no such file")


class Figure(NamedTuple):
    """One line of the output."""

    name: str
    unit: str
    median: float
    min: float
    max: float
    repeats: int


def timed(
    name: str, run: Callable[[], Any], repeats: int, *, count: float = 0, of: str = "sequences"
) -> Iterator[Figure]:
    """Times `run`, which returns arrays: first its compilation, then seconds, or `count` things a second."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    values = [count / s for s in seconds] if count else seconds
    unit = f"{of}/s" if count else "s"
    yield Figure(name, unit, float(np.median(values)), min(values), max(values), repeats)
    compile_seconds = max(first - float(np.median(seconds)), 0.0)
    yield Figure(f"{name}:compile", "s", compile_seconds, compile_seconds, compile_seconds, 1)


def time_epoch(
    name: str,
    task: Task,
    weighting: Weighting,
    plan: Plan,
    columns: Mapping[str, Any],
    repeats: int,
    **count: Any,
) -> Iterator[Figure]:
    """One epoch as training runs it: one compiled call, the state donated."""
    tx = optax.adam(1e-3)
    context = jax.tree.map(jnp.asarray, dict(columns))
    rows = jax.tree.map(lambda x: x[0], jax.jit(plan.draw)(jax.random.key(0), context)[0])
    state = jax.jit(lambda key: create(task, tx, weighting, key, rows, context))(jax.random.key(0))
    epoch = jax.jit(make_epoch(make_step(task, tx, weighting), plan), donate_argnums=0)
    number = 0

    def run() -> Any:
        nonlocal state, number
        state, logs = epoch(state, context, jnp.int32(number), jnp.int32(0))
        number += 1
        return logs

    yield from timed(name, run, repeats, **count)


def ticoserec(config: Config) -> Iterator[Figure]:
    """The figures of the TiCoSeRec experiment on Beauty."""
    setting = paper.Config(dataset="Beauty", tiny=config.tiny, seeds=(0,))
    recipe = paper.recipe_of(setting, "ticoserec")
    if not config.tiny:
        recipe = dataclasses.replace(recipe, dim=64, batch_size=256)
    data = lab.resident(leave_one_out(paper.load(setting)))
    model = SASRec(
        num_items=data.num_items,
        dim=recipe.dim,
        inner_dim=recipe.inner_dim,
        max_len=recipe.max_len,
        dropout=recipe.dropout,
        attention_dropout=recipe.attention_dropout,
        bits=counter_bits,
    )
    objective = sampled_bce(data.num_items, data.excluded_width)
    rows = lab.training_rows(data, recipe.batch_size, recipe.max_len, 1)
    packed = lab.training_plan(data, recipe.batch_size, recipe.max_len, rows)
    padded = lab.training_plan(data, recipe.batch_size, recipe.max_len, None)
    plain = next_item(model, objective, packed=rows)
    alone = static({"next_item": 1.0})
    yield from time_epoch("ticoserec/epoch_plain", plain, alone, packed, data.columns, config.repeats)
    unpacked = next_item(model, objective)
    yield from time_epoch(
        "ticoserec/epoch_plain_padded", unpacked, alone, padded, data.columns, config.repeats
    )

    view = paper.view_of(recipe, setting)
    data.columns.update(paper.augmentation_columns(data, recipe, setting, view))
    both = static({"next_item": 1.0, "contrastive": recipe.weight})
    flat_setting = dataclasses.replace(setting, form="flat")
    for form_setting, official in ((setting, model), (flat_setting, model.clone(mask_value=-1e4))):
        views = paper.contrastive_task(official, data, recipe, form_setting, view)
        task = combine(next_item=next_item(official, objective, packed=rows), contrastive=views)
        name = f"ticoserec/epoch_contrastive_{'flat' if form_setting is flat_setting else 'packed'}"
        yield from time_epoch(name, task, both, packed, data.columns, config.repeats)

    ranked = lab.ranking(data.split.validation, recipe.max_len)
    rank = make_rank(
        retriever(model, ranked.rows), Protocol(), num_items=data.num_items, history=data.history
    )
    context = jax.tree.map(jnp.asarray, data.columns)
    variables = plain.init(jax.random.key(0), {"items": jnp.zeros((1, recipe.max_len), jnp.int32)})
    queries = jax.tree.map(jnp.asarray, ranked.queries)
    evaluate = jax.jit(rank)
    yield from timed("ticoserec/evaluate", lambda: evaluate(variables, queries, context), config.repeats)
    yield from augmentation(data, view, recipe, setting, config.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    yield Figure("ticoserec/peak_memory", "MiB", peak, peak, peak, 1)


def augmentation(
    data: lab.Data, view: View, recipe: paper.Recipe, setting: paper.Config, repeats: int
) -> Iterator[Figure]:
    """Each operator, and the random choice among them, over all training sequences in batches."""
    length = jnp.asarray(data.inputs, jnp.int32)
    users = -(-len(data.inputs) // AUGMENTED_BATCH) * AUGMENTED_BATCH
    order = np.random.default_rng(0).permutation(np.arange(users) % len(data.inputs)).astype(np.int32)
    batches = jnp.asarray(order.reshape(-1, AUGMENTED_BATCH))
    single = {
        name: paper.view_of(recipe, dataclasses.replace(setting, operators=letter))
        for name, letter in zip(("crop", "mask", "reorder", "insert", "substitute"), "CMRIS", strict=True)
    }
    for name, chosen_view in [*single.items(), ("random", view)]:
        columns = {**data.columns, **paper.augmentation_columns(data, recipe, setting, chosen_view)}
        context = jax.tree.map(jnp.asarray, columns)

        def augment(key: jax.Array, context: Any, chosen_view: View = chosen_view) -> jax.Array:
            def batch(total: jax.Array, user: jax.Array) -> tuple[jax.Array, None]:
                items, _ = chosen_view.apply(
                    jax.random.fold_in(key, user[0]),
                    jax.tree.map(lambda column: column[user], context["plan"]),
                    context["items"],
                    length[user],
                    context["similar"],
                    end=context["start"][user] + length[user],
                    width=data.width,
                )
                return total + items.sum(), None

            return jax.lax.scan(batch, jnp.int32(0), batches)[0]

        compiled = jax.jit(augment)
        run = functools.partial(compiled, jax.random.key(0), context)
        yield from timed(f"ticoserec/augment_{name}", run, repeats, count=users)


def multitask(config: Config) -> Iterator[Figure]:
    """Training rows a second of multi-task models."""
    rows, values, batch_size = (256, 10, 64) if config.tiny else (102_400, 100, 1024)
    rng = np.random.default_rng(0)
    names = [f"field_{i}" for i in range(40)]
    columns = {name: rng.integers(1, values, rows).astype(np.int32) for name in names}
    for label in ("label/a", "label/b"):
        columns[label] = (rng.random(rows) < 0.3).astype(np.float32)
    embedding = FeatureEmbedding(tuple(Categorical(name, values, 8) for name in names))
    targets = [Target("a", 0, "label/a"), Target("b", 1, "label/b")]
    small: Any = {"expert_dims": (16,), "tower_dims": (8,)}
    models: dict[str, nn.Module] = {
        "mmoe": MMoE(2, num_experts=8, **small),
        "ple": PLE(2, num_specific=2, num_shared=1, expert_dims=((16,),), tower_dims=(8,)),
    }
    models |= {f"mmoe_experts_{n}": MMoE(2, num_experts=n, **small) for n in (2, 4, 16, 32, 64)}
    for name, model in models.items():
        task = labels_task(Featured(embedding, model), targets)
        yield from time_epoch(
            f"multitask/{name}",
            task,
            static(),
            shuffled(rows, batch_size),
            columns,
            config.repeats,
            count=rows,
            of="samples",
        )


def main() -> None:
    config = command_line.cli(Config, description=__doc__)
    command_line.start(config)
    baseline = json.loads(Path(config.baseline).read_text()) if config.baseline else {}
    figures = []
    families = {"ticoserec": ticoserec, "multitask": multitask}
    for figure in itertools.chain.from_iterable(
        family(config) for name, family in families.items() if config.only in ("all", name)
    ):
        figures.append(figure)
        print(f"{figure.name:42s} {figure.median:12.4g} {figure.unit}", flush=True)
    print(tabulate([[*f, ratio(f, baseline)] for f in figures], [*Figure._fields, "against baseline"]))
    path = Path(config.results) / "speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(merged(path, figures), indent=1) + "\n")


def merged(path: Path, figures: list[Figure]) -> list[dict[str, Any]]:
    """The figures of this run, after those of families it did not time, as the file has them."""
    timed_now = {figure.name.split("/")[0] for figure in figures}
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [figure for figure in before if figure["name"].split("/")[0] not in timed_now]
    return [*kept, *(figure._asdict() for figure in figures)]


def ratio(figure: Figure, baseline: dict[str, float]) -> str:
    """How many times faster than the baseline; "" without one."""
    if figure.name not in baseline:
        return ""
    other = baseline[figure.name]
    faster = other / figure.median if figure.unit == "s" else figure.median / other
    return f"{faster:.1f}x"


if __name__ == "__main__":
    main()
