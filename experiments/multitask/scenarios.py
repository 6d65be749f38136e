"""One question in several scenarios: models that share across them and models that tell them apart.

Income over 50,000 dollars on Census-Income, see `experiments.multitask.census`, where the values of one
column are the scenarios: by default how a person files taxes, six groups of which 0.04 % to 13 % earn that
much.

    mlp      the scenario is a feature like any other: what the rest has to beat
    star     a network a scenario, each weight shared ⊙ its own (Sheng et al., CIKM 2021)
    apg      weights made from the scenario, of low rank (Yan et al., NeurIPS 2022)
    poso     hidden units gated by the scenario (Dai et al., 2021)
    epnet    features gated by the scenario, ppnet    hidden units gated by it (Chang et al., KDD 2023)

All rows have the same features, the scenario's column among them, and the same hidden layers; the gates and
generators read vectors of the scenario from a table of their own. A row's parameters are those of the epoch
of best validation AUC over all rows. Areas under curves are over all test rows and over those of each
scenario; `auc/scenarios` is the mean of the latter. No paper reports these
scenarios, so nothing published stands beside.

Run:     python -m experiments.multitask.scenarios
Also:    --scenario sex; --rows mlp star --seeds 0
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import numpy as np

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.sources import census
from jaxrec.data.synthetic import multitask as synthetic_multitask
from jaxrec.data.tables.features import FIRST_VALUE
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.features import Categorical, Conditioned, Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.apg import APG
from jaxrec.nn.ranking.epnet import EPNet
from jaxrec.nn.ranking.poso import PersonalMLP
from jaxrec.nn.ranking.ppnet import PPNet
from jaxrec.nn.ranking.star import STAR, Domain
from jaxrec.protocols import impressions
from jaxrec.tasks.multitask import Target
from jaxrec.train.parallel import axis_name
from jaxrec.types import Array, Task

EXPERIMENT = "scenarios"
Row = Literal["mlp", "star", "apg", "poso", "epnet", "ppnet"]
ROWS: tuple[Row, ...] = get_args(Row)
DIMS = (64, 32)  # hidden layers of every row


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    scenario: Literal["tax_filer_stat", "sex"] = "tax_filer_stat"  # column whose values are the scenarios
    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # a synthetic table and two epochs, in seconds: to see that all works
    epochs: int = 10  # at most; the best one counts
    patience: int = 2  # epochs without a better validation AUC
    batch_size: int = 1024  # rows a step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 8  # width of each embedding
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/scenarios"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "epochs", "patience", "batch_size", "dim", "save_every")


class Setting(NamedTuple):
    """Data whose test batches have a label and a space for each scenario, beside those of the task."""

    data: impressions.Data
    split: ImpressionSplit
    task: str
    column: str
    scenarios: tuple[str, ...]


def load(config: Config) -> Setting:
    """The rows, and their scenarios by name."""
    if config.tiny:
        split, name = synthetic_multitask.funnel(600, num_users=10, num_items=2).split, "item_id"
    else:
        split, name = census.load_impressions("income"), config.scenario
    return by_scenario(split, name, config.num_devices)


def by_scenario(split: ImpressionSplit, column: str, num_devices: int = 1) -> Setting:
    """Adds to the test batches, for each value of a column, the label of the first task where it holds.

    Raises ValueError where rows have no known value, and so no scenario.
    """
    table = split.impressions
    strange = int((table.columns[column] < FIRST_VALUE).sum())
    if strange:
        raise ValueError(
            f"{table.name}: {column}: {strange:,} rows have no value that training rows know, and so no "
            "scenario; take another column"
        )
    raw = next(field.raw for field in table.fields if field.name == column)
    scenarios = tuple(re.sub(r"\W+", "-", str(value).lower()).strip("-") for value in raw)
    data = impressions.resident(split)
    task, test = data.tasks[0], dict(data.test)
    for i, scenario in enumerate(scenarios):
        test[f"label/{scenario}"] = test[f"label/{task}"]
        test[f"space/{scenario}"] = test[column] == FIRST_VALUE + i
    return Setting(data._replace(test=test), split, task, column, scenarios)


class PersonalTower(nn.Module):
    """POSO's gated MLP, and a linear layer to one logit."""

    @nn.compact
    def __call__(self, x: Array, code: Array, *, train: bool = False) -> Array:
        """Maps features [B, F] and a code [B, P] to a logit [B]."""
        hidden = PersonalMLP(DIMS, name="mlp")(x, code, train=train)
        return nn.Dense(1, name="logit")(hidden)[..., 0]


def model(row: Row, setting: Setting, config: Config) -> nn.Module:
    """The model of a row behind its features: columns → a logit [B], or [B, 1]."""
    embedding = impressions.features(setting.split.impressions, config.dim)
    vocab_size = FIRST_VALUE + len(setting.scenarios)
    own = FeatureEmbedding((Categorical(setting.column, vocab_size, config.dim),))
    match row:
        case "mlp":
            return Featured(embedding, Tower(DIMS))
        case "star":
            domain = Domain(setting.column, first=FIRST_VALUE)
            star = STAR(len(setting.scenarios), DIMS, axis_name=axis_name(config.num_devices))
            return Conditioned(embedding, domain, star)
        case "apg":
            return Conditioned(embedding, own, APG(DIMS, rank=16))
        case "poso":
            return Conditioned(embedding, own, PersonalTower())
        case "epnet":
            return Conditioned(embedding, own, EPNet(DIMS))
        case "ppnet":
            return Conditioned(embedding, own, PPNet(1, DIMS))


def task_of(row: Row, setting: Setting, config: Config) -> tuple[Task, list[Target]]:
    """The task of a row and its targets: that of all rows, which trains, and then one a scenario."""
    output = 0 if row in ("apg", "ppnet") else None
    targets = [Target(name, output, f"label/{name}") for name in (setting.task, *setting.scenarios)]
    return impressions.multitask(model(row, setting, config), targets[:1]), targets


def train(row: Row, setting: Setting, config: Config) -> tuple[Any, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    task, targets = task_of(row, setting, config)
    run = impressions.Run(
        seeds=config.seeds,
        epochs=2 if config.tiny else config.epochs,
        batch_size=64 if config.tiny else config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / setting.data.name / setting.column / row,
        description={"row": row, **described(config)},
        patience=config.patience,
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    fitted = impressions.train(setting.data, task, targets[:1], f"auc/{setting.task}", run)
    found = impressions.test(
        setting.data, task, targets, fitted.variables, config.num_devices, calibration=True
    )
    return fitted, [summary(metrics, setting) for metrics in found]


def summary(metrics: dict[str, float], setting: Setting) -> dict[str, float]:
    """All metrics over all rows, the areas of the scenarios, and the mean of these."""
    areas = {f"auc/{scenario}": metrics[f"auc/{scenario}"] for scenario in setting.scenarios}
    whole = {name: value for name, value in metrics.items() if name.endswith(f"/{setting.task}")}
    return {**whole, "auc/scenarios": float(np.mean(list(areas.values()))), **areas}


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    setting = load(config)
    tasks = {row: task_of(row, setting, config)[0] for row in config.rows}
    sizes = {
        row: impressions.num_parameters(task, setting.data) for row, task in tasks.items()
    }  # or its error
    for row in config.rows:
        fitted, found = train(row, setting, config)
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=f"{setting.data.name}-by-{setting.column}",
            model=row,
            config={**described(config), "parameters": sizes[row]},
            protocol=impressions.protocol_of(setting.data, f"auc/{setting.task}"),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
