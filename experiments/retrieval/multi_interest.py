"""Models of several interests a user beside models of one vector and baselines (ComiRec, KDD 2020; MIND, CIKM
2019; SINE, WSDM 2021; SDM, CIKM 2019; Poly-encoder, ICLR 2020; Octopus, SIGIR 2020), on Amazon Beauty and
Games.

Train: events 1..n-2 of each user; every event is a target once an epoch, read from up to 20 before it. The
rows ending in -ce have cross-entropy over all items, the Poly-encoder over the targets of the batch; the
parameters are those of best validation NDCG@20 (target n-1). Test: the last event, ranked against all unseen
items by the best product with a vector of the user, the Poly-encoder exactly, by attention. With one target
hit@k is recall@k. Item-KNN and co-visitation are tuned on the same validation targets (`experiments.floors`).

A balance λ: lists of 50 among the 200 best items, greedily by score + λ × items of another category in the
list (ComiRec, section 3.4). Their metrics are the rows <model>+balance-λ of multi_interest_diversity, and
<dataset>.png beside these shows them. Beauty's categories: of the attributes of an item, that which most
items have. Games has none.

Departs from the papers: all rows share the data, width, negatives, budget and selection, so none of their
published numbers, on other splits, stands beside ours. Rows ending in -ssm-logq have the papers' sampled
softmax; `jaxrec train comirec-sa` and its like have all of their settings.

Run:     python -m experiments.retrieval.multi_interest
Also:    --dataset Games, --rows comirec-sa-ssm-logq sasrec-ce, --num-interests 8, --balances 0 0.1 1
Expect:  on Beauty (three seeds) hit@20 and ndcg@20 are .1298 and .0661 for sasrec-ce (one vector), .1084
         and .0522 comirec-sa-ssm-logq, .0993 and .0479 sine, .1025 and .0460 octopus, .0989 and .0458 mind,
         .0900 and .0437 sdm, .0874 and .0422 poly-encoder-in-batch, .0887 and .0402 mean-of-events (one
         vector), .0742 and .0346 comirec-dr, .1050 and .0557 co-visitation-directed. Several vectors are
         worth more than the mean of events, and less than SASRec's reading of the order; only ComiRec-SA
         lists more targets than counting what followed, and ranks them lower. With λ = .25 SASRec's first
         20 items have a diversity of .79 instead of .55, and a hit@20 of .1195. Games is not run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import common, floors, sweeps
from experiments.retrieval import balances
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item
from jaxrec.recipes import interests as recipes
from jaxrec.recipes import sasrec
from jaxrec.recipes.trainable import SequenceModel
from jaxrec.tasks import interests
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial
from jaxrec.types import Protocol

EXPERIMENT = "multi_interest"
DATASETS = {"Beauty": "coserec/Beauty", "Games": "sasrec/Video"}


class Row(NamedTuple):
    """A trained row: its model, and the name of its loss."""

    entry: SequenceModel
    loss: str


POLY = recipes.MODELS["poly-encoder"]._replace(recipe=recipes.Poly(num_interests=16))  # of 16, 64 and 360
SASREC = sasrec.MODELS["sasrec"]._replace(recipe=sasrec.Recipe(replacement=False))
ROWS: Mapping[str, Row] = {
    **{
        f"{name}-{loss}": Row(entry, loss)
        for loss in ("ce", "ssm-logq")
        for name, entry in recipes.MODELS.items()
        if loss in entry.objectives
    },
    "poly-encoder-in-batch": Row(POLY, "in-batch"),
    "sasrec-ce": Row(SASREC, "ce"),
}
OF_LISTS = ("balances", "num_candidates")  # options that change no training
BASELINES = floors.RANKING
DEFAULT = (*BASELINES, *(row for row, made in ROWS.items() if made.loss != "ssm-logq"))
SHARED: Mapping[str, Any] = {
    "dim": 64, "max_len": 20, "batch_size": 256, "epochs": 100, "evaluate_every": 1, "patience": 10
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "dim": 8, "max_len": 8, "batch_size": 32, "epochs": 2, "num_prototypes": 6, "num_heads": 2,
    "short_len": 3, "num_channels": 4,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.RankingOptions, common.SweepOptions, recipes.Changes):
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["Beauty", "Games"] = "Beauty"  # data set
    rows: tuple[str, ...] = DEFAULT  # rows of the table
    balances: tuple[float, ...] = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)  # λ of lists; empty: no such lists
    num_candidates: int = 200  # best items among which such a list is chosen
    workdir: str = "runs/multi_interest"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        sweeps.check(self, ROWS)
        common.check(
            self, "dim", "max_len", "num_interests", "num_samples", "batch_size", "epochs", "evaluate_every",
            "num_candidates", "num_devices", "save_every",
        )  # fmt: skip


def load(config: Config) -> Sequences:
    """The sequences of a data set or of your own file; synthetic for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    return data.load(DATASETS[config.dataset])


