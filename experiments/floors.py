"""Rows that are not trained by gradient descent, which the other rows of a table are read against.

RANKING are those of every table that ranks items after the events of a user, MATRIX those of every table on
an interaction matrix, and CLICKS those of every table of labelled examples. Rows ending in -selected have the
settings of the best `selection` of their protocol on validation, each value of their grid tried with each,
and where the best value of one of SCALES lies at an end, values beyond it; all trials are stored beside the
result. `co-visitation` has one form for all data, stated beforehand;
`co-visitation-directed` is the same, but counts only what comes after an item.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import common, sweeps
from jaxrec import baselines, provenance
from jaxrec.baselines import click_tables
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols import impressions, next_item
from jaxrec.recipes import counting, successors
from jaxrec.recipes.trainable import CountingModel, SuccessorModel, fit_seeds
from jaxrec.tasks.multitask import Target
from jaxrec.train.evaluate import evaluate
from jaxrec.tuning import records
from jaxrec.tuning.records import Record
from jaxrec.types import Baseline, Evaluation, Protocol, Variables

# --- tables that rank items --------------------------------------------------------------------------


class Floor(NamedTuple):
    """A method, and the values of its settings that are tried on validation; none: its recipe's."""

    entry: CountingModel | SuccessorModel
    grid: Mapping[str, Sequence[Any]] = {}


