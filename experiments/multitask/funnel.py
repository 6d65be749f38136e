"""View, cart, buy: entire-space models of a funnel on Retailrocket's logs.

Every impression has three labels, each of which implies the one before. The metric of each task is the AUC
over all impressions (so "buy" is the entire-space conversion), for "buy" also over those put in a cart,
`auc/buy_after_cart`. Negatives of "view" are drawn at random, see `jaxrec.data.sources.retailrocket`, so that
each task also has to separate these from real views. A row's parameters are those of the epoch of best
validation AUC, the mean over the tasks that its model has; baselines are `jaxrec.baselines.click_tables`.

    single-task    a model for each task
    shared-bottom, mmoe    three heads, which do not use the order of the tasks
    esmm           view, then buy as a product (Ma et al., SIGIR 2018); it has no cart
    esm2           view, cart as the action, buy (Wen et al., SIGIR 2020)
    escm2-ips, escm2-dr    view, and buy as a product, with shared experts, and 0.1 × the risk of buying after
                   a view, by inverse propensities or doubly robust (Wang et al., SIGIR 2022);
                   with --counterfactual 0 the same model without the risk
    aitm           a chain with the calibrator at 0.6 (Xi et al., KDD 2021)
    nmtr           a cascade of logits over user and item ids alone (Gao et al., ICDE 2019)
    dbmtl          a chain of relation layers (Wang et al., 2019)

No paper reports this split, so there are no published numbers.

Run:     python -m experiments.multitask.funnel
Also:    --rows aitm --calibrator 0   (without the calibrator)
         --data FILE --labels click cart order --categorical user_id item_id --numeric price   (your own
         table with three labels in the order of its funnel; nmtr reads the columns --user and --item)
Expect:  ESCM² and DBMTL have the highest AUC of "buy" (0.617 to 0.623; shared-bottom 0.598 ± 0.009), and
         the model of `escm2-ips` without its risk (`escm2-ips+no-risk`) is higher still (0.630): what helps
         are the experts that its tasks share. ESMM (0.599) and ESM² (0.604) are level with shared-bottom,
         logistic regression has 0.574. No model learns which items of a cart are bought (0.49 to 0.51). More
         than half of the test examples are of users without a training example.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from experiments import common, floors
from experiments.multitask.training import Model, count_parameters, groups, join_tests, train
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.synthetic import multitask as synthetic
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.dropout import Bits, across_devices, counter_bits
from jaxrec.nn.layers.features import Featured, FeatureEmbedding
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.recipes import funnel as recipes
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train import parallel

EXPERIMENT = "funnel"


class Row(NamedTuple):
    """A row of the table.

    body: the model of a number of tasks, behind the features. outputs: the model's output for each stage of
    the funnel, None if there is none; (): column t for the t-th task. terms: losses in addition to those of
    the tasks. alone: whether each task has its own model. pairs: whether it reads only user and item.
    """

    body: Callable[[int, recipes.Recipe, Bits], nn.Module]
    outputs: tuple[str | None, ...] = ()
    terms: Callable[[Sequence[str], recipes.Recipe], dict[str, recipes.ExtraLoss]] = recipes.no_terms
    alone: bool = False
    pairs: bool = False


ENDS = ("ctr", None, "ctcvr")  # of models with the first and the last stage of the funnel
ROWS: Mapping[str, Row] = {
    "single-task": Row(recipes.shared_bottom, alone=True),
    "shared-bottom": Row(recipes.shared_bottom),
    "mmoe": Row(recipes.mmoe),
    "esmm": Row(recipes.esmm, outputs=ENDS),
    "esm2": Row(recipes.esm2, outputs=("ctr", "ctavr", "ctcvr")),
    "escm2-ips": Row(recipes.escm2_ips, outputs=ENDS, terms=recipes.inverse_propensity_risk),
    "escm2-dr": Row(recipes.escm2_dr, outputs=ENDS, terms=recipes.doubly_robust_risk),
    "aitm": Row(recipes.aitm, terms=recipes.calibrator),
    "nmtr": Row(recipes.nmtr, pairs=True),
    "dbmtl": Row(recipes.dbmtl),
}
TASKS = ("view", "cart", "buy")

TINY: Mapping[str, Any] = {"epochs": 2, "batch_size": 64}


@dataclasses.dataclass(frozen=True)
class Config(common.TableOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = (*floors.CLICKS, *ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    user: str = "user_id"  # column of categories that nmtr reads as users
    item: str = "item_id"  # and as items
    workdir: str = "runs/funnel"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*floors.CLICKS, *ROWS))
        common.check(self, "epochs", "patience", "batch_size", "dim", "num_experts", "save_every")
        for name, weight in (("counterfactual", self.counterfactual), ("calibrator", self.calibrator)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight}: must be at least 0 and finite; 0 trains without it")


def load(config: Config) -> ImpressionSplit:
    """Examples with three labels, each of which implies the previous one; synthetic for --tiny."""
    if config.data:
        split = common.own_table(config)
        recipes.check_funnel(split.impressions)
        return split
    if not config.tiny:
        return data.load("retailrocket/funnel", kind="impressions")
    split = synthetic.funnel(600, num_users=10, num_items=8, conversion_rate=0.6).split
    table = split.impressions
    view, buy = table.labels["ctr"], table.labels["ctcvr"]
    chance = np.random.default_rng(0).random(len(view)) < 0.5
    labels = {"view": view, "cart": np.maximum(view * chance, buy), "buy": buy}
    table = dataclasses.replace(table, labels=labels, spaces={})
    return table.split(split.train, split.validation, split.test, rule=split.rule)


def last_stage(tasks: Sequence[str]) -> str:
    """The name of the last task, restricted to examples with a positive previous label."""
    return f"{tasks[-1]}_after_{tasks[-2]}"


def add_last_stage(columns: impressions.Data) -> impressions.Data:
    """Adds the last label, restricted to examples with a positive previous label, to the test batches.

    Raises ValueError if these examples have a single class, so that there is no AUC.
    """
    (_, before, last), test = columns.tasks, columns.test
    label, space = test[f"label/{last}"], test["mask"] & (test[f"label/{before}"] > 0)
    if len(np.unique(label[space])) < 2:
        raise ValueError(
            f"{columns.name}: the {int(space.sum()):,} test examples with {before} = 1 do not have both "
            f"values of {last}, so they have no AUC; take more records"
        )
    name = last_stage(columns.tasks)
    return columns._replace(test={**test, f"label/{name}": label, f"space/{name}": space})


def of_last_stage(targets: Sequence[Target], columns: impressions.Data) -> list[Target]:
    """The last task's target, if it is among these, over the examples of `add_last_stage`."""
    name = last_stage(columns.tasks)
    return [t._replace(name=name, space=f"space/{name}") for t in targets if t.name == columns.tasks[-1]]


