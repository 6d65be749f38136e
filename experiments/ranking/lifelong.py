"""What a click owes to events of long ago: truncation, pooling, search (SIM, ETA) and memory (MIMN).

Made-up histories (`data.synthetic_lifelong`) whose old events decide and whose recent ones mislead. In every
category a user likes one of two styles, showed it a few times long ago, and is asked about an item in the
end. Training, validation and test have different users. Of a model that reads the recent events alone the AUC
is 0.5, of who knows every taste 1 - noise, which stands in each row as `auc/best`. A row's parameters are
those of the epoch of best validation AUC.

    din-recent  DIN on the most recent events          sim-hard  the last k events of the target's category
    base        the sum of the whole history           sim-soft  k events by a learned inner product
    din         DIN on the whole history               eta       k events by hashed vectors
    mimn        a memory of fixed size, written event by event
    sim-soft-pretrained   sim-soft in two runs of at most `epochs` each: the search alone by its own loss;
                          then all else by the click's, the search staying as in its epoch of best AUC

The other half is time: milliseconds a batch of 8 users against the length of their histories, to answer
(`serve`, gathering of events included), for a step of training (`train`), and for MIMN to answer from a state
that is kept for each user (`stored`).

Departs from the papers: made-up data, so no published number stands beside ours; no ages of events; Adam,
one learning rate and tables of one initial size, 1 / √dim, for all rows: from the papers' small tables a
learned search does not leave 0.5 in this time.

Run:     python -m experiments.ranking.lifelong
Also:    --rows din-recent sim-hard --timed       (no times)
         --no-trained                             (times alone)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.saving import save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic.lifelong import Lifelong, lifelong
from jaxrec.data.tables.click_histories import SHARED, Clicks
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.long_short import Windows
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.mimn import MIMN, answer, remember
from jaxrec.nn.ranking.sim import SIM, of_search, transfer
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.tasks.ctr import behaviours, ctr
from jaxrec.tasks.multitask import Target
from jaxrec.train.fit import Fitted
from jaxrec.train.state import INIT, create
from jaxrec.train.step import make_step
from jaxrec.types import Batch, Context, Key, Protocol, Task, Variables

EXPERIMENT = "lifelong"
Row = Literal["din-recent", "base", "din", "sim-hard", "sim-soft", "sim-soft-pretrained", "eta", "mimn"]
ROWS: tuple[Row, ...] = (
    "din-recent", "base", "din", "sim-hard", "sim-soft", "sim-soft-pretrained", "eta", "mimn"
)  # fmt: skip
CLICK = Target("click", None, "label/click")
EVALUATION_BATCH = 256
TIMED_BATCH = 8
NUM_CATEGORIES = 10  # that are asked for; as many are not
CHUNK = 256  # events of MIMN between two states that are kept for the gradient


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains, tests and times the rows of the table, one after the other."""

    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # few users, short histories and two epochs, in seconds: to see that all works
    trained: bool = True  # whether rows are trained and tested; otherwise only timed
    timed: tuple[int, ...] = (100, 1_000, 10_000, 54_000)  # lengths of histories to time; none: not timed
    num_users: int = 1_000  # of whom a tenth each validate and test, with 10 impressions each
    length: int = 200  # events of the longest history; the shortest has half
    relevant: int = 4  # old events of each category that decide
    noise: float = 0.05  # share of clicks that go against taste
    epochs: int = 20  # at most; the best one counts
    patience: int = 8  # epochs without a better validation AUC
    batch_size: int = 128  # rows a step
    learning_rate: float = 3e-3  # of Adam
    dim: int = 8  # width of each of the embeddings of item, category and style
    recent: int = 30  # events that din-recent reads, and of the short history of a search
    k: int = 20  # events that a search returns
    slots: int = 8  # of MIMN's memory
    utilisation: float = 0.1  # λ of its regulariser, over shares of writes
    save_every: int = 5  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/lifelong"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "epochs", "patience", "batch_size", "dim", "recent", "k", "slots", "save_every")
        if not self.utilisation > 0:
            raise ValueError(f"utilisation={self.utilisation}: must be positive")
        least = max(self.recent + 1, NUM_CATEGORIES)
        if any(length < least for length in self.timed):
            raise ValueError(f"timed={self.timed}: only histories of {least} events and more can be timed")
        if not (self.trained or self.timed):
            raise ValueError("trained=False and no lengths in timed: nothing is left to do")

    @property
    def short(self) -> int:
        """Events that din-recent reads, and of the short history of a search."""
        return 6 if self.tiny else self.recent


