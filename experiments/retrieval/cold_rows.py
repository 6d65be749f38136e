"""The rows that tables of cold items share: floors, training, both tests, and their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from jaxrec import baselines
from jaxrec.baselines.ials import TRAINED
from jaxrec.data.events.held_out import format_matrix
from jaxrec.data.events.item_cold import COLD, ItemCold
from jaxrec.protocols import item_cold, retrieval
from jaxrec.recipes import item_cold as recipes
from jaxrec.train.epoch import Plan
from jaxrec.train.fit import Fitted
from jaxrec.types import Baseline, Context, Protocol, Task, Variables

FLOORS = ("random", "popularity", "content-knn", "ials")
KS = (20, 50, 100)
SELECTION = "recall@100"
ENDINGS = {"cold": "cold-only", "all": "among-all"}  # of the data sets' names, by measurement


class Table(NamedTuple):
    """What all rows read. factors: of the factor model, with content; bare: cold items without content."""

    experiment: str
    data: item_cold.Data
    factors: Mapping[str, np.ndarray]
    protocol: Protocol
    bare: int


class Trained(NamedTuple):
    """A row that is trained. columns: resident ones besides those of the data; recipe: its settings."""

    task: Task
    model: Any
    plan: Plan
    columns: Context
    recipe: Any
    loss: str


def prepare(experiment: str, split: ItemCold, content: np.ndarray, config: Any) -> Table:
    """The data on the device, and the factor model."""
    made = item_cold.resident(split)
    made = made._replace(validation=recipes.with_content(made.validation, content))
    bare = int((split.sets[COLD] & ~content.any(axis=1)).sum())
    print(f"{format_matrix(split.both)}\n{bare:,} cold items have no content", flush=True)
    teacher = common.override(recipes.Teacher(), config)
    factors = recipes.teacher(made.validation, teacher, empty="keep")
    protocol = item_cold.validation_protocol(made, ks=KS, selection=SELECTION)
    return Table(experiment, made, factors, protocol, bare)


def run_floor(name: str, table: Table, config: Any) -> None:
    """Fits, tests and stores a row that is not trained."""
    part, factors = table.data.validation, table.factors
    made: Mapping[str, Callable[[], Baseline]] = {
        "random": lambda: baselines.random(part),
        "popularity": lambda: baselines.popularity(part),
        "content-knn": lambda: baselines.content_knn(factors["item_content"]),
        "ials": lambda: Baseline(
            "ials", TRAINED, {"users": factors["user_teacher"], "items": factors["item_teacher"]}
        ),
    }
    baseline = made[name]()
    settings = of_teacher(config) if name == "ials" else {}
    seeds = config.seeds if name == "random" else config.seeds[:1]
    protocol = table.protocol._replace(selection="none")
    store(name, baseline, baseline.for_seeds(seeds), table, config, protocol, settings, seeds=seeds)


def run_trained(name: str, row: Trained, table: Table, config: Any) -> None:
    """Trains, tests and stores a row."""
    part = table.data.validation
    protocol = table.protocol._replace(loss=row.loss)
    recipe = row.recipe
    settings = {**dataclasses.asdict(recipe), **of_data(config)}
    fitted = retrieval.train(
        row.task,
        row.plan,
        row.model,
        part,
        protocol,
        recipes.adam(recipe),
        epochs=recipe.epochs,
        every=recipe.evaluate_every,
        patience=recipe.patience or None,
        columns=row.columns,
        **common.training_options(
            config, part.split.sequences.name, name, left_out=("rates", "transform_rates"), row=name,
            recipe=settings,
        ),
    )  # fmt: skip
    store(
        name, row.model, fitted.variables, table, config, protocol, settings, seeds=config.seeds,
        fitted=fitted, columns=row.columns,
    )  # fmt: skip


def of_teacher(config: Any) -> dict[str, Any]:
    """The settings of the factor model."""
    return dataclasses.asdict(common.override(recipes.Teacher(), config))


def of_data(config: Any) -> dict[str, Any]:
    """The settings of what is held out and of content."""
    return {name: getattr(config, name) for name in ("content_dim", "warm", "split_seed")}


def store(
    name: str,
    model: retrieval.Ranked,
    variables: Variables,
    table: Table,
    config: Any,
    protocol: Protocol,
    settings: Mapping[str, Any],
    *,
    seeds: tuple[int, ...],
    fitted: Fitted | None = None,
    columns: Context | None = None,
) -> None:
    """Tests a row in both measurements and stores a result of each."""
    found = item_cold.run_test(
        model, table.data, protocol, variables, columns=columns, num_devices=config.num_devices
    )
    dataset = table.data.split.cold.sequences.name.replace("/", "-").removesuffix("-cold")
    for measurement, (asked, tested) in found.items():
        path = common.save(
            config.results,
            experiment=table.experiment,
            dataset=f"{dataset}-{ENDINGS[measurement]}",
            model=name,
            config={**settings, **of_data(config)},
            protocol=asked,
            seeds=seeds,
            metrics=tested,
            fitted=fitted,
            note=f"{table.bare:,} cold items have no content" if table.bare else "",
        )
        print(f"{name}, {measurement}: {common.means(tested)}\nsaved {path}", flush=True)