def outputs(row: str, tasks: Sequence[str]) -> dict[str, int | str]:
    """Which output of a row's model is the probability of a task over all examples."""
    named: Sequence[int | str | None] = ROWS[row].outputs or range(len(tasks))
    return {task: output for task, output in zip(tasks, named, strict=True) if output is not None}


def terms(row: str, tasks: Sequence[str], config: Config) -> dict[str, recipes.ExtraLoss]:
    """The losses of a row in addition to those of its tasks."""
    return {name: term for name, term in ROWS[row].terms(tasks, config).items() if term.weight}


def model_name(row: str, tasks: Sequence[str], config: Config) -> str:
    """The row's name, with a suffix for each loss that it is trained without."""
    without = (term.without for term in ROWS[row].terms(tasks, config).values() if not term.weight)
    return "+".join([row, *without])


def make_module(row: str, tasks: Sequence[str], features: FeatureEmbedding, config: Config) -> nn.Module:
    """The model of a row behind its features."""
    bits = across_devices(counter_bits, parallel.axis_name(config.num_devices))
    body = ROWS[row].body(len(tasks), config, bits)
    if ROWS[row].pairs:
        return recipes.pairs(features, user=config.user, item=config.item, model=body)
    return Featured(features, body)


def build(
    row: str, tasks: Sequence[str], split: ImpressionSplit, columns: impressions.Data, config: Config
) -> Model:
    """A row's model of some tasks, with its losses and their weights."""
    features = impressions.features(split.impressions, config.dim)
    targets = impressions.targets(columns, outputs(row, tasks))
    extra = terms(row, tasks, config)
    weights = {target.name: 1.0 for target in targets} | {name: t.weight for name, t in extra.items()}
    return Model(
        name=f"{row}-{tasks[0]}" if ROWS[row].alone else row,
        task=multitask(
            make_module(row, tasks, features, config),
            targets,
            terms={name: term.loss for name, term in extra.items()},
        ),
        targets=targets,
        selection="auc" if len(targets) > 1 else f"auc/{tasks[0]}",
        tested=of_last_stage(targets, columns),
        terms=tuple(extra),
        weighting=static(weights),
    )


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    split = load(config)
    columns = add_last_stage(impressions.resident(split))
    tasks = columns.tasks
    models = {
        row: [build(row, group, split, columns, config) for group in groups(tasks, alone=ROWS[row].alone)]
        for row in (row for row in config.rows if row in ROWS)
    }
    sizes = count_parameters(models, columns)
    fields, tested = impressions.features(split.impressions, config.dim).fields, impressions.targets(columns)
    tested += of_last_stage(tested, columns)
    floors.measure(config, EXPERIMENT, columns, fields, tested, keep="auc/")
    for row, of_row in models.items():
        runs = [
            train(m, columns, config, **common.training_options(config, columns.name, m.name, row=m.name))
            for m in of_row
        ]
        found = join_tests(runs, keep=lambda name: name.startswith("auc/"))
        alone = ROWS[row].alone
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=columns.name,
            model=model_name(row, tasks, config),
            config={**common.describe_settings(config), "parameters": sizes[row]},
            protocol=impressions.protocol(
                columns, "each task's auc" if alone else of_row[0].selection, of_row[0].loss
            ),
            seeds=config.seeds,
            metrics=found,
            fitted=runs[0].fitted,
            note="" if alone else f"selected by the mean over {', '.join(outputs(row, tasks))}",
        )
        best = [run.fitted.best_epoch for run in runs]
        print(f"{row}: best epochs {best}; test {common.means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
