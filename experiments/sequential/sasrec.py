"""SASRec on Amazon Video Games (Kang and McAuley, ICDM 2018, arXiv:1808.09781, table III, "Games").

Train: events 1..n-2 of each user predict the next, with binary cross-entropy and one negative per event,
uniform over the items outside the user's training events. Users are drawn with replacement, as in the
authors' sampler. Test: the last event is ranked against 100 negatives; the parameters are those of the best
validation NDCG@10. Rows ending in -full rank against all items with the same parameters; numbers of the two
protocols are not comparable (Krichene and Rendle, KDD 2020).

Run:     python -m experiments.sequential.sasrec
Also:    --rows sasrec-bce --no-replacement (each user once per epoch), --dataset ml-100k,
         --data events.csv --user uid --item sku --time ts

Expect:  no result of the full training is stored yet: 201 epochs with five seeds take many hours on a CPU.
         Without training, counting co-visits has a hit@10 of .601 against 100 negatives, popularity .470.
         Sampled candidates mislead: the item-KNN of a matrix chosen against them has .598 there, above
         item-knn's .290, and an NDCG@10 of .0023 against all items, where item-knn has .0453.

Departs from the authors' evaluation:
  - all users are tested; the code tests 10,000 drawn at random;
  - negatives are drawn once, with a fixed seed, for all epochs and models; the code draws them each time;
  - negatives avoid the target, which the code may draw (once in 237 queries here);
  - ties rank the target last; the code's argsort puts it first, where a constant score gives Hit@10 = 1.
As in the code, negatives exclude the items of training events only: a test query may have the validation item
as a negative. The code draws again if a user has fewer than two training events; here such users (1 %) stay
in the batch and do not contribute to the loss.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from experiments import common, floors, sweeps
from experiments.common import NONE, Published, published
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item
from jaxrec.recipes import sasrec as recipes
from jaxrec.tasks.next_item import Encoder
from jaxrec.tasks.objectives import Objective
from jaxrec.train.fit import Fitted
from jaxrec.train.trial import Trial
from jaxrec.types import Protocol

EXPERIMENT = "sasrec"
DATASETS = {"Video": "sasrec/Video", "ml-100k": "movielens/ml-100k"}


class Row(NamedTuple):
    """A trained row: its encoder, and how hidden states are scored against next items."""

    encoder: Callable[[int, recipes.Recipe], Encoder]
    objective: Callable[[next_item.Data], Objective]


ROWS: Mapping[str, Row] = {
    "sasrec-bce": Row(recipes.original, recipes.bce),
    "sasrec-bce-postnorm": Row(recipes.post_norm, recipes.bce),
    "gru4rec-bce": Row(recipes.gru4rec, recipes.bce),
    "sasrec-ce": Row(recipes.original, recipes.ce),
}
BASELINES = floors.RANKING

TABLE = "table III of the SASRec paper"
TWO = ("hit@10", "ndcg@10")
PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("Video", "sasrec-bce"): published(TWO, TABLE, 0.7410, 0.5360),
    ("Video", "popularity"): published(TWO, f"{TABLE} (PopRec)", 0.4724, 0.2779),
    ("Video", "gru4rec-bce"): published(TWO, f"{TABLE} (GRU4Rec)", 0.2938, 0.1837)._replace(
        incomparable="the paper's GRU4Rec is the session-based one, which has another loss and output table"
    ),
    ("Video", "sasrec-bce-postnorm"): published(
        TWO, "study of layer norms that the README of pmixer/SASRec.pytorch links, post-norm", 0.7350, 0.5297
    ),
}
NEGATIVES = "negatives avoid training items only, so a validation item may be among them"
ALL_USERS = "published: of 10,000 users drawn at random and negatives drawn anew, here of all users"

TINY: Mapping[str, Any] = {"dim": 8, "max_len": 12, "batch_size": 32, "epochs": 2, "evaluate_every": 1}


@dataclasses.dataclass(frozen=True)
class Config(common.RankingOptions, common.SweepOptions, common.SparseOption, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other. Defaults: the authors' code."""

    dataset: Literal["Video", "ml-100k"] = "Video"  # data set
    rows: tuple[str, ...] = (*BASELINES, *ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    num_candidates: int = 100  # number of negatives that the target is ranked against
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/sasrec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        sweeps.check(self, ROWS)
        least_one = ("dim", "num_layers", "num_heads", "max_len", "batch_size", "epochs", "evaluate_every")
        common.check(self, *least_one, "num_candidates", "num_devices", "save_every")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience}: must be positive, or 0 for never")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: must divide dim={self.dim}")


