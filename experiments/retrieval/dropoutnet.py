"""DropoutNet on CiteULike: articles that nobody has, from tags or words (Volkovs et al., NeurIPS 2017).

CiteULike-a is divided by items as recohut/coldstart-recsys distributes it, its content are tags; CiteULike-t
is divided at random, its content are words. Both are TF-IDF and an SVD of warm items. A tenth of each user's
training items is taken out too, to measure warm items. Parameters are those of the best recall@100 among the
cold items of validation. Every row is measured twice (`protocols.item_cold`): data set -cold-only ranks the
cold items of test among themselves, -among-all ranks all items for cold and warm relevant ones together,
with the share of the lists that cold items have. The two are not comparable.

    random, popularity    floors; nobody has a cold item, so popularity scores all of them 0
    content-knn           cosine of content to the user's items
    ials                  the factor model that DropoutNet reads; cold items have the vector 0
    dropoutnet-<rate>     for each of `rates`, the share of pairs whose factors are hidden
    dropoutnet-<rate>-transform   the first of `transform_rates`; as many pairs have means in their place

Departs from the paper: articles' tags and words here are not its own TF-IDF (8,000 words, 300 dimensions);
the factor model is iALS as Rendle et al. have it, of width 100, not 200; targets are its scores times one
number (`tasks.dropoutnet`); Adam. The paper's numbers on CiteULike were not found.

Run:     python -m experiments.retrieval.dropoutnet --dataset a, and --dataset t
Also:    --rates 0.5 --rows dropoutnet-0.5; --data events.csv --user uid --item sku --content vectors.npz

Expect:  on CiteULike-a (3 seeds), ranked among themselves, cold articles have a recall@100 of .244 without
         dropout, .498, .512 and .491 at rates of a quarter, a half and three quarters, and .049 at 1, where
         users, who have no content, all look alike. Cosines of tags alone have .579, above every rate. Warm
         recall falls as the rate rises (.513, .512, .471, .378, .008; iALS .525). Among all articles a list
         of 20 of rate .5 has .1 % cold ones, that of content-knn 29 %. Means in place of factors do not help
         (.495). CiteULike-t is not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from experiments.retrieval import cold_rows
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.item_cold import ItemCold, divide_items, from_split
from jaxrec.data.item_content import content_vectors
from jaxrec.data.sources import citeulike
from jaxrec.data.synthetic.tastes import group_tastes, group_words
from jaxrec.recipes import item_cold as recipes

EXPERIMENT = "dropoutnet"
TINY: Mapping[str, Any] = {
    "content_dim": 8, "teacher_dim": 6, "teacher_epochs": 4, "hidden_dim": 8, "dim": 6, "top": 20,
    "pairs_per_user": 8, "batch_size": 32, "epochs": 3, "evaluate_every": 1, "rates": (0.0, 0.5),
    "learning_rate": 0.01,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, recipes.Recipe):
    """Fits, trains and tests the rows of the table, one after the other."""

    dataset: str = "a"  # or t, of CiteULike
    rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of pairs whose factors are hidden
    transform_rates: tuple[float, ...] = (0.5,)  # of which half are hidden and half have means; empty: none
    content_dim: int = 200  # width of the content
    content: str = ""  # of your own file: vectors of its items, as data.load_item_vectors reads them
    warm: float = 0.1  # share of each user's training items that are taken out
    split_seed: int = 0  # of what is held out at random
    save_every: int = 5  # epochs between checkpoints
    workdir: str = "runs/dropoutnet"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_choice("dataset", self.dataset, ("a", "t"))
        common.check_rows(self.rows, tuple(rows(self)))
        for rate in (*self.rates, *self.transform_rates):
            if not 0 <= rate <= 1:
                raise ValueError(
                    f"rates={self.rates}, transform_rates={self.transform_rates}: must be in 0..1"
                )
        for name in ("dropout", "transform"):
            if getattr(self, name) != getattr(recipes.Recipe, name):
                raise ValueError(
                    f"{name}={getattr(self, name)}: is that of each row; give --rates or --transform-rates"
                )
        if bool(self.content) != bool(self.data):
            raise ValueError(
                "content, data: your own file needs vectors of its items, and the other way round"
            )
        common.check(
            self, "content_dim", "teacher_dim", "teacher_epochs", "hidden_dim", "dim",
            "top", "pairs_per_user", "batch_size", "epochs", "evaluate_every", "save_every",
        )  # fmt: skip


class Setting(NamedTuple):
    """Of a trained row: shares of pairs whose factors are hidden, and replaced by means."""

    dropout: float
    transform: float = 0.0


def rows(config: Config) -> dict[str, Setting | None]:
    """The rows of the table; None for those that are not trained here."""
    found: dict[str, Setting | None] = dict.fromkeys(cold_rows.FLOORS)
    found |= {f"dropoutnet-{rate:g}": Setting(rate) for rate in config.rates}
    found |= {
        f"dropoutnet-{rate:g}-transform": Setting(rate / 2, rate / 2) for rate in config.transform_rates
    }
    return found


def load(config: Config) -> tuple[ItemCold, np.ndarray]:
    """CiteULike or your own file, divided by items, and content; synthetic for --tiny."""
    options: Any = {"warm": config.warm, "seed": config.split_seed}
    if config.data:
        sequences = common.own_events(config)
        split = divide_items(sequences, **options)
        return split, data.load_item_vectors(config.content, sequences.item_ids, item=config.item)
    if config.tiny:
        split, counts = divide_items(group_tastes(), **options), group_words()
    elif config.dataset == "a":
        split = from_split(data.load("citeulike/a-cold", kind="matrix"), **options)
        counts = citeulike.load_content("a")
    else:
        split = divide_items(data.load("citeulike/t", kind="events"), **options)
        counts = citeulike.load_content("t")
    return split, content_vectors(counts, fitted=split.is_warm, dim=config.content_dim)


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    config = dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))
    split, content = load(config)
    table = cold_rows.prepare(EXPERIMENT, split, content, config)
    known = rows(config)
    for name in config.rows or known:
        setting = known[name]
        if setting is None:
            cold_rows.run_floor(name, table, config)
            continue
        recipe = dataclasses.replace(
            common.override(recipes.Recipe(), config), dropout=setting.dropout, transform=setting.transform
        )
        model = recipes.dropoutnet(table.data.validation, recipe)
        cold_rows.run_trained(
            name,
            cold_rows.Trained(
                recipes.regressed(model, table.data.validation, recipe),
                model,
                recipes.every_user(table.data.validation, recipe),
                recipes.dropoutnet_columns(table.factors, recipe),
                recipe,
                "squared error of iALS's scores",
            ),
            table,
            config,
        )


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
