"""Models of feature interaction side by side: AUC, log loss and calibration.

    deep           an MLP over the embeddings, which has to find every interaction itself
    deepfm         beside a factorisation machine of the same vectors (Guo et al., IJCAI 2017)
    ipnn, opnn, pnn-star    behind inner products, outer products, both (Qu et al., ICDM 2016)
    dcn-v2-stacked, dcn-v2-parallel    behind, and beside, a full-rank cross network (Wang et al., WWW 2021)
    dcn-mix        behind a cross network of low-rank experts
    dlrm           behind inner products alone (Naumov et al., 2019), as no column here is a number
    base, din      with a history: its mean, and weights by the target (Zhou et al., KDD 2018)
    can, can-din   the two before, beside co-actions of the target with the history and with the columns of
                   the user (Bian et al., WSDM 2022), in the form of the public code
    bst            a Transformer over history and target, without ages (Chen et al., DLP-KDD 2019)

ml-100k: each rating is told from one item that its user had not met, split by time, 80/10/10, so that most
users of the test part are new. Columns: item, genres (one category each set), year, user, age (decade),
gender, occupation; models with a history also read the items, genres and years before the event.
census: income over 50,000 dollars by 32 nominal columns, see `experiments.multitask.census`; it has no
histories.

All rows have the same vectors and hidden layers, and stop at the epoch of best validation AUC. The papers
report Criteo and logs of their own, so nothing published stands beside.

Run:     python -m experiments.ranking.feature_interaction
Also:    --data census; --rows deep deepfm --seeds 0
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import numpy as np

from experiments.ranking import din
from experiments.saving import means, save
from experiments.settings import check, described
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.sources import census, movielens
from jaxrec.data.synthetic import multitask as synthetic_multitask
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.tables.click_histories import Clicks, SideInfo, next_clicks
from jaxrec.nn.layers.co_action import CoAction
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.layers.features import Categorical, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.interaction import CrossNetwork, CrossNetworkMix
from jaxrec.nn.layers.mlp import Tower
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.can import CAN
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.deepfm import DeepFM
from jaxrec.nn.ranking.din import DIN
from jaxrec.nn.ranking.din_base import DINBase
from jaxrec.nn.ranking.dlrm import DLRM
from jaxrec.nn.ranking.pnn import PNN
from jaxrec.protocols import impressions
from jaxrec.tasks.ctr import HISTORY, ctr
from jaxrec.tasks.multitask import Target
from jaxrec.types import Task

EXPERIMENT = "feature_interaction"
Plain = Literal[
    "deep",
    "deepfm",
    "ipnn",
    "opnn",
    "pnn-star",
    "dcn-v2-stacked",
    "dcn-v2-parallel",
    "dcn-mix",
    "dlrm",
]
Interest = Literal["base", "din", "can", "can-din", "bst"]
Row = Literal[Plain, Interest]
PLAIN: tuple[Plain, ...] = get_args(Plain)
INTEREST: tuple[Interest, ...] = get_args(Interest)
DIMS = (128, 64)  # hidden layers of every row
BST_HEADS = 4
OFFICIAL: Any = {"num_orders": 3, "use_bias": False, "activate_last": False, "concatenate": True}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    data: Literal["ml-100k", "census"] = "ml-100k"  # which impressions
    rows: tuple[Row, ...] = ()  # rows of the table; none given: all that the data can have
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up data and two epochs, in seconds: to see that all works
    epochs: int = 10  # at most; the best one counts
    patience: int = 2  # epochs without a better validation AUC
    batch_size: int = 1024  # rows a step
    learning_rate: float = 1e-3  # of Adam
    dim: int = 8  # width of each embedding
    length: int = 20  # events of a history that are read, the last ones
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = (
        "runs/feature_interaction"  # folder of checkpoints and logs; a run found there is continued
    )

    def __post_init__(self) -> None:
        check(self, "epochs", "patience", "batch_size", "dim", "length", "save_every")
        histories = [row for row in self.rows if row in INTEREST]
        if histories and self.data == "census":
            raise ValueError(f"rows={histories}: census has no histories; they are rows of --data ml-100k")


class Setting(NamedTuple):
    """Data, its one target, and the columns but those of a history; clicks: None where there is none."""

    data: impressions.Data
    target: Target
    fields: tuple[Categorical | Numeric, ...]
    clicks: Clicks | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows that these data can have."""
        return PLAIN if self.clicks is None else (*PLAIN, *INTEREST)

    @property
    def items(self) -> tuple[Categorical, ...]:
        """The columns of an item, in the order of the fields."""
        names = () if self.clicks is None else ("item", *self.clicks.side_info.items)
        return tuple(f for f in self.fields if isinstance(f, Categorical) and f.name in names)


