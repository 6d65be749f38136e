"""What learned indexes find against what they score: trees (TDM, KDD 2018; JTM, NeurIPS 2019), paths (Deep
Retrieval, arXiv:2007.07203) and graphs (RPG, AAAI 2020; NANN, CIKM 2022), on Gowalla, Amazon-book and Beauty.

A row is a trained scorer and an index, such as nann+rpg-graph-100: 100 is the width of the search, the beam
of a tree or of paths, the nodes that a graph goes on from. Each scorer is also searched exhaustively
(nann+all), so that three things are apart: recall@20 and ndcg@20 of the held-out items, how many of the
exhaustive best 20 are found (recall_of_exact@20), and how many items or nodes were scored for a query on
average (scored; scored_share, of the number of items). nann+two-tower scores the best items of the two-tower
model, whose products are not counted. A beam of paths reads node probabilities besides, and these neither.

Gowalla and Amazon-book are interaction matrices (LightGCN's and KGAT's split; a tenth of each user's training
items validates): the items of a user have no order, are shuffled, and the others are an item's history. On
Beauty the last event tests, the one before validates. All parameters are those of the best validation
recall@20 of what is served: an exhaustive search of two-tower, SASRec and NANN, a search of tree and paths.
Seen items are never listed. The trees are made of the two-tower model's vectors; where --rows names no
two-tower before them, they are random ones, as first_tree in a row's configuration says.

Departs from the papers: data, histories without windows, and budgets are the same for all rows, so that no
published number stands beside ours. TDM is without attention.

Run:     python -m experiments.retrieval.learned_index
Also:    --dataset Beauty, --dataset amazon-book, --rows nann tdm --widths 50 200, --rows two-tower --epochs 5
Writes <dataset>.png beside the results: recall_of_exact@20 against scored_share.
Expect:  on Beauty (three seeds, 1,000 users) graphs find 97 % of SASRec's exhaustive best 20 with 7 % of the
         items scored (rpg-graph-100; nann-graph-50 93 % with 5.7 %), and as much of the two-tower model's
         (98.6 % with 6.9 %, 93.5 % with 6.3 %). Recall@20 of the held-out item is that of the exhaustive
         search (.140 and .099) to .001. A graph of random links finds 29 % with 29 %. Graphs are built in 10
         to 20 seconds. Counting co-visits forwards has a recall@20 of .105, between the two models. After
         five epochs of two towers (three seeds) rpg-graph-50 finds 97.8 % with 1.3 % of Gowalla's items
         scored and 98.7 % with 2.2 % of Amazon-book's; a random graph 27 % with 27 % and 41 % with 40 %.
         Recall@20 is .138 there, item-KNN's .152, and .121, item-KNN's .157. On Beauty with --seeds 0
         --epochs 5 paths find 92 % of Deep Retrieval's exhaustive best 20 with 9.6 % of the items scored
         (98 % with 34 %; recall@20 .096, two-tower .073), TDM's tree 84 % with 7 % (94 % with 12 %), JTM's
         65 % (79 %). Both trees have a recall@20 of .055 at 7 %, and .049 and .053 with all items scored, a
         difference of 6 and 2 users of 1,000. No result of attention is stored yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common, floors
from experiments.retrieval.learned_index_measure import measure
from experiments.retrieval.learned_index_parts import Searched, every_item
from experiments.retrieval.learned_index_rows import NEEDS_ORDER, ROWS
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.held_out import HeldOut, hold_out_validation, split_items
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import next_item, retrieval
from jaxrec.protocols.items import Data
from jaxrec.report.results import read_results
from jaxrec.report.tradeoff import tradeoff_curve
from jaxrec.types import Protocol

EXPERIMENT = "learned_index"
MATRICES = {"gowalla": "lightgcn/gowalla", "amazon-book": "kgat/amazon-book"}
DATASETS = (*MATRICES, "Beauty")
BASELINES = {**floors.RANKING, **floors.MATRIX}  # of events in order, and of a matrix
ALL = "all"  # the index that scores every item


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions):
    """Trains scorers, builds their indexes, and searches them. None: the scorer's own setting."""

    rows: tuple[str, ...] = ()  # baselines and scorers, each with all its indexes; empty: all
    dataset: str = "gowalla"  # or amazon-book, Beauty
    widths: tuple[int, ...] = (5, 10, 20, 50, 100, 200, 400)  # of searches; some indexes begin at k
    k: int = 20  # items of a list
    num_queries: int = 1000  # test users, drawn at random; 0: all
    degree: int = 32  # links of an item of a graph
    graph_rounds: int = 50  # rounds of a walk through all items
    expanded: int = 8  # nodes whose neighbours are scored in a round, the best that were not yet
    relevance: int = 200  # training users whose scores are RPG's vectors
    gap: int = 4  # levels that an item descends at a time where JTM learns its tree
    split_seed: int = 0  # of validation items, shuffling and the choice of test users
    dim: int | None = None  # width of vectors
    max_len: int | None = None  # items of a history that are read
    batch_size: int | None = None  # targets per step; of SASRec users
    learning_rate: float | None = None  # of Adam
    epochs: int | None = None  # to train; of Deep Retrieval in each round
    rounds: int | None = None  # of Deep Retrieval
    workdir: str = "runs/learned_index"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        common.check_choice("dataset", self.dataset, DATASETS)
        sizes = ("dim", "max_len", "batch_size", "epochs", "rounds", "k", "degree", "relevance", "gap")
        common.check(self, *sizes, "graph_rounds", "expanded", "save_every")
        if not self.widths or min(self.widths) < 1 or self.num_queries < 0:
            raise ValueError(
                f"widths={self.widths}, num_queries={self.num_queries}: widths of 1 or more, and 0 or more"
            )


