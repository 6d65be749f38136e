"""View, cart, buy: entire-space models of a funnel on Retailrocket's logs.

Every impression has three labels, each of which implies the one before. Each task is judged over all of them
(area under the curve, so "buy" is the entire-space conversion), and "buy" also among those that were put in
a cart, `auc/buy_after_cart`. Negatives of "view" are drawn at random, see `jaxrec.data.sources.retailrocket`:
over all impressions the later tasks are partly the same question. The parameters of a row of the table are
those of the epoch of best validation AUC, the mean over the tasks that the row's model has.

    single-task    a model a task
    shared-bottom, mmoe    three heads that know nothing of the order
    esmm           view, then buy as a product (Ma et al., SIGIR 2018); it has no cart
    esm2           view, cart as the action, buy (Wen et al., SIGIR 2020)
    escm2-ips, escm2-dr    view, and buy as a product, with shared experts, and 0.1 × the risk of buying after
                   a view, by inverse propensities or doubly robust (Wang et al., SIGIR 2022);
                   with --counterfactual 0 what its experts are worth without the risk
    aitm           a chain with the calibrator at 0.6 (Xi et al., KDD 2021)
    nmtr           a cascade of logits over user and item ids alone (Gao et al., ICDE 2019)
    dbmtl          a chain of relation layers (Wang et al., 2019)

No paper reports this split; nothing published stands beside.

Run:     python -m experiments.multitask.funnel
Also:    --rows aitm --calibrator 0 (without the calibrator)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import losses
from jaxrec.config import check_run
from jaxrec.data.sources import retailrocket
from jaxrec.data.synthetic import multitask as synthetic_multitask
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.nn.layers.dropout import across_devices, counter_bits
from jaxrec.nn.layers.features import Featured, FeatureEmbedding
from jaxrec.nn.multitask.aitm import AITM
from jaxrec.nn.multitask.dbmtl import DBMTL
from jaxrec.nn.multitask.escm2 import ESCM2
from jaxrec.nn.multitask.esm2 import ESM2
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.nmtr import NMTR
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.tasks.multitask import Target
from jaxrec.train import parallel
from jaxrec.types import Array, Batch, Outputs, Task

EXPERIMENT = "funnel"
Row = Literal[
    "single-task", "shared-bottom", "mmoe", "esmm", "esm2", "escm2-ips", "escm2-dr", "aitm", "nmtr", "dbmtl"
]
ROWS: tuple[Row, ...] = (
    "single-task",
    "shared-bottom",
    "mmoe",
    "esmm",
    "esm2",
    "escm2-ips",
    "escm2-dr",
    "aitm",
    "nmtr",
    "dbmtl",
)
TASKS = ("view", "cart", "buy")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = False  # a synthetic table and two epochs, in seconds: to see that all works
    epochs: int = 10  # at most; the best one counts
    patience: int = 3  # epochs without a better validation mean AUC
    batch_size: int = 1024  # rows a step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 16  # width of the embedding of each column
    dropout: float = 0.2  # in towers
    counterfactual: float = 0.1  # weight of ESCM²'s risk
    calibrator: float = 0.6  # weight of AITM's penalty on probabilities that rise along the funnel
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/funnel"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "epochs", "patience", "batch_size", "dim", "save_every")


def load(config: Config) -> ImpressionSplit:
    """Rows with the labels view, cart and buy."""
    if not config.tiny:
        return retailrocket.load_impressions()
    split = synthetic_multitask.funnel(600, num_users=10, num_items=8, conversion_rate=0.6).split
    table = split.impressions
    view, buy = table.labels["ctr"], table.labels["ctcvr"]
    chance = np.random.default_rng(0).random(len(view)) < 0.5
    labels = {"view": view, "cart": np.maximum(view * chance, buy), "buy": buy}
    table = dataclasses.replace(table, labels=labels, spaces={})
    return table.split(split.train, split.validation, split.test, rule=split.rule)


class Pairs(nn.Module):
    """The vectors of user and item alone, [B, 2, D], for a model of their interaction."""

    embedding: FeatureEmbedding
    model: nn.Module

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> Array:
        return self.model(self.embedding.stacked(batch), train=train)


def model_of(row: Row, features: FeatureEmbedding, config: Config, tasks: Sequence[str]) -> nn.Module:
    """The model of a row with its features."""
    wide, narrow = (128, 64), (64, 32)
    bits = across_devices(counter_bits, parallel.axis_name(config.num_devices))
    drop: Any = {"dropout": config.dropout, "bits": bits}
    match row:
        case "single-task" | "shared-bottom":
            return Featured(features, SharedBottom(len(tasks), bottom_dims=wide, tower_dims=(32,), **drop))
        case "mmoe":
            return Featured(
                features,
                MMoE(len(tasks), num_experts=4, expert_dims=narrow, tower_dims=(32,), **drop),
            )
        case "esmm":
            return Featured(features, ESMM(tower_dims=narrow, **drop))
        case "esm2":
            return Featured(features, ESM2(tower_dims=narrow, **drop))
        case "escm2-ips" | "escm2-dr":
            experts: Any = {"num_experts": 4, "expert_dims": narrow, "tower_dims": (32,)}
            return Featured(features, ESCM2(row == "escm2-dr", **experts, **drop))
        case "aitm":
            return Featured(features, AITM(len(tasks), tower_dims=narrow, **drop))
        case "nmtr":
            ids = tuple(f for f in features.fields if f.name in ("user_id", "item_id"))
            return Pairs(FeatureEmbedding(ids), NMTR(len(tasks), mlp_dims=narrow, **drop))
        case "dbmtl":
            chain = tuple((t - 1,) if t else () for t in range(len(tasks)))
            return Featured(
                features,
                DBMTL(
                    chain,
                    bottom_dims=wide,
                    tower_dims=(32,),
                    relation_dims=(32,),
                    **drop,
                ),
            )


def outputs_of(row: Row, tasks: Sequence[str]) -> dict[str, int | str]:
    """Which output of a row's model is the probability of a task over all rows."""
    if row in ("esmm", "escm2-ips", "escm2-dr"):
        return {"view": "ctr", "buy": "ctcvr"}
    if row == "esm2":
        return {"view": "ctr", "cart": "ctavr", "buy": "ctcvr"}
    return {task: i for i, task in enumerate(tasks)}


