"""PeterRec: what a frozen NextItNet says through small patches (Yuan et al., SIGIR 2020, arXiv:2001.04253).

Cold items, on Yoochoose or Diginetica sessions, after the paper's data sets ColdRec. 100 items, drawn among
those of 60 to 400 clicks, are held out as cold. Source task: the next click in sessions without a cold item.
Target task: which of the 100 another session leads to, from the clicks before its first cold one and a token
behind them; nothing of those sessions is in the source. 300 examples train, 500 validate and 2,000 test, all
drawn at random, one a session. hit@5 and mrr@5 are among all 100; a row's parameters are those of the epoch
of best validation mrr@5, and `log_loss` is taken there too: it says more of confidence than of ranking.

Attributes, on MovieLens. Source task: the next film of each user, from all but the last two events. Target
task: the user's gender, age group or occupation, from all events and the token. Of the users 60 % train, 10 %
validate, 30 % test. A row's parameters are those of the epoch of best validation log loss. There is little to
transfer: a linear model of the frozen states tells gender worse than a bag of items does.

    random              logits are drawn at random
    popularity          logits are the log shares of the classes in training
    scratch             all parameters, from their initial values
    full                all parameters, from the pre-trained ones
    head                the head alone; the pre-trained model is frozen
    peterrec-serial     the head and two patches a block, each after a convolution
    peterrec-parallel   the head and two patches a block, each beside a convolution

The pre-trained model, of one seed, is shared by all rows; seeds differ in what a row draws for itself. In
tables, names of trained rows end in their loss, `ce`.

Run:     python -m experiments.sequential.peterrec
Also:    --dataset diginetica, --labels 1000, --norms --rows peterrec-serial
         --dataset ml-100k --attribute age, --dataset ml-1m (more users, no times)

Departs from the paper: other data, as its own are not to be had here, so no published number stands beside
ours; pre-training has the softmax over all items and fine-tuning the one over all classes, where the code
draws negatives, and the head has no penalty. The released code trains the second norm of each block along
with patches and head; here they stay frozen, unless `--norms` asks for `peterrec-serial-norms` and so on.
Events of ml-1m stand in the order of its file, which gives much of the next item away: what it says of its
source task means nothing, and patches build on a model that has learned that order too.
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

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import losses, metrics
from jaxrec.config import check_run
from jaxrec.data.events import cold_items
from jaxrec.data.events.batching import labelled_columns
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import movielens
from jaxrec.data.sources import session_logs as sessions
from jaxrec.data.synthetic.grouped_sessions import grouped_sessions
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.validation import as_int32_ids
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.peterrec import PeterRec, trainable, transfer
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks.next_item import next_item
from jaxrec.tasks.objectives import Objective
from jaxrec.tasks.profile import described_users, profile
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import evaluate, make_scores
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Batch, Context, Evaluation, Key, Protocol, Summarise, Task, Variables

EXPERIMENT = "peterrec"
Row = Literal["random", "popularity", "scratch", "full", "head", "peterrec-serial", "peterrec-parallel"]
ROWS: tuple[Row, ...] = (
    "random", "popularity", "scratch", "full", "head", "peterrec-serial", "peterrec-parallel"
)  # fmt: skip
FLOORS = ("random", "popularity")
FROZEN = ("head", "peterrec-serial", "peterrec-parallel")  # rows that leave the pre-trained parameters alone
SESSIONS = ("yoochoose1_64", "diginetica")  # data sets of the task of cold items
COLD_ITEMS, LEAST_CLICKS, MOST_CLICKS = 100, 60, 400
COLD_VALIDATION, COLD_TEST = 500, 2000  # examples
SOURCE_SHARE = 0.05  # of the source sessions, to choose the pre-trained model by
K = 5  # of hit@k and mrr@k
AGES = (18, 25, 35, 45, 50, 56)  # where GroupLens' age groups begin, after the first
VALIDATION, TEST = 0.1, 0.3  # shares of users
EVALUATION_BATCH = 256

OF_SESSIONS: Mapping[str, Any] = {
    "labels": 300, "max_len": 21, "pretrain_batch_size": 256, "pretrain_epochs": 5, "pretrain_patience": 2,
    "epochs": 60, "patience": 15,
}  # fmt: skip
OF_USERS: Mapping[str, Any] = {
    "attribute": "gender", "max_len": 100, "pretrain_batch_size": 32, "pretrain_epochs": 60,
    "pretrain_patience": 5, "epochs": 30, "patience": 5,
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "dim": 8, "dilations": (1,), "max_len": 10, "batch_size": 32, "pretrain_epochs": 2, "epochs": 2
}  # fmt: skip
TINY_LABELS, TINY_COLD_ITEMS, TINY_VALIDATION, TINY_TEST = 40, 6, 60, 100


@dataclasses.dataclass(frozen=True)
class Config:
    """Pre-trains once, then trains and tests the rows of the table, one after the other."""

    rows: tuple[Row, ...] = ROWS  # rows of the table
    dataset: Literal["yoochoose1_64", "diginetica", "ml-100k", "ml-1m"] = "yoochoose1_64"  # ml-*: attributes
    attribute: Literal["gender", "age", "occupation"] | None = None  # of a film user; None: gender
    labels: int = 0  # training examples of the task of cold items; 0: 300
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = False  # made-up data and two epochs, in seconds: to see that all works
    split_seed: int = 0  # draws the cold items and the examples, or the users, that validate and test
    dim: int = 64  # channels
    dilations: tuple[int, ...] = (1, 4, 1, 4, 1, 4, 1, 4)  # of each block's first convolution
    norms: bool = False  # patched rows train the second norm of each block too, as the released code does
    max_len: int = 0  # most recent events read, the token among them; 0: 21 for sessions, 100 for users
    pretrain_seed: int = 0  # of the pre-trained model
    pretrain_batch_size: int = 0  # sessions or users a step; 0: 256 sessions, 32 users
    pretrain_epochs: int = 0  # at most; the best one counts; 0: 5 for sessions, 60 for users
    pretrain_patience: int = 0  # epochs without a better validation score; 0: 2 for sessions, 5 for users
    pretrain_learning_rate: float = 1e-3  # of Adam
    batch_size: int = 32  # examples a step of a row
    epochs: int = 0  # of a row, at most; the best one counts; 0: 60 for sessions, 30 for users
    patience: int = 0  # epochs without a better validation score; 0: 15 for sessions, 5 for users
    learning_rate: float = 1e-3  # of Adam, for a row
    num_devices: int = 1  # devices that share each batch
    save_every: int = 5  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/peterrec"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "dim", "batch_size", "num_devices", "save_every")
        own = ("labels", "epochs", "patience")
        for name in (*own, "pretrain_batch_size", "pretrain_epochs", "pretrain_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1, or 0; see --help")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations={self.dilations}: give at least one, each at least 1")
        if self.max_len < 0 or self.max_len == 1:
            raise ValueError(f"max_len={self.max_len}: must be at least 2, for an event and the token, or 0")
        if self.of_sessions and self.attribute is not None:
            raise ValueError(
                f"attribute={self.attribute}: nothing is known of who clicks in {self.dataset}; leave it "
                "out, or ask for --dataset ml-100k"
            )
        if not self.of_sessions and self.labels:
            raise ValueError(
                f"labels={self.labels}: all training users of {self.dataset} have theirs; leave it out, or "
                "ask for --dataset yoochoose1_64"
            )
        patched = any(row.startswith("peterrec") for row in self.rows)
        if patched and self.dim % 4:
            raise ValueError(f"dim={self.dim}: must be a multiple of 4, as a patch has dim / 4 channels")
        if self.norms and not patched:
            raise ValueError(f"norms=True: none of the rows {self.rows} has patches; ask for peterrec-serial")

    @property
    def of_sessions(self) -> bool:
        """Whether the target task is that of cold items."""
        return self.dataset in SESSIONS


class Data(NamedTuple):
    """The two tasks. A target example is a user, or the clicks of a session before its first cold one.

    name, task: what was split, and what is told of its parts. rule: how it was split. source: the split of
    the source task. columns: of the target task, on the device. classes: their names, of labels 1..T. train,
    validation, test: examples of each part. ranked: the classes are items, to be ranked.
    """

    name: str
    task: str
    rule: str
    source: ranking.Data
    columns: dict[str, np.ndarray]
    classes: tuple[str, ...]
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    ranked: bool

    @property
    def token(self) -> int:
        """The id behind an example's events."""
        return self.source.num_items + 1

    @property
    def summarise(self) -> Summarise:
        """Logits to metrics."""
        return summarise_ranks if self.ranked else summarise

    @property
    def selection(self) -> str:
        """The validation metric that chooses a row's epoch."""
        return f"mrr@{K}" if self.ranked else "log_loss"