def load(config: Config) -> Data:
    """The split of a data set or of your own file, whose events have an order; synthetic for --tiny."""
    if config.data:
        return next_item.resident(leave_one_out(common.own_events(config), short="train"))
    if config.dataset == "Beauty":
        chain = markov_chain(num_users=96, num_items=40, noise=0.1).sequences if config.tiny else None
        return next_item.resident(leave_one_out(chain or data.load("coserec/Beauty"), short="train"))
    if config.tiny:
        split = split_items(group_tastes(), by="random", test=0.2)
    else:
        whole = data.load(MATRICES[config.dataset], kind="matrix")
        split = hold_out_validation(whole, seed=config.split_seed)
    return retrieval.resident(shuffled(split, seed=config.split_seed))


def shuffled(split: HeldOut, *, seed: int) -> HeldOut:
    """The split with each user's training items in random order, as that of a file may mean something."""
    sequences, user = split.sequences, split.sequences.event_users
    place = np.arange(len(user)) - sequences.offsets[user]
    late = place >= split.train_length[user]
    drawn = np.where(late, place, np.random.default_rng(seed).random(len(user)))
    changed = dataclasses.replace(sequences, items=sequences.items[np.lexsort((drawn, late, user))])
    return dataclasses.replace(split, sequences=changed)


def names_of(config: Config, columns: Data) -> tuple[str, ...]:
    """The rows: those asked for, or all that the data allow."""
    ordered = isinstance(columns, next_item.Data)
    bad = [row for row in config.rows if row in NEEDS_ORDER and not ordered]
    if bad:
        raise ValueError(f"rows: {bad[0]!r} reads an order of events, which {config.dataset} has not")
    untrained = floors.RANKING if ordered else floors.MATRIX
    return config.rows or tuple(row for row in (*untrained, *ROWS) if ordered or row not in NEEDS_ORDER)


