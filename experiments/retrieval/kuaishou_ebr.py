"""Retrieval by clusters of items on MovieLens-100K (Zhang et al., arXiv:2302.02657).

K-means divides the items by skip-gram vectors learned from training events. Train: events 1..n-2 of each
user predict the next, with sampled softmax. Test: is the last event in a list of M unseen items? The
parameters are those of the best validation recall@50.

    sasrec-ssm      negatives from all items; the list is the M items of highest score
    naive-mtl-ssm   negatives from the cluster of the positive; the list is merged by quotas
    prompts-ssm     the same, and a prompt adapts the user's vector to each cluster

All rows see each event once an epoch, in as many steps, beside as many negatives. The paper's tables are on
other data (ML-1M with times, KuaiRand), so no published number stands beside these.

Run:     python -m experiments.retrieval.kuaishou_ebr
Also:    --clusters 20, --alpha 0 (equal quotas), --alpha inf (cluster after cluster)
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

from experiments import settings
from experiments.saving import means, save
from jaxrec import config as command_line
from jaxrec import packing
from jaxrec.augment.item2vec import item_vectors
from jaxrec.config import check_run
from jaxrec.data.events.clusters import Clusters, cluster_examples, clusters_from_labels, kmeans, one_cluster
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out, seen_before
from jaxrec.data.sources import movielens
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.multitask.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.packing import Packing
from jaxrec.protocols import next_item as ranking
from jaxrec.tasks.cluster_retrieval import cluster_retrieval, in_cluster_softmax
from jaxrec.tasks.cluster_serving import cluster_retriever, make_recall, over_all_items, recall_metrics
from jaxrec.tasks.next_item import Encoder, next_item, retriever
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import SEEN_TARGETS, evaluate
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Evaluation, Protocol, Retriever, Task

EXPERIMENT = "kuaishou_ebr"
Row = Literal["random", "popularity", "sasrec-ssm", "naive-mtl-ssm", "prompts-ssm"]
LENGTHS = (10, 20, 50, 100)  # of the lists
SELECTION = "recall@50"
TINY: Mapping[str, Any] = {
    "clusters": 3,
    "vector_epochs": 2,
    "dim": 8,
    "inner_dim": 16,
    "intent_dim": 4,
    "intent_layers": 0,
    "num_layers": 1,
    "max_len": 12,
    "batch_size": 32,
    "num_samples": 10,
    "epochs": 2,
    "evaluate_every": 1,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains and tests the rows of the table, one after the other."""

    rows: tuple[Row, ...] = ("random", "popularity", "sasrec-ssm", "naive-mtl-ssm", "prompts-ssm")
    clusters: int = 5  # into which K-means divides the items
    alpha: float = 1.0  # exponent of the quotas: 0 is equal shares, inf the most probable cluster first
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together, one compilation
    tiny: bool = False  # a synthetic set and two epochs, in seconds: to see that all works
    cluster_seed: int = 0  # of the vectors and of K-means: all runs have the same clusters
    vector_dim: int = 20  # width of the vectors that are clustered
    vector_epochs: int = 20  # passes over the pairs that teach them
    dim: int = 64  # width of the encoder
    inner_dim: int = 256  # inner width of its blocks
    num_layers: int = 2  # blocks
    num_heads: int = 2  # attention heads
    intent_dim: int = 32  # width of the intent model
    intent_layers: int = 1  # its blocks; 0: it sees the last item alone
    max_len: int = 50  # most recent events read
    dropout: float = 0.3  # of embeddings, attention weights and layers
    learning_rate: float = 1e-3  # of Adam
    batch_size: int = 128  # users a step; with prompts as many (user, cluster) pairs as these have
    num_samples: int = 100  # negatives beside each event
    epochs: int = 100  # epochs to train
    evaluate_every: int = 5  # epochs between evaluations on validation
    patience: int = 0  # evaluations without a better one before a seed stops; 0: never
    num_devices: int = 1  # devices that share each batch
    save_every: int = 10  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs/kuaishou_ebr"  # folder of checkpoints and logs; a run found there is continued

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("cluster_seed", "intent_layers", "patience") else 1
            if type(value) is int and value < least:
                raise ValueError(f"{field.name}={value}: must be at least {least}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha}: must be 0 or more")
        if self.dim % self.num_heads or self.intent_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads}: must divide dim={self.dim} and intent_dim={self.intent_dim}"
            )
        settings.check(self)


