"""Pre-ranking: what a network of fewer fields loses and saves (COLD: Wang et al., DLP-KDD 2020).

    base-rate, popularity    one score for all; the share of an item's training examples that are clicks
    logistic        a linear model of all fields
    vector-product  the product of a user's and an item's vector, without crossed fields
    cold-se         COLD with a weight for each field in each example, by whose means fields are chosen
    cold-all        COLD of all fields
    cold-3, -6, -10 COLD of the fields of the largest mean weights, trained anew
    worst-6         COLD of the fields of the smallest, to compare
    ranker          DIN of all fields and the history, which pre-ranking works for

MovieLens-100K: each event with an earlier one is a click; unseen items are the other candidates. A user's
last event is a test request of 50 candidates. Fields: of the user, the item before among them, of the item,
and crossed with the item's genres; one of noise, which the weights should find. `gauc/click` is by request.
`recall_of_ranker` is the share of the ranker's best 5 of a request (of the same seed) among the best 10 of a
row, `hit@10` the share of requests whose click is. Cost is that of a candidate, in thousands of operations
and in bytes read, see `nn.ranking.cold.cost`; the user's fields are read and multiplied once a request.

Test requests have more unseen items a click than training, so that `log_loss/click` says little.

Departs from the paper: its logs are private, so there are no comparable published numbers; no bids; one field
is one group. The mean weights are over training examples and seeds.

Run:     python -m experiments.ranking.preranking
Also:    --rows cold-all cold-3 --seeds 0
Expect:  no result is stored yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.ranking import preranking_data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.ranking.cold import keep_fields
from jaxrec.protocols import impressions
from jaxrec.recipes import preranking as recipes
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.fit import Fitted
from jaxrec.types import Task, Tested, Variables

EXPERIMENT = "preranking"
CLICK = Target("click", None, "label/click")
SELECTION = "gauc/click"
WEIGHTED, RANKER, WORST = "cold-se", "ranker", "worst"
FLOORS = ("base-rate", "popularity")
NUMBERS = {"cold-3": 3, "cold-6": 6, "cold-10": 10, "worst-6": 6}  # of fields that are chosen
MODELS = {
    "logistic": recipes.logistic,
    "vector-product": recipes.product,
    WEIGHTED: recipes.weighted,
    RANKER: recipes.ranker,
}
ROWS = (*FLOORS, "logistic", "vector-product", WEIGHTED, "cold-all", *NUMBERS, RANKER)
READ = 20_000  # training examples whose weights are averaged
TINY: Mapping[str, Any] = {
    "epochs": 2, "batch_size": 64, "negatives": 2, "candidates": 6, "keep": 3, "shown": 2, "length": 4
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    negatives: int = 4  # unseen items for each click of training and validation
    candidates: int = 50  # of a test request: the click and unseen items
    keep: int = 10  # candidates that pre-ranking leaves for the ranker
    shown: int = 5  # candidates that the ranker shows
    length: int = 20  # most recent events of the ranker's history
    workdir: str = "runs/preranking"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check(self, "epochs", "patience", "batch_size", "dim", "negatives", "length", "save_every")
        if not 1 <= self.shown <= self.keep < self.candidates:
            raise ValueError(
                f"shown={self.shown}, keep={self.keep}, candidates={self.candidates}: must be in this order, "
                "from 1 on, and fewer kept than there are"
            )


class Setting(NamedTuple):
    """The examples, and what models read of them. requests: the number of those of the test."""

    data: impressions.Data
    columns: recipes.Columns
    candidates: int
    requests: int


class Row(NamedTuple):
    """A trained row. scores: of all test requests, [seeds, requests, candidates]."""

    fitted: Fitted | None
    task: Task
    test: Tested
    scores: np.ndarray


def load(config: Config) -> Setting:
    """The requests, and the fields of their columns."""
    made = preranking_data.load(
        config.tiny, negatives=config.negatives, candidates=config.candidates, length=config.length
    )
    known = {field.name: field for field in impressions.features(made.split.impressions, config.dim).fields}
    user, item, cross = (tuple(known[n] for n in side) for side in (made.user, made.item, made.cross))
    history = known[preranking_data.HISTORY]
    assert isinstance(history, Categorical)
    columns = recipes.Columns(user, item, cross, history, "item_id")
    data = impressions.resident(made.split)._replace(name="tiny" if config.tiny else "ml-100k", group="group")
    return Setting(data, columns, made.candidates, len(made.split.test) // made.candidates)


def floor(row: str, setting: Setting) -> tuple[Task, Variables]:
    """A score for every item: the share of its training examples that are clicks, or one for all."""
    item, click = (np.asarray(setting.data.columns[name]) for name in ("item_id", "label/click"))
    counts = np.bincount(item, click, minlength=setting.columns.history.vocab_size)
    rate = float(np.mean(click))
    share = (counts + 1.0) / (np.bincount(item, minlength=len(counts)) + 1.0 / rate)
    share = np.full(len(counts), rate) if row == "base-rate" else np.clip(share, 1e-6, 1 - 1e-6)
    task = multitask(recipes.logistic(setting.columns, recipes.Recipe()).model, [CLICK])
    task = task._replace(predict=lambda variables, batch: variables["logit"][batch["item_id"]])
    return task, {"logit": np.asarray(np.log(share) - np.log1p(-share), np.float32)[None]}


def train(row: str, made: recipes.Made, setting: Setting, config: Config) -> Row:
    """Trains and tests a row for all seeds."""
    task = multitask(made.model, [CLICK])
    fitted = impressions.train(
        setting.data,
        task,
        [CLICK],
        SELECTION,
        recipes.adam(config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        **common.training_options(
            config, setting.data.name, row, left_out=("keep", "shown"), row=row, fields=field_names(made)
        ),
    )
    return measure(task, fitted.variables, fitted, setting, config)


def measure(task: Task, variables: Variables, fitted: Fitted | None, setting: Setting, config: Config) -> Row:
    """A row's test, and its scores."""
    found = impressions.run_test(setting.data, task, [CLICK], variables, num_devices=config.num_devices)

    def score(variables: Variables, batches: Any) -> Any:
        return jax.lax.map(lambda batch: task.predict(variables, batch), batches)

    scores = np.asarray(jax.jit(jax.vmap(score, (0, None)))(variables, setting.data.test))
    scores = scores.reshape(len(found.metrics), -1)
    count = setting.requests * setting.candidates
    return Row(fitted, task, found, scores[:, :count].reshape(-1, setting.requests, setting.candidates))


