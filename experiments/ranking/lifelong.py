"""Click prediction from long histories: truncation, pooling, search (SIM, ETA) and memory (MIMN).

In the synthetic histories (`data.synthetic.lifelong`) a user prefers one of two styles in every category, and
only a few old events show it; the recent events carry no information. The model predicts whether the user
clicks an item of the category. Training, validation and test have different users. A model that reads only
recent events has an AUC of 0.5, an oracle that knows the true preferences 1 - noise, which each row has as
`auc/best`. A row's parameters are those of the epoch of best validation AUC.

    din-recent  DIN on the most recent events          sim-hard  the last k events of the target's category
    base        the sum of the whole history           sim-soft  k events by a learned inner product
    din         DIN on the whole history               eta       k events by hashed vectors
    mimn        a memory of fixed size, written event by event
    sim-soft-pretrained   sim-soft in two runs of at most `epochs` each: first the search alone with its own
                          loss; then all other parameters with the loss of the click, while the search keeps
                          its parameters of best AUC

    base-rate, logistic-regression, gbdt, gbdt-lr    `experiments.floors`, of the target and counts of events

Models are also timed: milliseconds per batch of 8 users by the length of their histories, to score
(`serve`, including the gathering of events), for a training step (`train`), and for MIMN to score from a
state that is stored for each user (`stored`).

Departs from the papers: synthetic data, so there are no published numbers; no ages of events; Adam, one
learning rate and an initial standard deviation of the tables of 1 / √dim for all rows: from the papers'
smaller values a learned search stays at an AUC of 0.5 in this number of epochs.

Run:     python -m experiments.ranking.lifelong
Also:    --rows din-recent sim-hard --timed       (without timing)
         --no-trained                             (timing only)
         --length 10000 --rows sim-hard --timed   (hard search among 10,000 events)
         --rows base din mimn --timed --categories 3 --length 100 --recent 10 --num-users 2000 --budgets 1 3
         (a row for each number of epochs; MIMN also with --key-memory, --sum-pooling, --rebalance shift,
         --gate-bias 1, as its public code has them)

Expect:  DIN on the last 30 events is at chance. DIN on all 200 events and hard search reach the AUC of the
         oracle (0.95 on average over samples), and hashing (ETA) nearly does. The learned inner product (SIM,
         soft search) does so with some seeds and not with others, whether it is trained jointly or beforehand
         (0.86 in both). A memory of eight slots (MIMN, 0.55) hardly learns which style belongs to which of
         the twenty categories. With 1,000 events, hard search still has an AUC of 0.948 and ETA 0.896; the
         sum of the history (0.525) and soft search (0.582) are little above chance, and below logistic
         regression on counts (0.691; 0.716 with 200 events); with 10,000 events hard
         search has 0.961 (one seed). With three categories, 100 events and 2,000 users the budget decides:
         after 1, 3 and 10 epochs the sum has 0.592, 0.677 and 0.953, DIN 0.788, 0.951 and 0.953 (three
         seeds), and MIMN with trained keys and sum pooling, of one seed, 0.672, 0.851 and 0.955, where the
         sum has 0.613, 0.741 and 0.953 and DIN 0.853, 0.948 and 0.956. Sizes and learning rates were chosen
         by looking at the results with 200 events, so this shows that search works and does not compare the
         models. From 100 to 54,000 events, the time to score eight users grows from 0.3 to 178 ms with DIN
         and from 0.1 to 1.9 ms with hard search, and does not grow with a memory that is stored (MIMN).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import common, floors
from experiments.ranking import lifelong_times
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic.lifelong import Lifelong, lifelong
from jaxrec.data.tables.click_histories import Clicks
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.recipes import interest
from jaxrec.recipes import search as recipes
from jaxrec.tasks.ctr import ctr, memory_utilisation
from jaxrec.tasks.multitask import Target
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol, Task

EXPERIMENT = "lifelong"
CLICK = Target("click", None, "label/click")
NUM_CATEGORIES = 10  # of what is timed
EVALUATION_BATCH = 256
UNTRAINED = ("trained", "timed", "budgets")  # options that change nothing of a training
UNTIMED = (
    "tiny", "num_users", "length", "relevant", "noise", "categories", "epochs", "patience", "batch_size",
)  # fmt: skip


class Row(NamedTuple):
    """A row of the table.

    recent: whether it reads only recent events. search: weight of the search's own loss; None: without one.
    pretrained: whether the search is trained before the rest. memory: whether it has a memory, whose
    utilisation is a loss and whose stored state is also timed.
    """

    model: Callable[[Clicks, recipes.Recipe], nn.Module]
    recent: bool = False
    search: float | None = None
    pretrained: bool = False
    memory: bool = False

    def weights(self, recipe: recipes.Recipe) -> dict[str, float]:
        """The weights of its losses."""
        found = {"click": 1.0}
        found |= {} if self.search is None else {"search": self.search}
        return found | ({"memory_utilisation": recipe.utilisation} if self.memory else {})

    def label(self, recipe: recipes.Recipe) -> str:
        """Names of its losses, for the protocol."""
        names = [name for name, weight in self.weights(recipe).items() if weight]
        return ("search, then " if self.pretrained else "") + " + ".join(names).replace("click", "bce")


ROWS: Mapping[str, Row] = {
    "din-recent": Row(recipes.din, recent=True),
    "base": Row(recipes.base),
    "din": Row(recipes.din),
    "sim-hard": Row(recipes.sim_hard),
    "sim-soft": Row(recipes.sim_soft, search=1.0),
    "sim-soft-pretrained": Row(recipes.sim_soft, search=0.0, pretrained=True),
    "eta": Row(recipes.eta),
    "mimn": Row(recipes.mimn, memory=True),
}
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64, "recent": 6}


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Recipe):
    """Trains, tests and times the rows of the table, one after the other."""

    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # rows of the table
    trained: bool = True  # whether rows are trained and tested; otherwise only timed
    timed: tuple[int, ...] = (100, 1_000, 10_000, 54_000)  # lengths of histories to time; empty: not timed
    num_users: int = 1_000  # a tenth each for validation and test; 10 impressions per user
    length: int = 200  # events of the longest history; the shortest has half as many
    categories: int = 10  # from which targets are drawn; as many others have none
    relevant: int = 4  # old events of each category that show the preference
    noise: float = 0.05  # share of clicks that contradict the preference
    budgets: tuple[int, ...] = ()  # numbers of epochs, each of which is a row; empty: `epochs` alone
    save_every: int = 5  # epochs between checkpoints
    workdir: str = "runs/lifelong"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        sizes = (
            "epochs", "patience", "batch_size", "dim", "recent", "k", "slots", "categories", "save_every",
        )  # fmt: skip
        common.check(self, *sizes)
        if any(epochs < 1 for epochs in self.budgets) or len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"budgets={self.budgets}: numbers of epochs, each at least 1 and given once")
        if not self.utilisation > 0:
            raise ValueError(f"utilisation={self.utilisation}: must be positive")
        least = max(self.recent + 1, NUM_CATEGORIES)
        if any(length < least for length in self.timed):
            raise ValueError(f"timed={self.timed}: only histories of {least} events and more can be timed")
        if not (self.trained or self.timed):
            raise ValueError("trained=False and no lengths in timed: nothing is left to do")


def load(config: Config) -> Lifelong:
    """Users with length / 2 to length events, the last 2 · recent of which carry no information."""
    if config.tiny:
        return lifelong(40, min_length=24, max_length=40, num_categories=3, relevant=2, recent=12)
    return lifelong(
        config.num_users,
        min_length=config.length // 2,
        max_length=config.length,
        num_categories=config.categories,
        relevant=config.relevant,
        recent=2 * config.recent,
        noise=config.noise,
    )


def dataset_name(config: Config, clicks: Clicks) -> str:
    """The data set's name in results and folders, with the number of categories if not the default."""
    categories = "" if config.categories == NUM_CATEGORIES else f"-{config.categories}-categories"
    return "tiny" if config.tiny else clicks.name + categories