def effective(config: Config) -> Config:
    """The settings with those of --tiny in place of defaults, and at least one evaluation."""
    if config.tiny:
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
        kept = {name: value for name, value in TINY.items() if getattr(config, name) == defaults[name]}
        config = dataclasses.replace(config, **kept)
    return dataclasses.replace(config, evaluate_every=min(config.evaluate_every, config.epochs))


def load(config: Config) -> Sequences:
    """The sequences of the data set."""
    if config.tiny:
        return markov_chain(num_users=96, num_items=120, noise=0.1).sequences
    return movielens.load("ml-100k")


def clusters_of(data: ranking.Data, config: Config) -> Clusters:
    """K-means over unit vectors of the items. Those without a training event join the largest cluster."""
    sequences, lengths = data.split.sequences, data.split.train_length
    parts = [sequences.user_items(user)[:length] for user, length in enumerate(lengths)]
    table = np.asarray(
        item_vectors(
            jax.random.key(config.cluster_seed),
            parts,
            num_items=data.num_items,
            dim=config.vector_dim,
            epochs=config.vector_epochs,
        )
    )
    met = np.unique(np.concatenate(parts))
    unit = table[met] / np.linalg.norm(table[met], axis=1, keepdims=True)
    found = kmeans(unit, config.clusters, seed=config.cluster_seed)
    labels = np.full(data.num_items, np.bincount(found.labels).argmax())
    labels[met - 1] = found.labels
    return clusters_from_labels(labels)


def model_of(row: Row, data: ranking.Data, config: Config) -> Encoder:
    """The model of a row. Both rows with clusters have a model of the user's intent."""
    sizes: dict[str, Any] = {
        "num_items": data.num_items,
        "dim": config.dim,
        "inner_dim": config.inner_dim,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "max_len": config.max_len,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "bits": counter_bits,
    }
    if row == "sasrec-ssm":
        return SASRec(**sizes)
    return KuaishouEBR(
        **sizes,
        num_clusters=config.clusters,
        intent_dim=config.intent_dim,
        intent_layers=config.intent_layers,
    )


class Training(NamedTuple):
    """What a row trains: the task, the order of its examples, the columns it reads."""

    task: Task
    plan: Plan
    columns: dict[str, Any]


