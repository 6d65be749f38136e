"""GRU4Rec by loss and batching on Yoochoose 1/64 (Hidasi et al., ICLR 2016; the same with others, CIKM 2018).

Every click of a test session but the first is asked for, among all items, those of the session included. One
table of items for input and output, and a bias for each item. A target competes with the other targets of its
step and with 2,048 items drawn ∝ frequency^alpha for all rows of the step.

    gru4rec-ssm           the authors' cross-entropy, a softmax over target and negatives, corrected for how
                          often samples come (logQ); whole sessions, gradients through all of them
    gru4rec-ssm-parallel  the same; sessions side by side, an event a step, the state carried on, gradients
                          through one step, sessions in the order of time: as the authors train
    gru4rec-bpr-max-parallel, gru4rec-top1-max-parallel: their other losses

Each loss has the authors' settings for RSC15 (RECIPES): of cross-entropy from their README, of BPR-max with
one table from their sample file. They give none for TOP1-max, which runs with those of BPR-max. Nothing was
tuned on this split, so that rows differ by loss and settings together. A row's parameters are those of the
epoch of best validation MRR@20.

Run:     python -m experiments.sequential.gru4rec
Also:    --rows gru4rec-ssm gru4rec-ssm-parallel --batch-size 256 --epochs 3 --seeds 0

Departs from the authors' code: its GRU resets the state before the product with U_n (here after, as in their
PyTorch code); momentum moves all rows of the item table (there those of the step). No published number stands
beside ours: the authors' are of all of RSC15 in their own preparation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import losses, packing
from jaxrec.config import check_run
from jaxrec.data.events.parallel_sessions import LANE_COLUMNS, lane_columns
from jaxrec.data.events.sessions import Part, Sessions, SessionSplit, split_sessions
from jaxrec.data.sources import session_logs as source
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.protocols import sessions
from jaxrec.tasks.next_item import next_item, retriever
from jaxrec.tasks.objectives import Objective
from jaxrec.tasks.parallel_sessions import negatives, parallel_sessions, shared_negatives
from jaxrec.train.epoch import Plan, listed, shuffled
from jaxrec.train.evaluate import evaluate
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Evaluation, Protocol, Task

EXPERIMENT = "gru4rec"
Row = Literal[
    "random",
    "popularity",
    "gru4rec-ssm",
    "gru4rec-ssm-parallel",
    "gru4rec-bpr-max-parallel",
    "gru4rec-top1-max-parallel",
]
ROWS: tuple[Row, ...] = (
    "random",
    "popularity",
    "gru4rec-ssm",
    "gru4rec-ssm-parallel",
    "gru4rec-bpr-max-parallel",
    "gru4rec-top1-max-parallel",
)
SELECTION = "mrr@20"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the authors set for each loss."""

    learning_rate: float  # of Adagrad
    momentum: float  # of Adagrad's steps
    dropout: float  # of item vectors
    alpha: float  # samples are drawn in proportion to frequency to this power


_BPR_MAX = Recipe(learning_rate=0.2, momentum=0.1, dropout=0.0, alpha=0.0)
RECIPES: Mapping[str, Recipe] = {
    "ssm": Recipe(learning_rate=0.1, momentum=0.0, dropout=0.1, alpha=0.75),
    "bpr-max": _BPR_MAX,
    "top1-max": _BPR_MAX,
}

