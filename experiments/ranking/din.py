"""Interest models of a behaviour history: base model, DIN, DIEN (Zhou et al., KDD 2018; AAAI 2019).

For each event of a user one unseen item is sampled as the negative, and both are scored given the earlier
events: training on all but the last two events, validation on the last but one, test on the last. A row's
parameters are those of the epoch of best validation AUC. GAUC is the paper's, weighted by impressions;
RelaImpr is against the row `base` of the same seed.

Departs from the papers: MovieLens-100K (item, its genres, age, gender, occupation), or small sets of Amazon
and Yelp (item and its attributes; Video: item alone), where they use Amazon Electronics and Books and
MovieLens-20M, so there are no comparable published numbers; Adam and one learning rate for all rows. The sets
of Amazon and Yelp have no times: their events are in the order of the file.

Run:     python -m experiments.ranking.din
Also:    --rows base din-dice --seeds 0, --dataset Beauty (Sports, Toys, Yelp), --data events.csv --user uid …

Expect:  on MovieLens-100K, each user tested on one event and one unseen item, DIEN is ahead of the base
         model by 0.018 in AUC and by 0.025 in GAUC (deviations of at most 0.002 and 0.007). DIN and its
         variants are ahead in mean GAUC, by 0.005 to 0.014 (deviations of 0.004 to 0.010), in AUC by +0.004
         to -0.002: with 943 users, three seeds do not separate them. Boosted trees have an AUC of 0.801,
         logistic regression 0.795. On Beauty the base model is ahead, with 0.797 (DIN 0.781, with Dice
         0.786, DIEN 0.786; trees 0.739, logistic regression 0.728).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments import common, floors, sweeps
from jaxrec import config as command_line
from jaxrec import data, losses, metrics
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import coserec, movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import NO_SIDE_INFO, Clicks, SideInfo, next_clicks
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.recipes import interest as recipes
from jaxrec.tasks.ctr import ctr, next_behaviour, other_events
from jaxrec.tasks.multitask import Target
from jaxrec.tasks.objectives import loss_name
from jaxrec.train.fit import Fitted
from jaxrec.train.parallel import axis_name
from jaxrec.train.trial import Trial
from jaxrec.types import Array, Task, Tested

EXPERIMENT = "din"
DATASETS = {
    "ml-100k": "movielens/ml-100k",
    "Beauty": "coserec/Beauty",
    "Sports": "coserec/Sports_and_Outdoors",
    "Toys": "coserec/Toys_and_Games",
    "Yelp": "coserec/Yelp",
    "Video": "sasrec/Video",
}
CLICK = Target("click", None, "label/click")
TERMS = {"mini_batch_aware": "mini-batch aware", "next_behaviour": "next behaviour"}  # names in protocols


class Row(NamedTuple):
    """A row of the table: model of the history, additional losses (see TERMS), and loss of a click."""

    body: Callable[[str | None], nn.Module]
    terms: tuple[str, ...] = ()
    loss: Callable[..., Array] = losses.binary_cross_entropy

    @property
    def label(self) -> str:
        """Names of the losses of a row, for its protocol."""
        return " + ".join([loss_name(self.loss), *(TERMS[term] for term in self.terms)])


ROWS: Mapping[str, Row] = {
    "base": Row(recipes.base),
    "din": Row(recipes.din),
    "din-dice": Row(recipes.din_dice),
    "din-mba": Row(recipes.din, terms=("mini_batch_aware",)),
    "din-dice-mba": Row(recipes.din_dice, terms=("mini_batch_aware",)),
    "dien": Row(recipes.dien, terms=("next_behaviour",)),
    "dien-no-aux": Row(recipes.dien),
}
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64}


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, common.SweepOptions, common.SparseOption, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "Beauty", "Sports", "Toys", "Yelp", "Video"] = "ml-100k"  # data set
    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # rows of the table
    split: Literal["last", "time", "user"] = "last"  # by each user's last events, by time, by user
    workdir: str = "runs/din"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        sweeps.check(self, ROWS)
        common.check(self, "epochs", "patience", "batch_size", "dim", "length", "save_every")
        for name in ("mba", "auxiliary"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be positive; to leave it out, choose rows without it"
                )
        without = self.dataset != "ml-100k" and not self.tiny and not self.data
        if self.split == "time" and (without or (self.data and not self.time)):
            raise ValueError(
                f"split='time': {self.data or self.dataset} has no times; use split='last' or 'user', or "
                "dataset='ml-100k'"
            )


def load(config: Config) -> Clicks:
    """Impressions of a data set with features of its items and users."""
    sequences, side_info = events(config)
    return next_clicks(sequences, split=config.split, side_info=side_info)


def events(config: Config) -> tuple[Sequences, SideInfo]:
    """Events of a data set, and side information.

    Items of ml-100k have genres, each set of which is one category; items of S3-Rec's sets have attributes.
    """
    if config.data:
        return common.own_events(config), NO_SIDE_INFO
    if config.tiny:
        genres = np.append(0, np.arange(20) % 3 + 1).astype(np.int32)
        return markov_chain(60, 20, min_length=4, max_length=9).sequences, SideInfo({"genres": genres}, {})
    source, name = DATASETS[config.dataset].split("/")
    side_info = NO_SIDE_INFO
    if source == "coserec":
        side_info = SideInfo({"attributes": coserec.load_attributes(name)}, {})
    if source == "movielens":
        side_info = SideInfo({"genres": encode_values(movielens.load_movies(name).genres)}, user_columns())
    return data.load(DATASETS[config.dataset]), side_info


def user_columns() -> dict[str, np.ndarray]:
    """Features of MovieLens-100K's users: age by decade, gender, occupation."""
    users = movielens.load_users("ml-100k")
    known = {"age": users.age // 10, "gender": users.gender, "occupation": users.occupation}
    return {name: encode_values(column) for name, column in known.items()}


def encode_values(values: np.ndarray) -> np.ndarray:
    """Ids of values, or of lists of values, in sorted order from 1, after a 0 for padding: int32 [n + 1]."""
    _, ids = np.unique(values, axis=0, return_inverse=True)
    return np.append(0, ids.reshape(-1) + 1).astype(np.int32)


def dataset_name(config: Config, clicks: Clicks) -> str:
    """The data set's name in results and folders, with the source of its files."""
    if config.data or config.tiny:
        return "tiny" if not config.data else clicks.name
    return f"coserec-{config.dataset}" if "coserec" in DATASETS[config.dataset] else config.dataset


def task_of(row: Row, clicks: Clicks, config: Config) -> Task:
    """The task of predicting clicks by the model of a row, with the row's additional losses."""
    sampled = "next_behaviour" in row.terms
    body = row.body(axis_name(config.num_devices))
    return ctr(
        recipes.with_history(body, clicks, dim=config.dim, negatives=sampled),
        length=config.length,
        loss=row.loss,
        terms={"next_behaviour": next_behaviour} if sampled else {},
        columns=other_events(clicks.num_items) if sampled else None,
        regularised=(
            recipes.regularised_items(clicks, length=config.length) if "mini_batch_aware" in row.terms else ()
        ),
    )


def resident(clicks: Clicks, config: Config) -> impressions.Data:
    """The examples as training and evaluation read them."""
    return impressions.resident_clicks(clicks, length=config.length, name=dataset_name(config, clicks))


def train(name: str, clicks: Clicks, config: Config, trial: Trial | None = None) -> Fitted:
    """Trains a row for all seeds. trial: of a search of settings."""
    row, columns = ROWS[name], resident(clicks, config)
    sizes = {"mini_batch_aware": config.mba, "next_behaviour": config.auxiliary}
    return impressions.train(
        columns,
        task_of(row, clicks, config),
        [CLICK],
        "auc/click",
        common.optimiser(common.with_sparse_tables(recipes.adam, config), config, trial),
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        weighting=static({"click": 1.0, **{term: sizes[term] for term in row.terms}}),
        **common.training_options(config, columns.name, name, trial=trial, row=name),
    )


def with_improvement(found: Tested, base: Tested) -> Tested:
    """A test with RelaImpr of GAUC over the base model of the same seed, in percent."""
    name = "gauc/click"
    improved = [
        {**own, "rela_impr/click": float(metrics.relative_improvement(own[name], first[name]))}
        for own, first in zip(found.metrics, base.metrics, strict=True)
    ]
    return found._replace(metrics=improved)


def run(config: Config) -> None:
    """Trains, tests and stores every row, `base` before the other models."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    clicks = load(config)
    columns = resident(clicks, config)
    fields = recipes.with_history(recipes.base(None), clicks, dim=config.dim).embedding.fields
    floors.measure(config, EXPERIMENT, columns, fields, [CLICK])
    base: Tested | None = None
    for row in [name for name in ROWS if name in config.rows]:
        training = functools.partial(train, row, clicks)
        own = common.tune(config, training, experiment=EXPERIMENT, dataset=columns.name, model=row)
        fitted, task = training(own), task_of(ROWS[row], clicks, own)
        read = resident(clicks, own)
        found = impressions.run_test(read, task, [CLICK], fitted.variables, num_devices=config.num_devices)
        base = found if row == "base" else base
        found = found if base is None else with_improvement(found, base)
        of_all_seeds = sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"]))
        settings = common.describe_settings(own, left_out=("dataset",))  # it is in the path of the result
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=columns.name,
            model=row,
            config={**settings, "parameters": of_all_seeds // len(config.seeds)},
            protocol=impressions.protocol(columns, "auc/click", ROWS[row].label),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {common.means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
