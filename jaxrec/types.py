"""The types that all parts of jaxrec share. Shapes are written in brackets, leading axis first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array  # a typed PRNG key, from jax.random.key
Batch = Mapping[str, Any]  # named arrays whose leading axis is the example; combined tasks have nested ones
Variables = Mapping[str, Any]  # {"params": …, "batch_stats": …}
Context = Mapping[str, Any]  # columns of a data set that are kept on the device: arrays, or trees of them
Outputs = Any

SHARED = "shared"  # entry of a batch that every device reads whole, such as a graph; nothing of it is split
ONLY = "only-"  # prefix of `Protocol.candidates` and of the context column of a set of items, bool [V + 1]
HISTORY = "history_"  # prefix of the names of a batch's columns of past events, [B, L], most recent last


class Task(NamedTuple):
    """Model, loss, sampler and augmentation as four pure functions: all that a training loop knows.

    prepare(key, examples, context) -> batch
        Runs on the device. `examples` says which ones the step reads: their indices `example` [B] and `mask`
        [B], False for padding. `context` has the resident columns. Samples negatives, augments, masks, packs.
        Every leaf of the batch has a leading axis that is split over devices, but for what is under SHARED.
    init(key, batch) -> variables
    losses(variables, batch, key, axis_name=None) -> ({name: scalar}, updated collections)
        With an axis name, a scalar is this device's share: the shares of all devices add up to the
        loss of the global batch, whatever their number.
    predict(variables, batch) -> outputs, which metrics read.
    """

    prepare: Callable[[Key, Mapping[str, Array], Context], Batch]
    init: Callable[[Key, Batch], Variables]
    losses: Callable[..., tuple[dict[str, Array], Variables]]
    predict: Callable[[Variables, Batch], Outputs]


Merge = Literal["best", "attention"]  # of an item's products with several vectors of a query


class Retriever(NamedTuple):
    """A model whose scores are dot products, for ranking.

    query(variables, queries, context) -> [B, D], or [B, H, D] of several vectors a query; items(variables)
    -> [V, D], vector i for item id i.
    merge: what the products of an item with several vectors make its score: "best", the largest of them (as
    MIND, ComiRec and Octopus serve), or "attention", their mean weighted by their softmax (a Poly-encoder).
    With one vector both are the product.
    """

    query: Callable[[Variables, Mapping[str, Array], Context], Array]
    items: Callable[[Variables], Array]
    merge: Merge = "best"


class Interests(NamedTuple):
    """What a user may want, as several vectors. B batch, K interests, D dim.

    vectors: [B, K, D], 0 where inactive. active: bool [B, K]; at least one of each row. A row without an
    event has vectors of 0, of which the first is active. An item's score is its largest dot product with an
    active vector.
    """

    vectors: Array
    active: Array


class Scorer(NamedTuple):
    """A model whose scores are not dot products, for ranking.

    scores(variables, queries, context) -> [B, V], column i for item id i. All scores of a batch of queries
    are in memory, where a `Retriever` is scored in blocks of items.
    some(variables, queries, context, ids [B, A]) -> [B, A], the same scores of some items of each query, for
    sampled and given candidates; None: they are read out of all scores.
    """

    scores: Callable[[Variables, Mapping[str, Array], Context], Array]
    some: Callable[[Variables, Mapping[str, Array], Context, Array], Array] | None = None


class Baseline(NamedTuple):
    """A method without gradient descent, ranked like a trained model; see `jaxrec.baselines`.

    name: as in tables of results. variables: arrays that the model reads, without a seeds axis.
    """

    name: str
    model: Retriever | Scorer
    variables: Variables

    def for_seeds(self, seeds: Sequence[int]) -> Variables:
        """The variables with a leading seeds axis, equal for all seeds, and a "key" for each seed.

        Raises:
          ValueError: there is no seed, or one that is no whole number, negative, or 2^32 or more.
        """
        whole = [isinstance(seed, int | np.integer) and not isinstance(seed, bool) for seed in seeds]
        if not whole or not all(whole) or not all(0 <= seed < 2**32 for seed in seeds):
            raise ValueError(f"seeds={tuple(seeds)}: must be one or more whole numbers from 0 to 2^32 - 1")
        # A device on the CPU takes an aligned array without a copy, which a table of many GiB needs.
        arrays = {name: jax.device_put(np.asarray(a)[None]) for name, a in self.variables.items()}
        repeated = {
            name: array if len(seeds) == 1 else jnp.broadcast_to(array, (len(seeds), *array.shape[1:]))
            for name, array in arrays.items()
        }
        return {**repeated, "key": jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))}


# (variables, queries [batches, B], context) -> (a value per query [batches, B, …], the number of real queries
# without a valid one [batches], because a score is not finite or an id is out of range)
Measure = Callable[[Variables, Mapping[str, Array], Context], tuple[Array, Array]]
# (values of one seed [batches, B, …], queries on the host) -> named numbers
Summarise = Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, float]]


class Ranks(NamedTuple):
    """The rank of every query's target, from which every metric of a ranking follows. S seeds, Q queries.

    rank: 1-based, int32 [S, Q]; `metrics.MISS` where the target is no candidate. user: raw ids, or numbers of
    sessions, [Q], in ascending order of the data; position: events before the target, int32 [Q]; target: raw
    ids, [Q].
    """

    rank: np.ndarray
    user: np.ndarray
    position: np.ndarray
    target: np.ndarray


class GroupSums(NamedTuple):
    """Metrics as sums over groups of examples: a metric is sums.sum() / weights.sum(). S seeds, G groups.

    group: ids of users, or numbers of blocks of examples, [G]. sums: {metric: float32 [S, G]}. weights:
    {metric: float32 [G]}, the same for every model. labels: {task: sum of its labels, float32 [G]}.
    """

    group: np.ndarray
    sums: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]


Values = Ranks | GroupSums  # what is kept beside a result, to compare it with another
# (values of all seeds [S, batches, B, …], queries on the host) -> what is kept
Keep = Callable[[np.ndarray, Mapping[str, np.ndarray]], Values]


class Protocol(NamedTuple):
    """How a number was measured; without it the number means nothing.

    candidates: "all" items; "sampled-100" and the like: the target and as many sampled negatives, from all
        other items or, if seen items are excluded, from those outside the user's training events (the
        validation item may be among those of a test query); "given-99" and the like: the target and as many
        candidates that the data set gives, which may have fewer for some; "only-cold" and the like: all
        items of a named set, such as those without training interactions; "impressions": labelled examples,
        each scored on its own (AUC, errors).
    seen: the rule for items of the input history: "exclude" excludes them from the candidates. A target among
        them is a miss, 0 in every metric; the metric `seen_targets` is the share of targets that are no
        candidates, for this reason or as training does not know them (`candidates`), if there are any. "zero"
        sets their scores to 0 and keeps them (the rule of the CoSeRec code family, in which the padding and
        mask ids are candidates too); "keep" keeps them: the rule for data where users return to an item.
    ties: "pessimistic" ranks the target after every candidate of equal score, "optimistic" before; "half"
        counts a tied pair as half in order, as AUC does.
    selection: the validation metric by which the evaluated parameters were selected, or "none".
    """

    split: str = "leave-one-out"
    candidates: str = "all"
    seen: str = "exclude"
    ties: str = "pessimistic"
    ks: tuple[int, ...] = (5, 10, 20)
    loss: str = ""
    selection: str = "ndcg@20"


class Evaluation(NamedTuple):
    """How a model is measured, during training (selection) and after; `train.evaluate.evaluate` runs it.

    measure: runs on the device; queries: its columns, [batches, B], on the host, with a `mask` that is False
    for padding; summarise: turns the measured values into named numbers; protocol: what these numbers mean;
    keep: turns them into what is kept by user or group; None: nothing is. curves: turns them into
    `Tested.reliability`; None: there are no probabilities.
    """

    measure: Measure
    queries: Mapping[str, np.ndarray]
    summarise: Summarise
    protocol: Protocol
    keep: Keep | None = None
    curves: Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None


class Tested(NamedTuple):
    """A test: metrics, named numbers of each seed, and the values by user or group that are kept, if any.

    reliability: of probabilities, {task: mean prediction, share of positives and number of examples of each
    bin, [3, S, bins]}.
    """

    metrics: list[dict[str, float]]
    values: Values | None = None
    reliability: Mapping[str, np.ndarray] = {}


class Result(NamedTuple):
    """One row of a table of results, as stored on disk: what was run, how it was measured, and the numbers.

    metrics: {metric: one value per seed}; published: {metric: value}, and `source` says where they are from
    ("" if there are none).
    incomparable: why ours is not measured like the published numbers, so that no difference is printed; "" if
        they are comparable.
    baseline: whether nothing was trained by gradient descent, as in `jaxrec.baselines` and base rates; other
        rows are read against these.
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
    baseline: bool = False
