"""Mult-VAE, Mult-DAE (Liang et al., WWW 2018) and MacridVAE (Ma et al., NeurIPS 2019) on held-out users.

MovieLens-100K, ratings of 4 and more, users of at least 5 of them. Held-out users are not in training: four
fifths of each one's items, at random, are the input, the others are ranked among all items that are no input.
recall_capped@k divides by at most k relevant items, as the papers' recall. Every setting that is chosen, and
the epoch that is kept, is the best by ndcg@100 of the validation users.

    random, popularity   not fitted to a user
    item-knn             cosine, the best of `neighbours`
    ease                 the best of `regularisations`
    slim, ials           the best of the grids of `experiments.floors`
    mult-vae, mult-dae, macridvae      with the settings of `recipes.autoencoders`

Departs from the papers: theirs are MovieLens-20M, Netflix and others; the number of users that are held out
here is ours, and no numbers are published for this split. Items have no order, so there is no
co-visitation by distance.

Run:     python -m experiments.retrieval.multivae
Also:    --dataset ml-1m --validation-users 500 --test-users 500; --rows macridvae --concepts 1

Expect:  over 100 test users, mean of 3 seeds, after 400 to 600 steps: ndcg@100 of ease 0.463, mult-dae 0.452,
         mult-vae 0.440, macridvae 0.436, item-knn 0.421, popularity 0.291, random 0.031; recall_capped@20 in
         the same order 0.431, 0.411, 0.395, 0.420, 0.402, 0.217, 0.019. No auto-encoder that is trained by
         gradient descent is above ease by ndcg@100.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import common, floors
from experiments.floors import Floor
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, format_matrix
from jaxrec.data.events.strong_generalisation import hold_out_users, keep_rated
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import retrieval
from jaxrec.recipes import autoencoders as recipes
from jaxrec.recipes import counting
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

EXPERIMENT = "multivae"
KS = (20, 50, 100)
SELECTION = "ndcg@100"
BASELINES = ("random", "popularity", "item-knn", "ease", "slim", "ials")
TINY: Mapping[str, Any] = {
    "validation_users": 40, "test_users": 40, "neighbours": (5, 20), "regularisations": (5.0, 50.0),
    "hidden_dim": 16, "latent_dim": 8, "concepts": 3, "dim": 8, "batch_size": 40, "epochs": 4,
    "evaluate_every": 2, "anneal_epochs": 2,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions):
    """Fits, trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = (*BASELINES, *recipes.MODELS)  # rows of the table
    dataset: str = "ml-100k"  # or ml-1m, of MovieLens
    validation_users: int = 100  # users who are held out for selection
    test_users: int = 100  # users who are held out for the test
    split_seed: int = 0  # of the held-out users and of their input
    neighbours: tuple[int, ...] = (20, 50, 100, 200, 500)  # item-KNN: numbers that are tried
    regularisations: tuple[float, ...] = (50.0, 100.0, 200.0, 400.0, 800.0)  # EASE: those that are tried
    hidden_dim: int | None = None  # hidden layers of mult-vae; None: the recipe's value, here and below
    latent_dim: int | None = None  # codes of mult-vae and mult-dae
    concepts: int | None = None  # of macridvae
    dim: int | None = None  # codes and items of macridvae
    dropout: float | None = None  # of the entries of a user's row
    beta: float | None = None  # weight of the divergence in the end
    anneal_epochs: int | None = None  # epochs in which beta grows to its value
    learning_rate: float | None = None  # of Adam
    batch_size: int | None = None  # users per step
    epochs: int = 200  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without improvement before a seed stops; 0: never
    save_every: int = 50  # epochs between checkpoints
    workdir: str = "runs/multivae"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *recipes.MODELS))
        common.check_choice("dataset", self.dataset, ("ml-1m", "ml-100k"))
        if not self.neighbours or not self.regularisations:
            raise ValueError("neighbours, regularisations: give at least one of each")
        common.check(
            self, "test_users", "hidden_dim", "latent_dim", "concepts", "dim", "batch_size", "epochs",
            "evaluate_every", "save_every", "validation_users",
        )  # fmt: skip


def load(config: Config) -> HeldOut:
    """MovieLens or your own file, with held-out users; synthetic for --tiny."""
    if config.data:
        sequences = common.own_events(config)
    elif config.tiny:
        sequences = group_tastes()
    else:
        rated = movielens.load_interactions(config.dataset)
        sequences = keep_rated(rated, at_least=4.0, events=5).to_sequences()
    return hold_out_users(
        sequences,
        validation_users=config.validation_users,
        test_users=config.test_users,
        seed=config.split_seed,
    )


def known_floors(config: Config) -> dict[str, Floor]:
    """The rows without gradient descent, with the values that are tried."""
    cosine = counting.MODELS["matrix-item-knn"]._replace(
        recipe=counting.ItemNeighbours(normalise=False, average_bias=False)
    )
    return {
        "random": floors.MATRIX["random"],
        "popularity": floors.MATRIX["popularity"],
        "item-knn": Floor(cosine, {"neighbours": config.neighbours}),
        "ease": Floor(counting.MODELS["ease"], {"regularisation": config.regularisations}),
        "slim": floors.MATRIX["slim-selected"],
        "ials": floors.MATRIX["ials-selected"],
    }


def train(name: str, data: retrieval.Data, protocol: Protocol, config: Config) -> tuple[Any, Fitted]:
    """Trains a row for all seeds: how it is ranked, and what was trained."""
    entry = recipes.MODELS[name]
    recipe = common.override(entry.recipe(), config)
    module = entry.module(data, recipe)
    fitted = retrieval.train(
        entry.task(module, data, recipe),
        entry.plan(data, recipe),
        entry.ranked(module, data),
        data,
        protocol,
        entry.optimiser(recipe),
        epochs=recipe.epochs,
        every=recipe.evaluate_every,
        patience=recipe.patience or None,
        weighting=entry.weighting(data, recipe),
        **common.training_options(
            config, data.split.sequences.name, name, row=name, recipe=dataclasses.asdict(recipe)
        ),
    )
    return entry.ranked(module, data), fitted


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    config = dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))
    data = retrieval.resident(load(config))
    print(format_matrix(data.split), flush=True)
    dataset = data.split.sequences.name.split("/")[-1]
    for name in config.rows:
        protocol = Protocol(split=data.split.rule, ks=KS, selection=SELECTION)
        if name in BASELINES:
            by: dict[str, Any] = {"evaluation": retrieval.evaluation, "once": True}
            made = floors.fit(
                name, data, protocol, config, EXPERIMENT, dataset, known=known_floors(config), **by
            )
            model, variables, protocol, settings, seeds, fitted = *made, None
            settings = {**settings, "split_seed": config.split_seed}
        else:
            protocol = protocol._replace(loss=recipes.MODELS[name].loss)
            model, fitted = train(name, data, protocol, config)
            recipe = common.override(recipes.MODELS[name].recipe(), config)
            settings = {**dataclasses.asdict(recipe), "split_seed": config.split_seed}
            seeds, variables = config.seeds, fitted.variables
        found = retrieval.run_test(model, data, protocol, variables, num_devices=config.num_devices)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=name,
            config=settings,
            protocol=protocol,
            seeds=seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{name}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
