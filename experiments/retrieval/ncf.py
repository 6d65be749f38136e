"""Matrix factorisation and neural collaborative filtering on MovieLens-1M (He et al., WWW 2017).

Each user's latest rating is ranked among the authors' 99 given items; ties rank it last. Rows at their
published settings learn from all other ratings, and trained ones keep their last epoch. Rows ending in
-selected keep the epoch of the best ndcg@10 on one item of each user, drawn at random as in the paper, which
is taken out of training and ranked among 99 drawn ones.

    random, and methods without gradient descent at the settings of `baselines.published`, and iALS
    mf               with biases and the logistic loss, as Rendle et al. (RecSys 2020) tune it
    gmf, mlp         the two halves of
    neumf            from scratch, and neumf-pretrained, whose output layer begins at half of each half's

Run:     python -m experiments.retrieval.ncf
Also:    --factors 64; --rows mf --mf-dim 16; --data events.csv --user uid --item sku (99 drawn candidates)
         --rows gmf mlp neumf-pretrained --factors 64 --mlp-layers 2 --finish sgd (Dacrema et al.)

Expect:  hit@10 / ndcg@10 of EASE .7192 / .4494, iALS .7286 / .4524, item-KNN .6694 / .3979. As Dacrema et
         al. have it, with one seed and 20 epochs a phase where they stop early within 100: neumf-pretrained
         .7023 / .4242 (published .7093 / .4349), its halves GMF .6990 / .4248 and MLP .6816 / .4089.

Departs from the papers: an example is an observed pair with its negatives, where the codes mix labelled
pairs; steps of MF sum over 256 labelled pairs, where its code has one; neumf-pretrained goes on by Adam, as
in the authors' example command, where the paper says SGD (--finish sgd). NeuMF's published numbers are those
of the best test epoch, but for Dacrema et al., whose early stopping reads validation items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments import common, floors
from experiments.common import NONE, Published
from experiments.retrieval.ncf_published import BEST_TEST_EPOCH, OTHERS, TABLE, neural
from jaxrec import baselines, data
from jaxrec import config as command_line
from jaxrec.baselines.published import NCF_MOVIELENS_1M
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, Sets, format_matrix, hold_out_validation, split_items
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.nn.retrieval.ncf import pretrained
from jaxrec.protocols import retrieval
from jaxrec.protocols.retrieval import LAST_EPOCH
from jaxrec.recipes import counting
from jaxrec.recipes import ncf as recipes
from jaxrec.recipes.trainable import CountingModel, RetrievalModel, evaluate_every, fit_seeds
from jaxrec.train.fit import Fitted
from jaxrec.types import Baseline, Protocol

EXPERIMENT = "ncf"
SELECTION = "ndcg@10"
SELECTED = "-selected"
# irspack's example, whose settings are those of Rendle et al., RecSys 2022
OF_IALS = {name: getattr(counting.Factors, name) for name in ("regularisation", "alpha0", "epochs")}


def ials(data: retrieval.Data, recipe: Any, seed: int) -> Baseline:
    """iALS from the random vectors of a seed."""
    return baselines.ials(data, dim=192, **OF_IALS, seed=seed)


def _published(make: Callable[[retrieval.Data], Baseline]) -> CountingModel:
    return CountingModel(None, lambda data, recipe, seed: make(data))


BASELINES: Mapping[str, CountingModel] = {
    "random": floors.RANDOM,
    **{name: _published(setting.make) for name, setting in NCF_MOVIELENS_1M.items()},
    "ials": CountingModel(None, ials, drawn=True),
}
TRAINED: Mapping[str, RetrievalModel] = {
    "mf": recipes.MODELS["mf"],
    "gmf": recipes.MODELS["gmf"],
    "mlp": recipes.MODELS["ncf-mlp"],
    "neumf": recipes.MODELS["neumf"],
    "neumf-pretrained": recipes.MODELS["neumf"],
}

ROWS = (*BASELINES, *TRAINED, *(f"{name}{SELECTED}" for name in TRAINED))

TINY: Mapping[str, Any] = {
    "factors": 4, "epochs": 3, "learning_rate": 0.01, "mf_dim": 6, "mf_epochs": 3, "mf_evaluate_every": 1,
    "batch_size": 200,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, recipes.Recipe):
    """Fits, trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = ROWS  # rows of the table
    alpha: float = 0.5  # neumf-pretrained: weight of GMF where it begins; the MLP has the rest
    finish: str = "adam"  # neumf-pretrained: the optimiser that goes on, adam or sgd
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
        common.check_rows(self.rows, ROWS)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: must be in 0..1")
        common.check_choice("finish", self.finish, ("adam", "sgd"))
        common.check(
            self, "factors", "mlp_layers", "negatives", "batch_size", "epochs", "evaluate_every", "mf_dim",
            "mf_negatives", "mf_epochs", "mf_evaluate_every", "save_every",
        )  # fmt: skip