def categories(config: Config, num_items: int) -> np.ndarray | None:
    """The category of each id, [num_items + 1]: of its attributes the most frequent; None: there are none."""
    if config.tiny and not config.data:
        return np.arange(num_items + 1) % 5
    if config.data or config.dataset != "Beauty":
        return None
    attributes = coserec.load_attributes(config.dataset)
    count = np.bincount(attributes.reshape(-1))
    count[0] = 0  # padding
    best = np.argmax(count[attributes], axis=1)
    return attributes[np.arange(len(attributes)), best]


def recipe_of(row: str, config: Config) -> Any:
    """The settings of a row: those of its paper, then those that all rows share, then the command line's."""
    recipe = ROWS[row].entry.recipe
    recipe = recipe() if isinstance(recipe, type) else recipe
    shared = {**SHARED, **(TINY if config.tiny else {})}
    known = {field.name for field in dataclasses.fields(recipe)}
    recipe = dataclasses.replace(recipe, **{n: value for n, value in shared.items() if n in known})
    return common.override(recipe, config)


def train(
    row: str, columns: next_item.Data, protocol: Protocol, config: Config, trial: Trial | None = None
) -> Fitted:
    """Trains a row for all seeds. trial: of a search of settings."""
    entry, recipe = ROWS[row].entry, recipe_of(row, config)
    learn = recipes.by_event if entry.multi_interest else entry.train
    return learn(
        entry.encoder(columns.num_items, recipe),
        entry.objectives[ROWS[row].loss](columns, recipe),
        columns,
        protocol,
        common.optimiser(entry.optimiser, recipe, trial),
        recipe,
        **common.training_options(
            config, columns.split.sequences.name, row, left_out=OF_LISTS,
            trial=trial, row=row, recipe=dataclasses.asdict(recipe),
        ),
    )  # fmt: skip


def ranked_model(row: str, columns: next_item.Data, config: Config) -> Any:
    """What is ranked: an encoder, or the retriever of a model of several interests."""
    model = ROWS[row].entry.encoder(columns.num_items, recipe_of(row, config))
    return interests.retriever(model) if ROWS[row].entry.multi_interest else model


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    sequences = load(config)
    columns = next_item.resident(leave_one_out(sequences, short="train"))
    dataset = sequences.name.split("/")[-1] if config.data or config.tiny else config.dataset
    of_items = categories(config, columns.num_items)
    for row in config.rows:
        protocol = Protocol(split=columns.split.rule, ks=(20, 50), selection="ndcg@20")
        own, fitted = config, None
        if row in BASELINES:
            made = floors.fit(row, columns, protocol, config, EXPERIMENT, dataset)
            model, variables, protocol, settings = made[:4]
        else:
            objective = ROWS[row].entry.objectives[ROWS[row].loss](columns, recipe_of(row, config))
            common.check_label(row, objective.name)
            protocol = protocol._replace(loss=objective.description)
            training = functools.partial(train, row, columns, protocol)
            own = common.tune(config, training, experiment=EXPERIMENT, dataset=dataset, model=row)
            fitted = training(own)
            model, variables = ranked_model(row, columns, own), fitted.variables
            settings = {
                **common.describe_settings(own, left_out=OF_LISTS),
                "recipe": dataclasses.asdict(recipe_of(row, own)),
            }
        stored: dict[str, Any] = {
            "experiment": EXPERIMENT, "dataset": dataset, "model": row, "config": settings,
            "seeds": config.seeds, "fitted": fitted,
        }  # fmt: skip
        found = next_item.run_test(model, columns, protocol, variables, **common.for_test(own, protocol))
        path = common.save(config.results, protocol=protocol, metrics=found, **stored)
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)
        if fitted is not None and of_items is not None and config.balances:
            balances.measure(config, model, columns, protocol, variables, of_items, stored)
            balances.draw(config.results, EXPERIMENT, dataset, k=max(protocol.ks))


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