def model_name(name: str, config: Config) -> str:
    """The row's name, with suffixes for the parts of a memory that are not the defaults, and the budget."""
    parts, defaults = [name], recipes.Recipe()
    if ROWS[name].memory:
        parts += [] if config.slots == defaults.slots else [f"slots-{config.slots}"]
        parts += [] if config.rebalance == defaults.rebalance else [config.rebalance]
        parts += [flag.replace("_", "-") for flag in ("key_memory", "sum_pooling") if getattr(config, flag)]
        parts += [f"gate-bias-{config.gate_bias:g}"] if config.gate_bias else []
    return "+".join([*parts, *([f"epochs-{config.epochs}"] if config.budgets else [])])


def events_read(row: Row, config: Config, length: int) -> int:
    """The number of events that a row reads of a history of `length`."""
    return min(config.recent, length) if row.recent else length


def task_of(row: Row, clicks: Clicks, config: Config, length: int) -> Task:
    """The task of a row over histories of at most `length` events."""
    return ctr(
        row.model(clicks, config),
        length=events_read(row, config, length),
        targets=() if row.search is None else [recipes.SEARCH],
        terms={"memory_utilisation": memory_utilisation} if row.memory else {},
    )


def fit(
    columns: impressions.Data,
    task: Task,
    weights: dict[str, float],
    tx: optax.GradientTransformation,
    name: str,
    config: Config,
    **options: Any,
) -> Fitted:
    """Trains a task for all seeds. name: of its folder. options: of `train.fit.fit`."""
    # With more epochs of search the row has another initialisation, so it is another run.
    before: dict[str, Any] = {"search_epochs": config.epochs} if "initial" in options else {}
    kept = common.training_options(config, columns.name, name, row=name, **before)
    kept["description"] = {k: v for k, v in kept["description"].items() if k not in UNTRAINED}
    return impressions.train(
        columns,
        task,
        [CLICK],
        "auc/click",
        tx,
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        weighting=static(weights),
        **kept,
        **options,
    )