def effective(config: Config) -> Config:
    """The settings with those of the data set where there are none, and small ones for --tiny."""
    filled = dict(OF_SESSIONS if config.of_sessions else OF_USERS)
    if config.tiny:
        filled.update(TINY)
        if config.of_sessions:
            filled["labels"] = TINY_LABELS
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    kept = {name: value for name, value in filled.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)


def load(config: Config) -> Data:
    """Both tasks, of effective settings."""
    if config.of_sessions:
        return load_sessions(config)
    if config.tiny:
        sequences = markov_chain(80, 24, noise=0.1).sequences
        first = sequences.items[sequences.offsets[:-1]]
        return split_users(sequences, np.where(first > 12, "high", "low"), config)
    sequences, users = movielens.load_with_users(config.dataset)
    named = {
        "gender": users.gender,
        "age": np.array(["under 18", *(f"from {age}" for age in AGES)])[
            np.searchsorted(AGES, users.age, "right")
        ],
        "occupation": users.occupation,
    }
    return split_users(sequences, named[config.attribute or "gender"], config)


def load_sessions(config: Config) -> Data:
    """Sessions of a data set, or made-up ones, parted by cold items."""
    if config.tiny:
        log, least, most = grouped_sessions(), 1, 10_000
        number, validation, test = TINY_COLD_ITEMS, TINY_VALIDATION, TINY_TEST
    else:
        log, least, most = sessions.load(config.dataset).train, LEAST_CLICKS, MOST_CLICKS
        number, validation, test = COLD_ITEMS, COLD_VALIDATION, COLD_TEST
    seed = config.split_seed
    held = cold_items.hold_out_items(log, num_cold=number, min_clicks=least, max_clicks=most, seed=seed)
    parts = cold_items.split_examples(
        len(held.label), train=config.labels, validation=validation, test=test, seed=seed
    )
    columns = labelled_columns(
        held.items, held.offsets, held.label, num_items=held.source.num_items, num_classes=len(held.cold_ids)
    )
    return Data(
        name=held.source.name.split("/")[-1],
        task=str(config.labels),
        rule=f"{config.labels:,} / {validation:,} / {test:,} sessions at random, seed {seed}",
        source=ranking.resident(cold_items.hold_out_last_clicks(held.source, share=SOURCE_SHARE, seed=seed)),
        columns=columns,
        classes=tuple(map(str, held.cold_ids)),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        ranked=True,
    )


