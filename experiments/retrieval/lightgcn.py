"""Collaborative filtering on LightGCN's splits (He et al., SIGIR 2020): counting, factors and graphs.

A user's held-out items are ranked among all items that the user has no interaction with before; recall@20
divides by the number of held-out items, and means are over users. The files have no validation part, so the
published settings were probably chosen on the test part. Each method has two rows:

    ease, lightgcn, …                     at its published setting for Gowalla, on all training interactions;
                                          a trained model keeps its last epoch
    ease-selected, lightgcn-selected, …   by ndcg@20 on 10 % of each user's training items: the setting of a
                                          small grid, which is then fitted to all of training, or the epoch

PinSage, DeepWalk and EGES know items alone, and rank by the mean of the vectors of a user's items. EGES and
RCF read attributes of items, which ml-100k has (decades; RCF genres, too); its test is a fifth of each user's
items, at random.

A user's items have no order here, so there is no co-visitation by distance.

Run:     python -m experiments.retrieval.lightgcn
Also:    --dataset lastfm; --dataset ml-100k --rows eges rcf rcf-selected;
         --rows lightgcn --epochs 5 --evaluate-every 5 (the first epochs of the curve)

Expect:  on Gowalla, recall@20 / ndcg@20 of EASE .1765 / .1467, SLIM .1698 / .1382, item-KNN .1568 / .1213,
         RP3beta .1829 / .1520, iALS, selected, .1503 / .1260; LightGCN after 100 of its 1,000 epochs .1641 /
         .1401, still rising. On LastFM selected iALS has .2777 / .2151, RP3beta .2661 / .2088; on
         Amazon-book EASE .1730 / .1020, RP3beta .1651 / .0950.

Departs from the papers: a selected model of factors or graphs is not trained again on its validation items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import common, floors
from experiments.common import NONE, Published
from experiments.retrieval.lightgcn_data import DATASETS, attributes_of, load, read_by
from experiments.retrieval.lightgcn_published import PUBLISHED
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.held_out import format_matrix, hold_out_validation
from jaxrec.protocols import items, retrieval
from jaxrec.protocols.retrieval import LAST_EPOCH, Data
from jaxrec.recipes import counting, factors, graphs, item_graphs, relational
from jaxrec.recipes.trainable import CountingModel, ItemModel, RetrievalModel, evaluate_every, fit_seeds
from jaxrec.tasks.item_pairs import by_history
from jaxrec.train.fit import Fitted
from jaxrec.types import Baseline, Protocol, Tested

EXPERIMENT = "lightgcn"
SELECTED = "-selected"
SELECTION = "ndcg@20"


METHODS: Mapping[str, CountingModel | RetrievalModel | ItemModel] = {
    "random": floors.RANDOM,
    "popularity": floors.POPULARITY,
    **counting.MODELS,
    "item-cf-iuf": counting.MODELS["item-cf"]._replace(
        recipe=counting.CoOccurrence(inverse_user_frequency=True)
    ),
    **factors.MODELS,
    **graphs.MODELS,
    **item_graphs.MODELS,
    "pinsage-hard": item_graphs.MODELS["pinsage"]._replace(recipe=item_graphs.PinSageRecipe(hard=5)),
    **relational.MODELS,
}
# Settings that are tried on validation, each with each; methods without gradient descent that are not here
# have no selected row.
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    **{name.removesuffix(SELECTED): floor.grid for name, floor in floors.MATRIX.items() if floor.grid},
    "matrix-user-knn": {"neighbours": (50, 100, 200, 400)},
    "rp3beta": {"alpha": (0.4, 0.6, 0.8, 1.0), "beta": (0.0, 0.2, 0.4)},
}
CHOSEN = [name for name, entry in METHODS.items() if name in GRIDS or not isinstance(entry, CountingModel)]
PLAIN = (name for name in METHODS if name != "ials")  # of which no setting is published for these data
KNOWN = (*PLAIN, *(f"{name}{SELECTED}" for name in CHOSEN))
# Without those that need attributes of items, and PinSage's curriculum, which is trained when asked for.
ROWS = tuple(row for row in KNOWN if not row.startswith(("eges", "rcf", "pinsage-hard")))

TINY: Mapping[str, Any] = {
    "dim": 8, "num_layers": 2, "batch_size": 500, "epochs": 4, "evaluate_every": 2, "learning_rate": 0.02,
    "negatives": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions):
    """Fits, trains and tests the rows of the table. None: the method's own published setting."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    dataset: str = "gowalla"  # or lastfm, amazon-book (as KGAT has it), ml-100k
    item_attributes: str = ""  # of your own file: a file of attributes, see `jaxrec train rcf --help`
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
        common.check_rows(self.rows, KNOWN)
        common.check_choice("dataset", self.dataset, DATASETS)
        common.check(
            self, "dim", "num_layers", "negatives", "batch_size", "epochs", "evaluate_every", "save_every"
        )


