"""The effect of the numeric columns of Census-Income: gradient boosting with them and without.

Published multi-task models read seven numeric columns (age, capital gains, weeks worked and so on), which are
available for the official test examples only. So both rows here are fitted to one half of the official test
examples, the validation part of `experiments.multitask.census`, and scored on the other half, its test part.
Because of the difference between the two rows, the numbers of `experiments.multitask.census` are not
comparable with published ones.

    boosting-nominal   the nominal columns, as categories
    boosting-all       the nominal and the numeric columns

Scikit-learn's HistGradientBoostingClassifier with its default settings, one for each task; seeds differ in
the tenth of the examples that early stopping uses. Needs scikit-learn (the extra `trees`).

Run:     python -m experiments.multitask.census_columns
Expect:  the gain from the numeric columns is larger than the differences between multi-task models: with them
         the AUC rises from 0.9247 to 0.9486 for income, from 0.8807 to 0.8940 for education, and from 0.991
         to 0.995 for never married.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import common
from jaxrec import config as command_line
from jaxrec import data, metrics
from jaxrec.config import check_run
from jaxrec.data.sources.census import load_test_numbers
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.train.per_user import keep_impressions
from jaxrec.types import Protocol, Tested

EXPERIMENT = "census_columns"


class Row(NamedTuple):
    """A row of the table: whether its model reads the numeric columns too."""

    numeric: bool


ROWS: Mapping[str, Row] = {
    "boosting-nominal": Row(numeric=False),
    "boosting-all": Row(numeric=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fits and scores the rows for each pair of tasks."""

    groups: tuple[Literal["income", "education"], ...] = ("income", "education")  # pairs of tasks
    rows: tuple[str, ...] = tuple(ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # of early stopping
    tiny: bool = False  # a synthetic table with one numeric column, to check that everything runs
    results: str = "runs/results"  # folder of result files

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check_seeds(self.seeds)


def load(group: str, config: Config) -> tuple[ImpressionSplit, dict[str, np.ndarray]]:
    """The examples of a pair of tasks, and the numeric columns, which only the last examples have."""
    if not config.tiny:
        return data.load(f"census/{group}", kind="impressions"), load_test_numbers()
    split = funnel(2_000, num_users=10, num_items=8).split
    click = split.impressions.labels["ctr"]
    return split, {"number": click + np.random.default_rng(0).normal(size=len(click))}


def measure(
    row: str, split: ImpressionSplit, numbers: Mapping[str, np.ndarray], seeds: tuple[int, ...]
) -> Tested:
    """The AUC of each task by seed: fitted to validation examples that have numbers, scored on test ones."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = split.impressions
    first = table.num_rows - len(next(iter(numbers.values())))
    fitted, scored = (examples[examples >= first] for examples in (split.validation, split.test))
    nominal = np.stack([table.columns[field.name] for field in table.fields], axis=1)[first:]
    categories = list(range(nominal.shape[1]))
    columns = np.concatenate([nominal, *(n[:, None] for n in numbers.values() if ROWS[row].numeric)], axis=1)
    found: list[dict[str, float]] = []
    tasks = [task for task in table.tasks if task not in table.spaces]
    scores = np.zeros((len(seeds), len(scored), len(tasks)))
    for s, seed in enumerate(seeds):
        by_task = {}
        for t, task in enumerate(tasks):
            label: Any = table.labels[task]
            model = HistGradientBoostingClassifier(categorical_features=categories, random_state=seed)
            model.fit(columns[fitted - first], label[fitted])
            scores[s, :, t] = score = model.decision_function(columns[scored - first])
            by_task[f"auc/{task}"] = float(metrics.auc(score, label[scored]))
        found.append(by_task)
    tested = {f"label/{task}": table.labels[task][scored] for task in tasks}
    queries = {"mask": np.ones(len(scored), bool), **tested}
    return Tested(found, keep_impressions(tasks)(scores, queries))


def run(config: Config) -> None:
    """Fits, scores and stores every row."""
    check_run(config)
    for group in config.groups:
        split, numbers = load(group, config)
        dataset = split.impressions.name.replace("/", "-")
        for row in config.rows:
            found = measure(row, split, numbers, config.seeds)
            path = common.save(
                config.results,
                experiment=EXPERIMENT,
                dataset=dataset,
                model=row,
                config=common.describe_settings(config, left_out=("groups",)),
                protocol=Protocol(
                    split=f"fitted to the validation half of {split.rule}",
                    candidates="impressions",
                    seen="keep",
                    ties="half",
                    ks=(),
                    loss="bce",
                    selection="none",
                ),
                seeds=config.seeds,
                metrics=found,
            )
            print(f"{dataset}, {row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
