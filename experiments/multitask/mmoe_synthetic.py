"""Task correlation and trainability on synthetic data (Ma et al., KDD 2018, sections 3.2 and 6.2).

Two regressions of the same 100 inputs, whose weights have the cosine p, the "correlation" of the tasks.
Shared-Bottom, OMoE and MMoE have the paper's sizes: 8 experts of 16 units, towers of 8, and a shared layer
of 113 units, which makes the numbers of parameters equal. Many runs with different initial parameters and
orders of the examples show the lowest loss, the speed of training and the spread of the runs, with a figure
for each correlation like the paper's figure 4 (its figures 3 and 5 show other ranges). The parameters are
those of the epoch of lowest validation error.

The paper gives neither the constants of the sines nor the number of examples; the constants are those of PLE
(Tang et al., RecSys 2020). The learning rate is one of the paper's grid for all rows; --learning-rates
chooses it for each row, by the lowest validation error in the mean over runs, which is then in the row's name
(`mmoe+chosen-rate`). The paper shows figures without numbers.

Run:     python -m experiments.multitask.mmoe_synthetic
Also:    --correlations 0.5 --rows mmoe --learning-rate 0.01, --learning-rates 1e-4 1e-3 1e-2 (the grid)
Expect:  MMoE has the lowest mean squared error at every correlation: 0.0326 at p = 0.5, 0.0312 at 0.9, 0.0285
         at 1 (at 0.5 by less than the deviation). At p = 1 the order is the paper's: OMoE 0.0326,
         Shared-Bottom 0.0343. At 0.5 and 0.9 OMoE falls behind (0.0381, 0.0349), as in the paper, but
         Shared-Bottom, the worst there, lies between the two (0.0329, 0.0332).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import optax

from experiments import common
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic.multitask import correlated_tasks
from jaxrec.protocols import impressions
from jaxrec.recipes import multitask as recipes
from jaxrec.report import plots
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.objectives import loss_name
from jaxrec.train.fit import Fitted
from jaxrec.types import Task

EXPERIMENT = "mmoe_synthetic"


class Row(NamedTuple):
    """A row of the table: its model of a number of tasks, as in section 6.2."""

    model: Callable[[int, recipes.Experts], nn.Module]


ROWS: Mapping[str, Row] = {
    "shared-bottom": Row(recipes.shared_bottom),
    "omoe": Row(recipes.omoe),
    "mmoe": Row(recipes.mmoe),
}
TASKS = ("y1", "y2")
SWEPT = ("correlations", "learning_rates")

TINY: Mapping[str, Any] = {"num_rows": 600, "dim": 10, "epochs": 2}


@dataclasses.dataclass(frozen=True)
class Config(common.Options, recipes.SyntheticStudy):
    """Trains each model at each correlation, many seeds at once, and draws the figures."""

    correlations: tuple[float, ...] = (0.5, 0.9, 1.0)  # cosines of the two tasks' weights
    rows: tuple[str, ...] = tuple(ROWS)  # models
    learning_rates: tuple[float, ...] = ()  # of which validation chooses one a row; empty: learning_rate
    seeds: tuple[int, ...] = tuple(range(20))  # trained together in one compiled program
    num_rows: int = 50_000  # training examples; validation and test have a tenth as many each
    dim: int = 100  # inputs
    data_seed: int = 0  # of the generator: all runs have the same examples
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/mmoe_synthetic"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ROWS)
        common.check(self, "num_rows", "dim", "epochs", "batch_size", "num_experts", "save_every")
        if not self.correlations or not all(-1 <= p <= 1 for p in self.correlations):
            raise ValueError(f"correlations={self.correlations}: give at least one, each in -1..1")
        rates = self.learning_rates
        if not all(0 < rate < math.inf for rate in rates) or len(set(rates)) != len(rates):
            raise ValueError(f"learning_rates={rates}: each must be positive and finite, and given once")


def load(config: Config, correlation: float) -> impressions.Data:
    """Examples of two tasks with a given correlation; the first ones are for training."""
    count = config.num_rows
    tenth = max(count // 10, 1)
    drawn = correlated_tasks(
        count + 2 * tenth, correlation=correlation, dim=config.dim, seed=config.data_seed
    )
    columns = {"x": drawn.x, "label/y1": drawn.labels[:, 0], "label/y2": drawn.labels[:, 1]}

    def batched(start: int) -> dict[str, np.ndarray]:
        part = {name: column[start : start + tenth] for name, column in columns.items()}
        return {name: column[None] for name, column in {**part, "mask": np.ones(tenth, bool)}.items()}

    return impressions.Data(
        name=f"p={correlation:g}" if not config.tiny else f"tiny-p={correlation:g}",
        rule=f"{count:,} rows to train on, {tenth:,} to validate, {tenth:,} to test",
        tasks=TASKS,
        regression=TASKS,
        spaces=(),
        columns={name: column[:count] for name, column in columns.items()},
        validation=batched(count),
        test=batched(count + tenth),
    )


def build(row: str, columns: impressions.Data, config: Config) -> tuple[Task, list[Target]]:
    """A row's model of both tasks, as a task to train, and its targets."""
    targets = impressions.targets(columns)
    return multitask(ROWS[row].model(len(TASKS), config), targets, inputs=lambda batch: batch["x"]), targets