def dataset_of(columns: Data) -> str:
    """The name of the data set."""
    return columns.split.sequences.name.split("/")[-1]


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


def test_fitted(row: str, entry: CountingModel, whole: Data, part: Data | None, config: Config) -> Done:
    """Fits a method to all of training; `part`: with the settings that are best on its validation part."""
    name = row.removesuffix(SELECTED)
    recipe = recipe_of(name, config)
    chosen: dict[str, Any] = {}
    if part is not None:
        validated = Protocol(split=part.split.rule, ks=(20,), selection=SELECTION)
        make, names = functools.partial(fit, entry, part, recipe), (EXPERIMENT, dataset_of(part), row)
        asked = (make, GRIDS[name], part, validated, config, *names)
        chosen = floors.choose(*asked, evaluation=retrieval.evaluation)
    recipe = dataclasses.replace(recipe, **chosen)
    seeds = config.seeds if entry.drawn else config.seeds[:1]
    protocol = Protocol(split=whole.split.rule, ks=(20, 50), selection=SELECTION if chosen else "none")
    model, variables = fit_seeds(entry, whole, recipe, seeds)
    found = retrieval.run_test(model, whole, protocol, variables, num_devices=config.num_devices)
    return Done(found, protocol, {**dataclasses.asdict(recipe), "split_seed": config.split_seed}, seeds)


def test_trained(row: str, entry: RetrievalModel | ItemModel, columns: Data, config: Config) -> Done:
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
    tx = entry.optimiser(recipe)
    options: dict[str, Any] = {
        "columns": extra,
        "epochs": recipe.epochs,
        "every": evaluate_every(recipe),
        "patience": (recipe.patience or None) if selected else None,
        **common.training_options(config, dataset_of(columns), row, row=row),
    }
    where: dict[str, Any] = {"columns": extra, "num_devices": config.num_devices}
    if isinstance(entry, ItemModel):
        by, plan = (entry.finish(model, recipe), by_history(columns.most)), entry.plan(columns, extra, recipe)
        task = entry.task(model, columns, recipe)
        fitted = items.train(task, plan, *by, columns, protocol, tx, **options)
        found = items.run_test(*by, columns, protocol, fitted.variables, **where)
    else:
        options["weighting"] = entry.weighting(columns, recipe)
        plan = entry.plan(columns, recipe)
        fitted = retrieval.train(
            entry.task(model, columns, recipe), plan, model, columns, protocol, tx, **options
        )
        found = retrieval.run_test(model, columns, protocol, fitted.variables, **where)
    settings = {**dataclasses.asdict(recipe), "split_seed": config.split_seed}
    return Done(found, protocol, settings, config.seeds, fitted)


def changed(row: str, config: Config) -> dict[str, Any]:
    """The settings of a row that are not its published ones, but how often it is evaluated; not of --tiny."""
    name = row.removesuffix(SELECTED)
    ours, usual = (dataclasses.asdict(recipe_of(name, options)) for options in (config, Config()))
    told = () if config.tiny else ours.keys() - {"evaluate_every"}
    return {key: ours[key] for key in sorted(told) if ours[key] != usual[key]}


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row on Gowalla, if it has the published settings, not some of a grid."""
    name = row.removesuffix(SELECTED)
    if config.data or config.tiny or config.dataset != "gowalla" or (name != row and name in GRIDS):
        return NONE
    return NONE if changed(row, config) else PUBLISHED.get(name, NONE)


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    whole = retrieval.resident(split := load(config))
    print(format_matrix(split), flush=True)
    part, attributes = None, attributes_of(config, split)
    if any(row.endswith(SELECTED) for row in config.rows):
        part = retrieval.resident(hold_out_validation(split, seed=config.split_seed))
    for row in config.rows:
        entry = METHODS[row.removesuffix(SELECTED)]
        carved = part if row.endswith(SELECTED) else None
        if isinstance(entry, CountingModel):
            done = test_fitted(row, entry, whole, carved, config)
        else:
            done = test_trained(row, entry, read_by(entry, carved or whole, attributes), config)
        given = changed(row, config)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset_of(whole),
            model=row + "".join(f"+{key.replace('_', '-')}-{value}" for key, value in given.items()),
            config=done.settings,
            protocol=done.protocol,
            seeds=done.seeds,
            metrics=done.found,
            fitted=done.fitted,
            note="selected on 10 % of training" if carved else "" if given else "published setting",
            **published_numbers(row, config).fields(),
        )
        print(f"{row}: {common.means(done.found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
