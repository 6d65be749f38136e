"""One multi-task model, every way to weigh its losses or balance its gradients, on Census-Income.

Shared-Bottom with the sizes of `experiments.multitask.census`, trained with the sum of its losses and with
each method of `jaxrec.optim`; no paper compares these on this data, so nothing published stands beside.
Methods that balance gradients read those of all parameters that both tasks share, embeddings and bottom;
GradNorm those of the bottom alone, MGDA-UB those of its output.

Run:     python -m experiments.multitask.loss_weighting --group income
Also:    --rows pcgrad mgda --seeds 0
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.multitask import census as paper
from experiments.saving import means, save
from experiments.settings import described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.nn.layers.features import Featured
from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim import loss_weighting as weighting
from jaxrec.optim.loss_weighting import Weighting
from jaxrec.protocols import impressions

EXPERIMENT = "loss_weighting"
Row = Literal[
    "static",
    "scheduled",
    "random",
    "uncertainty",
    "dwa",
    "gradnorm",
    "pcgrad",
    "mgda",
    "mgda-loss-norm",
    "mgda-ub",
    "pe-ltr",
]
ROWS: tuple[Row, ...] = (
    "static",
    "scheduled",
    "random",
    "uncertainty",
    "dwa",
    "gradnorm",
    "pcgrad",
    "mgda",
    "mgda-loss-norm",
    "mgda-ub",
    "pe-ltr",
)


@dataclasses.dataclass(frozen=True)
class Config(paper.Config):
    """Trains and tests the same model with each method, one after the other."""

    rows: tuple[Row, ...] = ROWS  # type: ignore[assignment]  # methods
    rate: float = 0.8  # scheduled: by which the second task's weight shrinks each epoch
    alpha: float = 1.5  # gradnorm: how strongly slow tasks are helped
    bound: float = 0.3  # pe-ltr: least weight of each task
    workdir: str = "runs/loss_weighting"  # folder of checkpoints and logs; a run found there is continued


def method(row: Row, tasks: tuple[str, ...], config: Config, steps_per_epoch: int) -> Weighting:
    """The weighting of a row."""
    shared = ("embedding", "model/bottom")
    match row:
        case "static":
            return weighting.static()
        case "scheduled":
            rates = {task: 1.0 if i == 0 else config.rate for i, task in enumerate(tasks)}
            return weighting.scheduled(dict.fromkeys(tasks, 1.0), rates, steps_per_epoch=steps_per_epoch)
        case "random":
            return weighting.random_weights()
        case "uncertainty":
            return weighting.uncertainty(classification=tasks)
        case "dwa":
            return weighting.dwa(tasks, steps_per_epoch=steps_per_epoch)
        case "gradnorm":
            return balancing.gradnorm(tasks, ("model/bottom",), alpha=config.alpha)
        case "pcgrad":
            return balancing.pcgrad(shared)
        case "mgda":
            return balancing.mgda(shared)
        case "mgda-loss-norm":
            return balancing.mgda(shared, normalisation=balancing.by_loss_and_norm)
        case "mgda-ub":
            return balancing.mgda_ub(shared)
        case "pe-ltr":
            return balancing.pe_ltr(shared, dict.fromkeys(tasks, config.bound))


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    split = paper.load(config)
    data = impressions.resident(split)
    tasks = tuple(task for task in data.tasks if task not in data.spaces)
    targets = impressions.targets(data, {task: i for i, task in enumerate(tasks)})
    model = Featured(
        impressions.features(split.impressions, config.dim), paper.body("shared-bottom", len(tasks))
    )
    task = impressions.multitask(model, targets)
    batch_size = 64 if config.tiny else config.batch_size
    weightings = {row: method(row, tasks, config, -(-data.num_rows // batch_size)) for row in config.rows}
    for row, chosen in weightings.items():
        training = impressions.Run(
            seeds=config.seeds,
            epochs=2 if config.tiny else config.epochs,
            batch_size=batch_size,
            learning_rate=config.learning_rate,
            workdir=Path(config.workdir) / data.name / row,
            description={"row": row, **described(config)},
            patience=config.patience,
            num_devices=config.num_devices,
            save_every=config.save_every,
            accept_changed_code=config.accept_changed_code,
        )
        fitted = impressions.train(data, task, targets, "auc", training, weighting=chosen)
        found = impressions.test(data, task, targets, fitted.variables, config.num_devices)
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=data.name,
            model=f"shared-bottom+{row}",
            config={**described(config), "parameters": impressions.num_parameters(task, data)},
            protocol=impressions.protocol_of(data, "auc"),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
