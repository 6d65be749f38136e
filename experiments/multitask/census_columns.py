"""What the numeric columns of Census-Income are worth: gradient boosting with them and without.

Published multi-task models read seven numeric columns (age, capital gains, weeks worked and so on), which
could be had for the official test rows only. So both rows here are fitted to one half of the official test
rows, the half that validates in `experiments.multitask.census`, and scored on the other half, which is the
test there. The difference between the two is what keeps the figures of `experiments.multitask.census` from
comparing with published ones.

    boosting-nominal   the nominal columns, as categories
    boosting-all       and the numeric ones

Scikit-learn's HistGradientBoostingClassifier as it comes, one for each task; seeds differ in the tenth of the
rows by which it stops early. Needs scikit-learn (the extra `dev`).

Run:     python -m experiments.multitask.census_columns
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from experiments.saving import means, save
from experiments.settings import check_seeds, described
from jaxrec import config as command_line
from jaxrec import metrics
from jaxrec.config import check_run
from jaxrec.data.sources import census
from jaxrec.data.synthetic import multitask as synthetic_multitask
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.types import Protocol

EXPERIMENT = "census_columns"
ROWS = ("boosting-nominal", "boosting-all")


@dataclasses.dataclass(frozen=True)
class Config:
    """Fits and scores both rows for each pair of tasks."""

    groups: tuple[Literal["income", "education"], ...] = ("income", "education")  # pairs of tasks
    seeds: tuple[int, ...] = (0, 1, 2)  # of early stopping
    tiny: bool = False  # a synthetic table with a made-up number: to see that all works
    results: str = "runs/results"  # folder of result files

    def __post_init__(self) -> None:
        check_seeds(self.seeds)


def load(group: str, config: Config) -> tuple[ImpressionSplit, dict[str, np.ndarray]]:
    """The rows of a pair of tasks, and the numeric columns of the last ones: as many as these have."""
    if not config.tiny:
        return census.load_impressions(group), census.load_test_numbers()
    split = synthetic_multitask.funnel(2_000, num_users=10, num_items=8).split
    click = split.impressions.labels["ctr"]
    return split, {"number": click + np.random.default_rng(0).normal(size=len(click))}


def measure(group: str, config: Config) -> Iterator[tuple[str, str, str, list[dict[str, float]]]]:
    """(row, data set, rule of the split, the AUC of each task by seed)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    split, numbers = load(group, config)
    table = split.impressions
    first = len(table.labels[table.tasks[0]]) - len(next(iter(numbers.values())))
    fitted, scored = (rows[rows >= first] for rows in (split.validation, split.test))
    nominal = np.stack([table.columns[field.name] for field in table.fields], axis=1)
    numeric = np.stack([*numbers.values()], axis=1)
    everything = np.concatenate([nominal[first:], numeric], axis=1)
    categories = list(range(nominal.shape[1]))
    tasks = [task for task in table.tasks if task not in table.spaces]
    for row, columns in zip(ROWS, (nominal[first:], everything), strict=True):
        found: list[dict[str, float]] = []
        for seed in config.seeds:
            areas = {}
            for task in tasks:
                label: Any = table.labels[task]
                model = HistGradientBoostingClassifier(categorical_features=categories, random_state=seed)
                model.fit(columns[fitted - first], label[fitted])
                score = model.decision_function(columns[scored - first])
                areas[f"auc/{task}"] = float(metrics.auc(score, label[scored]))
            found.append(areas)
        name = table.name.replace("/", "-")
        yield row, name, f"fitted to the validation half of {split.rule}", found


def run(config: Config) -> None:
    """Fits, scores and stores every row."""
    check_run(config)
    for group in config.groups:
        for row, dataset, rule, found in measure(group, config):
            path = save(
                config.results,
                experiment=EXPERIMENT,
                dataset=dataset,
                model=row,
                config=described(config, beside=("groups",)),
                protocol=Protocol(rule, "impressions", "keep", "half", (), "bce", "none"),
                seeds=config.seeds,
                metrics=found,
            )
            print(f"{dataset}, {row}: {means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
