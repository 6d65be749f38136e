"""Items taken out of training: content KNN, linear maps, CB2CF, EGES and DropoutNet on Amazon Beauty.

A tenth and a fifth of the items, at random, are the cold items of validation and of test; their content are
the attributes that S3-Rec distributes (categories and brands), as TF-IDF and an SVD of warm items, and for
EGES as fields of side information, each item's from the most frequent on (`fields`). A tenth of each user's
other items is taken out too. Parameters are those of the best recall@100 among the cold items of validation.
As in `experiments.retrieval.dropoutnet` every row is measured twice: data set -cold-only ranks cold items
among themselves, -among-all ranks all items.

    random, popularity, content-knn, ials    floors
    content-ridge       the best of `regularisations`: content to iALS's vectors of items
    linear-prior        iALS whose items have such a map as their prior, fitted with it (irspack), at the best
                        λ_B of `regularisations`
    cb2cf               a tower to these vectors (Barkan et al., RecSys 2019); cb2cf-scores: to users' scores
    cb2cf-shuffled      the same with the content of another item: what is left is not of content
    dropoutnet          (Volkovs et al., NeurIPS 2017)
    eges                (Wang et al., KDD 2018) walks over warm items; a cold item has the mean of its fields

Departs from the papers: other data, no comparable numbers are published. The walks of EGES follow a user's
whole history, since the events have no times, and its fields have no meaning of their own: the file does not
say which attribute is a brand.

Run:     python -m experiments.retrieval.cold_items
Also:    --dataset Sports_and_Outdoors; --rows cb2cf --damping 5

Expect:  among themselves, cold items have a recall@100 of .264 by the linear prior, .254 by ridge, .230 by
         CB2CF (3 seeds; .226 to users' scores; .040 with the content of other items, which is chance) and
         .226 by cosines of attributes: no tower is above a linear map. Among all items cold ones have .050
         by the prior, .045 by CB2CF and .081 by cosines, whose warm recall is .08 where the others' is .31.
         The rows of DropoutNet and EGES are not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import common
from experiments.retrieval import cold_rows
from jaxrec import baselines, data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.item_cold import ItemCold, divide_items
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.data.item_content import attribute_counts, content_vectors
from jaxrec.data.sources import coserec
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import retrieval
from jaxrec.recipes import item_cold as recipes
from jaxrec.tasks.skip_gram import ByHistory
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Baseline

EXPERIMENT = "cold_items"
TRAINED = ("cb2cf", "cb2cf-scores", "cb2cf-shuffled", "dropoutnet", "eges")
FITTED = ("content-ridge", "linear-prior")
ROWS = (*cold_rows.FLOORS, *FITTED, *TRAINED)
DATASETS = ("Beauty", "Sports_and_Outdoors", "Toys_and_Games", "Yelp")
TINY: Mapping[str, Any] = {
    "content_dim": 6, "teacher_dim": 6, "teacher_epochs": 4, "hidden_dim": 8, "epochs": 3,
    "learning_rate": 0.01, "batch_size": 16, "regularisations": (1.0, 10.0), "evaluate_every": 1,
    "dim": 6, "pairs_per_user": 8, "top": 20,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Teacher):
    """Fits, trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    dataset: str = "Beauty"  # of S3-Rec and CoSeRec
    teacher_dim: int = 64  # width of the vectors of iALS
    content_dim: int = 128  # width of the content
    regularisations: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)  # of `FITTED`: those that are tried
    damping: float | None = None  # of CB2CF and content-ridge: c of an item's weight n / (n + c)
    hidden_dim: int | None = None  # of CB2CF and DropoutNet; None: the recipe's value, here and below
    dim: int | None = None  # of the vectors of DropoutNet and EGES
    dropout: float | None = None  # of DropoutNet: share of pairs with hidden factors; of CB2CF: of content
    pairs_per_user: int | None = None  # of DropoutNet
    top: int | None = None  # of DropoutNet
    batch_size: int | None = None  # users, items or walks per step
    learning_rate: float | None = None  # of Adam
    epochs: int | None = None  # epochs to train, at most
    evaluate_every: int | None = None  # epochs between evaluations
    patience: int | None = None  # evaluations without improvement before a seed stops; 0: never
    warm: float = 0.1  # share of each user's training items that are taken out
    split_seed: int = 0  # of what is held out at random
    save_every: int = 5  # epochs between checkpoints
    workdir: str = "runs/cold_items"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check_choice("dataset", self.dataset, DATASETS)
        if not self.regularisations or min(self.regularisations) <= 0:
            raise ValueError(f"regularisations={self.regularisations}: give at least one, each above 0")
        common.check(
            self, "content_dim", "teacher_dim", "teacher_epochs", "hidden_dim", "dim",
            "pairs_per_user", "top", "batch_size", "epochs", "evaluate_every", "save_every",
        )  # fmt: skip