def load(config: Config) -> Setting:
    """The impressions of a configuration."""
    return of_events(config) if config.data == "ml-100k" else of_table(config)


def of_events(config: Config) -> Setting:
    """Each event told from one not met, after a history."""
    if config.tiny:
        sequences = markov_chain(60, 20, min_length=4, max_length=9).sequences
        side_info = SideInfo({"genres": np.append(0, np.arange(20) % 3 + 1).astype(np.int32)}, {})
    else:
        sequences = movielens.load("ml-100k")
        movies, users = movielens.load_movies("ml-100k"), movielens.load_users("ml-100k")
        known = {"age": users.age // 10, "gender": users.gender, "occupation": users.occupation}
        side_info = SideInfo(
            {"genres": din.coded(movies.genres), "year": din.coded(movies.year)},
            {name: din.coded(column) for name, column in known.items()},
        )
    clicks = next_clicks(sequences, split="last" if config.tiny else "time", side_info=side_info)
    sizes = {"item": clicks.num_items + 1} | {
        name: int(ids.max()) + 1 for name, ids in side_info.items.items()
    }
    sizes |= {"user": clicks.num_users + 1} | {
        name: int(ids.max()) + 1 for name, ids in side_info.users.items()
    }
    fields = tuple(Categorical(name, size, config.dim) for name, size in sizes.items())
    data = din.resident(
        clicks, din.Config(tiny=config.tiny, length=config.length, num_devices=config.num_devices)
    )
    return Setting(data, din.CLICK, fields, clicks)


def of_table(config: Config) -> Setting:
    """Rows of columns that know of no events."""
    if config.tiny:
        split = synthetic_multitask.funnel(400, num_users=10, num_items=8).split
    else:
        split = census.load_impressions("income")
    data = impressions.resident(split)
    fields = tuple(
        f._replace(dim=config.dim) for f in impressions.features(split.impressions, config.dim).fields
    )
    task = data.tasks[0]
    return Setting(data, Target(task, None, f"label/{task}"), fields)


def plain(row: Plain, fields: tuple[Categorical | Numeric, ...], dim: int) -> nn.Module:
    """A model of columns without a history: columns → logit [B]."""
    embedding = FeatureEmbedding(fields)
    match row:
        case "deep":
            return Featured(embedding, Tower(DIMS))
        case "deepfm":
            return DeepFM(fields, DIMS)
        case "ipnn":
            return PNN(fields, inner=True, outer=False, dims=DIMS)
        case "opnn":
            return PNN(fields, inner=False, outer=True, dims=DIMS)
        case "pnn-star":
            return PNN(fields, inner=True, outer=True, dims=DIMS)
        case "dcn-v2-stacked":
            return Featured(embedding, DCNv2(CrossNetwork(2), stacked_dims=DIMS, parallel_dims=()))
        case "dcn-v2-parallel":
            return Featured(embedding, DCNv2(CrossNetwork(2), parallel_dims=DIMS))
        case "dcn-mix":
            cross = CrossNetworkMix(2, num_experts=4, rank=16)
            return Featured(embedding, DCNv2(cross, stacked_dims=DIMS, parallel_dims=()))
        case "dlrm":
            numbers = tuple(field._replace(dim=None) for field in fields if isinstance(field, Numeric))
            categories = tuple(field for field in fields if isinstance(field, Categorical))
            return DLRM(numbers, categories, bottom_dims=(64, dim) if numbers else (), top_dims=DIMS)


def interest(row: Interest, setting: Setting) -> nn.Module:
    """A model of columns and the events before: columns → logit [B]."""
    items = setting.items
    if row == "bst":
        others = tuple(field for field in setting.fields if field not in items)
        model = BST(
            items, None, num_heads=BST_HEADS, block_dropout=0.0, dims=DIMS, activation=nn.relu, dropout=0.0
        )
        return Sequenced(model, FeatureEmbedding(others))
    past = tuple(item._replace(name=f"{HISTORY}{item.name}", vocabulary=item.name) for item in items)
    return WithHistory(
        FeatureEmbedding((*setting.fields, *past)),
        DIN(DIMS, (32, 16), nn.relu, PReLU) if row.endswith("din") else DINBase(DIMS, activation=nn.relu),
        targets=[item.name for item in items],
        histories=[item.name for item in past],
        beside=co_actions(setting, past) if row.startswith("can") else None,
    )


def co_actions(setting: Setting, past: tuple[Categorical, ...]) -> CAN:
    """Each column of the target with that of the history, and the item with what is known of the user."""
    of_user = [field for field in setting.fields if field not in setting.items]
    pairs = [*zip(setting.items, past, strict=True)]
    pairs += [(setting.items[0], field) for field in of_user if isinstance(field, Categorical)]
    return CAN(tuple(pairs), CoAction(16, (8, 4), **OFFICIAL))


def task_of(row: Row, setting: Setting, config: Config) -> Task:
    """Clicks, or labels of a table, by the model of a row."""
    match row:
        case "base" | "din" | "can" | "can-din" | "bst":
            model = interest(row, setting)
        case _:
            model = plain(row, setting.fields, config.dim)
    if setting.clicks is None:
        return impressions.multitask(model, [setting.target])
    return ctr(model, length=config.length, num_items=setting.clicks.num_items)


def train(row: Row, setting: Setting, config: Config) -> tuple[Any, list[dict[str, float]]]:
    """Trains a row for all seeds; gives the run and its test metrics."""
    task, data, target = task_of(row, setting, config), setting.data, setting.target
    run = impressions.Run(
        seeds=config.seeds,
        epochs=2 if config.tiny else config.epochs,
        batch_size=64 if config.tiny else config.batch_size,
        learning_rate=config.learning_rate,
        workdir=Path(config.workdir) / data.name / row,
        description={"row": row, **described(config)},
        patience=config.patience,
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    fitted = impressions.train(data, task, [target], f"auc/{target.name}", run)
    found = impressions.test(data, task, [target], fitted.variables, config.num_devices, calibration=True)
    return fitted, found


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    setting = load(config)
    rows = config.rows or setting.rows
    if "bst" in rows and (width := config.dim * len(setting.items)) % BST_HEADS:
        raise ValueError(
            f"dim={config.dim}: the {len(setting.items)} columns of an event have a width of {width}, which "
            f"the {BST_HEADS} heads of bst do not divide; take a multiple of {BST_HEADS}"
        )
    for row in rows:
        fitted, found = train(row, setting, config)
        of_all_seeds = sum(leaf.size for leaf in jax.tree.leaves(fitted.variables["params"]))
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=setting.data.name,
            model=row,
            config={**described(config), "parameters": of_all_seeds // len(config.seeds)},
            protocol=impressions.protocol_of(setting.data, f"auc/{setting.target.name}"),
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{row}: best epochs {fitted.best_epoch}; test {means(found)}\nsaved {path}")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