TINY: Mapping[str, Any] = {"dim": 8, "batch_size": 16, "epochs": 2, "num_samples": 8, "max_len": 12}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["yoochoose1_64", "diginetica"] = "yoochoose1_64"  # what is trained on
    rows: tuple[Row, ...] = ROWS  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up sessions and two epochs, in seconds: to see that all works
    validation: float = 0.1  # share of training sessions, the last ones
    dim: int = 100  # width of the item table and the state
    batch_size: int = 32  # sessions side by side or, in ordinary batches, whole sessions a step
    epochs: int = 10  # at most; the best one counts
    patience: int = 3  # epochs without a better validation MRR@20
    learning_rate: float | None = None  # of Adagrad; None, here and below: as the authors set it for a loss
    momentum: float | None = None  # of Adagrad's steps
    dropout: float | None = None  # of item vectors
    hidden_dropout: float = 0.0  # of states, carried on
    num_samples: int = 2048  # negatives beside the other targets of a step
    alpha: float | None = None  # samples are drawn in proportion to frequency to this power
    logq: float = 1.0  # share of the logQ correction, sampled softmax only
    regularisation: float = 0.5  # of BPR-max: weight of the squared scores of negatives
    elu: float = 0.5  # of the scores of BPR-max; 0: as they are
    leave_out_hits: bool = False  # whether negatives that are a row's own target are left out
    max_len: int = 50  # most recent events read in ordinary batches and in ranking
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/gru4rec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "dim", "batch_size", "epochs", "patience", "max_len", "num_devices", "save_every")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: must lie between 0 and 1")
        for name in ("num_samples", "elu", "alpha", "regularisation"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        if not 0 <= self.logq <= 1:
            raise ValueError(f"logq={self.logq}: must lie in [0, 1], from no correction to the whole one")


def effective(config: Config) -> Config:
    """The settings with those of --tiny in place of defaults."""
    if not config.tiny:
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    kept = {name: value for name, value in TINY.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)


def recipe_of(row: Row, config: Config) -> Recipe:
    """The settings of a row's loss, with what the command line changes.

    Raises:
      ValueError: the row has no such loss.
    """
    loss = loss_of(row)
    if loss not in RECIPES:
        raise ValueError(f"row={row!r}: its loss {loss!r} is not one of {', '.join(RECIPES)}")
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(Recipe)}
    return dataclasses.replace(
        RECIPES[loss], **{name: value for name, value in given.items() if value is not None}
    )


def described_row(row: Row, config: Config) -> dict[str, Any]:
    """All settings that decide what a row computes."""
    return described(config) | dataclasses.asdict(recipe_of(row, config))


def load(config: Config) -> SessionSplit:
    """Training, validation and test sessions, in the order of time."""
    sessions = made_up() if config.tiny else source.load(config.dataset)
    return split_sessions(sessions, share=config.validation, by="last")


def made_up() -> Sessions:
    """Sessions along a cycle of 40 items, and the last click of others as test."""
    chain = markov_chain(160, 40, min_length=2, max_length=9, noise=0.1).sequences
    at = int(chain.offsets[120])
    return Sessions.from_arrays(
        "tiny",
        train_items=chain.items[:at],
        train_offsets=chain.offsets[:121],
        test_items=np.delete(chain.items[at:], chain.offsets[121:] - at - 1),
        test_offsets=chain.offsets[120:] - at - np.arange(41),
        test_target=chain.items[chain.offsets[121:] - 1],
    )


def training_counts(split: SessionSplit) -> np.ndarray:
    """Clicks of each item in training, [vocab_size]."""
    return np.bincount(split.training_clicks()[1], minlength=split.num_items + 1)


def model_of(row: Row, split: SessionSplit, config: Config) -> GRU4Rec:
    """The authors' network: one GRU layer as wide as the item table, an item bias, no layer in between."""
    return GRU4Rec(
        split.num_items,
        dim=config.dim,
        hidden_dim=config.dim,
        dropout=recipe_of(row, config).dropout,
        hidden_dropout=config.hidden_dropout,
        use_bias=True,
        max_len=config.max_len,
        projection=False,
        item_bias=True,
        embedding_init=nn.initializers.glorot_uniform(),
        bits=counter_bits,
    )


def loss_of(row: Row) -> str:
    """What stands for the loss in a row's name."""
    return row.removeprefix("gru4rec-").removesuffix("-parallel")


def loss_text(row: Row, config: Config) -> str:
    """The row's loss and negatives, as its protocol has them."""
    alpha, kind = recipe_of(row, config).alpha, loss_of(row)
    name = f"sampled softmax, logQ {config.logq:g}" if kind == "ssm" else kind
    return f"{name}; in-batch negatives and {config.num_samples} ∝ frequency^{alpha:g}"


