"""Interest models of a behaviour history: base model, DIN, DIEN (Zhou et al., KDD 2018; AAAI 2019).

Each event of a user is told from one item that the user had not met, given the events before: training but
for the last two events, validation on the last but one, test on the last. A row's parameters are those of the
epoch of best validation AUC. GAUC is the paper's, by impressions; RelaImpr is against the row `base` of the
same seed.

Departs from the papers: MovieLens-100K (item, its genres, age, gender, occupation), or small sets of Amazon
and Yelp (item and its attributes; Games: item alone), where they use Amazon Electronics and Books and
MovieLens-20M, so no published number stands beside ours; Adam and one learning rate for all rows. The sets of
Amazon and Yelp have no times: their events go by the order of the file.

Run:     python -m experiments.ranking.din
Also:    --rows base din-dice --seeds 0, --dataset Beauty
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec import metrics
from jaxrec.config import check_run
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import coserec, movielens, sasrec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import NO_SIDE_INFO, SHARED, Clicks, SideInfo, next_clicks
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import impressions
from jaxrec.tasks.ctr import Regularised, behaviours, ctr
from jaxrec.tasks.multitask import Target
from jaxrec.train.parallel import axis_name
from jaxrec.types import Batch, Context, Variables

EXPERIMENT = "din"
Row = Literal["base", "din", "din-dice", "din-mba", "din-dice-mba", "dien", "dien-no-aux"]
ROWS: tuple[Row, ...] = ("base", "din", "din-dice", "din-mba", "din-dice-mba", "dien", "dien-no-aux")
S3REC = {"Beauty": "Beauty", "Sports": "Sports_and_Outdoors", "Toys": "Toys_and_Games", "Yelp": "Yelp"}
CLICK = Target("click", None, "label/click")
EVALUATION_BATCH = 1024
BESIDE = ("dataset",)  # settings that a result has its place by


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    dataset: Literal["ml-100k", "Beauty", "Sports", "Toys", "Yelp", "Games"] = "ml-100k"  # what is trained on
    rows: tuple[Row, ...] = ROWS  # rows of the table
    split: Literal["last", "time", "user"] = "last"  # each user's last events, shares of time, other users
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up sequences and two epochs, in seconds: to see that all works
    epochs: int = 20  # at most; the best one counts
    patience: int = 3  # epochs without a better validation AUC
    batch_size: int = 256  # rows a step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 16  # width of each embedding
    length: int = 50  # events of a history that are read, the last ones
    mba: float = 0.01  # λ of mini-batch aware regularisation
    auxiliary: float = 1.0  # weight of DIEN's loss on the next event
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/din"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        check(self, "epochs", "patience", "batch_size", "dim", "length", "save_every")
        for name in ("mba", "auxiliary"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive; rows without it have none")
        if self.split == "time" and self.dataset != "ml-100k" and not self.tiny:
            raise ValueError(
                f"split='time': {self.dataset} has no times; use split='last' or 'user', or dataset='ml-100k'"
            )


def load(config: Config) -> Clicks:
    """Impressions of a data set with what is known of its items and users."""
    sequences, side_info = events(config)
    return next_clicks(sequences, split=config.split, side_info=side_info)


def events(config: Config) -> tuple[Sequences, SideInfo]:
    """Events of a data set. Items: ml-100k has genres, as one category each set, S3-Rec's have attributes."""
    if config.tiny:
        genres = np.append(0, np.arange(20) % 3 + 1).astype(np.int32)
        return markov_chain(60, 20, min_length=4, max_length=9).sequences, SideInfo({"genres": genres}, {})
    if config.dataset == "Games":
        return sasrec.load("Video"), NO_SIDE_INFO
    if config.dataset != "ml-100k":
        name = S3REC[config.dataset]
        return coserec.load(name), SideInfo({"attributes": coserec.load_attributes(name)}, {})
    users = movielens.load_users("ml-100k")
    known = {"age": users.age // 10, "gender": users.gender, "occupation": users.occupation}
    side_info = SideInfo(
        {"genres": coded(movielens.load_movies("ml-100k").genres)},
        {name: coded(column) for name, column in known.items()},
    )
    return movielens.load("ml-100k"), side_info


def dataset_name(config: Config) -> str:
    """The data set's name in results and folders, which says whose files it is of."""
    if config.tiny:
        return "tiny"
    return f"coserec-{config.dataset}" if config.dataset in S3REC else config.dataset


def coded(values: np.ndarray) -> np.ndarray:
    """Values, or rows of values, as ids from 1 in their order, behind 0 for padding: int32 [n + 1]."""
    _, ids = np.unique(values, axis=0, return_inverse=True)
    return np.append(0, ids.reshape(-1) + 1).astype(np.int32)


def resident(clicks: Clicks, config: Config) -> impressions.Data:
    """Training rows and the events they share for the device; the other parts in batches."""

    def expand(batch: Batch, columns: Context) -> Batch:
        return behaviours(batch, columns[SHARED], config.length)

    devices = config.num_devices
    validation, test = (
        clicks.batched(rows, min(EVALUATION_BATCH, -(-len(rows) // devices)), multiple=devices)
        for rows in (clicks.validation, clicks.test)
    )
    return impressions.Data(
        dataset_name(config),
        clicks.rule,
        ("click",),
        (),
        (),
        clicks.columns(),
        validation,
        test,
        "user",
        expand,
    )


def model(row: Row, clicks: Clicks, config: Config) -> nn.Module:
    """The model of a row behind its features: target, history and user, each kind of id with one table."""
    items = {"item": clicks.num_items + 1} | {k: int(v.max()) + 1 for k, v in clicks.side_info.items.items()}
    users = {name: int(column.max()) + 1 for name, column in clicks.side_info.users.items()}
    lists = ("history_", "negative_") if row == "dien" else ("history_",)
    fields = tuple(
        Categorical(f"{prefix}{name}", size, config.dim, name)
        for prefix in ("", *lists)
        for name, size in (items | (users if not prefix else {})).items()
    )
    return WithHistory(
        FeatureEmbedding(fields),
        body(row, axis_name(config.num_devices)),
        targets=tuple(items),
        histories=tuple(f"history_{name}" for name in items),
        negatives=tuple(f"negative_{name}" for name in items) if row == "dien" else (),
    )


def body(row: Row, axis: str | None) -> nn.Module:
    """What pools the history, and the MLP behind it."""
    match row:
        case "base":
            return DINBase(activation=PReLU, axis_name=axis)
        case "din" | "din-mba":
            return DIN(activation=PReLU, attention_activation=PReLU, axis_name=axis)
        case "din-dice" | "din-dice-mba":
            return DIN(activation=Dice, attention_activation=Dice, axis_name=axis)
        case "dien" | "dien-no-aux":
            return DIEN(activation=Dice, axis_name=axis)


def regularised(clicks: Clicks, length: int) -> list[Regularised]:
    """The table of items, the one whose ids are rare."""

    def table(variables: Variables) -> jax.Array:
        return variables["params"]["embedding"]["item_embedding"]  # type: ignore[no-any-return]

    return [
        Regularised(
            table, ("item", "history_item"), jnp.asarray(clicks.count_examples_with(length), jnp.int32)
        )
    ]


def losses_of(row: Row, config: Config) -> tuple[dict[str, float], str]:
    """Weights of a row's losses, and their sum in words."""
    weights, words = {"click": 1.0}, ["bce"]
    if row.endswith("mba"):
        weights["mini_batch_aware"] = config.mba
        words.append("mini-batch aware")
    if row == "dien":
        weights["next_behaviour"] = config.auxiliary
        words.append("next behaviour")
    return weights, " + ".join(words)


def train(
    row: Row, clicks: Clicks, data: impressions.Data, config: Config
) -> tuple[Any, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    weights, _ = losses_of(row, config)
    task = ctr(
        model(row, clicks, config),
        length=config.length,
        num_items=clicks.num_items,
        auxiliary="next_behaviour" in weights,
        regularised=regularised(clicks, config.length) if "mini_batch_aware" in weights else (),
    )
    run = impressions.Run(
        seeds=config.seeds,
        epochs=2 if config.tiny else config.epochs,
        batch_size=64 if config.tiny else config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / data.name / row,
        description={"row": row, **described(config, beside=BESIDE)},
        patience=config.patience,
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    fitted = impressions.train(data, task, [CLICK], "auc/click", run, weighting=static(weights))
    return fitted, impressions.test(data, task, [CLICK], fitted.variables, config.num_devices)


def beside_base(found: list[dict[str, float]], base: list[dict[str, float]]) -> list[dict[str, float]]:
    """Test metrics with RelaImpr of each seed in percent, of GAUC as in the paper."""
    name = "gauc/click"
    return [
        {**own, "rela_impr/click": float(metrics.relative_improvement(own[name], first[name]))}
        for own, first in zip(found, base, strict=True)
    ]


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    clicks = load(config)
    data = resident(clicks, config)
    base: list[dict[str, float]] | None = None
    for row in sorted(config.rows, key=ROWS.index):
        fitted, found = train(row, clicks, data, config)
        base = found if row == "base" else base
        found = found if base is None else beside_base(found, base)
        of_all_seeds = sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"]))
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=data.name,
            model=row,
            config={
                **described(config, beside=BESIDE),
                "parameters": of_all_seeds // len(config.seeds),
            },
            protocol=impressions.protocol_of(data, "auc/click", losses_of(row, config)[1]),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
