"""Task correlation and trainability on made-up data (Ma et al., KDD 2018, sections 3.2 and 6.2).

Two regressions of the same 100 inputs, whose weights have the cosine p, the "correlation" of the tasks.
Shared-Bottom, OMoE and MMoE have the paper's sizes: 8 experts of 16 units, towers of 8, and a shared layer
of 113 units, which makes the numbers of parameters equal. Many runs that differ in their first parameters and
in the order of the rows show how low the loss gets, how fast, and how far the runs lie apart: a figure for
each correlation, as the paper's figure 4 (its figures 3 and 5 ask the same of other ranges).

The paper gives neither the constants of the sines nor the number of rows; the constants are those of PLE
(Tang et al., RecSys 2020). The learning rate is one of the paper's grid. Published are figures, no numbers.

Run:     python -m experiments.multitask.mmoe_synthetic
Also:    --correlations 0.5 --rows mmoe --learning-rate 0.01
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from experiments.saving import save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.synthetic.multitask import correlated_tasks
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.moe import OMoE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.protocols import impressions
from jaxrec.report import plots

EXPERIMENT = "mmoe_synthetic"
Row = Literal["shared-bottom", "omoe", "mmoe"]
TASKS = ("y1", "y2")
SWEPT = ("correlations",)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains each model at each correlation, many seeds at once, and draws the figures."""

    correlations: tuple[float, ...] = (0.5, 0.9, 1.0)  # cosines of the two tasks' weights
    rows: tuple[Row, ...] = ("shared-bottom", "omoe", "mmoe")  # models
    seeds: tuple[int, ...] = tuple(range(20))  # trained together, one compilation
    tiny: bool = False  # few rows and two epochs, in seconds: to see that all works
    num_rows: int = 50_000  # rows to train on; a tenth as many to validate, and to test
    dim: int = 100  # inputs
    epochs: int = 40  # passes over the rows; the best one counts
    batch_size: int = 256  # rows a step
    learning_rate: float = 1e-3  # of Adam
    data_seed: int = 0  # of the generator: all runs see the same rows
    num_devices: int = 1  # devices that share each batch
    save_every: int = 10  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files and figures
    workdir: str = "runs/mmoe_synthetic"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "num_rows", "epochs", "batch_size", "save_every")
        if not self.correlations or not all(-1 <= p <= 1 for p in self.correlations):
            raise ValueError(f"correlations={self.correlations}: give at least one, each in -1..1")


def body(row: Row) -> nn.Module:
    """A model of section 6.2."""
    match row:
        case "shared-bottom":
            return SharedBottom(2, bottom_dims=(113,), tower_dims=(8,))
        case "omoe":
            return OMoE(2, num_experts=8, expert_dims=(16,), tower_dims=(8,))
        case "mmoe":
            return MMoE(2, num_experts=8, expert_dims=(16,), tower_dims=(8,))


def load(config: Config, correlation: float) -> impressions.Data:
    """Rows of two tasks of some correlation, the first ones to train on."""
    count, dim = (600, 10) if config.tiny else (config.num_rows, config.dim)
    tenth = max(count // 10, 1)
    drawn = correlated_tasks(count + 2 * tenth, correlation=correlation, dim=dim, seed=config.data_seed)
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


def train(row: Row, data: impressions.Data, config: Config) -> tuple[Any, list[dict[str, float]], int]:
    """Trains one model; gives the run, test metrics, parameters."""
    targets = impressions.targets(data)
    task = impressions.multitask(body(row), targets, inputs=lambda batch: batch["x"])
    run = impressions.Run(
        seeds=config.seeds,
        epochs=2 if config.tiny else config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / data.name / row,
        description={"row": row, **described(config, beside=SWEPT), "data": data.name},
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    fitted = impressions.train(data, task, targets, "mse", run, lower_is_better=True)
    found = impressions.test(data, task, targets, fitted.variables, config.num_devices)
    return fitted, found, impressions.num_parameters(task, data)


def run(config: Config) -> None:
    """Trains, tests and stores every model at every correlation; a figure of all models a correlation."""
    check_run(config)
    for correlation in config.correlations:
        data = load(config, correlation)
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in config.rows:
            fitted, found, parameters = train(row, data, config)
            path = save(
                config.results,
                experiment=EXPERIMENT,
                dataset=data.name.replace("=", ""),
                model=row,
                config={
                    **described(config, beside=SWEPT),
                    "correlation": correlation,
                    "parameters": parameters,
                },
                protocol=impressions.protocol_of(data, "mse", loss="mse"),
                seeds=config.seeds,
                metrics=found,
                fitted=fitted,
            )
            curves[row] = [{"epoch": e["epoch"] + 1, "mse": e["valid/mse"]} for e in fitted.history]
            final = [metrics["mse"] for metrics in found]
            spread = f"{min(final):.4f}..{max(final):.4f}"
            print(f"{data.name} {row}: test mse {np.mean(final):.4f} (runs {spread})\nsaved {path}")
        _figure(curves, "validation mse", path.parent / "figure.png")


def _figure(curves: dict[str, list[dict[str, Any]]], name: str, path: Path) -> None:
    try:
        plots.mean_curve(curves, "mse", path, label=name)
    except ImportError as error:
        print(f"no figure of {name}: {error}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
