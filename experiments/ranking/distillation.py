"""Distillation into a click model: a larger teacher (KD), and one that reads what is known later (PFD).

Hinton et al., 2015; Xu et al., KDD 2020, arXiv:1907.05171, whose logs are private, so there are no comparable
published numbers.

    base-rate      the share of label 1 for all
    logistic       a linear model
    student        an MLP of what is known at serving; student-large: a larger one
    student-smoothed    labels smoothed towards their base rate
    kd             the student with the larger one as its teacher, trained at once
    pfd            a teacher of the student's size that also reads privileged columns, trained at once;
                   pfd-shared: on the same vectors, as in the paper; pfd-large: a larger one;
                   pfd-frozen: one that was trained before
    teacher        that teacher by itself: its test reads privileged columns too, which no serving can

generated: clicks whose conversion depends on a hidden interest, and the time after the click that shows it
(privileged). The true probabilities are known, and so is the best AUC that a student, or a teacher, can have:
`best_auc` in a result's configuration. ml-100k: whether a rating is 4 or 5, split by time; privileged are the
user's next rating and the time until then, taken within each part of the split.

A row's parameters are those of the epoch of best validation AUC.

Run:     python -m experiments.ranking.distillation
Also:    --dataset ml-100k; --rows student pfd --weight 0.9 --seeds 0
Expect:  AUC, mean of 5 seeds: teacher 0.877, pfd-frozen 0.622, pfd 0.620, kd 0.617, student 0.617, logistic
         0.611, pfd-shared 0.610.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.ranking import distillation_data
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.protocols import impressions
from jaxrec.recipes import distillation as recipes
from jaxrec.tasks.distillation import TEACHER, split_variables
from jaxrec.train.fit import Fitted
from jaxrec.types import Tested, Variables

EXPERIMENT = "distillation"
BASE_RATE, OF_TEACHER, FROZEN = "base-rate", "teacher", "pfd-frozen"
Build = Callable[[recipes.Columns, recipes.Recipe], recipes.Trained]
ROWS: Mapping[str, Build | None] = {
    BASE_RATE: None,
    "logistic": recipes.logistic,
    "student": recipes.student,
    "student-smoothed": recipes.smoothed,
    "student-large": recipes.large,
    "kd": recipes.distilled,
    "pfd": recipes.pfd,
    "pfd-shared": recipes.pfd_shared,
    "pfd-large": recipes.pfd_large,
    FROZEN: recipes.pfd_frozen,
    OF_TEACHER: recipes.teacher,
}
TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64, "num_examples": 600, "warm_up": 5}


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["generated", "ml-100k"] = "generated"  # the data set
    rows: tuple[str, ...] = tuple(ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    num_examples: int = 30_000  # generated clicks, a tenth each to validate and to test
    noise: float = 0.3  # deviation of the time after a click from the interest that it shows
    data_seed: int = 0  # of the generator: all runs have the same examples
    workdir: str = "runs/distillation"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check(self, "epochs", "patience", "batch_size", "dim", "num_examples", "save_every")
        if not 0 <= self.weight <= 1 or self.warm_up < 0:
            raise ValueError(f"weight={self.weight}, warm_up={self.warm_up}: must be in 0..1, and at least 0")
        if not self.temperature > 0 or not 0 <= self.smoothing < 1 or not self.noise > 0:
            raise ValueError(
                f"temperature={self.temperature}, smoothing={self.smoothing}, noise={self.noise}: must be "
                "above 0, in [0, 1), and above 0"
            )


class Setting(NamedTuple):
    """The examples, what models read of them, and what is known of their truth, for results."""

    data: impressions.Data
    columns: recipes.Columns
    known: dict[str, float]


def load(config: Config) -> Setting:
    """The examples of a configuration."""
    privileged: tuple[str, ...]
    known: dict[str, float] = {}
    if config.dataset == "ml-100k":
        split = distillation_data.small_ratings() if config.tiny else distillation_data.ratings()
        privileged = distillation_data.PRIVILEGED
    else:
        made = distillation_data.generated(config.num_examples, config.noise, config.data_seed)
        split, privileged, known = made.split, (distillation_data.DWELL,), distillation_data.best_auc(made)
    (label,) = split.impressions.tasks
    fields = impressions.features(split.impressions, config.dim).fields
    rate = float(split.impressions.labels[label][split.train].mean())
    columns = recipes.Columns(
        tuple(field for field in fields if field.name not in privileged),
        tuple(field for field in fields if field.name in privileged),
        label,
        rate,
    )
    data = impressions.resident(split)
    name = f"tiny-{config.dataset}" if config.tiny else config.dataset
    return Setting(data._replace(name=name), columns, known)


def train(row: str, setting: Setting, config: Config, teacher: Fitted | None) -> tuple[Fitted, Tested]:
    """Trains a row for all seeds. teacher: what a frozen one is."""
    build = ROWS[row]
    assert build is not None
    made = build(setting.columns, config)
    start: dict[str, Any] = {}
    if row == FROZEN:
        assert teacher is not None
        start = {"initial": {TEACHER: teacher.variables}, "newly_initialised": ["params"]}
    fitted = impressions.train(
        setting.data,
        made.task,
        [made.target],
        selection(setting),
        recipes.adam(config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        patience=config.patience,
        weighting=made.weighting,
        **start,
        **common.training_options(config, setting.data.name, row, row=row),
    )
    return fitted, tested(made, setting, fitted.variables, config)


def tested(made: recipes.Trained, setting: Setting, variables: Variables, config: Config) -> Tested:
    """A row's test, with calibration."""
    return impressions.run_test(
        setting.data,
        made.task,
        [made.target],
        variables,
        calibration=True,
        num_devices=config.num_devices,
    )


def selection(setting: Setting) -> str:
    """The validation metric that chooses parameters."""
    return f"auc/{setting.columns.label}"


def base_rate(setting: Setting, config: Config) -> Tested:
    """The test of one prediction for all, the share of label 1 in training."""
    made = recipes.logistic(setting.columns, config)
    level = float(np.log(setting.columns.rate) - np.log1p(-setting.columns.rate))
    task = made.task._replace(predict=lambda variables, batch: batch["mask"] * 0.0 + variables["level"])
    variables = {"level": np.full(1, level, np.float32)}
    return tested(made._replace(task=task), setting, variables, config)


def num_served(variables: Variables) -> int:
    """Parameters of a seed's model that serving needs, without those of a teacher."""
    own, _ = split_variables(variables)
    params = dict(own["params"])
    if "privileged" in params:
        params = {name: params[name] for name in ("embedding", "student")}
    return sum(leaf[0].size for leaf in jax.tree.leaves(params))


def run(config: Config) -> None:
    """Trains, tests and stores every row, a frozen teacher's before its student's."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting = load(config)
    teacher: Fitted | None = None
    if FROZEN in config.rows:
        teacher, _ = train(OF_TEACHER, setting, config, None)
    for row in config.rows:
        build = ROWS[row]
        loss, fitted, settings, seeds = "none", None, dict(setting.known), config.seeds[:1]
        if build is None:
            found = base_rate(setting, config)
        else:
            fitted, found = train(row, setting, config, teacher)
            loss, seeds = build(setting.columns, config).loss, config.seeds
            settings = {**common.describe_settings(config), **setting.known}
            settings["parameters"] = num_served(fitted.variables)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=setting.data.name,
            model=row,
            config=settings,
            protocol=impressions.protocol(setting.data, selection(setting) if fitted else "none", loss),
            seeds=seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: test {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
