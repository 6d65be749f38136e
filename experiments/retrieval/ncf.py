"""Matrix factorisation and neural collaborative filtering on MovieLens-1M (He et al., WWW 2017).

Each user's latest rating is ranked among the authors' 99 given items; ties rank it last. As in the paper,
another item of each user, drawn at random, is taken out of training for selection and ranked among 99 drawn
ones: by ndcg@10 it chooses the epoch that is kept, and the settings of methods without gradient descent.

    random, popularity, item-knn, user-knn, slim, ease     each the best of a small grid
    mf        with biases and the logistic loss, as Rendle et al. (RecSys 2020) tune it
    gmf, mlp  the two halves of
    neumf     from scratch, and from both: neumf-pretrained, whose output layer begins at half of each

Run:     python -m experiments.retrieval.ncf
Also:    --factors 64; --rows mf --mf-dim 16; --data events.csv --user uid --item sku (99 drawn candidates)

Expect:  no result of the full training is stored yet.

Departs from the papers: the item of validation is in no training, where Rendle et al. train on it again; an
example is an observed pair with its negatives, where the codes mix labelled pairs; steps of MF sum over 256
labelled pairs, where its code has one. NeuMF's published numbers are those of the best test epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from experiments import common
from experiments.common import NONE, Published, published
from experiments.retrieval.tuned import Grid, tune
from jaxrec import baselines, data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, format_matrix, hold_out_validation, split_items
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.nn.retrieval.ncf import pretrained
from jaxrec.protocols import retrieval
from jaxrec.recipes import ncf as recipes
from jaxrec.recipes.trainable import RetrievalModel
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

EXPERIMENT = "ncf"
SELECTION = "ndcg@10"
BASELINES: Mapping[str, Grid] = {
    "random": Grid(baselines.random, drawn=True),
    "popularity": Grid(baselines.popularity),
    "item-knn": Grid(baselines.matrix_item_knn, {"neighbours": (50, 100, 200), "shrinkage": (0.0, 100.0)}),
    "user-knn": Grid(baselines.matrix_user_knn, {"neighbours": (50, 100, 200, 400)}),
    "slim": Grid(baselines.slim, {"alpha": (0.001, 0.003, 0.01), "l1_ratio": (0.01, 0.1)}),
    "ease": Grid(baselines.ease, {"regularisation": (200.0, 500.0, 1000.0, 2000.0)}),
}
TRAINED: Mapping[str, RetrievalModel] = {
    "mf": recipes.MODELS["mf"],
    "gmf": recipes.MODELS["gmf"],
    "mlp": recipes.MODELS["ncf-mlp"],
    "neumf": recipes.MODELS["neumf"],
    "neumf-pretrained": recipes.MODELS["neumf"],
}

TWO = ("hit@10", "ndcg@10")
RENDLE = "Rendle et al., RecSys 2020"
DACREMA = "Dacrema et al., TOIS 2021, supplement"
PUBLISHED: Mapping[str, Published] = {
    "popularity": published(TWO, RENDLE, 0.4535, 0.2543),
    "item-knn": published(TWO, DACREMA, 0.6694, 0.3979),
    "slim": published(TWO, DACREMA, 0.7162, 0.4468),
    "ease": published(TWO, DACREMA, 0.7192, 0.4494),
}
TABLE_2 = "table 2 of the NCF paper"
NEUMF: Mapping[int, tuple[Published, Published]] = {  # by factors: from scratch, pre-trained
    8: (published(TWO, TABLE_2, 0.688, 0.410), published(TWO, TABLE_2, 0.684, 0.403)),
    16: (published(TWO, TABLE_2, 0.696, 0.420), published(TWO, TABLE_2, 0.707, 0.426)),
    32: (published(TWO, TABLE_2, 0.701, 0.425), published(TWO, TABLE_2, 0.726, 0.445)),
    64: (published(TWO, TABLE_2, 0.705, 0.426), published(TWO, TABLE_2, 0.730, 0.447)),
}
MLP: Mapping[int, Published] = {
    8: published(("ndcg@10",), "table 4 of the NCF paper (three hidden layers)", 0.399),
    64: published(("ndcg@10",), "table 4 of the NCF paper (three hidden layers)", 0.426),
}
BEST_TEST_EPOCH = "published: of the best test epoch"
TINY: Mapping[str, Any] = {
    "factors": 4, "epochs": 3, "learning_rate": 0.01, "mf_dim": 6, "mf_epochs": 3, "mf_evaluate_every": 1,
    "batch_size": 200,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, recipes.Recipe):
    """Fits, trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = (*BASELINES, *TRAINED)  # rows of the table
    alpha: float = 0.5  # neumf-pretrained: weight of GMF where it begins; the MLP has the rest
    mf_dim: int = 192  # of MF: width of vectors and biases together
    mf_negatives: int = 8  # of MF: sampled items per observed pair
    mf_l2: float = 5e-3  # of MF: half of it times the squares of a labelled pair's parameters is in the loss
    mf_learning_rate: float = 2e-3  # of MF: of gradient descent
    mf_epochs: int = 256  # of MF: epochs to train
    mf_evaluate_every: int = 8  # of MF: epochs between evaluations
    split_seed: int = 0  # of the items that are taken out for validation
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/ncf"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *TRAINED))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: must be in 0..1")
        common.check(
            self, "factors", "negatives", "batch_size", "epochs", "evaluate_every", "mf_dim", "mf_negatives",
            "mf_epochs", "mf_evaluate_every", "save_every",
        )  # fmt: skip


