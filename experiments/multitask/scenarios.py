"""One task in several scenarios: a model that shares all parameters, and models that depend on the scenario.

The task is income over 50,000 dollars on Census-Income, see `experiments.multitask.census`. The values of one
column are the scenarios: by default the tax filing status, six groups of which 0.04 % to 13 % have that
income.

    mlp      the scenario is an ordinary feature; the baseline of the other rows
    star     a network for each scenario, with weights shared ⊙ specific (Sheng et al., CIKM 2021)
    apg      low-rank weights generated from the scenario (Yan et al., NeurIPS 2022)
    poso     hidden units gated by the scenario (Dai et al., 2021)
    epnet    features gated by the scenario, ppnet    hidden units gated by it (Chang et al., KDD 2023)

Baselines without gradient descent are those of `experiments.floors`, one model for all scenarios.

All rows have the same features, including the scenario's column, and the same hidden layers; gates and
generators read vectors of the scenario from a table of their own. A row's parameters are those of the epoch
of best validation AUC over all examples. AUC is over all test examples and over those of each scenario;
`auc/scenarios` is the mean of the latter. No paper reports these scenarios, so there are no published
numbers.

Run:     python -m experiments.multitask.scenarios
Also:    --scenario sex; --rows mlp star --seeds 0
         --data FILE --labels click --categorical page item_id --numeric price --scenario page   (your own
         table with one label)
Expect:  no model exceeds the MLP (AUC of income 0.9300 ± 0.0003) by more than one standard deviation; EPNet
         and PPNet have 0.9302, POSO 0.9299. APG (0.9286) and STAR (0.9266), which has a network for each
         group, are below. Boosted trees are above all of them, with 0.9308 and a log loss of 0.1353 (MLP
         0.1362); logistic regression has 0.9281.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from experiments import common, floors
from experiments.multitask.training import Model, count_parameters, train
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.synthetic.multitask import funnel
from jaxrec.data.tables.features import FIRST_VALUE
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.protocols import impressions
from jaxrec.recipes import scenarios as recipes
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.parallel import axis_name

EXPERIMENT = "scenarios"


class Row(NamedTuple):
    """A row of the table: its model. output: its column of logits; None: it has one logit per example."""

    model: Callable[[recipes.Inputs, recipes.Recipe], nn.Module]
    output: int | None = None


ROWS: Mapping[str, Row] = {
    "mlp": Row(recipes.mlp),
    "star": Row(recipes.star),
    "apg": Row(recipes.apg, output=0),
    "poso": Row(recipes.poso),
    "epnet": Row(recipes.epnet),
    "ppnet": Row(recipes.ppnet, output=0),
}

TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64}
TINY_SCENARIO = "item_id"  # of the synthetic data of --tiny


@dataclasses.dataclass(frozen=True)
class Config(common.TableOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    scenario: str = "tax_filer_stat"  # column of categories whose values are the scenarios
    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # rows of the table
    workdir: str = "runs/scenarios"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        common.check(self, "epochs", "patience", "batch_size", "dim", "save_every")


class Setting(NamedTuple):
    """Data whose test batches also have a label and a sample space for each scenario."""

    columns: impressions.Data
    split: ImpressionSplit
    task: str
    column: str
    scenarios: tuple[str, ...]


def load(config: Config) -> Setting:
    """The labelled examples, and their scenarios by name; synthetic for --tiny."""
    if config.data:
        if len(config.labels) > 1:
            raise ValueError(f"labels={config.labels}: this experiment has one task; name one label")
        split = common.own_table(config)
    elif config.tiny:
        split = funnel(600, num_users=10, num_items=2).split
    else:
        split = data.load("census/income", kind="impressions")
    return by_scenario(split, config.scenario)


def by_scenario(split: ImpressionSplit, column: str) -> Setting:
    """Adds to the test batches the label of the first task for each value of a column.

    Raises ValueError for a column without categories, values with equal short names, examples without a known
    value, and so without a scenario, and a scenario with a single class in the test examples.
    """
    table = split.impressions
    raw = {field.name: field.raw for field in table.fields if field.kind == "categorical"}
    if column not in raw:
        raise ValueError(
            f"{table.name}: scenario={column!r}: is not a column of categories; take one of {', '.join(raw)}"
        )
    strange = int((table.columns[column] < FIRST_VALUE).sum())
    if strange:
        raise ValueError(
            f"{table.name}: {column}: {strange:,} examples have a value that no training example has, and so "
            "no scenario; take another column"
        )
    columns = impressions.resident(split)
    names = scenario_names(raw[column], taken=("scenarios", *table.tasks))
    task, test = columns.tasks[0], dict(columns.test)
    for i, name in enumerate(names):
        test[f"label/{name}"] = test[f"label/{task}"]
        test[f"space/{name}"] = test["mask"] & (test[column] == FIRST_VALUE + i)
        if len(np.unique(test[f"label/{task}"][test[f"space/{name}"]])) < 2:
            raise ValueError(
                f"{table.name}: {column}: test examples of the scenario {name} do not have both values of "
                f"{task}, so there is no AUC of it; take another column or more examples"
            )
    return Setting(columns._replace(test=test), split, task, column, names)


def scenario_names(values: Any, taken: tuple[str, ...]) -> tuple[str, ...]:
    """Short names of a column's values: letters and digits. Raises ValueError if two are equal."""
    names = tuple(re.sub(r"\W+", "-", str(value).lower()).strip("-") for value in values)
    for name, value in zip(names, values, strict=True):
        if not name or names.count(name) > 1 or name in taken:
            raise ValueError(
                f"scenario {str(value)!r}: its short name {name!r} is empty or also that of another scenario "
                "or label; give the value another name"
            )
    return names


