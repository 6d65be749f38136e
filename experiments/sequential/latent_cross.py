"""Latent Cross: context multiplied into a GRU's input and state (Beutel et al., WSDM 2018).

The context is the time between events. Every row predicts the next item at every event, with cross-entropy
over all items; all items are ranked that are not in the history. Leave-one-out; a row's parameters are those
of the epoch of best validation NDCG@10.

    gru-ce             without context
    concat-ce          context vectors beside the inputs of both dense layers
    concat-wide-ce     the same with layers as wide as makes it as large as `all-ce`
    pre-ce, post-ce    the GRU's input, or its state, times its context
    pre-post-ce        both
    all-ce             both, and concatenated: the paper's final form

The gap until the predicted event is known when a request is served; baselines and gru-ce do not read it, and
results say which rows do. The paper has videos of YouTube, and its tables give no numbers that can be
compared.

Run:     python -m experiments.sequential.latent_cross
Also:    --rows gru-ce all-ce --seeds 0, --dataset Beauty, --data events.csv --user uid --item sku --time ts
Expect:  on ml-100k (three seeds) NDCG@10 is .077 without context, .088 with the context beside the inputs and
         .087 in the paper's final form; counting co-visits has .101, item-KNN .085. Other rows are not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from experiments import common, floors
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item
from jaxrec.recipes import latent_cross as recipes
from jaxrec.tasks.encoder import reads_times
from jaxrec.tasks.next_item import Encoder
from jaxrec.types import Protocol

EXPERIMENT = "latent_cross"
DATASETS = {"ml-100k": "movielens/ml-100k", "Beauty": "ticoserec/Beauty"}


class Row(NamedTuple):
    """A trained row: how it uses the context. wide: whether it has as many weights as `all-ce`."""

    pre: bool = False
    post: bool = False
    concat: bool = False
    wide: bool = False


ALL = Row(pre=True, post=True, concat=True)
ROWS: Mapping[str, Row] = {
    "gru-ce": Row(),
    "concat-ce": Row(concat=True),
    "concat-wide-ce": Row(concat=True, wide=True),
    "pre-ce": Row(pre=True),
    "post-ce": Row(post=True),
    "pre-post-ce": Row(pre=True, post=True),
    "all-ce": ALL,
}
BASELINES = floors.RANKING
TINY: Mapping[str, Any] = {
    "dim": 8, "hidden_dim": 8, "context_dim": 4, "max_len": 12, "batch_size": 32, "epochs": 2,
    "evaluate_every": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.RankingOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "Beauty"] = "ml-100k"  # data set
    rows: tuple[str, ...] = (*BASELINES, *ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/latent_cross"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        sizes = ("dim", "hidden_dim", "context_dim", "max_len", "batch_size", "epochs", "evaluate_every")
        common.check(self, *sizes, "save_every")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience}: must be positive, or 0 for never")


def load(config: Config) -> Sequences:
    """The sequences of a data set or of your own file; synthetic for --tiny.

    Raises:
      ValueError: the data set has no times.
    """
    if config.data:
        found = common.own_events(config)
    elif config.tiny:
        found = markov_chain(num_users=96, num_items=40, noise=0.1).sequences
    else:
        found = data.load(DATASETS[config.dataset])
    if found.times is None:
        raise ValueError(f"{found.name}: has no times; the context of this experiment is the time of events")
    return found


def encoder(row: str, num_items: int, config: Config) -> Encoder:
    """The network of a row."""
    made = ROWS[row]
    parts = {"pre": made.pre, "post": made.post, "concat": made.concat}
    wider = extra_units(num_items, config, **parts) if made.wide else 0
    return recipes.encoder(num_items, config, wider=wider, **parts)


def extra_units(num_items: int, config: Config, **parts: bool) -> int:
    """By how many units a row's layers have to grow to have as many weights as `all-ce`, or just fewer."""
    whole = recipes.num_weights(num_items, config, pre=True, post=True, concat=True)
    wider = 0
    while recipes.num_weights(num_items, config, wider + 1, **parts) <= whole:
        wider += 1
    return wider


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    sequences = load(config)
    columns = next_item.resident(leave_one_out(sequences, short="train"))
    dataset = sequences.name.replace("/", "-")
    for row in config.rows:
        protocol = Protocol(split=columns.split.rule, ks=(5, 10, 20), selection="ndcg@10")
        if row in BASELINES:
            made = floors.fit(row, columns, protocol, config, EXPERIMENT, dataset)
            model, variables, protocol, settings, fitted, note = *made[:4], None, ""
        else:
            model, objective = encoder(row, columns.num_items, config), recipes.ce(columns, config)
            common.check_label(row, objective.name)
            protocol = protocol._replace(loss=objective.description)
            fitted = next_item.train(
                model,
                objective,
                columns,
                protocol,
                recipes.adam(config),
                epochs=config.epochs,
                batch_size=config.batch_size,
                every=min(config.evaluate_every, config.epochs),
                patience=config.patience or None,
                **common.training_options(config, dataset, row, row=row),
            )
            variables, settings = fitted.variables, common.describe_settings(config)
            note = "reads the time of the target" if reads_times(model) else ""
        found = next_item.run_test(model, columns, protocol, variables, **common.for_test(config, protocol))
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=row,
            config=settings,
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
            note=note,
        )
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