def train(row: str, columns: impressions.Data, config: Config) -> Fitted:
    """Trains a row for all seeds with the configuration's learning rate."""
    task, targets = build(row, columns, config)
    config = dataclasses.replace(config, learning_rates=())
    return impressions.train(
        columns,
        task,
        targets,
        "mse",
        optax.adam(config.learning_rate),
        epochs=config.epochs,
        batch_size=config.batch_size,
        lower_is_better=True,
        **common.training_options(config, columns.name, row, row=row, data=columns.name),
    )


def choose(row: str, columns: impressions.Data, config: Config) -> tuple[Config, Fitted, str]:
    """The configuration with the learning rate of the lowest mean validation error over seeds, what was
    trained with it, and the errors of all rates as a note; "" where there is one rate.
    """
    rates = config.learning_rates or (config.learning_rate,)
    configs = [dataclasses.replace(config, learning_rate=rate) for rate in rates]
    trained = [train(row, columns, own) for own in configs]
    errors = [float(np.mean(fitted.best_value)) for fitted in trained]
    best = int(np.argmin(errors))
    shown = ", ".join(f"{rate:g}: {error:.4f}" for rate, error in zip(rates, errors, strict=True))
    note = f"mean validation mse by learning rate: {shown}" if config.learning_rates else ""
    return configs[best], trained[best], note


def run(config: Config) -> None:
    """Trains, tests and stores every model at every correlation, with a figure for each correlation."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    for correlation in config.correlations:
        run_one(dataclasses.replace(config, correlations=(correlation,)), correlation)


def run_one(config: Config, correlation: float) -> None:
    """Trains, tests and stores every model at one correlation, and draws their figure."""
    columns = load(config, correlation)
    tasks = {row: build(row, columns, config) for row in config.rows}
    sizes = {row: impressions.num_parameters(task, columns) for row, (task, _) in tasks.items()}
    curves: dict[str, list[dict[str, Any]]] = {}
    for row, (task, targets) in tasks.items():
        own, fitted, note = choose(row, columns, config)
        found = impressions.run_test(columns, task, targets, fitted.variables, num_devices=config.num_devices)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=columns.name.replace("=", ""),
            model=f"{row}+chosen-rate" if config.learning_rates else row,
            config={
                **common.describe_settings(own, left_out=SWEPT),
                "correlation": correlation,
                "parameters": sizes[row],
            },
            protocol=impressions.protocol(columns, "mse", loss_name(targets[0].loss)),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
            note=note,
        )
        curves[row] = fitted.history
        final = [metrics["mse"] for metrics in found.metrics]
        spread = f"{min(final):.4f}..{max(final):.4f}"
        print(f"{columns.name} {row}: test mse {np.mean(final):.4f} (runs {spread})\nsaved {path}")
    draw(curves, columns.name, path.parent / "figure.png")


def draw(curves: dict[str, list[dict[str, Any]]], dataset: str, path: Any) -> None:
    """Plots the validation error of all models, if matplotlib is installed."""
    try:
        plots.mean_curve(curves, "valid/mse", path, dataset=dataset)
    except ImportError as error:
        print(f"no figure of validation mse: {error}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
