"""PeterRec: what a frozen NextItNet says of users, through small patches (Yuan et al., SIGIR 2020).

Source task: the next film of each user of MovieLens-100K, from all but the last two events. Target task: the
user's gender, age group or occupation, from all events and a token behind them. Of the users 60 % train, 10 %
validate, 30 % test. A row's parameters are those of the epoch of best validation log loss.

    majority            logits are the log shares of the classes in training
    scratch             all parameters, from their initial values
    full                all parameters, from the pre-trained ones
    head                the head alone; the pre-trained model is frozen
    peterrec-serial     the head and two patches a block, each after a convolution
    peterrec-parallel   the head and two patches a block, each beside a convolution

The pre-trained model, of one seed, is shared by all rows; seeds differ in what a row draws for itself.

Run:     python -m experiments.peterrec
Also:    --attribute age --seeds 0, --dilations 1 4 1 4 --max-len 50, --dataset ml-1m (more users, no times)

Departs from the paper: MovieLens, as its data sets ColdRec are not to be had here, so no published number
stands beside ours; pre-training has the softmax over all items, fine-tuning no penalty of the head. Events of
ml-1m stand in the order of its file, which gives much of the next item away: what it says of its source task
means nothing, and patches build on a model that has learned that order too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from experiments import sequential as lab
from experiments.saving import save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import losses, metrics
from jaxrec.data import synthetic
from jaxrec.data.interactions import Sequences
from jaxrec.data.sources import movielens
from jaxrec.data.split import leave_one_out
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable, transfer
from jaxrec.tasks.next_item import Objective, next_item
from jaxrec.tasks.profile import described_users, profile
from jaxrec.train import parallel
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import make_scores
from jaxrec.train.fit import CompiledMeasure, Fitted, Phase, Selection, fit
from jaxrec.types import Array, Batch, Context, Key, Protocol, Task, Variables

EXPERIMENT = "peterrec"
Row = Literal["majority", "scratch", "full", "head", "peterrec-serial", "peterrec-parallel"]
ROWS: tuple[Row, ...] = ("majority", "scratch", "full", "head", "peterrec-serial", "peterrec-parallel")
FROZEN = ("head", "peterrec-serial", "peterrec-parallel")  # rows that leave the pre-trained parameters alone
AGES = (18, 25, 35, 45, 50, 56)  # where GroupLens' age groups begin, after the first
VALIDATION, TEST = 0.1, 0.3  # shares of users
EVALUATION_BATCH = 256

TINY: Mapping[str, Any] = {
    "dim": 8, "dilations": (1,), "max_len": 10, "batch_size": 32, "pretrain_epochs": 2, "epochs": 2
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Pre-trains once, then trains and tests the rows of the table, one after the other."""

    rows: tuple[Row, ...] = ROWS  # rows of the table
    dataset: Literal["ml-100k", "ml-1m"] = "ml-100k"  # ml-1m: events in the order of its file, not of time
    attribute: Literal["gender", "age", "occupation"] = "gender"  # what is told of a user
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = False  # made-up users and two epochs, in seconds: to see that all works
    split_seed: int = 0  # draws the users that validate and test
    dim: int = 64  # channels
    dilations: tuple[int, ...] = (1, 4, 1, 4, 1, 4, 1, 4)  # of each block's first convolution
    max_len: int = 100  # most recent events read, the token among them
    batch_size: int = 32  # users a step
    pretrain_seed: int = 0  # of the pre-trained model
    pretrain_epochs: int = 60  # at most; the best one counts
    pretrain_learning_rate: float = 1e-3  # of Adam
    epochs: int = 30  # of a row, at most; the best one counts
    learning_rate: float = 1e-3  # of Adam, for a row
    patience: int = 5  # epochs without a better validation score
    num_devices: int = 1  # devices that share each batch
    save_every: int = 5  # epochs between checkpoints
    results: str = "results"  # folder of result files
    workdir: str = "runs/peterrec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        names = ("dim", "max_len", "batch_size", "pretrain_epochs", "epochs", "patience")
        check(self, *names, "num_devices", "save_every")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations={self.dilations}: give at least one, each at least 1")
        if self.max_len < 2:
            raise ValueError(f"max_len={self.max_len}: must be at least 2, for an event and the token")


class Data(NamedTuple):
    """Users and what is told of them.

    source: the split of the source task. columns: of the target task, on the device. classes: their names,
    of labels 1..T. train, validation, test: users of each part.
    """

    source: lab.Data
    columns: dict[str, np.ndarray]
    classes: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def name(self) -> str:
        """The data set's name without its source."""
        return self.source.split.sequences.name.split("/")[-1]

    @property
    def token(self) -> int:
        """The id behind a user's events."""
        return self.source.num_items + 1


def effective(config: Config) -> Config:
    """The settings with those of --tiny in place of defaults."""
    if not config.tiny:
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    kept = {name: value for name, value in TINY.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)