class Fit(NamedTuple):
    """A fitted row: variables have a leading axis of seeds, the protocol says what chose its settings."""

    model: Any  # a Retriever or Scorer
    variables: Variables
    protocol: Protocol
    settings: dict[str, Any]
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a method without settings."""


RANDOM = CountingModel(NoSettings, lambda data, recipe, seed: baselines.random(data), drawn=True)
POPULARITY = CountingModel(NoSettings, lambda data, recipe, seed: baselines.popularity(data))
SCALES = ("alpha", "alpha0", "neighbours", "regularisation")  # settings whose grid goes on beyond its ends
STEPS = 8  # beyond ends, at most
NEIGHBOURS: Mapping[str, Sequence[Any]] = {"neighbours": (5, 10, 20, 50, 100, 200, 400)}
RANKING: Mapping[str, Floor] = {
    "random": Floor(RANDOM),
    "popularity": Floor(POPULARITY),
    "co-visitation": Floor(successors.MODELS["co-visitation"]),
    "co-visitation-directed": Floor(
        successors.MODELS["co-visitation"]._replace(recipe=successors.CoVisits(backward=False))
    ),
    "co-visitation-selected": Floor(
        successors.MODELS["co-visitation"],
        {
            "window": (1, 2, 5, 0), "by_distance": (True, False), "backward": (True, False),
            "history": (1, 10),
        },
    ),
    "item-knn-selected": Floor(
        successors.MODELS["item-knn"],
        {"neighbours": (20, 100, 500), "regularisation": (0.0, 5.0, 20.0, 100.0, 500.0)},
    ),
    "matrix-item-knn-selected": Floor(counting.MODELS["matrix-item-knn"], NEIGHBOURS),
}  # fmt: skip
MATRIX: Mapping[str, Floor] = {
    "random": Floor(RANDOM),
    "popularity": Floor(POPULARITY),
    "matrix-item-knn-selected": Floor(counting.MODELS["matrix-item-knn"], NEIGHBOURS),
    "ease-selected": Floor(counting.MODELS["ease"], {"regularisation": (20.0, 80.0, 300.0, 1000.0)}),
    "slim-selected": Floor(counting.MODELS["slim"], {"alpha": (0.001, 0.005, 0.02)}),
    "ials-selected": Floor(
        counting.MODELS["ials"], {"alpha0": (0.001, 0.003, 0.01), "regularisation": (0.003, 0.01, 0.03)}
    ),
}


def fit(
    name: str,
    data: Any,
    protocol: Protocol,
    config: Any,
    experiment: str,
    dataset: str,
    model: str = "",
    *,
    evaluation: Callable[..., Evaluation] = next_item.evaluation,
    known: Mapping[str, Floor] = RANKING,
    once: bool = False,
) -> Fit:
    """Fits a row, with the settings of its grid that are best on validation; all trials are stored.

    protocol: its `selection` is that of a row that is chosen. config: of the experiment: results, seeds,
    tiny, which tries the first value of each setting alone. model: the name of its result, if not the row's.
    evaluation: that of the protocol, of data like these. known: the rows by name. once: a row without random
    numbers has the first seed alone.
    """
    entry, grid = known[name]
    counted = CountingModel(*entry)
    recipe = entry.recipe() if isinstance(entry.recipe, type) else entry.recipe

    if grid:

        def make(settings: Mapping[str, Any]) -> Baseline:
            return entry.make(data, dataclasses.replace(recipe, **settings), config.seeds[0])

        asked = (make, grid, data, protocol, config, experiment, dataset, model or name)
        recipe = dataclasses.replace(recipe, **choose(*asked, evaluation=evaluation))
    seeds = config.seeds[:1] if once and not counted.drawn else config.seeds
    ranked, variables = fit_seeds(counted, data, recipe, seeds)
    chosen = protocol._replace(loss="", selection=protocol.selection if grid else "none")
    return Fit(ranked, variables, chosen, dataclasses.asdict(recipe), seeds)


def choose(
    make: Callable[[Mapping[str, Any]], Baseline],
    grid: Mapping[str, Sequence[Any]],
    data: Any,
    protocol: Protocol,
    config: Any,
    experiment: str,
    dataset: str,
    model: str,
    *,
    evaluation: Callable[..., Evaluation] = next_item.evaluation,
) -> dict[str, Any]:
    """The settings of the best `protocol.selection` on validation, the first of equal ones.

    Each value of the grid is tried with each, with --tiny the first of each alone; then values beyond its
    ends, as long as they are better (`beyond`). All trials are written beside the result, in the form of a
    search's. make: settings -> the fitted method.
    """
    tried: list[Record] = []
    lower = protocol.selection.startswith("log_loss")

    def attempt(settings: Mapping[str, Any]) -> None:
        made = make(settings)
        asked = evaluation(made, data, protocol, "validation")
        value = evaluate(asked, made.for_seeds((0,)), data.columns)[0][protocol.selection]
        print(f"{model} {settings}: validation {protocol.selection} {value:.4f}", flush=True)
        tried.append(Record(len(tried), settings, "complete", value, epochs=1))

    for values in itertools.product(*(v[:1] if config.tiny else v for v in grid.values())):
        attempt(dict(zip(grid, values, strict=True)))
    for _ in range(0 if config.tiny else STEPS):
        more = beyond(tried, grid, lower)
        for settings in more:
            attempt(settings)
        if not more:
            break
    names = {"experiment": experiment, "dataset": dataset, "model": model, "metric": protocol.selection}
    path = sweeps.study_path(config.results, experiment, dataset, model)
    records.write(path, {**names, "lower_is_better": lower}, tried, made_by=[provenance.manifest()])
    best = records.choose(tried, lower)
    assert best is not None  # all are complete
    return dict(best.settings)


def beyond(tried: Sequence[Record], grid: Mapping[str, Sequence[Any]], lower: bool) -> list[dict[str, Any]]:
    """The best settings with a value of SCALES, at an end of its grid or past it, moved one further outward.

    A scale goes on by the ratio of the last two values of its grid, whole numbers rounded and at least 1. One
    that begins at 0 ends there.
    """
    best = records.choose(tried, lower)
    assert best is not None  # all are complete
    found = []
    for name in (name for name in SCALES if len(grid.get(name, ())) > 1):
        own, values = best.settings[name], sorted(grid[name])
        ratios = []
        if own >= values[-1]:
            ratios.append(values[-1] / values[-2] if values[-2] else 1)
        if own <= values[0]:
            ratios.append(values[0] / values[1])
        for value in (own * ratio for ratio in ratios):
            further = max(1, round(value)) if isinstance(own, int) else float(f"{value:.2g}")
            found.append({**best.settings, name: further})
    return [settings for settings in found if all(settings != record.settings for record in tried)]


# --- tables of labelled examples ---------------------------------------------------------------------

CLICKS = tuple(click_tables.METHODS)


def measure(
    config: Any,
    experiment: str,
    columns: impressions.Data,
    fields: Sequence[Categorical | Numeric],
    evaluated: Sequence[Target],
    *,
    rows: Sequence[str] | None = None,
    calibration: bool = False,
    keep: str = "",
    dataset: str = "",
    summarise: Callable[[Mapping[str, float]], Mapping[str, float]] = dict,
) -> None:
    """Fits, tests and stores the baselines that are rows of the table.

    config: of the experiment; its `rows` are all rows, None of `rows` given. evaluated: what is tested.
    keep: how the names of the metrics begin that are stored. dataset: in results; "": the name of the data.
    summarise: what is stored of the metrics of a seed.

    Raises:
      ImportError: a row needs a library that is not installed; before anything is fitted.
    """
    names = [row for row in (config.rows if rows is None else rows) if row in CLICKS]
    click_tables.check_installed(names)
    grid = click_tables.TINY if config.tiny else click_tables.Grid()
    for name in names:
        began = time.monotonic()
        found = click_tables.measure(
            name, columns, fields, evaluated, seeds=config.seeds, grid=grid, calibration=calibration
        )
        summaries = [summarise(of_seed) for of_seed in found.tested.metrics]
        kept = [{k: v for k, v in of_seed.items() if k.startswith(keep)} for of_seed in summaries]
        tested = found.tested._replace(metrics=kept)
        chosen = {"chosen": found.settings, "validation_auc": found.validation} if found.settings else {}
        path = common.save(
            config.results,
            experiment=experiment,
            dataset=dataset or columns.name,
            model=name,
            config={**chosen, **({"grid": dataclasses.asdict(grid)} if chosen else {})},
            protocol=impressions.protocol(
                columns, "each task's auc" if chosen else "none", "bce" if chosen else ""
            ),
            seeds=config.seeds,
            metrics=tested,
        )
        spent = time.monotonic() - began
        print(f"{name}: {spent:.0f} s; test {common.means(tested)}\nsaved {path}", flush=True)