def load(config: Config) -> Sequences:
    """The sequences of a data set or of your own file; synthetic for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    return data.load(DATASETS[config.dataset])


def model_name(row: str, config: Config) -> str:
    """The row's name, with suffixes for options."""
    parts = [] if config.replacement else ["permuted"]
    parts += ["bf16"] if config.dtype == "bfloat16" else []
    return "+".join([row, *parts]) if row in ROWS else row


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row, if the settings that it reads are those of the authors' code."""
    official = common.describe_settings(Config(dataset=config.dataset))
    read = ("dataset", "tiny", "num_candidates") if row in BASELINES else tuple(official)
    if (
        config.data
        or config.dtype != "float32"
        or any(common.describe_settings(config)[name] != official[name] for name in read)
    ):
        return NONE
    return PUBLISHED.get((config.dataset, row), NONE)


def train(
    row: str, columns: next_item.Data, protocol: Protocol, config: Config, trial: Trial | None = None
) -> Fitted:
    """Trains a row for all seeds. trial: of a search of settings."""
    return next_item.train(
        ROWS[row].encoder(columns.num_items, config),
        ROWS[row].objective(columns),
        columns,
        protocol,
        common.optimiser(common.with_sparse_tables(recipes.adam, config, "b2"), config, trial),
        epochs=config.epochs,
        batch_size=config.batch_size,
        every=config.evaluate_every,
        patience=config.patience or None,
        replacement=config.replacement,
        **common.training_options(
            config, columns.split.sequences.name, model_name(row, config), trial=trial, row=row
        ),
    )


def run(config: Config) -> None:
    """Trains, tests and stores every row, against sampled candidates and against all items."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    config = dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))
    sequences = load(config)
    columns = next_item.resident(leave_one_out(sequences, short="train"))
    dataset = sequences.name.split("/")[-1]
    candidates = f"sampled-{config.num_candidates}"
    for row in config.rows:
        name, own = model_name(row, config), config
        sampled = Protocol(split=columns.split.rule, candidates=candidates, selection="ndcg@10")
        if row in BASELINES:
            made = floors.fit(row, columns, sampled, config, EXPERIMENT, dataset)
            model, variables, sampled, fitted = made.model, made.variables, made.protocol, None
            settings = {"num_candidates": config.num_candidates, **made.settings}
            among = f" among {candidates}" if sampled.selection != "none" else ""
            everything = sampled._replace(candidates="all", selection=sampled.selection + among)
        else:
            objective = ROWS[row].objective(columns)
            common.check_label(row, objective.name)
            sampled = sampled._replace(loss=objective.description)
            everything = sampled._replace(candidates="all", selection=f"ndcg@10 among {candidates}")
            training = functools.partial(train, row, columns, sampled)
            own = common.tune(config, training, experiment=EXPERIMENT, dataset=dataset, model=name, row=row)
            fitted = training(own)
            model, variables = ROWS[row].encoder(columns.num_items, own), fitted.variables
            settings = common.describe_settings(own)
        for protocol, ending in ((sampled, ""), (everything, "-full")):
            found = next_item.run_test(
                model, columns, protocol, variables, **common.for_test(config, protocol)
            )
            numbers = NONE if ending else published_numbers(row, own)
            notes = [] if ending else [NEGATIVES, *([ALL_USERS] if numbers.values else [])]
            path = common.save(
                config.results,
                experiment=EXPERIMENT,
                dataset=dataset,
                model=name + ending,
                config=settings,
                protocol=protocol,
                seeds=config.seeds,
                metrics=found,
                fitted=fitted,
                note="; ".join(notes),
                **numbers.fields(),
            )
            print(f"{name}{ending}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