def objective_of(row: Row, split: SessionSplit, config: Config) -> Objective:
    """The row's loss over shared negatives."""
    loss, recipe = loss_of(row), recipe_of(row, config)
    drawn = negatives(
        training_counts(split),
        num_samples=config.num_samples,
        alpha=recipe.alpha,
        logq=config.logq if loss == "ssm" else 0.0,
    )
    shared = functools.partial(shared_negatives, drawn=drawn, leave_out_hits=config.leave_out_hits)
    if loss == "bpr-max":
        elu = functools.partial(nn.elu, alpha=config.elu) if config.elu else None
        return shared(functools.partial(losses.bpr_max, regularisation=config.regularisation), activation=elu)
    return shared(losses.sampled_softmax if loss == "ssm" else losses.top1_max)


def training_of(
    row: Row, model: GRU4Rec, split: SessionSplit, config: Config
) -> tuple[Task, Plan, dict[str, np.ndarray]]:
    """The row's task, the plan of its epochs, and the columns that only this plan reads."""
    objective, lengths = objective_of(row, split, config), split.lengths[: split.num_train]
    if row.endswith("-parallel"):
        columns = {f"lane_{name}": c for name, c in lane_columns(lengths, config.batch_size).items()}
        plan = listed({name: f"lane_{name}" for name in LANE_COLUMNS}, len(columns["lane_mask"]))
        return parallel_sessions(model, objective), plan, columns
    inputs = np.minimum(lengths - 1, config.max_len)
    number = packing.rows_needed(inputs, config.batch_size, config.max_len, multiple=config.num_devices)
    packed = Packing(number, config.max_len)

    def inputs_of(context: Context, session: Array) -> Array:
        return jnp.clip(context["length"][session] - 1, 0, config.max_len)

    plan = shuffled(
        split.num_train, config.batch_size, lengths=inputs_of, rows=packed.rows, width=packed.width
    )
    return next_item(model, objective, packed=packed), plan, {}


def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """Adagrad whose sums of squares start at 0, and momentum of its steps."""
    momentum = [optax.trace(recipe.momentum)] if recipe.momentum else []
    return optax.chain(
        optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-6),
        *momentum,
        optax.scale(-recipe.learning_rate),
    )


def evaluation(
    model: GRU4Rec, data: sessions.Data, part: Part, protocol: Protocol, config: Config
) -> Evaluation:
    """Ranks the next click of the examples of a part, which are packed into rows."""
    ranked = ranking.ranking(data.split.queries(part), config.max_len)
    return sessions.evaluation(retriever(model, ranked.rows), data, protocol, ranked.queries)


def train(
    row: Row, data: sessions.Data, config: Config, protocol: Protocol
) -> tuple[Fitted, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    model = model_of(row, data.split, config)
    task, plan, lanes = training_of(row, model, data.split, config)
    fitted = fit_reusing(
        [Phase("train", task, config.epochs)],
        optimiser(recipe_of(row, config)),
        plan,
        {**data.columns, **lanes},
        Selection(
            evaluation(model, data, "validation", protocol, config), SELECTION, patience=config.patience
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / name_of(data.split) / row,
        description={"row": row, **described_row(row, config)},
        vocabulary={"item": data.split.item_ids},
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    asked = evaluation(model, data, "test", protocol, config)
    return fitted, evaluate(asked, fitted.variables, data.columns, num_devices=config.num_devices)


def name_of(split: SessionSplit) -> str:
    """The data set's name without its source."""
    return split.name.split("/")[-1]


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = effective(config)
    data = sessions.resident(load(config))
    for row in config.rows:
        fitted: Fitted | None = None
        if row in ("random", "popularity"):
            protocol = sessions.protocol(data.split, "", "none")
            floor = sessions.random(data) if row == "random" else sessions.popularity(data)
            found = evaluate(
                sessions.floor_evaluation(floor, data, protocol),
                sessions.floor_variables(floor, config.seeds),
                data.columns,
                num_devices=config.num_devices,
            )
        else:
            protocol = sessions.protocol(data.split, loss_text(row, config), SELECTION)
            fitted, found = train(row, data, config, protocol)
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=name_of(data.split),
            model=row,
            config=described_row(row, config) if fitted else {},
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: {means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