def train(name: str, made: Lifelong, config: Config) -> None:
    """Trains a row for all seeds, tests it, and stores the result."""
    row, clicks = ROWS[name], made.clicks
    length = int((clicks.end - clicks.start).max())
    columns = impressions.resident_clicks(
        clicks,
        length=events_read(row, config, length),
        name=dataset_name(config, clicks),
        batch_size=EVALUATION_BATCH,
    )
    tx, options = optax.adam(config.learning_rate), {}
    if row.pretrained:
        alone = recipes.search_alone(clicks, config, length=length)
        searched = fit(columns, alone, {"click": 0.0, "search": 1.0}, tx, f"{name}-search", config)
        options = {"initial": searched.variables, "newly_initialised": recipes.beyond_search}
        tx = recipes.frozen_search(tx)
    task = task_of(row, clicks, config, length)
    fitted = fit(columns, task, row.weights(config), tx, name, config, **options)
    found = impressions.run_test(columns, task, [CLICK], fitted.variables, num_devices=config.num_devices)
    of_all_seeds = sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"]))
    settings = common.describe_settings(config, left_out=UNTRAINED)
    path = common.save(
        config.results,
        experiment=EXPERIMENT,
        dataset=columns.name,
        model=model_name(name, config),
        config={**settings, "parameters": of_all_seeds // len(config.seeds)},
        protocol=impressions.protocol(columns, "auc/click", row.label(config)),
        seeds=config.seeds,
        metrics=found._replace(metrics=[{**own, "auc/best": made.best_auc} for own in found.metrics]),
        fitted=fitted,
    )
    values = ", ".join(f"{own['auc/click']:.4f}" for own in found.metrics)
    stored = model_name(name, config)
    print(f"{stored}: best epochs {fitted.best_epoch}, test AUC {values} of {made.best_auc}\nsaved {path}")


def measure_untrained(made: Lifelong, config: Config) -> None:
    """Fits, tests and stores the rows of `floors`, which read the target and counts of the whole history."""
    clicks = made.clicks
    length = int((clicks.end - clicks.start).max())
    name = dataset_name(config, clicks)
    read = impressions.resident_clicks(clicks, length=length, name=name, batch_size=EVALUATION_BATCH)
    fields = interest.with_history(interest.base(None), clicks, dim=config.dim).embedding.fields
    floors.measure(config, EXPERIMENT, read, fields, [CLICK])


def measure_time(name: str, config: Config) -> Path:
    """Times a row at every length, one measurement per seed, and stores milliseconds per batch."""
    row = ROWS[name]
    found: list[dict[str, float]] = [{} for _ in config.seeds]
    for length in config.timed:
        clicks = lifelong_times.timed_clicks(length, num_categories=NUM_CATEGORIES)
        measured = lifelong_times.timings(
            task_of(row, clicks, config, length),
            row.weights(config),
            clicks,
            read=events_read(row, config, length),
            learning_rate=config.learning_rate,
            seeds=config.seeds,
            memory=row.model(clicks, config) if row.memory else None,
        )
        for what, seconds in measured:
            for own, value in zip(found, seconds, strict=True):
                own[f"{what}@{length}"] = 1e3 * value
        shown = {what: round(float(np.median([own[what] for own in found])), 1) for what in found[0]}
        print(f"{name}: milliseconds {shown}")
    path = common.save(
        config.results,
        experiment=EXPERIMENT,
        dataset=f"milliseconds-of-{lifelong_times.BATCH}-users",
        model=model_name(name, dataclasses.replace(config, budgets=())),
        config=common.describe_settings(config, left_out=("trained", "budgets", *UNTIMED)),
        protocol=Protocol(split="none", candidates="impressions", seen="keep", ks=(), selection="none"),
        seeds=config.seeds,
        metrics=found,
        baseline=False,
    )
    print(f"saved {path}")
    return path


def run(config: Config) -> None:
    """Trains, tests, times and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    made = load(config) if config.trained else None
    if made is not None:
        measure_untrained(made, config)
    for name in [name for name in ROWS if name in config.rows]:
        if made is not None:
            for epochs in sorted(config.budgets) or [config.epochs]:
                train(name, made, dataclasses.replace(config, epochs=epochs))
        if config.timed:
            measure_time(name, config)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
