"""Retrieval by clusters of items on MovieLens-100K (Zhang et al., arXiv:2302.02657).

K-means divides the items by skip-gram vectors learned from training events. Train: events 1..n-2 of each
user predict the next, with sampled softmax. Test: whether a list of M unseen items has the last event's item.
The parameters are those of the best validation recall@50.

    sasrec-ssm      negatives from all items; the list is the M items of highest score
    naive-mtl-ssm   negatives from the cluster of the positive; the list is merged by quotas
    prompts-ssm     as naive-mtl-ssm, and a prompt adapts the user's vector to each cluster

All rows read each event once per epoch, with the same numbers of steps and negatives. The paper's tables are
on other data (ML-1M with times, KuaiRand), so there are no comparable published numbers.

Run:     python -m experiments.retrieval.kuaishou_ebr
Also:    --clusters 20, --alpha 0 (equal quotas), --alpha inf (cluster after cluster),
         --data events.csv --user uid --item sku --time ts

Expect:  on MovieLens-100K, training within clusters has a lower recall@50 than SASRec over all items (0.457),
         with prompts (0.420) and without them (0.428). The difference is smallest for short lists. With
         prompts, validation is best after 45 of 100 epochs and then falls. The gains in the paper are on
         other data. Counting co-visits, chosen on validation, has 0.477 and is above all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from experiments import common, floors
from jaxrec import config as command_line
from jaxrec import data
from jaxrec.config import check_run
from jaxrec.data.events.clusters import Clusters, one_cluster
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out, seen_before
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import next_item
from jaxrec.recipes import kuaishou_ebr as recipes
from jaxrec.tasks.cluster_serving import cluster_retriever, make_recall, over_all_items, recall_metrics
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_item import retriever
from jaxrec.train.evaluate import SEEN_TARGETS, evaluate_and_keep
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_means
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Baseline, Context, Evaluation, Measure, Protocol, Retriever, Scorer, Variables

EXPERIMENT = "kuaishou_ebr"
LENGTHS = (10, 20, 50, 100)  # of the lists
SELECTION = "recall@50"


class Row(NamedTuple):
    """A trained row.

    intents: whether items are divided into clusters and a user's intent is modelled. prompted: whether a
    prompt adapts the user's vector to each cluster.
    """

    intents: bool = False
    prompted: bool = False

    @property
    def label(self) -> str:
        """Names of its losses, for the protocol."""
        return "in-cluster sampled softmax + intent" if self.intents else "sampled softmax"


ROWS: Mapping[str, Row] = {
    "sasrec-ssm": Row(),
    "naive-mtl-ssm": Row(intents=True),
    "prompts-ssm": Row(intents=True, prompted=True),
}
BASELINES = floors.RANKING
TINY: Mapping[str, Any] = {
    "clusters": 3, "vector_epochs": 2, "dim": 8, "inner_dim": 16, "intent_dim": 4, "intent_layers": 0,
    "num_layers": 1, "max_len": 12, "batch_size": 32, "num_samples": 10, "epochs": 2, "evaluate_every": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(common.EventOptions, recipes.Recipe):
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[str, ...] = (*BASELINES, *ROWS)  # rows of the table
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together in one compiled program
    save_every: int = 10  # epochs between checkpoints
    workdir: str = "runs/kuaishou_ebr"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        common.check_rows(self.rows, (*BASELINES, *ROWS))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("cluster_seed", "intent_layers", "patience", "k_core") else 1
            if type(value) is int and value < least:
                raise ValueError(f"{field.name}={value}: must be at least {least}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha}: must be 0 or more")
        if self.dim % self.num_heads or self.intent_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: must divide dim={self.dim} and intent_dim={self.intent_dim}"
            )
        common.check(self)


def load(config: Config) -> Sequences:
    """The sequences of MovieLens-100K or of your own file; synthetic for --tiny."""
    if config.data:
        return common.own_events(config)
    if config.tiny:
        return markov_chain(num_users=96, num_items=120, noise=0.1).sequences
    return data.load("movielens/ml-100k")


def evaluation(
    row: Row | None,
    model: Encoder | Retriever | Scorer,
    columns: next_item.Data,
    clusters: Clusters,
    protocol: Protocol,
    part: Literal["validation", "test"],
    config: Config,
) -> Evaluation:
    """Evaluates whether a row's lists have the target: merged from clusters, or the items of highest score.

    row: None for a baseline, whose model is a retriever or a scorer.
    """
    queries = columns.split.validation if part == "validation" else columns.split.test
    made = next_item.batches(queries, config.max_len)
    if isinstance(model, Scorer):
        measure = in_lists(next_item.evaluation(model, columns, protocol, part).measure)
    else:
        if isinstance(model, Retriever):
            served = over_all_items(model)
        elif row is None or not row.intents:
            served = over_all_items(retriever(model, made.packed))
        else:
            served = cluster_retriever(model, made.packed, prompted=row.prompted)
        measure = make_recall(served, clusters, LENGTHS, alpha=config.alpha, history=columns.history)
    repeated = float(seen_before(columns.split.sequences, queries).mean())  # they count as misses

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        return recall_metrics(LENGTHS)(values, queries) | ({SEEN_TARGETS: repeated} if repeated else {})

    keep = keep_means([f"recall@{k}" for k in LENGTHS], columns.split.sequences.user_ids)
    return Evaluation(measure, made.queries, summarise, protocol, keep)


def in_lists(rank: Measure) -> Measure:
    """Whether the target is in lists of each length, by its rank among all unseen items."""

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        ranks, wrong = rank(variables, queries, context)
        return (ranks[..., None] <= jnp.asarray(LENGTHS)).astype(jnp.float32), wrong

    return measure


def train(
    name: str, columns: next_item.Data, clusters: Clusters, protocol: Protocol, config: Config
) -> tuple[Encoder, Fitted]:
    """Trains a row for all seeds."""
    row, shares = ROWS[name], common.num_shares(config)
    model: Any = (recipes.with_intents if row.intents else recipes.sasrec)(columns.num_items, config)
    if row.prompted:
        work = recipes.by_user_and_cluster(model, columns, clusters, config, num_devices=shares)
    else:
        work = recipes.by_user(model, columns, clusters, config, intents=row.intents, num_devices=shares)
    chosen = evaluation(row, model, columns, clusters, protocol, "validation", config)
    options = common.training_options(config, columns.split.sequences.name, name, row=name)
    options["description"] |= describe_settings(config)
    fitted = fit_reusing(
        [Phase("train", work.task, config.epochs)],
        optax.adam(config.learning_rate),
        work.plan,
        work.columns,
        Selection(chosen, SELECTION, config.evaluate_every, config.patience or None),
        vocabulary=next_item.vocabulary(columns),
        **options,
    )
    return model, fitted


def describe_settings(config: Config) -> dict[str, Any]:
    """The settings that affect what is computed, with infinity as text, which JSON lacks."""
    return common.describe_settings(config) | {"alpha": config.alpha if np.isfinite(config.alpha) else "inf"}


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = common.shrink_if_tiny(config, **TINY)
    config = dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))
    columns = next_item.resident(leave_one_out(load(config)))
    whole = one_cluster(columns.num_items)
    divided = any(ROWS[row].intents for row in config.rows if row in ROWS)
    in_clusters = recipes.cluster_items(columns, config) if divided else whole
    dataset = columns.split.sequences.name.split("/")[-1]

    def by(model: Any, data: next_item.Data, protocol: Protocol, part: Any) -> Evaluation:
        scored = model.model if isinstance(model, Baseline) else model
        return evaluation(None, scored, data, whole, protocol, part, config)

    for name in config.rows:
        row = ROWS.get(name)
        clusters = in_clusters if row is not None and row.intents else whole
        protocol = Protocol(split=columns.split.rule, ks=LENGTHS, selection="none")
        fitted: Fitted | None = None
        if row is None:
            asked = protocol._replace(selection=SELECTION)
            made = floors.fit(name, columns, asked, config, EXPERIMENT, dataset, evaluation=by)
            model, variables, protocol, settings = made[:4]
        else:
            protocol = protocol._replace(loss=row.label, selection=SELECTION)
            model, fitted = train(name, columns, clusters, protocol, config)
            variables = fitted.variables
            settings = describe_settings(config) | {"sizes": clusters.sizes.tolist()}
        tested = evaluation(row, model, columns, clusters, protocol, "test", config)
        found = evaluate_and_keep(tested, variables, columns.columns, num_devices=config.num_devices)
        path = common.save(
            config.results,
            experiment=EXPERIMENT,
            dataset=dataset,
            model=name,
            config=settings,
            protocol=protocol,
            seeds=config.seeds,
            metrics=found,
            fitted=fitted,
        )
        print(f"{name}: {common.means(found)}\nsaved {path}", flush=True)


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