def split_users(sequences: Sequences, labels: np.ndarray, config: Config) -> Data:
    """Users drawn for validation and test; labels [U] become classes 1..T in the order of their names."""
    classes, ids = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(config.split_seed).permutation(sequences.num_users).astype(np.int32)
    cuts = np.cumsum([round(share * order.size) for share in (TEST, VALIDATION)])
    test, validation, train = (np.sort(part) for part in np.split(order, cuts))
    columns = labelled_columns(
        sequences.items,
        sequences.offsets,
        ids.reshape(-1) + 1,
        num_items=sequences.num_items,
        num_classes=len(classes),
    )
    shares = " / ".join(f"{share:.0%}" for share in (1 - VALIDATION - TEST, VALIDATION, TEST))
    return Data(
        name=sequences.name.split("/")[-1],
        task="half" if config.tiny else config.attribute or "gender",
        rule=f"{shares} of users at random, seed {config.split_seed}",
        source=ranking.resident(leave_one_out(sequences, short="train")),
        columns=columns,
        classes=tuple(map(str, classes)),
        train=train,
        validation=validation,
        test=test,
        ranked=False,
    )


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
    seen = "keep" if data.ranked else "exclude"  # shoppers go back to an item, users see a film once
    model, protocol = backbone(data, config), Protocol(seen=seen, loss="ce", selection="ndcg@10")

    def all_items(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        where, targets = batch["targets"] != 0, batch["targets"]
        return losses.softmax_cross_entropy(
            hidden, table, targets, where=where, num_items=data.source.num_items, axis_name=axis_name
        )

    objective = Objective(lambda key, users, context: {}, all_items)
    size = config.pretrain_batch_size
    packed = ranking.training_rows(data.source, size, config.max_len, config.num_devices)
    fitted = fit_reusing(
        [Phase("pretrain", next_item(model, objective, packed=packed), config.pretrain_epochs)],
        optax.adam(config.pretrain_learning_rate),
        ranking.training_plan(data.source, size, config.max_len, packed),
        data.source.columns,
        ranking.selection(model, data.source, protocol, patience=config.pretrain_patience),
        seeds=(config.pretrain_seed,),
        workdir=Path(config.workdir) / data.name / "pretrain",
        description={"row": "pretrain", **pretraining(config)},
        vocabulary=ranking.vocabulary(data.source),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    found = max(entry["valid/ndcg@10"][0] for entry in fitted.history)
    print(f"pretrain: best epoch {fitted.best_epoch[0]}, validation ndcg@10 {found:.4f}", flush=True)
    return jax.tree.map(lambda leaf: leaf[0], fitted.variables)


def pretraining(config: Config) -> dict[str, Any]:
    """The settings that the pre-trained model hangs on."""
    beside = ["attribute", "labels", "norms", "batch_size", "epochs", "patience", "learning_rate"]
    if not config.of_sessions:
        beside.append("split_seed")  # its source are all users
    return described(config, beside=tuple(beside))


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


def name_of(row: Row, config: Config) -> str:
    """The row's name in tables: with the loss that trains it, and the norms if it trains them."""
    norms = "-norms" if config.norms and row.startswith("peterrec") else ""
    return row if row in FLOORS else f"{row}{norms}-ce"


def started(task: Task, pretrained: Variables | None, models: tuple[PeterRec, NextItNet]) -> Task:
    """The task with pre-trained parameters in place of those it draws. models: what both belong to."""
    if pretrained is None:
        return task

    def init(key: Key, batch: Batch) -> Variables:
        return {"params": transfer(task.init(key, batch)["params"], pretrained["params"], models=models)}

    return task._replace(init=init)


def trains(row: Row, params: Variables, config: Config) -> Variables:
    """Which parameters a row trains: a tree of bool."""
    if row not in FROZEN:
        return jax.tree.map(lambda leaf: True, params)
    return trainable(params, norms=config.norms and row != "head")


def optimiser(row: Row, config: Config) -> optax.GradientTransformation:
    """Adam of all parameters or, where the pre-trained ones are frozen, of the head and the patches."""
    tx = optax.adam(config.learning_rate)
    if row not in FROZEN:
        return tx

    def kinds(params: Variables) -> Variables:
        return jax.tree.map(lambda own: "own" if own else "frozen", trains(row, params, config))

    return optax.partition({"own": tx, "frozen": optax.set_to_zero()}, kinds)


def num_trained(row: Row, params: Variables, config: Config) -> tuple[int, int]:
    """Parameters that a row trains, and all it has. params: of one seed."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    own = jax.tree.leaves(trains(row, params, config))
    return sum(size for size, mine in zip(sizes, own, strict=True) if mine), sum(sizes)


def batches(users: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Users, or other examples, to be asked about: user, label and mask, [batches, B]."""
    size = min(EVALUATION_BATCH, len(users))
    count = -(-len(users) // size)
    pad = (0, count * size - len(users))
    columns = {"user": users, "label": labels[users], "mask": np.ones(len(users), bool)}
    return {name: np.pad(column, pad).reshape(count, size) for name, column in columns.items()}


def summarise(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and log loss of logits [batches, B, T], and for two classes the area under the ROC curve."""
    found, label = asked_rows(logits, queries)
    values = {"accuracy": float(np.mean(found.argmax(axis=1) == label)), "log_loss": log_loss(found, label)}
    if found.shape[1] == 2:
        values["auc"] = float(metrics.auc(jnp.asarray(found[:, 1] - found[:, 0]), jnp.asarray(label)))
    return values


def summarise_ranks(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
    """hit@5, mrr@5 (1 / rank, 0 past 5) and log loss of logits [batches, B, T]; ties rank the target last."""
    found, label = asked_rows(logits, queries)
    rank = metrics.rank_of_target(jnp.asarray(found, jnp.float32), jnp.asarray(label))
    return {
        f"hit@{K}": float(np.asarray(metrics.hit(rank, k=K), np.float64).mean()),
        f"mrr@{K}": float(np.asarray(metrics.mrr(rank, k=K), np.float64).mean()),
        "log_loss": log_loss(found, label),
    }


def asked_rows(logits: np.ndarray, queries: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, T] in float64 and labels 0..T-1 [M] of the examples that are no padding."""
    mask = np.asarray(queries["mask"])
    found, label = np.asarray(logits, np.float64)[mask], np.asarray(queries["label"])[mask]
    as_int32_ids(label, found.shape[1], "label, a class")
    return found, label - 1


def log_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean of -log softmax of the labelled class, in nats."""
    chosen = logits[np.arange(len(label)), label]
    return float(np.mean(scipy.special.logsumexp(logits, axis=1) - chosen))


def train(
    row: Row, data: Data, config: Config, pretrained: Variables | None
) -> tuple[Fitted, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    model = model_of(row, data, config)
    start = None if row == "scratch" else pretrained
    task = started(profile(model, token=data.token), start, (model, backbone(data, config)))

    def expand(queries: Batch, context: Context) -> Batch:
        return described_users(queries, context, token=data.token, max_len=config.max_len)

    def evaluation(users: np.ndarray) -> Evaluation:
        asked = batches(users, data.columns["label"])
        return Evaluation(make_scores(task.predict, expand), asked, data.summarise, protocol_of(data, "ce"))

    fitted = fit_reusing(
        [Phase("train", task, config.epochs)],
        optimiser(row, config),
        among(data.train, config.batch_size),
        data.columns,
        Selection(
            evaluation(data.validation),
            data.selection,
            patience=config.patience,
            lower_is_better=data.selection == "log_loss",
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / data.name / data.task / name_of(row, config),
        description={"row": row, **described(config)},
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    asked = evaluation(data.test)
    return fitted, evaluate(asked, fitted.variables, data.columns, num_devices=config.num_devices)


def among(users: np.ndarray, batch_size: int) -> Plan:
    """Each of these examples once an epoch, in random order."""
    plan = shuffled(len(users), batch_size)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        rows, fits = plan.draw(key, context)
        return {**rows, "user": jnp.asarray(users)[rows["user"]]}, fits

    return Plan(plan.num_steps, draw)


def test_floor(row: Row, data: Data, config: Config) -> list[dict[str, float]]:
    """Test metrics of each seed for logits that learn from no example.

    popularity: log shares of the classes in training, one added to each count. random: normal draws.
    """
    labels = data.columns["label"]
    asked = batches(data.test, labels)
    shape = (*asked["mask"].shape, len(data.classes))
    if row == "random":
        draws = (np.random.default_rng(seed).normal(size=shape) for seed in config.seeds)
        return [data.summarise(logits, asked) for logits in draws]
    shares = np.bincount(labels[data.train], minlength=len(data.classes) + 1)[1:] + 1.0
    return [data.summarise(np.broadcast_to(np.log(shares), shape), asked)] * len(config.seeds)


def protocol_of(data: Data, loss: str) -> Protocol:
    """Each example is asked about once: among cold items, or for its class."""
    return Protocol(
        split=data.rule,
        candidates=f"all {len(data.classes)} cold" if data.ranked else "impressions",
        seen="keep",
        ties="pessimistic" if data.ranked else "half",
        ks=(K,) if data.ranked else (),
        loss=loss,
        selection=data.selection,
    )


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = effective(config)
    data = load(config)
    learned = [row for row in config.rows if row not in (*FLOORS, "scratch")]
    pretrained = pretrain(data, config) if learned else None
    for row in config.rows:
        fitted, sizes = None, {}
        if row in FLOORS:
            found = test_floor(row, data, config)
        else:
            fitted, found = train(row, data, config, pretrained)
            one = jax.tree.map(lambda leaf: leaf[0], fitted.variables)
            trained, every = num_trained(row, one["params"], config)
            sizes = {"parameters": every, "trained": trained, "trained_share": trained / every}
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=f"{data.name}-{data.task}",
            model=name_of(row, config),
            config={**described(config), **sizes} if fitted else {},
            protocol=protocol_of(data, "ce") if fitted else protocol_of(data, "")._replace(selection="none"),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        share = f" (trains {sizes['trained']:,} of {sizes['parameters']:,})" if sizes else ""
        print(f"{name_of(row, config)}{share}: {means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