def load(config: Config) -> Lifelong:
    """Users with histories of length / 2 to length events, of which the last 2 · recent tell nothing."""
    if config.tiny:
        return lifelong(40, min_length=24, max_length=40, num_categories=3, relevant=2, recent=12)
    return lifelong(
        config.num_users,
        min_length=config.length // 2,
        max_length=config.length,
        num_categories=NUM_CATEGORIES,
        relevant=config.relevant,
        recent=2 * config.recent,
        noise=config.noise,
    )


# --- models ----------------------------------------------------------------------------------------


def model(row: Row, clicks: Clicks, config: Config) -> nn.Module:
    """The model of a row; target and events are item, category and style, each with one table."""
    sizes = {"item": clicks.num_items + 1} | {k: int(v.max()) + 1 for k, v in clicks.side_info.items.items()}
    items = tuple(Categorical(name, size, config.dim) for name, size in sizes.items())
    init = nn.initializers.normal(config.dim**-0.5)
    match row:
        case "sim-hard":
            return Windows(SIM(items, k=config.k, category="category", table_init=init), config.short)
        case "sim-soft" | "sim-soft-pretrained":
            return Windows(SIM(items, k=config.k, table_init=init), config.short)
        case "eta":
            return Windows(ETA(items, k=config.k, table_init=init), config.short)
        case _:
            history = tuple(Categorical(f"history_{i.name}", i.vocab_size, i.dim, i.name) for i in items)
            names = tuple(sizes)
            return WithHistory(
                FeatureEmbedding((*items, *history), init),
                body(row, config),
                targets=names,
                histories=tuple(f"history_{name}" for name in names),
            )


def body(row: Row, config: Config) -> nn.Module:
    """What reads a history of vectors, and the MLP behind it."""
    match row:
        case "base":
            return DINBase(average=False)
        case "mimn":
            return MIMN(
                slots=config.slots,
                shares=True,
                strength=True,
                chunk=CHUNK,
                activation=PReLU,
                attention_activation=PReLU,
            )
        case _:
            return DIN(activation=PReLU, attention_activation=PReLU)


def task_of(row: Row, clicks: Clicks, config: Config, length: int) -> tuple[Task, dict[str, float]]:
    """The task of a row over histories of at most `length` events, and the weights of its losses."""
    weights = {"click": 1.0}
    if row.startswith("sim-soft"):
        weights["search"] = 1.0 if row == "sim-soft" else 0.0
    if row == "mimn":
        weights["memory_utilisation"] = config.utilisation
    read = min(config.short, length) if row == "din-recent" else length
    task = ctr(
        model(row, clicks, config),
        length=read,
        num_items=clicks.num_items,
        search="search" in weights,
        memory="memory_utilisation" in weights,
    )
    return task, weights


# --- what they learn -------------------------------------------------------------------------------


def pretraining(clicks: Clicks, config: Config, length: int) -> tuple[Task, dict[str, float]]:
    """The task of a search alone, whose output is what is served, and the weights of its losses."""
    search: Any = model("sim-soft-pretrained", clicks, config)
    task = ctr(search.clone(served="search"), length=length, num_items=clicks.num_items, search=True)
    return task, {"click": 0.0, "search": 1.0}