def load(config: Config) -> Data:
    """Sequences, labels, and the users of each part."""
    if config.tiny:
        sequences = synthetic.markov_chain(80, 24, noise=0.1).sequences
        first = sequences.items[sequences.offsets[:-1]]
        return split_users(sequences, np.where(first > 12, "high", "low"), config)
    sequences, users = movielens.load_people(config.dataset)
    named = {
        "gender": users.gender,
        "age": np.array(["under 18", *(f"from {age}" for age in AGES)])[
            np.searchsorted(AGES, users.age, "right")
        ],
        "occupation": users.occupation,
    }
    return split_users(sequences, named[config.attribute], config)


def split_users(sequences: Sequences, labels: np.ndarray, config: Config) -> Data:
    """Users drawn for validation and test; labels [U] become classes 1..T in the order of their names."""
    classes, ids = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(config.split_seed).permutation(sequences.num_users).astype(np.int32)
    cuts = np.cumsum([round(share * order.size) for share in (TEST, VALIDATION)])
    test, validation, train = (np.sort(part) for part in np.split(order, cuts))
    columns = {
        "items": sequences.items,
        "start": sequences.offsets[:-1].astype(np.int32),
        "length": sequences.lengths.astype(np.int32),
        "label": (ids.reshape(-1) + 1).astype(np.int32),
    }
    source = lab.resident(leave_one_out(sequences, short="train"))
    return Data(source, columns, tuple(map(str, classes)), train, validation, test)


def backbone(data: Data, config: Config) -> NextItNet:
    """What is pre-trained; its tables have a row for the token, which no event has."""
    return NextItNet(
        data.source.num_items,
        dim=config.dim,
        dilations=config.dilations,
        max_len=config.max_len,
        extra_rows=1,
    )