def training_of(row: Row, model: Encoder, data: ranking.Data, clusters: Clusters, config: Config) -> Training:
    """A row's training. With prompts a step holds the (user, cluster) pairs that `batch_size` users have."""
    if row != "prompts-ssm":
        rows = ranking.training_rows(data, config.batch_size, config.max_len, config.num_devices)
        plan = ranking.training_plan(data, config.batch_size, config.max_len, rows)
        objective = in_cluster_softmax(clusters, config.num_samples)
        task = (
            next_item(model, objective, packed=rows)
            if row == "sasrec-ssm"
            else cluster_retrieval(model, objective, clusters, packed=rows, prompted=False)
        )
        return Training(task, plan, data.columns)
    examples = cluster_examples(data.columns, clusters, config.max_len)
    user = examples["example_user"]
    lengths = np.minimum(data.inputs[user], config.max_len)
    steps = -(-data.split.sequences.num_users // config.batch_size)
    batch_size = -(-len(user) // steps)
    needed = packing.rows_needed(
        lengths, batch_size, config.max_len, multiple=config.num_devices, deviations=3.0
    )
    rows = Packing(needed, config.max_len)

    def length(context: Context, example: Array) -> Array:
        return jnp.clip(context["length"][context["example_user"][example]] - 1, 0, config.max_len)

    plan = shuffled(len(user), batch_size, lengths=length, rows=rows.rows, width=rows.width)
    task = cluster_retrieval(model, in_cluster_softmax(clusters, config.num_samples), clusters, packed=rows)
    return Training(task, plan, data.columns | examples)


def evaluation(
    row: Row,
    model: Encoder | Retriever,
    data: ranking.Data,
    clusters: Clusters,
    protocol: Protocol,
    part: Literal["validation", "test"],
    config: Config,
) -> Evaluation:
    """Whether a row's lists hold the target: merged from clusters, or the items of highest score."""
    queries = data.split.validation if part == "validation" else data.split.test
    ranked = ranking.ranking(queries, config.max_len)
    if isinstance(model, Retriever):
        served = over_all_items(model)
    elif row == "sasrec-ssm":
        served = over_all_items(retriever(model, ranked.rows))
    else:
        served = cluster_retriever(model, ranked.rows, prompted=row == "prompts-ssm")
    repeated = float(seen_before(data.split.sequences, queries).mean())  # misses, by the protocol

    def summarise(values: np.ndarray, asked: Mapping[str, np.ndarray]) -> dict[str, float]:
        return recall_metrics(LENGTHS)(values, asked) | ({SEEN_TARGETS: repeated} if repeated else {})

    measure = make_recall(served, clusters, LENGTHS, alpha=config.alpha, history=data.history)
    return Evaluation(measure, ranked.queries, summarise, protocol)


def train(
    row: Row, data: ranking.Data, clusters: Clusters, protocol: Protocol, config: Config
) -> tuple[Encoder, Fitted]:
    """Trains a row for all seeds."""
    model = model_of(row, data, config)
    work = training_of(row, model, data, clusters, config)
    fitted = fit_reusing(
        [Phase("train", work.task, config.epochs)],
        optax.adam(config.learning_rate),
        work.plan,
        work.columns,
        Selection(
            evaluation(row, model, data, clusters, protocol, "validation", config),
            SELECTION,
            config.evaluate_every,
            config.patience or None,
        ),
        seeds=config.seeds,
        workdir=Path(config.workdir) / data.split.sequences.name / row,
        description={"row": row, **described(config)},
        vocabulary=ranking.vocabulary(data),
        num_devices=config.num_devices,
        save_every=config.save_every,
        accept_changed_code=config.accept_changed_code,
    )
    return model, fitted


def described(config: Config) -> dict[str, Any]:
    """The settings that decide what is computed; JSON has no infinity."""
    return settings.described(config) | {"alpha": config.alpha if np.isfinite(config.alpha) else "inf"}


def run(config: Config) -> None:
    """Trains, tests and stores every row."""
    check_run(config)
    config = effective(config)
    data = ranking.resident(leave_one_out(load(config)))
    whole = one_cluster(data.num_items)
    in_clusters = ("naive-mtl-ssm", "prompts-ssm")
    divided = clusters_of(data, config) if {*in_clusters} & {*config.rows} else whole
    for row in config.rows:
        clusters = divided if row in in_clusters else whole
        protocol = Protocol(split=data.split.rule, ks=LENGTHS, selection="none")
        model: Encoder | Retriever
        fitted: Fitted | None = None
        if row in ("random", "popularity"):
            model = ranking.random(data) if row == "random" else ranking.popularity(data)
            variables = ranking.floor_variables(config.seeds)
        else:
            loss = "sampled softmax" if clusters is whole else "in-cluster sampled softmax + intent"
            protocol = protocol._replace(loss=loss, selection=SELECTION)
            model, fitted = train(row, data, clusters, protocol, config)
            variables = fitted.variables
        asked = evaluation(row, model, data, clusters, protocol, "test", config)
        found = evaluate(asked, variables, data.columns, num_devices=config.num_devices)
        path = save(
            config.results,
            experiment=EXPERIMENT,
            dataset=data.split.sequences.name.split("/")[-1],
            model=row,
            config=described(config) | {"sizes": clusters.sizes.tolist()} if fitted else {},
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