def name_of(row: Row, config: Config) -> str:
    """The name of a row, with what it is trained without."""
    if row == "aitm" and not config.calibrator:
        return "aitm+no-calibrator"
    if row.startswith("escm2") and not config.counterfactual:
        return f"{row}+no-risk"
    return row


Term = Callable[[Outputs, Batch, str | None], Array]


def terms_of(row: Row, config: Config) -> dict[str, Term]:
    """Losses of a row beside those of its tasks."""

    def calibrator(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        return losses.order_violation(outputs, where=batch["mask"], axis_name=axis_name)

    def counterfactual(outputs: Outputs, batch: Batch, axis_name: str | None) -> Array:
        """What telling buyers among viewers would cost over all rows, of which only those viewed are seen."""
        seen, propensity = batch["label/view"] > 0, losses.clipped_propensity(outputs["ctr"])
        bought = jnp.where(seen, batch["label/buy"], 0.0)
        errors = losses.sigmoid_cross_entropy(outputs["cvr"], bought)
        shared: Any = {"where": batch["mask"], "axis_name": axis_name}
        if row == "escm2-ips":
            return losses.inverse_propensity_risk(errors, seen, propensity, **shared)
        found = (errors, outputs["imputed_error"], seen, propensity)
        return losses.doubly_robust_risk(*found, **shared) + losses.imputation_risk(*found, **shared)

    if row == "aitm" and config.calibrator:
        return {"calibrator": calibrator}
    if row in ("escm2-ips", "escm2-dr") and config.counterfactual:
        return {"counterfactual": counterfactual}
    return {}


def among(target: Target, name: str, space: str) -> Target:
    """The same output judged among some rows only."""
    return target._replace(name=name, space=space)


def train(
    row: Row, split: ImpressionSplit, data: impressions.Data, tasks: Sequence[str], config: Config
) -> tuple[Any, list[dict[str, float]], int]:
    """Trains one model on some tasks; gives the run, test metrics, parameters."""
    name = row if len(tasks) > 1 else f"{row}-{tasks[0]}"
    model = model_of(row, impressions.features(split.impressions, config.dim), config, tasks)
    targets = impressions.targets(data, outputs_of(row, tasks))
    terms = terms_of(row, config)
    weight = config.calibrator if row == "aitm" else config.counterfactual
    weights = {target.name: 1.0 for target in targets} | dict.fromkeys(terms, weight)
    task: Task = impressions.multitask(model, targets, terms=terms)
    run = impressions.Run(
        seeds=config.seeds,
        epochs=2 if config.tiny else config.epochs,
        batch_size=64 if config.tiny else config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / data.name / name,
        description={"row": name, **described(config)},
        patience=config.patience,
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    selection = "auc" if len(targets) > 1 else f"auc/{tasks[0]}"
    fitted = impressions.train(data, task, targets, selection, run, weighting=static(weights))
    evaluated = list(targets)
    if "buy" in [target.name for target in targets]:
        evaluated.append(among(targets[-1], "buy_after_cart", "space/buy_after_cart"))
    found = impressions.test(data, task, evaluated, fitted.variables, config.num_devices)
    kept = [{k: v for k, v in metrics.items() if k.startswith("auc/")} for metrics in found]
    return fitted, kept, impressions.num_parameters(task, data)


def with_stages(data: impressions.Data) -> impressions.Data:
    """Adds to the test rows the label and the space of buying after putting in a cart."""
    test = data.test
    extra = {"label/buy_after_cart": test["label/buy"], "space/buy_after_cart": test["label/cart"] > 0}
    return data._replace(test={**test, **extra})


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    split = load(config)
    data = with_stages(impressions.resident(split))
    for row in config.rows:
        alone: list[Sequence[str]] = [[task] for task in TASKS] if row == "single-task" else [TASKS]
        runs = [train(row, split, data, tasks, config) for tasks in alone]
        found = [
            {k: v for metrics in each for k, v in metrics.items()}
            for each in zip(*(metrics for _, metrics, _ in runs), strict=True)
        ]
        selection = "auc" if len(alone) == 1 else "each task's auc"
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=data.name,
            model=name_of(row, config),
            config={**described(config), "parameters": sum(count for *_, count in runs)},
            protocol=impressions.protocol_of(data, selection, " + ".join(["bce", *terms_of(row, config)])),
            seeds=config.seeds,
            metrics=found,
            fitted=runs[0][0],
            note=f"selected by the mean over {', '.join(outputs_of(row, TASKS))}" if len(alone) == 1 else "",
        )
        best = [fitted.best_epoch for fitted, *_ in runs]
        print(f"{row}: best epochs {best}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
