"""Collaborative filtering on LightGCN's splits (He et al., SIGIR 2020): counting, factors and graphs.

A user's held-out items are ranked among all items that the user has no interaction with before; recall@20
divides by the number of held-out items, and means are over users. The files have no validation part, so the
published settings were probably chosen on the test part. Each method has two rows:

    ease, lightgcn, …                     at its published setting for Gowalla, on all training interactions;
                                          a trained model keeps its last epoch
    ease-selected, lightgcn-selected, …   by ndcg@20 on 10 % of each user's training items: the setting of a
                                          small grid, which is then fitted to all of training, or the epoch

Run:     python -m experiments.retrieval.lightgcn
Also:    --dataset lastfm; --rows lightgcn --epochs 5 --evaluate-every 5 (the first epochs of the curve)

Expect:  on Gowalla, recall@20 / ndcg@20 of EASE .1765 / .1467, SLIM .1699 / .1382, item-KNN .1568 / .1213,
         RP3beta .1829 / .1520; no trained model is stored yet.

Departs from the papers: a selected model of factors or graphs is not trained again on its validation items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from experiments.common import NONE, Published, published
from experiments.retrieval.grids import choose
from jaxrec import baselines, data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, Sets, format_matrix, hold_out_validation, split_items
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import retrieval
from jaxrec.protocols.retrieval import LAST_EPOCH, Data
from jaxrec.recipes import counting, factors, graphs
from jaxrec.recipes.trainable import CountingModel, RetrievalModel, evaluate_every, fit_seeds
from jaxrec.train.fit import Fitted
from jaxrec.types import Baseline, Protocol, Tested

EXPERIMENT = "lightgcn"
DATASETS = {"gowalla": "lightgcn/gowalla", "lastfm": "lightgcn/lastfm", "amazon-book": "kgat/amazon-book"}
SELECTED = "-selected"
SELECTION = "ndcg@20"


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a method without settings."""


METHODS: Mapping[str, CountingModel | RetrievalModel] = {
    "random": CountingModel(NoSettings, lambda data, recipe, seed: baselines.random(data), drawn=True),
    "popularity": CountingModel(NoSettings, lambda data, recipe, seed: baselines.popularity(data)),
    **counting.MODELS,
    **factors.MODELS,
    **graphs.MODELS,
}
# Settings that are tried on validation, each with each; methods without gradient descent that are not here
# have no selected row.
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "matrix-item-knn": {"neighbours": (20, 50, 100, 200, 400)},
    "matrix-user-knn": {"neighbours": (50, 100, 200, 400)},
    "rp3beta": {"alpha": (0.4, 0.6, 0.8, 1.0), "beta": (0.0, 0.2, 0.4)},
    "slim": {"alpha": (0.001, 0.005, 0.02)},
    "ease": {"regularisation": (20.0, 80.0, 300.0, 1000.0)},
    "ials": {"alpha0": (0.001, 0.003, 0.01), "regularisation": (0.003, 0.01, 0.03)},
}
CHOSEN = [name for name, entry in METHODS.items() if name in GRIDS or isinstance(entry, RetrievalModel)]
PLAIN = (name for name in METHODS if name != "ials")  # of which no setting is published for these data
ROWS = (*PLAIN, *(f"{name}{SELECTED}" for name in CHOSEN))

TWO = ("recall@20", "ndcg@20")
BARS = "BARS, Gowalla"
PUBLISHED: Mapping[str, Published] = {
    "popularity": published(TWO, BARS, 0.0416, 0.0317),
    "matrix-item-knn": published(TWO, BARS, 0.1570, 0.1214),
    "bpr-mf": published(TWO, BARS, 0.1627, 0.1378),
    "slim": published(TWO, BARS, 0.1699, 0.1382),
    "ease": published(TWO, BARS, 0.1765, 0.1467),
    "ngcf": published(TWO, BARS, 0.1570, 0.1327),
    "lightgcn": published(TWO, BARS, 0.1820, 0.1547),
    "ultragcn": published(TWO, BARS, 0.1862, 0.1580),
    "simplex": published(TWO, BARS, 0.1872, 0.1557),
    "mf-ccl": published(TWO, BARS, 0.1837, 0.1493),
}
TINY: Mapping[str, Any] = {
    "dim": 8, "num_layers": 2, "batch_size": 500, "epochs": 4, "evaluate_every": 2, "learning_rate": 0.02,
    "negatives": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions):
    """Fits, trains and tests the rows of the table. None: the method's own published setting."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    dataset: str = "gowalla"  # or lastfm, amazon-book (as KGAT has it)
    split_seed: int = 0  # of the items that are taken out for validation
    dim: int | None = None  # of trained models: width of vectors
    num_layers: int | None = None  # of graph models: propagations
    negatives: int | None = None  # of trained models: sampled items per observed pair
    batch_size: int | None = None  # of trained models: observed pairs per step
    learning_rate: float | None = None  # of trained models: of Adam
    l2: float | None = None  # of trained models: of the penalty
    epochs: int | None = None  # of trained models: epochs to train
    evaluate_every: int | None = None  # of trained models: epochs between evaluations
    patience: int | None = None  # of selected rows: evaluations without improvement before a seed stops
    workdir: str = "runs/lightgcn"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check_choice("dataset", self.dataset, tuple(DATASETS))
        common.check(
            self, "dim", "num_layers", "negatives", "batch_size", "epochs", "evaluate_every", "save_every"
        )


def load(config: Config) -> HeldOut:
    """A data set without a validation part, or your own file; synthetic for --tiny."""
    if not config.data and not config.tiny:
        return data.load(DATASETS[config.dataset], kind="matrix")
    sequences = common.own_events(config) if config.data else group_tastes()
    split = split_items(sequences, by="random", test=0.2)
    length = split.train_length.copy()
    length[split.validation.user] += split.validation.number
    none = Sets(*(np.zeros(0, np.int32) for _ in range(3)))
    rule = "a fifth of each user's items, at random, for test"
    return dataclasses.replace(split, train_length=length, validation=none, rule=rule)


def recipe_of(name: str, config: Config) -> Any:
    """The published settings of a method, with those of the configuration that are given."""
    recipe = METHODS[name].recipe
    return common.override(recipe() if isinstance(recipe, type) else recipe, config)


class Done(NamedTuple):
    """A row's test: where it was measured, what was chosen, and how it was trained."""

    found: Tested
    protocol: Protocol
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    fitted: Fitted | None = None


