"""The nouns every part of jaxrec shares. Shapes are written in brackets, leading axis first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # a typed PRNG key, from jax.random.key
Batch = Mapping[str, Any]  # named arrays whose leading axis is the example; combined tasks nest theirs
Variables = Mapping[str, Any]  # {"params": …, "batch_stats": …}
Context = Mapping[str, Any]  # columns of a data set that live on the device: arrays, or trees of them
Outputs = Any

HISTORY = "history_"  # begins the name of a batch's columns of past events, [B, L], most recent last


class Task(NamedTuple):
    """Model, loss, sampler and augmentation as four pure functions: all that a training loop knows.

    prepare(key, examples, context) -> batch
        Runs on the device. `examples` says which ones the step reads: their numbers `example` [B] and `mask`
        [B], False where there is none. `context` holds the resident columns. Draws negatives, augments,
        masks, packs. Every leaf of the batch has a leading axis that is split over devices.
    init(key, batch) -> variables
    losses(variables, batch, key, axis_name=None) -> ({name: scalar}, updated collections)
        With an axis name, a scalar is this device's share: the shares of all devices add up to the
        loss of the global batch, whatever their number.
    predict(variables, batch) -> outputs, what metrics read.
    """

    prepare: Callable[[Key, Mapping[str, Array], Context], Batch]
    init: Callable[[Key, Batch], Variables]
    losses: Callable[..., tuple[dict[str, Array], Variables]]
    predict: Callable[[Variables, Batch], Outputs]


class Retriever(NamedTuple):
    """A model as a ranking sees it: scores are dot products.

    query(variables, queries, context) -> [B, D]; items(variables) -> [V, D], row i for item id i.
    """

    query: Callable[[Variables, Mapping[str, Array], Context], Array]
    items: Callable[[Variables], Array]


class Scorer(NamedTuple):
    """A model as a ranking sees it where scores are no dot products: all items at once.

    scores(variables, queries, context) -> [B, V], column i for item id i. A batch of queries holds a score
    for every item, where a `Retriever` holds a block of items at a time.
    """

    scores: Callable[[Variables, Mapping[str, Array], Context], Array]


class Baseline(NamedTuple):
    """A method without gradient descent, ranked as a trained model is; `jaxrec.baselines` has them.

    name: as in tables of results. variables: what the model reads, without a seeds axis and without the key
    of a seed, see `baselines.variables_per_seed`.
    """

    name: str
    model: Retriever | Scorer
    variables: Variables


# (variables, queries [batches, B], context) -> (a value per query [batches, B, …], the number of real queries
# without one [batches]: a score is NaN or infinite, or an id is none of the data)
Measure = Callable[[Variables, Mapping[str, Array], Context], tuple[Array, Array]]
# (values of one seed [batches, B, …], queries on the host) -> named numbers
Summarise = Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, float]]


class Protocol(NamedTuple):
    """How a ranking number was measured: without it the number means nothing.

    candidates: "all" items, or "sampled-100" and the like: the target among that many sampled negatives,
        of all other items or, where seen items are excluded, of those outside the user's training events
        (the validation item may be among those of a test query); "impressions": labelled examples, which no
        other item competes with (AUC, errors).
    seen: what happens to items of the input history: "exclude" takes them out of the candidates. A target
        among them can't be shown, so it is a miss: 0 in every metric, whatever the candidates; where there
        are such, their share is the metric `seen_targets`. "zero" sets their score to 0 and leaves them in
        (the rule of the CoSeRec code family; padding and mask rows stay candidates too), "keep" leaves
        them in: the rule for data where users come back to an item.
    ties: "pessimistic" ranks the target after every candidate of equal score, "optimistic" before;
        "half" counts a tied pair as half in order, as AUC does.
    selection: the validation metric by which the evaluated parameters were chosen, or "none".
    """

    split: str = "leave-one-out"
    candidates: str = "all"
    seen: str = "exclude"
    ties: str = "pessimistic"
    ks: tuple[int, ...] = (5, 10, 20)
    loss: str = ""
    selection: str = "ndcg@20"


class Evaluation(NamedTuple):
    """How anything is measured, in training (selection) and after: `train.evaluate.evaluate` runs it.

    measure: runs on the device; queries: the columns that it reads, [batches, B], on the host, with a `mask`
    that is False in a padded tail; summarise: what it measured, as named numbers; protocol: what those
    numbers mean.
    """

    measure: Measure
    queries: Mapping[str, np.ndarray]
    summarise: Summarise
    protocol: Protocol


class Result(NamedTuple):
    """One row of a table, as stored on disk: what was run, how it was measured, what came out.

    metrics: {metric: one value per seed}; published: {metric: value} and `source` says where they
    stand ("" where there are none).
    incomparable: why ours is not measured as the published numbers are, so that no difference is printed;
        "" where the two compare.
    """

    experiment: str
    dataset: str
    model: str
    config: Mapping[str, Any]
    protocol: Protocol
    seeds: tuple[int, ...]
    metrics: Mapping[str, tuple[float, ...]]
    published: Mapping[str, float]
    source: str
    steps: int
    seconds: float
    compile_seconds: float
    note: str = ""
    incomparable: str = ""