def pretrain(data: Data, config: Config) -> Variables:
    """Parameters of the NextItNet that is best at the next item of validation."""
    model, protocol = backbone(data, config), Protocol(loss="ce", selection="ndcg@10")

    def all_items(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        where, targets = batch["targets"] > 0, batch["targets"]
        return losses.softmax_cross_entropy(
            hidden, table, targets, where=where, num_items=data.source.num_items, axis_name=axis_name
        )

    objective = Objective(lambda key, users, context: {}, all_items)
    packed = lab.training_rows(data.source, config.batch_size, config.max_len, config.num_devices)
    fitted = fit(
        [Phase("pretrain", next_item(model, objective, packed=packed), config.pretrain_epochs)],
        optax.adam(config.pretrain_learning_rate),
        lab.training_plan(data.source, config.batch_size, config.max_len, packed),
        data.source.columns,
        lab.selection(model, data.source, protocol, config.num_devices, patience=config.patience),
        seeds=(config.pretrain_seed,),
        workdir=Path(config.workdir) / data.name / "pretrain",
        description={"row": "pretrain", **pretraining(config)},
        vocabulary=lab.vocabulary(data.source),
        num_devices=config.num_devices,
        save_every=config.save_every,
    )
    found = max(entry["valid/ndcg@10"][0] for entry in fitted.history)
    print(f"pretrain: best epoch {fitted.best_epoch[0]}, validation ndcg@10 {found:.4f}", flush=True)
    return jax.tree.map(lambda leaf: leaf[0], fitted.variables)


def pretraining(config: Config) -> dict[str, Any]:
    """The settings that the pre-trained model hangs on."""
    beside = ("attribute", "split_seed", "epochs", "learning_rate")
    return described(config, beside=beside)


def model_of(row: Row, data: Data, config: Config) -> PeterRec:
    """The pre-trained model's blocks, with a head and, for PeterRec, patches."""
    return PeterRec(
        data.source.num_items,
        len(data.classes),
        dim=config.dim,
        dilations=config.dilations,
        parallel=row == "peterrec-parallel",
        patched=row.startswith("peterrec"),
        max_len=config.max_len,
        extra_rows=1,
    )


def started(task: Task, pretrained: Variables | None) -> Task:
    """The task with pre-trained parameters in place of those it draws, where it has them."""
    if pretrained is None:
        return task

    def init(key: Key, batch: Batch) -> Variables:
        return {"params": transfer(task.init(key, batch)["params"], pretrained["params"])}

    return task._replace(init=init)


def optimiser(row: Row, config: Config) -> optax.GradientTransformation:
    """Adam of all parameters or, where the pre-trained ones are frozen, of the head and the patches."""
    tx = optax.adam(config.learning_rate)
    if row not in FROZEN:
        return tx

    def kinds(params: Variables) -> Variables:
        return jax.tree.map(lambda own: "own" if own else "frozen", trainable(params))

    return optax.partition({"own": tx, "frozen": optax.set_to_zero()}, kinds)


def num_trained(row: Row, params: Variables) -> tuple[int, int]:
    """Parameters that a row trains, and all it has. params: of one seed."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    own = jax.tree.leaves(trainable(params))
    trained = [size for size, mine in zip(sizes, own, strict=True) if mine or row not in FROZEN]
    return sum(trained), sum(sizes)


def batches(users: np.ndarray, labels: np.ndarray, num_devices: int) -> dict[str, np.ndarray]:
    """Users to be asked about: user, label and mask, [batches, B]."""
    size = min(EVALUATION_BATCH, -(-len(users) // num_devices))
    count = -(-len(users) // size)
    count = -(-count // num_devices) * num_devices
    pad = (0, count * size - len(users))
    columns = {"user": users, "label": labels[users], "mask": np.ones(len(users), bool)}
    return {name: np.pad(column, pad).reshape(count, size) for name, column in columns.items()}


def summarise(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and log loss of logits [batches, B, T], and for two classes the area under the ROC curve."""
    mask = np.asarray(queries["mask"])
    found, label = np.asarray(logits, np.float64)[mask], np.asarray(queries["label"])[mask] - 1
    log_prob = found - scipy.special.logsumexp(found, axis=1, keepdims=True)
    values = {
        "accuracy": float(np.mean(found.argmax(axis=1) == label)),
        "log_loss": float(-np.mean(log_prob[np.arange(len(label)), label])),
    }
    if found.shape[1] == 2:
        values["auc"] = float(metrics.auc(jnp.asarray(found[:, 1] - found[:, 0]), jnp.asarray(label)))
    return values


def train(
    row: Row, data: Data, config: Config, pretrained: Variables | None
) -> tuple[Fitted, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    model = model_of(row, data, config)
    task = started(profile(model, token=data.token), None if row == "scratch" else pretrained)

    def expand(queries: Batch, context: Context) -> Batch:
        return described_users(queries, context, token=data.token, max_len=config.max_len)

    measure = make_scores(task.predict, expand)
    fitted = fit(
        [Phase("train", task, config.epochs)],
        optimiser(row, config),
        among(data.train, config.batch_size),
        data.columns,
        Selection(
            measure,
            batches(data.validation, data.columns["label"], config.num_devices),
            "log_loss",
            summarise,
            patience=config.patience,
            lower_is_better=True,
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / data.name / config.attribute / row,
        description={"row": row, **described(config)},
        num_devices=config.num_devices,
        save_every=config.save_every,
    )
    asked = batches(data.test, data.columns["label"], config.num_devices)
    logits = CompiledMeasure(measure, config.num_devices)(
        parallel.replicate(fitted.variables, config.num_devices),
        parallel.split_leading(asked, config.num_devices),
        parallel.replicate(dict(data.columns), config.num_devices),
    )
    return fitted, [summarise(of_seed, asked) for of_seed in logits]


def among(users: np.ndarray, batch_size: int) -> Plan:
    """Each of these users once an epoch, in random order."""
    plan = shuffled(len(users), batch_size)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        rows, fits = plan.draw(key, context)
        return {**rows, "user": jnp.asarray(users)[rows["user"]]}, fits

    return Plan(plan.num_steps, draw)


def majority(data: Data, config: Config) -> list[dict[str, float]]:
    """Test metrics of who knows the classes' shares in training, and nothing of a user."""
    labels = data.columns["label"]
    shares = np.bincount(labels[data.train], minlength=len(data.classes) + 1)[1:] + 1.0
    asked = batches(data.test, labels, 1)
    logits = np.broadcast_to(np.log(shares), (*asked["mask"].shape, len(shares)))
    return [summarise(logits, asked)] * len(config.seeds)


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    config = effective(config)
    data = load(config)
    learned = [row for row in config.rows if row not in ("majority", "scratch")]
    pretrained = pretrain(data, config) if learned else None
    shares = " / ".join(f"{share:.0%}" for share in (1 - VALIDATION - TEST, VALIDATION, TEST))
    rule = f"{shares} of users at random, seed {config.split_seed}"
    for row in config.rows:
        fitted, sizes = None, {}
        if row == "majority":
            found = majority(data, config)
        else:
            fitted, found = train(row, data, config, pretrained)
            one = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
            trained, every = num_trained(row, one["params"])
            sizes = {"parameters": every, "trained": trained, "trained_share": trained / every}
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=f"{data.name}-{config.attribute}" if not config.tiny else data.name,
            model=row,
            config={**described(config), **sizes} if fitted else {},
            protocol=Protocol(
                split=rule,
                candidates="impressions",
                seen="keep",
                ties="half",
                ks=(),
                loss="ce" if fitted else "",
                selection="log_loss" if fitted else "none",
            ),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        means = ", ".join(f"{name} {np.mean([m[name] for m in found]):.4f}" for name in found[0])
        share = f" (trains {sizes['trained']:,} of {sizes['parameters']:,})" if sizes else ""
        print(f"{row}{share}: {means}\nsaved {path}", flush=True)


def main() -> None:
    config = command_line.cli(Config, description=__doc__)
    command_line.start(config)
    run(config)


if __name__ == "__main__":
    main()