def started(task: Task, pretrained: Variables, seeds: tuple[int, ...]) -> Task:
    """The task with a search already trained: of all seeds' (along a leading axis) that of the same seed.

    Whose parameters are drawn is known by the key that they are drawn with.
    """
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), INIT))(jnp.array(seeds, jnp.uint32))

    def init(key: Key, batch: Batch) -> Variables:
        same = (jax.random.key_data(keys) == jax.random.key_data(key)).all(axis=-1)
        own = jax.tree.map(lambda leaf: leaf[jnp.argmax(same)], pretrained)
        drawn = task.init(key, batch)
        return {**drawn, "params": transfer(drawn["params"], own["params"])}

    return task._replace(init=init)


def frozen_search(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser of everything but the search."""

    def kinds(params: Variables) -> Variables:
        return jax.tree.map(lambda search: "frozen" if search else "own", of_search(params))

    return optax.partition({"own": tx, "frozen": optax.set_to_zero()}, kinds)


def train(row: Row, made: Lifelong, config: Config) -> Path:
    """Trains a row for all seeds, tests it, and stores what came out."""
    clicks = made.clicks
    length = int((clicks.end - clicks.start).max())
    data = resident(clicks, config, config.short if row == "din-recent" else length)
    task, weights = task_of(row, clicks, config, length)
    loss = " + ".join(name for name, weight in weights.items() if weight).replace("click", "bce")
    tx = optax.adam(config.learning_rate)
    if row == "sim-soft-pretrained":
        search, only = pretraining(clicks, config, length)
        pretrained = fitted_to(data, search, only, tx, f"{row}-search", config)
        task, tx = started(task, pretrained.variables, config.seeds), frozen_search(tx)
        loss = f"search, then {loss}"
    fitted = fitted_to(data, task, weights, tx, row, config)
    found = impressions.test(data, task, [CLICK], fitted.variables, 1)
    of_all_seeds = sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"]))
    path = save(
        config.results,
        experiment=EXPERIMENT,
        dataset=data.name,
        model=row,
        config={**learned(config), "parameters": of_all_seeds // len(config.seeds)},
        protocol=impressions.protocol_of(data, "auc/click", loss),
        seeds=config.seeds,
        metrics=[{**own, "auc/best": made.best_auc} for own in found],
        fitted=fitted,
    )
    areas = ", ".join(f"{own['auc/click']:.4f}" for own in found)
    print(f"{row}: best epochs {fitted.best_epoch}, test AUC {areas} of {made.best_auc}\nsaved {path}")
    return path


def resident(clicks: Clicks, config: Config, read: int) -> impressions.Data:
    """Training rows and the events they share for the device; the other parts in batches."""

    def expand(batch: Batch, columns: Context) -> Batch:
        return behaviours(batch, columns[SHARED], read)

    name = "tiny" if config.tiny else clicks.name
    validation, test = (
        clicks.batched(rows, min(EVALUATION_BATCH, len(rows))) for rows in (clicks.validation, clicks.test)
    )
    return impressions.Data(
        name, clicks.rule, ("click",), (), (), clicks.columns(), validation, test, "user", expand
    )


def fitted_to(
    data: impressions.Data,
    task: Task,
    weights: dict[str, float],
    tx: optax.GradientTransformation,
    name: str,
    config: Config,
) -> Fitted:
    """Trains a task for all seeds; `name` is that of its folder."""
    epochs = 2 if config.tiny else config.epochs
    # A longer training of the search gives this row another start, so it is another run.
    before = {"search_epochs": epochs} if name == "sim-soft-pretrained" else {}
    run = impressions.Run(
        seeds=config.seeds,
        epochs=epochs,
        batch_size=64 if config.tiny else config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / data.name / name,
        description={"row": name, **learned(config), **before},
        patience=config.patience,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    return impressions.train(data, task, [CLICK], "auc/click", run, weighting=static(weights), tx=tx)


def learned(config: Config) -> dict[str, Any]:
    """The settings that decide what training computes."""
    return described(config, beside=("trained", "timed"))


# --- what they cost --------------------------------------------------------------------------------


def clock(row: Row, config: Config) -> Path:
    """Times a row at every length, one measurement a seed, and stores milliseconds a batch."""
    found: list[dict[str, float]] = [{} for _ in config.seeds]
    for length in config.timed:
        for name, seconds in timings(row, config, length):
            for own, value in zip(found, seconds, strict=True):
                own[f"{name}@{length}"] = 1e3 * value
        shown = {name: round(float(np.median([own[name] for own in found])), 1) for name in found[0]}
        print(f"{row}: milliseconds {shown}")
    path = save(
        config.results,
        experiment=EXPERIMENT,
        dataset=f"milliseconds-of-{TIMED_BATCH}-users",
        model=row,
        config=described(config, beside=("trained", *UNTIMED)),
        protocol=Protocol(split="none", candidates="impressions", seen="keep", ks=(), selection="none"),
        seeds=config.seeds,
        metrics=found,
    )
    print(f"saved {path}")
    return path


UNTIMED = ("tiny", "num_users", "length", "relevant", "noise", "epochs", "patience", "batch_size")


def timings(row: Row, config: Config, length: int) -> Iterator[tuple[str, list[float]]]:
    """("serve" | "train" | "stored", seconds a batch by seed) after histories of `length` events."""
    clicks = lifelong(
        10,
        min_length=length,
        max_length=length,
        num_categories=NUM_CATEGORIES,
        relevant=1,
        recent=0,
        impressions_per_user=1,
    ).clicks
    task, weights = task_of(row, clicks, config, length)
    read = config.short if row == "din-recent" else length
    context = jax.tree.map(jnp.asarray, clicks.columns())
    rows = {"user": jnp.arange(TIMED_BATCH), "mask": jnp.ones(TIMED_BATCH, bool)}
    asked = {name: column[:TIMED_BATCH] for name, column in context.items() if name != SHARED}
    tx, weighting = optax.adam(config.learning_rate), static(weights)

    def serve(state: Any, context: Context) -> Any:
        return task.predict(state.variables, behaviours(asked, context[SHARED], read))

    def step(state: Any, context: Context) -> Any:
        return make_step(task, tx, weighting)(state, rows, context)  # all of it, or no gradient is computed

    create_state = jax.jit(lambda key: create(task, tx, weighting, key, rows, context))
    states = [create_state(jax.random.key(seed)) for seed in config.seeds]
    yield "serve", seconds_of(serve, [(state, context) for state in states])
    yield "train", seconds_of(step, [(state, context) for state in states])
    if row == "mimn":
        served: Any = model(row, clicks, config)
        batch = behaviours(asked, context[SHARED], read)
        keep = jax.jit(lambda state: served.apply(state.variables, batch, method=remember))
        yield (
            "stored",
            seconds_of(
                lambda state, kept, batch: served.apply(state.variables, batch, kept, method=answer),
                [(state, keep(state), {n: c for n, c in batch.items() if c.ndim == 1}) for state in states],
            ),
        )


def seconds_of(fn: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[float]:
    """For each tuple of arguments the median of a few calls, as many as fit in a second but at most 5."""
    program = jax.jit(fn).lower(*arguments[0]).compile()
    jax.block_until_ready(arguments)  # or the first call would wait for them
    medians = []
    for given in arguments:
        taken: list[float] = []
        while len(taken) < 5 and sum(taken) < 1.0:
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            taken.append(time.perf_counter() - start)
        medians.append(float(np.median(taken)))
    return medians


def run(config: Config) -> None:
    """Trains, tests, times and stores every row."""
    check_run(config)
    made = load(config) if config.trained else None
    for row in sorted(config.rows, key=ROWS.index):
        if made is not None:
            train(row, made, config)
        if config.timed:
            clock(row, config)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