def fit(entry: CountingModel, columns: Data, recipe: Any, settings: Mapping[str, Any]) -> Baseline:
    """The method with some settings changed."""
    return entry.make(columns, dataclasses.replace(recipe, **settings), 0)


def test_fitted(name: str, entry: CountingModel, whole: Data, part: Data | None, config: Config) -> Done:
    """Fits a method to all of training; `part`: with the settings that are best on its validation part."""
    recipe = recipe_of(name, config)
    chosen: dict[str, Any] = {}
    if part is not None:
        validated = Protocol(split=part.split.rule, ks=(20,), selection=SELECTION)
        chosen = choose(name, functools.partial(fit, entry, part, recipe), GRIDS[name], part, validated)
    recipe = dataclasses.replace(recipe, **chosen)
    seeds = config.seeds if entry.drawn else config.seeds[:1]
    protocol = Protocol(split=whole.split.rule, ks=(20, 50), selection=SELECTION if chosen else "none")
    model, variables = fit_seeds(entry, whole, recipe, seeds)
    found = retrieval.run_test(model, whole, protocol, variables, num_devices=config.num_devices)
    return Done(found, protocol, {**dataclasses.asdict(recipe), "split_seed": config.split_seed}, seeds)


def test_trained(row: str, entry: RetrievalModel, columns: Data, config: Config) -> Done:
    """Trains a model, by its last epoch or by the validation part if there is one, and tests it."""
    name = row.removesuffix(SELECTED)
    recipe, selected = recipe_of(name, config), row.endswith(SELECTED)
    protocol = Protocol(
        split=columns.split.rule,
        ks=(20, 50) if not selected else (20,),
        loss=entry.loss,
        selection=SELECTION if selected else LAST_EPOCH,
    )
    model, extra = entry.module(columns, recipe), entry.columns(columns, recipe)
    fitted = retrieval.train(
        entry.task(model, columns, recipe),
        entry.plan(columns, recipe),
        model,
        columns,
        protocol,
        entry.optimiser(recipe),
        epochs=recipe.epochs,
        every=evaluate_every(recipe),
        patience=(recipe.patience or None) if selected else None,
        columns=extra,
        **common.training_options(config, columns.split.sequences.name.split("/")[-1], row, row=row),
    )
    found = retrieval.run_test(
        model, columns, protocol, fitted.variables, columns=extra, num_devices=config.num_devices
    )
    settings = {**dataclasses.asdict(recipe), "split_seed": config.split_seed}
    return Done(found, protocol, settings, config.seeds, fitted)


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row on Gowalla, if it has the published settings."""
    name = row.removesuffix(SELECTED)
    if config.data or config.tiny or config.dataset != "gowalla":
        return NONE
    same = recipe_of(name, config) == recipe_of(name, Config())
    return PUBLISHED.get(name, NONE) if same else NONE


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = load(config)
    whole = retrieval.resident(split)
    print(format_matrix(split), flush=True)
    part = None
    if any(row.endswith(SELECTED) for row in config.rows):
        part = retrieval.resident(hold_out_validation(split, seed=config.split_seed))
    for row in config.rows:
        name, entry = row.removesuffix(SELECTED), METHODS[row.removesuffix(SELECTED)]
        carved = part if row.endswith(SELECTED) else None
        if isinstance(entry, CountingModel):
            done = test_fitted(name, entry, whole, carved, config)
        else:
            done = test_trained(row, entry, carved or whole, config)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=split.sequences.name.split("/")[-1],
            model=row,
            config=done.settings,
            protocol=done.protocol,
            seeds=done.seeds,
            metrics=done.found,
            fitted=done.fitted,
            note="selected on 10 % of training" if carved else "published setting",
            **published_numbers(row, config).fields(),
        )
        print(f"{row}: {common.means(done.found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
