"""One multi-task model on Census-Income with each method that weights losses or balances gradients.

Shared-Bottom with the sizes of `experiments.multitask.census`, trained with the sum of its losses and with
each method of `jaxrec.optim`; no paper compares these on this data, so there are no published numbers.
Methods that balance gradients use those of all parameters that both tasks share, embeddings and bottom;
GradNorm uses those of the bottom alone, MGDA-UB those of its output. Baselines without gradient descent are
those of `experiments.floors`. The parameters are those of the epoch of best validation AUC, the mean over
tasks.

Run:     python -m experiments.multitask.loss_weighting --group income
Also:    --rows pcgrad mgda --seeds 0
         --data FILE --labels click buy --categorical user_id item_id --numeric price   (your own table with
         two labels or more)
Expect:  the AUC of income is 0.9297 to 0.9302 with all eleven methods (five seeds). With two tasks
         that hardly compete, none of them is worth its cost; logistic regression has 0.9281.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from experiments import common, floors
from experiments.multitask import census
from experiments.multitask.training import Model, count_parameters, train
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.nn.layers.features import Featured
from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim import loss_weighting as weighting
from jaxrec.optim.loss_weighting import Weighting
from jaxrec.protocols import impressions
from jaxrec.recipes import multitask as recipes
from jaxrec.recipes.multitask import BOTTOM, SHARED
from jaxrec.tasks.multitask import multitask

EXPERIMENT = "loss_weighting"
Tasks = tuple[str, ...]


class Row(NamedTuple):
    """A row of the table: its weighting, from the tasks, the settings and the steps per epoch."""

    weighting: Callable[[Tasks, recipes.Balance, int], Weighting]


def scheduled(tasks: Tasks, settings: recipes.Balance, steps_per_epoch: int) -> Weighting:
    """The first task has weight 1; the weights of the others decrease with each epoch."""
    rates = {task: 1.0 if i == 0 else settings.rate for i, task in enumerate(tasks)}
    return weighting.scheduled(dict.fromkeys(tasks, 1.0), rates, steps_per_epoch=steps_per_epoch)


ROWS: Mapping[str, Row] = {
    "static": Row(lambda tasks, settings, steps: weighting.static()),
    "scheduled": Row(scheduled),
    "random": Row(lambda tasks, settings, steps: weighting.random_weights()),
    "uncertainty": Row(lambda tasks, settings, steps: weighting.uncertainty(classification=tasks)),
    "dwa": Row(lambda tasks, settings, steps: weighting.dwa(tasks, steps_per_epoch=steps)),
    "gradnorm": Row(lambda tasks, settings, steps: balancing.gradnorm(tasks, BOTTOM, alpha=settings.alpha)),
    "pcgrad": Row(lambda tasks, settings, steps: balancing.pcgrad(SHARED)),
    "mgda": Row(lambda tasks, settings, steps: balancing.mgda(SHARED)),
    "mgda-loss-norm": Row(
        lambda tasks, settings, steps: balancing.mgda(SHARED, normalisation=balancing.by_loss_and_norm)
    ),
    "mgda-ub": Row(lambda tasks, settings, steps: balancing.mgda_ub(SHARED)),
    "pe-ltr": Row(
        lambda tasks, settings, steps: balancing.pe_ltr(SHARED, dict.fromkeys(tasks, settings.bound))
    ),
}


@dataclasses.dataclass(frozen=True)
class Config(common.TableOptions, recipes.Balance, recipes.Bottom, recipes.Training):
    """Trains and tests the same model with each method, one after the other."""

    group: Literal["income", "education"] = "income"  # pair of tasks of Census-Income
    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # methods, and baselines
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    workdir: str = "runs/loss_weighting"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        common.check(self, "epochs", "patience", "batch_size", "dim", "save_every")


def build(config: Config, columns: impressions.Data, features: Any) -> dict[str, Model]:
    """The same model for each row, with its weighting."""
    tasks = tuple(task for task in columns.tasks if task not in columns.spaces)
    if len(tasks) < 2:
        raise ValueError(
            f"{columns.name}: one label ({tasks[0]}): there is nothing to weight; name two or more"
        )
    targets = impressions.targets(columns, {task: i for i, task in enumerate(tasks)})
    task = multitask(Featured(features, recipes.shared_bottom(len(tasks), config)), targets)
    steps = -(-columns.num_examples // config.batch_size)
    return {
        row: Model(
            name=row,
            task=task,
            targets=targets,
            selection="auc",
            weighting=ROWS[row].weighting(tasks, config, steps),
        )
        for row in config.rows
        if row in ROWS
    }


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **census.TINY)
    split = census.load(config, config.group)
    columns = impressions.resident(split)
    features = impressions.features(split.impressions, config.dim)
    models = build(config, columns, features)
    sizes = count_parameters({row: [model] for row, model in models.items()}, columns)
    tasks = {task: None for task in columns.tasks if task not in columns.spaces}
    floors.measure(config, EXPERIMENT, columns, features.fields, impressions.targets(columns, tasks))
    for row, model in models.items():
        fitted, found = train(
            model, columns, config, **common.training_options(config, columns.name, row, row=row)
        )
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=columns.name,
            model=f"shared-bottom+{row}",
            config={**common.describe_settings(config), "parameters": sizes[row]},
            protocol=impressions.protocol(columns, model.selection, model.loss),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {common.means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