def field_names(made: recipes.Made) -> list[str]:
    """Names of the fields of a network whose fields are chosen; of others none."""
    return [field.name for field in getattr(made.model, "fields", ())]


def run(config: Config) -> None:
    """Trains, tests and stores every row: the ranker first, and the weights before the fields they choose."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting = load(config)
    columns, weights, ranked = setting.columns, None, None
    first = [row for row in (RANKER, WEIGHTED) if row in config.rows or row == RANKER]
    if any(row in NUMBERS for row in config.rows) and WEIGHTED not in first:
        first.append(WEIGHTED)
    for name in (*first, *(row for row in config.rows if row not in first)):
        made = None
        if name in FLOORS:
            task, variables = floor(name, setting)
            row = measure(task, variables, None, setting, config)
        else:
            if name in NUMBERS:
                assert weights is not None
                order = -weights if name.startswith(WORST) else weights
                fields = keep_fields(columns.all, order, min(NUMBERS[name], len(columns.all)))
                made = recipes.network(fields, columns, config)
            else:
                build = MODELS.get(name)
                made = build(columns, config) if build else recipes.network(columns.all, columns, config)
            row = train(name, made, setting, config)
        if name == RANKER:
            ranked = row.scores
        if name == WEIGHTED and made is not None and row.fitted is not None:
            weights = recipes.mean_weights(made.model, row.fitted.variables, setting.data.columns, READ)
            print({f.name: round(float(w), 3) for f, w in zip(columns.all, weights, strict=True)})
        if name in config.rows:
            store(name, row, made, ranked, setting, config)


def store(
    name: str,
    row: Row,
    made: recipes.Made | None,
    ranked: np.ndarray | None,
    setting: Setting,
    config: Config,
) -> None:
    """Writes a row's result, with what is measured by request, and with costs, and says so."""
    assert ranked is not None
    cost = None if made is None else made.cost
    further = preranking_data.by_request(row.scores, ranked, keep=config.keep, shown=config.shown, cost=cost)
    joined = [{**own, **more} for own, more in zip(row.test.metrics, further, strict=True)]
    found = row.test._replace(metrics=joined)
    settings = common.describe_settings(config) if row.fitted else {}
    if made is not None and field_names(made):
        settings["fields"] = field_names(made)
    path = common.save(
        config.results,
        experiment=EXPERIMENT,
        dataset=setting.data.name,
        model=name,
        config=settings,
        protocol=impressions.protocol(setting.data, SELECTION if row.fitted else "none", "bce"),
        seeds=config.seeds[: len(found.metrics)],
        metrics=found,
        fitted=row.fitted,
    )
    print(f"{name}: test {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