def load(config: Config) -> tuple[Sequences, np.ndarray]:
    """Events and the attributes of items, ids from 1 padded with 0; synthetic for --tiny."""
    if config.tiny:
        item = np.arange(73)
        attributes = np.stack([(item - 1) // 12 + 1, 7 + (item * 7) % 5, 12 + (item * 5) % 3], axis=1)
        return group_tastes(), np.where(item[:, None] > 0, attributes, 0).astype(np.int32)
    return data.load(f"coserec/{config.dataset}", kind="events"), coserec.load_attributes(config.dataset)


def events_in_order(sequences: Sequences, split: ItemCold) -> TrainingEvents:
    """The events that training may read, in the order of the sequences."""
    training = split.validation.training_events()
    raw = np.asarray(split.validation.sequences.user_ids)
    size = sequences.num_items + 1
    number = {user: place for place, user in enumerate(np.asarray(sequences.user_ids).tolist())}
    kept = np.array([number[user] for user in raw.tolist()])[training.group] * size + training.item
    user = sequences.event_users
    read = np.isin(user * size + sequences.items, kept)
    return TrainingEvents(user[read], sequences.items[read], sequences.num_items)


def fields(attributes: np.ndarray, warm: np.ndarray) -> np.ndarray:
    """Attributes [I + 1, A], each item's in descending order of how many warm items have them, so that what
    most items have is in the same field of all."""
    count = np.bincount(attributes[warm].reshape(-1), minlength=int(attributes.max()) + 1)
    key = np.where(attributes > 0, count[attributes] * (len(count) + 1) - attributes, -len(count) - 1)
    return np.take_along_axis(attributes, np.argsort(-key, axis=1), axis=1)


def fit(name: str, value: float, table: cold_rows.Table, config: Config) -> Baseline:
    """content-ridge or linear-prior with a regularisation."""
    if name == "content-ridge":
        damping = config.damping or 0.0
        return baselines.content_ridge(table.factors, regularisation=value, damping=damping)
    return baselines.linear_prior(
        table.data.validation,
        table.factors["item_content"],
        dim=config.teacher_dim,
        regularisation=config.teacher_regularisation,
        alpha0=config.teacher_alpha0,
        prior_regularisation=value,
        epochs=config.teacher_epochs,
        seed=config.seeds[0],
    )


def fitted(name: str, table: cold_rows.Table, config: Config) -> None:
    """Fits, tests and stores a row of `FITTED` at its best regularisation."""
    part, tried = table.data.validation, []
    for value in config.regularisations:
        made = fit(name, value, table, config)
        asked = retrieval.evaluation(made, part, table.protocol, "validation")
        found = evaluate(asked, made.for_seeds((0,)), part.columns)[0][cold_rows.SELECTION]
        print(f"{name} {value}: validation {cold_rows.SELECTION} {found:.4f}", flush=True)
        tried.append((found, value, made))
    _, best, made = max(tried, key=lambda one: one[0])
    settings = {"regularisation": best, **cold_rows.of_teacher(config)}
    seeds = config.seeds[:1]
    if name == "content-ridge":
        settings["damping"] = config.damping or 0.0
    cold_rows.store(name, made, made.for_seeds(seeds), table, config, table.protocol, settings, seeds=seeds)


def trained(
    name: str, table: cold_rows.Table, events: TrainingEvents, attributes: np.ndarray, config: Config
) -> cold_rows.Trained:
    """What a row is trained by."""
    part, factors = table.data.validation, table.factors
    if name == "eges":
        recipe: Any = common.override(recipes.EGESRecipe(), config)
        sizes = (int(attributes.max()),) * attributes.shape[1]
        model: Any = recipes.eges(part, recipe, side_sizes=sizes)
        columns = recipes.eges_columns(events, attributes)
        task, plan = recipes.walked(model, part, recipe), recipes.every_start(columns, recipe)
        return cold_rows.Trained(
            task, ByHistory(model), plan, columns, recipe, "skip-gram, negative sampling"
        )
    if name == "dropoutnet":
        recipe = common.override(recipes.Recipe(), config)
        model, loss = recipes.dropoutnet(part, recipe), "squared error of iALS's scores"
        columns = recipes.dropoutnet_columns(factors, recipe)
        task, plan = recipes.regressed(model, part, recipe), recipes.every_user(part, recipe)
        return cold_rows.Trained(task, model, plan, columns, recipe, loss)
    recipe = common.override(recipes.CB2CFRecipe(by_scores=name == "cb2cf-scores"), config)
    if name == "cb2cf-shuffled":
        order = 1 + np.random.default_rng(config.split_seed).permutation(part.num_items)
        content = factors["item_content"].copy()
        content[1:] = content[order]
        factors = {**factors, "item_content": content}
    model = recipes.cb2cf(part, recipe)
    loss = f"squared error of iALS's {'scores' if recipe.by_scores else 'vectors'}"
    columns = recipes.cb2cf_columns(factors, recipe)
    task, plan = recipes.mapped(model, part, recipe), recipes.every_item(part, recipe)
    return cold_rows.Trained(task, model, plan, columns, recipe, loss)


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    sequences, attributes = load(config)
    split = divide_items(sequences, warm=config.warm, seed=config.split_seed)
    content = content_vectors(attribute_counts(attributes), fitted=split.is_warm, dim=config.content_dim)
    table = cold_rows.prepare(EXPERIMENT, split, content, config)
    events, attributes = events_in_order(sequences, split), fields(attributes, split.is_warm)
    for name in config.rows:
        if name in cold_rows.FLOORS:
            cold_rows.run_floor(name, table, config)
        elif name in FITTED:
            fitted(name, table, config)
        else:
            cold_rows.run_trained(name, trained(name, table, events, attributes, config), table, config)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