def load(config: Config) -> HeldOut:
    """NCF's split, or your own file's with each user's last new item for test; synthetic for --tiny."""
    if not config.data and not config.tiny:
        return data.load("ncf/ml-1m", kind="matrix")
    own = common.own_events(config) if config.data else group_tastes(num_groups=12)
    split = split_items(own, by="last")
    length, none = split.train_length.copy(), Sets(*(np.zeros(0, np.int32) for _ in range(3)))
    length[split.validation.user] += split.validation.number
    rule = "each user's last new item for test"
    return dataclasses.replace(split, train_length=length, validation=none, rule=rule)


def without_one_item(split: HeldOut, seed: int) -> HeldOut:
    """The split with an item of each user, at random, as validation part."""
    held = hold_out_validation(split, share=1e-9, least="one", seed=seed)
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
    name, ending = row.removesuffix(SELECTED), SELECTED if row.endswith(SELECTED) else ""
    entry, recipe = TRAINED[name], recipe_of(name, config)
    model = entry.module(columns, recipe)
    options = common.training_options(config, columns.split.sequences.name, row, row=row)
    tx = entry.optimiser(recipe)
    if name == "neumf-pretrained":
        tx = recipes.averaged_sgd(config) if config.finish == "sgd" else tx
        halves = [train(half + ending, columns, protocol, config)[1] for half in ("gmf", "mlp")]
        blend = jax.vmap(lambda gmf, mlp: pretrained(gmf, mlp, alpha=config.alpha))
        options["initial"] = blend(*(half.variables for half in halves))
    fitted = retrieval.train(
        entry.task(model, columns, recipe),
        entry.plan(columns, recipe),
        model,
        columns,
        protocol,
        tx,
        epochs=recipe.epochs,
        every=evaluate_every(recipe),
        patience=(recipe.patience or None) if ending else None,
        **options,
    )
    return model, fitted


def published_numbers(row: str, config: Config) -> Published:
    """The published numbers of a row, if the settings that it reads are the published ones."""
    name = row.removesuffix(SELECTED)
    usual = Config(factors=config.factors, mlp_layers=config.mlp_layers)
    if config.data or config.tiny or (name in TRAINED and recipe_of(name, config) != recipe_of(name, usual)):
        return NONE
    if name in BASELINES or name == "mf":
        return OTHERS.get(name, NONE)
    finish = config.finish if name == "neumf-pretrained" else "adam"
    return neural(name, factors=config.factors, mlp_layers=config.mlp_layers, finish=finish)


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = load(config)
    whole = retrieval.resident(split)
    print(format_matrix(split), flush=True)
    kind = "sampled" if split.candidates.test is None else "given"
    for row in config.rows:
        columns, selection, name = whole, LAST_EPOCH, row.removesuffix(SELECTED)
        if row.endswith(SELECTED):
            columns = retrieval.resident(without_one_item(split, config.split_seed))
            selection = SELECTION
        protocol = Protocol(columns.split.rule, f"{kind}-99", ks=(5, 10), selection=selection)
        fitted: Fitted | None = None
        if name in BASELINES:
            settings, protocol = {}, protocol._replace(selection="none")
            seeds = config.seeds if BASELINES[name].drawn else config.seeds[:1]
            model, variables = fit_seeds(BASELINES[name], columns, None, seeds)
        else:
            protocol = protocol._replace(loss=TRAINED[name].loss)
            model, fitted = train(row, columns, protocol, config)
            settings, seeds, variables = common.describe_settings(config), config.seeds, fitted.variables
        found = retrieval.run_test(model, columns, protocol, variables, num_devices=config.num_devices)
        numbers = published_numbers(row, config)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=split.sequences.name.split("/")[-1],
            model=f"{row}-{config.factors}" if name in TRAINED and name != "mf" else row,
            config=settings,
            protocol=protocol,
            seeds=seeds,
            metrics=found,
            fitted=fitted,
            note=BEST_TEST_EPOCH if TABLE in numbers.source else "",
            **numbers.fields(),
        )
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