def test_baseline(row: str, columns: Data, protocol: Protocol, config: Config) -> None:
    """Ranks all items without training, for all test users; of one held-out item the hit is the recall."""
    kind: Any = next_item if isinstance(columns, next_item.Data) else retrieval
    names, by = (EXPERIMENT, dataset_of(columns)), {"evaluation": kind.evaluation, "known": BASELINES}
    model, variables, protocol, settings, _ = floors.fit(row, columns, protocol, config, *names, **by)
    found = kind.run_test(model, columns, protocol, variables, num_devices=config.num_devices)
    named = found.metrics
    if kind is next_item:
        named = [{k.replace("hit@", "recall@"): value for k, value in m.items()} for m in named]
    store(row, settings, columns, protocol, config, metrics=named, note="all test users")


def dataset_of(columns: Data) -> str:
    """The name of the data set."""
    return columns.split.sequences.name.split("/")[-1]


def test_scorer(row: str, made: Searched, columns: Data, protocol: Protocol, config: Config) -> None:
    """Searches by a scorer, exhaustively and by all its indexes, each with all its widths."""
    states = [made.state(number) for number in range(len(config.seeds))]
    whole, k = every_item(columns.num_items), config.k
    found, exact = measure(made, whole, states, columns, config, [k], exact=None)
    settings = {"recipe": dict(made.settings)}
    where: dict[str, Any] = {"columns": columns, "config": config, "fitted": made.fitted}
    where["protocol"] = protocol._replace(loss=made.loss)
    store(f"{row}+{ALL}", settings, metrics=found[k], **where)
    for name, index in made.indexes.items():
        widths = [width for width in config.widths if index.least(k) <= width <= columns.num_items]
        by_width, _ = measure(made, index, states, columns, config, widths, exact=exact)
        for width, metrics in by_width.items():
            store(f"{row}+{name}-{width}", {**settings, "width": width}, metrics=metrics, **where)


def store(
    row: str, settings: Mapping[str, Any], columns: Data, protocol: Protocol, config: Config, **rest: Any
) -> None:
    """Stores and prints a row."""
    described = {**common.describe_settings(config), **settings}
    path = common.save(
        config.results,
        experiment=EXPERIMENT,
        dataset=dataset_of(columns),
        model=row,
        config=described,
        protocol=protocol,
        seeds=config.seeds,
        **rest,
    )
    print(f"{row}: {common.means(rest['metrics'])}\nsaved {path}", flush=True)


def draw(results: str, dataset: str, k: int) -> Path | None:
    """Draws recall_of_exact@k against scored_share of all stored searches. None: no matplotlib, or no row."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in read_results(Path(results)):
        found = record.result
        if (found.experiment, found.dataset) == (EXPERIMENT, dataset) and "width" in found.config:
            point = (np.mean(found.metrics[m]) for m in ("scored_share", f"recall_of_exact@{k}"))
            lines.setdefault(found.model.rpartition("-")[0], []).append(tuple(map(float, point)))  # type: ignore[arg-type]
    labels = {"title": dataset, "cost": "share of items scored", "value": f"share of the best {k} found"}
    place = Path(results, EXPERIMENT, f"{dataset}.png")
    try:
        return tradeoff_curve(lines, place, **labels, scale="log") if lines else None
    except ImportError:
        return None


def run(config: Config) -> None:
    """Trains, searches and stores every row."""
    check_run(config)
    small: dict[str, Any] = {"widths": (2, 5, 20), "k": 5, "num_queries": 40, "relevance": 8, "degree": 6}
    config = common.shrink_if_tiny(config, **small)
    columns = load(config)
    kind = "hit" if isinstance(columns, next_item.Data) else "recall"
    protocol = Protocol(split=columns.split.rule, ks=(config.k,), selection=f"{kind}@{config.k}")
    names, tower = names_of(config, columns), None
    for row in names:
        if row in BASELINES:
            test_baseline(row, columns, protocol, config)
            continue
        made = ROWS[row](columns, protocol, config, tower)
        tower = made if row == "two-tower" else tower
        test_scorer(row, made, columns, protocol, config)
    draw(config.results, dataset_of(columns), config.k)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
