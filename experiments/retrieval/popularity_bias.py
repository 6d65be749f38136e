"""Popularity bias of retrieval: weights by inverse popularity, and CDAN, on head and tail items.

    random, popularity, matrix-item-knn-selected and so on    `experiments.floors`, without gradient descent;
                            items have no order here, so there is no co-visitation by distance
    two-tower-softmax       a user's vector and an item's behind a layer; a softmax against uniform items
    two-tower-softmax-ips   the same with pairs weighted by inverse popularity (--power)
    cdan-unbiased, cdan-biased, cdan-merged    one model, served by the tower of attributes, by that of
                            attributes and popularity, or by their mean (Chen et al., SIGIR 2022)

The head is the most popular tenth of the items by users of training. `head_recall@20` and the like are of
relevant items of the head alone, `tail_recall@20` of the others, `even_recall@20` of at most --even test
interactions of each item, so that popular items are relevant no more often than others. Lists are also
measured by popularity (`tail_share@20`, `popularity_lift@20`, `gini@20`). A row keeps its epoch of best
validation NDCG@20.

--dataset synthetic (`data.synthetic.exposure`): clicks under known exposure; the test part, of pairs that
were kept out of the log, is free of it. A linear regression predicts each item's log count from its attribute
and from its popularity part: R² of the two are `probe_attribute` and `probe_popularity`.

Departs from the paper: formulas and weights are ours, as the paper's could not be read; there is no ranking
model to distil from; "unexposed" items are all outside the head, as public data state no exposure.

Run:     python -m experiments.retrieval.popularity_bias
Also:    --dataset gowalla; --power 1; --dataset synthetic --dim 16 --negatives 16 --learning-rate 0.003, with
         --no-weighted, or with --head-gradient --alignment 10

Expect:  on the synthetic set (three seeds, by --dim 16 --negatives 16 --learning-rate 0.003) recall@20 is
         .1317 with iALS, .1271 with two-tower-softmax, .1260 with inverse popularity, .1180 to .1216 with
         CDAN; EASE has .1088, popularity .0611 and chance .0508. Weighting moves recall from the head to
         the tail (.356 and .100 without, .244 and .113 with it). CDAN does not take popularity apart: a
         regression finds it as well in the attribute (R² .55) as in the popularity part (.59), also without
         weights (.63 and .62). Where the alignment moves items of the head, too, with a weight of 10, it is
         in neither, and recall is that of chance (.0515). No result of a public data set is stored yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

from experiments import common, floors
from experiments.retrieval import head_and_tail
from experiments.retrieval.head_and_tail import Setting
from jaxrec import config as command_line
from jaxrec import data, losses
from jaxrec.config import check_run
from jaxrec.data.events.held_out import hold_out_validation, split_items
from jaxrec.data.synthetic.exposure import exposed_clicks
from jaxrec.nn.retrieval.cdan import CDAN, STATISTICS, Served
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import retrieval
from jaxrec.tasks import cdan as tasks
from jaxrec.tasks.pairs import uniform
from jaxrec.train.epoch import shuffled
from jaxrec.train.fit import Fitted
from jaxrec.types import Context, Protocol, Task

EXPERIMENT = "popularity_bias"
FLOORS = floors.MATRIX
ROWS = ("two-tower-softmax", "two-tower-softmax-ips", "cdan-unbiased", "cdan-biased", "cdan-merged")
ALL = (*FLOORS, *ROWS)
SERVED: Mapping[str, Served] = {
    "cdan-unbiased": "unbiased", "cdan-biased": "biased", "cdan-merged": "merged",
}  # fmt: skip
SELECTION = "ndcg@20"
TINY: Mapping[str, Any] = {
    "epochs": 2,
    "every": 1,
    "dim": 8,
    "negatives": 8,
    "unexposed": 16,
    "batch_size": 256,
}


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions):
    """Fits, trains and tests the rows of the table."""

    dataset: Literal["synthetic", "ml-1m", "gowalla"] = "ml-1m"  # the data set
    split_seed: int = 0  # of what is held out, and of the synthetic set
    head: float = 0.1  # share of the items that are the head
    even: int = 5  # test interactions of an item in the even test, at most
    dim: int = 64  # width of the vectors and of an item's parts
    negatives: int = 64  # uniform items of each pair
    unexposed: int = 256  # items outside the head of each batch, which the head's are aligned with
    power: float = 0.5  # two-tower-softmax-ips: of the counts that propensities are
    max_weight: float = 100.0  # the largest inverse propensity
    orthogonal: float = 0.1  # CDAN's weights of its losses
    popularity: float = 0.1
    alignment: float = 0.1
    instance: float = 0.1
    head_gradient: bool = False  # whether the alignment moves items of the head, too (rows +head-gradient)
    weighted: bool = True  # whether pairs have inverse propensities in CDAN, too (else rows +unweighted)
    batch_size: int = 1024  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 40  # at most
    every: int = 2  # epochs between evaluations
    patience: int = 3  # evaluations without improvement before a seed stops
    workdir: str = "runs/popularity_bias"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, ALL)
        common.check(
            self, "dim", "negatives", "unexposed", "even", "batch_size", "epochs", "every", "patience",
            "save_every",
        )  # fmt: skip
        if not 0 < self.head < 1:
            raise ValueError(f"head={self.head}: must lie between 0 and 1")


def load(config: Config) -> Setting:
    """A matrix of a configuration, with its head."""
    if config.data:
        return head_and_tail.setting(split_items(common.own_events(config)), config.head, config.even)
    if config.tiny or config.dataset == "synthetic":
        sizes = (60, 30) if config.tiny else (3_000, 400)
        made = exposed_clicks(*sizes, skew=0.5, level=-2.0, taste=3.0, seed=config.split_seed)
        return head_and_tail.setting(made.split, config.head, config.even)
    if config.dataset == "gowalla":
        split = data.load("lightgcn/gowalla", kind="matrix")
        split = hold_out_validation(split, share=0.1, seed=config.split_seed)
    else:
        split = split_items(data.load("ncf/ml-1m", kind="matrix").sequences, seed=config.split_seed)
    return head_and_tail.setting(split, config.head, config.even)


def columns(setting: Setting, config: Config) -> Context:
    """What the tasks read of training: weights, the head, the others, and statistics of popularity."""
    counts = setting.counts.astype(np.float32)
    weight = losses.inverse_popularity(jnp.asarray(counts), power=config.power, maximum=config.max_weight)
    logs = np.log1p(counts)
    standard = (logs - logs[1:].mean()) / max(float(logs[1:].std()), 1e-6)
    others = np.flatnonzero(~setting.head)[1:].astype(np.int32)
    return {
        tasks.WEIGHT: weight,
        tasks.HEAD: setting.head,
        tasks.UNEXPOSED: others,
        STATISTICS: standard[:, None].astype(np.float32),
    }


def model_name(row: str, config: Config) -> str:
    """The row's name, with CDAN's switches where they are not the default."""
    changed = ("+head-gradient" if config.head_gradient else "") + ("" if config.weighted else "+unweighted")
    return row + changed if row in SERVED else row


def task_of(row: str, setting: Setting, config: Config) -> tuple[CDAN, Task]:
    """The model and the task of a row; the rows of CDAN have one task."""
    found = setting.data
    model = CDAN(found.num_users, found.num_items, config.dim, (config.dim,), SERVED.get(row, "unbiased"))
    sampler, trained = uniform(found.num_items), model.clone(serve="merged")
    if row in SERVED:
        names = ("negatives", "unexposed", "head_gradient", "weighted")
        return model, tasks.cdan(trained, sampler=sampler, **{name: getattr(config, name) for name in names})
    weighted = row.endswith("-ips")
    return model, tasks.weighted_pairs(model, sampler=sampler, negatives=config.negatives, weighted=weighted)


def train(
    row: str, setting: Setting, read: Context, protocol: Protocol, config: Config
) -> tuple[CDAN, Fitted]:
    """Trains a row for all seeds; rows of CDAN are selected by how they are served, each a run of its own."""
    model, task = task_of(row, setting, config)
    weights = {"unbiased": 1.0, "biased": 1.0} | {
        name: getattr(config, name) for name in ("orthogonal", "popularity", "alignment", "instance")
    }
    size = len(setting.data.columns["pair_user"])
    fitted = retrieval.train(
        task, shuffled(size, min(config.batch_size, size)), model, setting.data, protocol,
        optax.adam(config.learning_rate), epochs=config.epochs, every=min(config.every, config.epochs),
        patience=config.patience, columns=read,
        weighting=static(weights) if row in SERVED else None,
        **common.training_options(
            config, setting.data.split.sequences.name.replace("/", "-"), model_name(row, config), row=row
        ),
    )  # fmt: skip
    return model, fitted


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    setting = load(config)
    read, split = columns(setting, config), setting.data.split
    name = split.sequences.name.replace("/", "-")
    for row in config.rows or ALL:
        loss = "" if row in FLOORS else "softmax" + (" + CDAN" if row in SERVED else "")
        protocol = Protocol(split.rule, "all", ks=(10, 20), loss=loss, selection=SELECTION)
        if row in FLOORS:
            by: dict[str, Any] = {"evaluation": retrieval.evaluation, "known": FLOORS, "once": True}
            made = floors.fit(row, setting.data, protocol, config, EXPERIMENT, name, **by)
            model, variables, protocol, settings, seeds, fitted = *made, None
            settings = {**common.describe_settings(config), **settings}
        else:
            model, fitted = train(row, setting, read, protocol, config)
            variables, seeds, settings = fitted.variables, config.seeds, common.describe_settings(config)
        found = head_and_tail.test(model, setting, protocol, variables, read, config.num_devices)
        if row in SERVED:
            found = head_and_tail.probe(model, variables, setting, found)
        path = common.save(
            config.results, experiment=EXPERIMENT, dataset=name, model=model_name(row, config),
            protocol=protocol, seeds=seeds, config=settings, metrics=found, fitted=fitted,
        )  # fmt: skip
        print(f"{model_name(row, config)}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