def load(config: Config) -> HeldOut:
    """NCF's split with an item of each user for validation, or your own file's; synthetic for --tiny."""
    if config.data:
        return split_items(common.own_events(config), by="last")
    if config.tiny:
        return split_items(group_tastes(num_groups=12), by="last")
    split = data.load("ncf/ml-1m", kind="matrix")
    held = hold_out_validation(split, share=1e-9, least="one", seed=config.split_seed)
    rule = f"{split.rule}; one training item of each user, at random, for validation"
    return dataclasses.replace(held, rule=rule)


def recipe_of(row: str, config: Config) -> recipes.Recipe | recipes.MFRecipe:
    """The settings of a row."""
    if row != "mf":
        return common.override(recipes.Recipe(), config)
    return recipes.MFRecipe(
        dim=config.mf_dim,
        negatives=config.mf_negatives,
        l2=config.mf_l2,
        batch_size=config.batch_size,
        learning_rate=config.mf_learning_rate,
        epochs=config.mf_epochs,
        evaluate_every=config.mf_evaluate_every,
        patience=config.patience,
    )


def train(row: str, columns: retrieval.Data, protocol: Protocol, config: Config) -> tuple[Any, Fitted]:
    """Trains a row for all seeds, a pre-trained one's halves too: the model, and what was trained."""
    entry, recipe = TRAINED[row], recipe_of(row, config)
    model = entry.module(columns, recipe)
    options = common.training_options(config, columns.split.sequences.name, row, row=row)
    if row == "neumf-pretrained":
        halves = [train(name, columns, protocol, config)[1].variables for name in ("gmf", "mlp")]
        blend = jax.vmap(lambda gmf, mlp: pretrained(gmf, mlp, alpha=config.alpha))
        options["initial"] = blend(*halves)
    fitted = retrieval.train(
        entry.task(model, columns, recipe),
        entry.plan(columns, recipe),
        model,
        columns,
        protocol,
        entry.optimiser(recipe),
        epochs=recipe.epochs,
        every=min(recipe.evaluate_every, recipe.epochs),
        patience=recipe.patience or None,
        **options,
    )
    return model, fitted


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row, if the settings that it reads are the published ones."""
    if config.data or config.tiny:
        return NONE
    if row in BASELINES:
        return PUBLISHED.get(row, NONE)
    if recipe_of(row, config) != recipe_of(row, Config(factors=config.factors)):
        return NONE
    if row == "mf":
        return published(TWO, RENDLE, 0.7294, 0.4523)
    if row in ("neumf", "neumf-pretrained") and config.factors in NEUMF:
        return NEUMF[config.factors][row == "neumf-pretrained"]
    return MLP.get(config.factors, NONE) if row == "mlp" else NONE


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = load(config)
    columns = retrieval.resident(split)
    print(format_matrix(split), flush=True)
    kind = "sampled" if split.candidates.test is None else "given"
    for row in config.rows:
        protocol = Protocol(split=split.rule, candidates=f"{kind}-99", ks=(5, 10), selection=SELECTION)
        fitted: Fitted | None = None
        if row in BASELINES:
            baseline, chosen = tune(row, BASELINES[row], columns, protocol)
            settings: dict[str, Any] = {**chosen, "split_seed": config.split_seed}
            seeds = config.seeds if BASELINES[row].drawn else config.seeds[:1]
            model, variables = baseline, baseline.for_seeds(seeds)
            protocol = protocol if chosen else protocol._replace(selection="none")
        else:
            protocol = protocol._replace(loss=TRAINED[row].loss)
            model, fitted = train(row, columns, protocol, config)
            settings, seeds, variables = common.describe_settings(config), config.seeds, fitted.variables
        found = retrieval.run_test(model, columns, protocol, variables, num_devices=config.num_devices)
        numbers = published_numbers(row, config)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=split.sequences.name.split("/")[-1],
            model=f"{row}-{config.factors}" if row in TRAINED and row != "mf" else row,
            config=settings,
            protocol=protocol,
            seeds=seeds,
            metrics=found,
            fitted=fitted,
            note=BEST_TEST_EPOCH if numbers.values and row not in (*BASELINES, "mf") else "",
            **numbers.fields(),
        )
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