def build(row: str, setting: Setting, config: Config) -> Model:
    """The model of a row, which is trained on all examples and also tested on each scenario."""
    features = impressions.features(setting.split.impressions, config.dim)
    axis = axis_name(config.num_devices)
    inputs = recipes.Inputs(features, setting.column, len(setting.scenarios), axis_name=axis)
    target, *tested = (
        Target(name, ROWS[row].output, f"label/{name}") for name in (setting.task, *setting.scenarios)
    )
    task = multitask(ROWS[row].model(inputs, config), [target])
    return Model(row, task, [target], selection=f"auc/{setting.task}", tested=tested)


def summary(metrics: Mapping[str, float], setting: Setting) -> dict[str, float]:
    """All metrics over all examples, the AUC of each scenario, and the mean of these."""
    each = {f"auc/{scenario}": metrics[f"auc/{scenario}"] for scenario in setting.scenarios}
    whole = {name: value for name, value in metrics.items() if name.endswith(f"/{setting.task}")}
    return {**whole, "auc/scenarios": float(np.mean(list(each.values()))), **each}


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    synthetic = config.tiny and not config.data
    config = common.shrink_if_tiny(config, **TINY, **({"scenario": TINY_SCENARIO} if synthetic else {}))
    setting = load(config)
    columns = setting.columns
    models = {row: build(row, setting, config) for row in config.rows if row in ROWS}
    sizes = count_parameters({row: [model] for row, model in models.items()}, columns)
    tested = [Target(name, None, f"label/{setting.task}") for name in (setting.task, *setting.scenarios)]
    fields = impressions.features(setting.split.impressions, config.dim).fields
    dataset = f"{columns.name}-by-{setting.column}"
    floors.measure(
        config, EXPERIMENT, columns, fields, tested, dataset=dataset,
        summarise=functools.partial(summary, setting=setting),
    )  # fmt: skip
    for row, model in models.items():
        kept = common.training_options(config, columns.name, setting.column, row, row=row)
        fitted, test = train(model, columns, config, **kept)
        found = test._replace(metrics=[summary(seed, setting) for seed in test.metrics])
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=row,
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
