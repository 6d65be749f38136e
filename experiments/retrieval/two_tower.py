"""Negatives of two towers, and YouTube's network (Yi et al., RecSys 2019; Yang et al., WWW 2020).

Towers over ids and features, the same for all rows but for what an observed item is scored against:

    uniform-softmax      items that are drawn uniformly, for all pairs of a batch
    batch-softmax        the other items of the batch
    batch-softmax-logq   the same, corrected for how often an item is in a batch, counted in the training
                         pairs or, with -streaming, estimated from the batches so far
    mixed-softmax-logq   both, corrected; and with ids or features alone (-ids, -features), and with the mean
                         vectors of the user's items (-history)
    uniform-hinge        a triplet loss of cosines against drawn items; uniform-hard-hinge: and the two of the
                         batch that are hardest; hard-hinge: the two hardest of the batch's and drawn items
    youtube-softmax      the mean of the user's items through an MLP, against drawn items
    mv-dssm-softmax-logq Multi-View DSSM: as mixed-softmax-logq, with tanh layers, and a tower of items for
                         each view, the first genre of a movie; negatives are of the observed item's view
    pdn-bce, dfn-bce     PDN and DFN against four sampled items a pair; DFN has clicks alone here

MovieLens-1M: NCF's split and 99 given candidates, with MovieLens' columns of users and movies. Beauty: each
user's last item among all, with S3-Rec's attributes of items. Both select on one item of each user that is
taken out of training. Gowalla: LightGCN's split, without features; it has no validation part, and trained
rows keep their last epoch.

`experiments.floors` has the rows without gradient descent. The items of a user have no order here, so
there is no co-visitation by distance.

Run:     python -m experiments.retrieval.two_tower --dataset ml-1m
Also:    --dataset beauty; --dataset gowalla --rows random popularity matrix-item-knn youtube-softmax

Expect:  on Beauty (three seeds) recall@20 and ndcg@20 are .0659 and .0278 for uniform-softmax, .0511 and
         .0215 batch-softmax, .0677 and .0286 batch-softmax-logq, .0683 and .0287 mixed-softmax-logq, .0512
         and .0209 youtube-softmax: without the logQ correction a quarter is lost, and drawn items beside the
         batch add little. A triplet loss has .0579 and .0222 against drawn items, .0572 and .0220 with the
         two hardest of the batch besides; hard-hinge, against these alone, hardly learns (.0054 and .0020,
         popularity .0198 and .0074). All are below item-KNN (.0812), iALS (.0766), EASE (.0980) and SLIM
         (.0986), tuned on the same validation items. No result of MovieLens-1M or Gowalla is stored yet.

Departs from the papers: sizes are ours, as theirs are for private data; a validation item of Beauty is not
trained on again; genres are no domains, as Multi-View DSSM has them. PDN and DFN score every pair with
layers, so only MovieLens-1M has them by default. The numbers of YouTube's network on Gowalla are those of
BARS, whose implementation shares its table and samples negatives as ours, but whose settings are not ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import common, floors
from experiments.common import NONE, published
from experiments.floors import Floor
from experiments.retrieval.feature_sets import load
from experiments.retrieval.two_tower_rows import ROWS, Learned, Other, learned
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, format_matrix
from jaxrec.protocols import retrieval
from jaxrec.protocols.retrieval import LAST_EPOCH, Data
from jaxrec.recipes import counting
from jaxrec.recipes.trainable import evaluate_every
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol

EXPERIMENT = "two_tower"
PUBLISHED_SETTINGS = ("matrix-item-knn", "ease", "slim")  # those for Gowalla, which has no validation part
FLOORS = {**floors.MATRIX, **{name: Floor(counting.MODELS[name]) for name in PUBLISHED_SETTINGS}}
ALL = (*floors.MATRIX, *ROWS)
NEED_FEATURES = ("mixed-softmax-logq-ids", "mixed-softmax-logq-features")
OF_PAIRS = ("pdn-bce", "dfn-bce")  # whose layers score each pair: for few items, or given candidates
OF_DATASET = {
    "ml-1m": ALL,
    # Beauty's attributes are too many to be views.
    "beauty": tuple(row for row in ALL if row not in ("mv-dssm-softmax-logq", *OF_PAIRS)),
    "gowalla": (
        "random", "popularity", *PUBLISHED_SETTINGS, "batch-softmax-logq", "mixed-softmax-logq",
        "youtube-softmax",
    ),
}  # fmt: skip
PUBLISHED = {
    ("gowalla", "youtube-softmax"): published(("recall@20", "ndcg@20"), "BARS, Gowalla", 0.1754, 0.1473)
}
TINY: Mapping[str, Any] = {
    "dim": 8, "feature_dim": 4, "hidden_dims": (8,), "out_dim": 8, "batch_size": 200, "negatives": 50,
    "epochs": 2, "evaluate_every": 1, "learning_rate": 0.02,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, common.SparseOption):
    """Fits, trains and tests the rows of the table."""

    dataset: str = "ml-1m"  # or beauty, gowalla
    dim: int = 64  # width of the vectors of ids
    feature_dim: int = 16  # width of the vectors of features
    hidden_dims: tuple[int, ...] = (128,)  # widths of the towers' layers before the last
    out_dim: int = 64  # width of the towers' vectors
    temperature: float = 0.1  # divides the cosines
    id_dropout: float = 0.1  # share of users and items that are trained as if they had no id
    negatives: int = 1024  # drawn items of each batch
    margin: float = 0.4  # of the triplet loss
    batch_size: int = 1024  # observed pairs per step
    learning_rate: float = 1e-3  # of Adam
    epochs: int = 60  # epochs to train
    evaluate_every: int = 2  # epochs between evaluations
    patience: int = 5  # evaluations without improvement before a seed stops; 0: never
    split_seed: int = 0  # of the items that are taken out for validation
    workdir: str = "runs/two_tower"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*FLOORS, *ROWS))
        common.check_choice("dataset", self.dataset, tuple(OF_DATASET))
        common.check(
            self, "dim", "feature_dim", "out_dim", "negatives", "batch_size", "epochs", "evaluate_every",
            "save_every",
        )  # fmt: skip
        dense = [row for row in self.rows or ALL if isinstance(ROWS.get(row), Other)]
        if self.sparse and dense:
            raise ValueError(f"sparse={self.sparse!r}: rows {dense} have dense tables; name other rows")


def protocol_of(split: HeldOut, loss: str = "") -> Protocol:
    """Given candidates where the data have them; selection on validation where there is one."""
    kind, ks = ("all", (10, 20)) if split.candidates.test is None else ("given-99", (5, 10))
    selection = f"ndcg@{ks[-1]}" if split.validation.user.size else LAST_EPOCH
    return Protocol(split.rule, kind, ks=ks, loss=loss, selection=selection)


def train(row: str, columns: Data, protocol: Protocol, config: Config) -> tuple[Learned, Fitted]:
    """Trains a row for all seeds: what trained it, and what came of it."""
    made = learned(row, columns, config)
    last = protocol.selection == LAST_EPOCH
    fitted = retrieval.train(
        made.task,
        made.plan,
        made.model,
        columns,
        protocol,
        made.tx,
        epochs=made.recipe.epochs,
        every=evaluate_every(made.recipe),
        patience=None if last else made.recipe.patience or None,
        columns=made.columns,
        weighting=made.weighting,
        **common.training_options(config, columns.split.sequences.name.split("/")[-1], row, row=row),
    )
    return made, fitted


def rows_of(config: Config, columns: Data) -> tuple[str, ...]:
    """The rows that are asked for, or all that the data allow.

    Raises:
      ValueError: a row of features is asked for where there are none.
    """
    none = columns.users is None and columns.items is None
    if none and (wrong := [row for row in config.rows if row in NEED_FEATURES]):
        raise ValueError(f"rows={tuple(wrong)}: the data have no features; leave them out")
    default = tuple(row for row in ALL if row not in OF_PAIRS) if config.data else ALL
    rows = config.rows or (default if config.data or config.tiny else OF_DATASET[config.dataset])
    return tuple(row for row in rows if not (none and row in NEED_FEATURES))


def run(config: Config) -> None:
    """Fits or trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    columns = load(config.dataset, config, split_seed=config.split_seed)
    split, own = columns.split, bool(config.data or config.tiny)
    dataset = split.sequences.name.split("/")[-1]
    print(format_matrix(split), flush=True)
    for row in rows_of(config, columns):
        read: Any = None
        if row in FLOORS:
            by: dict[str, Any] = {"evaluation": retrieval.evaluation, "known": FLOORS, "once": True}
            floor = floors.fit(row, columns, protocol_of(split), config, EXPERIMENT, dataset, **by)
            model, variables, protocol, settings, seeds, fitted = *floor, None
        else:
            protocol, seeds = protocol_of(split, ROWS[row].loss), config.seeds
            made, fitted = train(row, columns, protocol, config)
            model, read = made.model, made.columns
            variables, settings = fitted.variables, common.describe_settings(config)
        found = retrieval.run_test(
            model, columns, protocol, variables, columns=read, num_devices=config.num_devices
        )
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=row,
            config=settings,
            protocol=protocol,
            seeds=seeds,
            metrics=found,
            fitted=fitted,
            **(NONE if own else PUBLISHED.get((config.dataset, row), NONE)).fields(),
        )
        print(f"{row}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
