"""Interaction matrices: the columns of a split on the device, training of a retriever, and its evaluation.

Each query is a user with a set of relevant items, which are ranked among all items that the user has not
interacted with before; or with one relevant item among sampled or given candidates, see `Protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import metrics
from jaxrec.data.events.batching import batched_queries
from jaxrec.data.events.held_out import HeldOut, Sets
from jaxrec.data.events.pairs import pair_columns
from jaxrec.data.events.side_features import SideFeatures
from jaxrec.data.events.split import Queries
from jaxrec.data.validation import check_dtype
from jaxrec.index.chunked import BLOCK
from jaxrec.index.rank import make_rank, of_all_items
from jaxrec.index.top_k import Lists, make_top_k
from jaxrec.optim.loss_weighting import Weighting, static
from jaxrec.protocols.beyond import Beyond, ranking_evaluation
from jaxrec.protocols.candidates import check_set, given_or_sampled
from jaxrec.tasks import pairs
from jaxrec.tasks.pairs import PairModel
from jaxrec.train.epoch import Plan
from jaxrec.train.evaluate import evaluate, evaluate_and_keep, ranking_metrics
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_means, keep_ranks
from jaxrec.train.reuse import fit_reusing
from jaxrec.train.trial import check_validation
from jaxrec.types import (
    ONLY,
    Array,
    Baseline,
    Context,
    Evaluation,
    Measure,
    Protocol,
    Retriever,
    Scorer,
    Summarise,
    Task,
    Tested,
    Variables,
)

Ranked = Baseline | Retriever | Scorer | PairModel  # what can be measured
EVALUATION_BATCH = 512
LAST_EPOCH = "last epoch"  # what `Protocol.selection` says where there is no validation part
Part = Literal["validation", "test"]
# Of lists, from their hits [..., N] and the number of relevant items [...], at a cut-off.
LIST_METRICS: Mapping[str, Callable[[Array, Array, int], Array]] = {
    "recall": lambda hits, relevant, k: metrics.recall_of_hits(hits, relevant, k=k),
    "ndcg": lambda hits, relevant, k: metrics.ndcg_of_hits(hits, relevant, k=k),
    "precision": lambda hits, relevant, k: metrics.precision_of_hits(hits, k=k),
    "hit": lambda hits, relevant, k: jnp.sign(metrics.precision_of_hits(hits, k=k)),
    "map": lambda hits, relevant, k: metrics.map_of_hits(hits, relevant, k=k),
    "recall_capped": lambda hits, relevant, k: metrics.recall_of_hits(hits, jnp.minimum(relevant, k), k=k),
}


class Data(NamedTuple):
    """A split as the training loop reads it.

    columns: arrays that stay on the device, see `resident`. history: items of the longest input of a query.
    most: the largest number of a user's items of training. shown: names of sets of items whose share of the
    lists is measured. users, items: their features, if there are any.
    """

    split: HeldOut
    columns: dict[str, Any]
    history: int
    most: int
    shown: tuple[str, ...] = ()
    users: SideFeatures | None = None
    items: SideFeatures | None = None

    @property
    def num_items(self) -> int:
        return self.split.sequences.num_items

    @property
    def num_users(self) -> int:
        return self.split.sequences.num_users


def resident(
    split: HeldOut, *, sets: Mapping[str, np.ndarray] | None = None, shown: tuple[str, ...] = ()
) -> Data:
    """The columns of a split on the device, for its U users and N interactions.

    sets: named sets of items, True for those in it, bool [num_items + 1]; candidates "only-<name>" are those
    of one, whose mask is the column of that name. shown: names of those whose share of the lists is measured,
    `share_<name>@k`, where all items are candidates.

    items [N], start [U]: all items of a user, those of training first. length [U]: the number of these.
    pair_user, pair_item [P]: user, from 0, and item of each interaction of training, user after user.
    excluded [P] with excluded_start, excluded_length [U]: each user's items of training in ascending order,
    which are never sampled as negatives.

    Raises:
      ValueError: a set of another shape or type, or without an item, or that is shown and not given.
    """
    sets = dict(sets or {})
    for name, mask in sets.items():
        _check_set(name, mask, split)
    if missing := [name for name in shown if name not in sets]:
        raise ValueError(f"shown={shown}: there is no set {missing[0]!r}; the sets are {sorted(sets)}")
    sequences, length = split.sequences, split.train_length.astype(np.int32)
    of_pairs = pair_columns(split.training_events(), num_users=sequences.num_users)
    columns = {
        "items": sequences.items.astype(np.int32),
        "start": sequences.offsets[:-1].astype(np.int32),
        "length": length,
        "pair_user": of_pairs["pair_user"],
        "pair_item": of_pairs["pair_item"],
        "excluded": of_pairs["pair_item"],
        "excluded_start": of_pairs["pair_start"],
        "excluded_length": of_pairs["pair_count"],
    }
    columns |= {f"{ONLY}{name}": mask for name, mask in sets.items()}
    longest = [int(part.length.max(initial=1)) for part in (split.validation, split.test)]
    return Data(split, columns, history=max(longest), most=int(length.max()), shown=shown)


def _check_set(name: str, mask: np.ndarray, split: HeldOut) -> None:
    size = split.sequences.num_items + 1
    check_dtype(mask, np.bool_, f"set {name!r} of items")  # type: ignore[arg-type]
    if mask.shape != (size,) or mask[0] or not mask.any():
        raise ValueError(
            f"set {name!r} of items: {mask.sum():,} of [{len(mask):,}] are True; must be a mask [{size:,}] "
            "of at least one item, False for padding"
        )


def vocabulary(data: Data) -> dict[str, np.ndarray]:
    """Raw ids of items and users."""
    sequences = data.split.sequences
    return {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}


def evaluation(
    model: Ranked,
    data: Data,
    protocol: Protocol,
    part: Part,
    *,
    block: int = BLOCK,
) -> Evaluation:
    """Ranks the relevant items of a part's queries by a protocol.

    Among all items the metrics are means over users of `LIST_METRICS` at each cut-off: recall divides by the
    number of relevant items, recall_capped by at most k of them (Liang et al., WWW 2018); NDCG's ideal list
    has min(k, relevant) of them. Among candidates each query has one relevant item, and the metrics are
    those of its rank. "given-99" reads the candidates of the data set, and draws as many for a part that
    has none.

    "only-<name>" ranks all items of a set of the data, to which every relevant item has to belong.

    Batches of queries are in the order of the lengths of their inputs, so that a model whose cost grows with
    the longest input of a batch has short batches.

    Raises:
      ValueError: the part has no query; candidates for a query of several relevant items; the data has no
        such set of items, or a relevant item is not in it.
    """
    if not isinstance(model, Baseline | Retriever | Scorer):
        asked = evaluation(pairs.ranked(model), data, protocol, part, block=block)
        return asked._replace(measure=pairs.measured(model, asked.measure))
    split = data.split
    sets = split.validation if part == "validation" else split.test
    if not sets.user.size:
        raise ValueError(
            f"{split.sequences.name}: the {part} part has no query ({split.rule}); take one out of training "
            "with held_out.hold_out_validation"
        )
    order = np.argsort(sets.length, kind="stable")
    sets = Sets(*(column[order] for column in sets))
    columns = _batched(split, sets)
    scored = model.model if isinstance(model, Baseline) else model
    if of_all_items(protocol):
        shown = data.shown if protocol.candidates == "all" else ()
        check_set(data, sets, protocol)
        measure = _list_measure(
            scored, data, protocol, number=int(sets.number.max()), block=block, shown=shown
        )
        of_sets = tuple(f"share_{name}" for name in shown)
        names = [f"{name}@{k}" for k in protocol.ks for name in (*LIST_METRICS, *of_sets)]
        keep = keep_means(names, np.asarray(split.sequences.user_ids))
        return Evaluation(measure, columns, _means_of(names), protocol, keep)
    if (sets.number != 1).any():
        raise ValueError(
            f"candidates={protocol.candidates!r}: a query has several relevant items, and candidates are "
            "for one each; rank among all items"
        )
    columns |= {"candidates": given_or_sampled(data, sets, order, protocol, part, columns["mask"])}
    rank = make_rank(scored, protocol, num_items=data.num_items, history=data.history, block=block)
    kept = keep_ranks(split.sequences.user_ids, split.sequences.item_ids)
    return Evaluation(rank, columns, ranking_metrics(protocol.ks), protocol, kept)


def exposure(
    model: Ranked, data: Data, protocol: Protocol, part: Part, *, beyond: Beyond, block: int = BLOCK
) -> Evaluation:
    """What lists show besides hits, for the queries of a part: the metrics of `protocols.beyond` of lists.

    Without its slices, which are by the one target of a query.
    """
    if not isinstance(model, Baseline | Retriever | Scorer):
        asked = exposure(pairs.ranked(model), data, protocol, part, beyond=beyond, block=block)
        return asked._replace(measure=pairs.measured(model, asked.measure))
    split = data.split
    asked = ranking_evaluation(
        model.model if isinstance(model, Baseline) else model,
        protocol,
        _batched(split, split.validation if part == "validation" else split.test),
        beyond=beyond,
        columns=data.columns,
        events=split.training_events,
        num_items=data.num_items,
        summarise=lambda values, queries: {},
        of_ranks=lambda ks: lambda values, queries: {},
        history=data.history,
        keep=keep_ranks(split.sequences.user_ids, split.sequences.item_ids),
        block=block,
    )

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = asked.summarise(values, queries)
        return {name: value for name, value in found.items() if not name.startswith("share/")}

    return asked._replace(summarise=summarise, keep=None)


def _batched(split: HeldOut, sets: Sets) -> dict[str, np.ndarray]:
    """Batches of queries, [batches, B]; target: the first of the relevant items."""
    relevant, offsets = split.relevant(sets)
    queries = Queries(sets.user, sets.length, relevant[offsets[:-1]])
    size = min(EVALUATION_BATCH, len(sets.user))
    columns = batched_queries(queries, size, num_items=split.sequences.num_items)
    number = np.ones(columns["mask"].size, np.int32)
    number[: len(sets.user)] = sets.number
    return columns | {"num_relevant": number.reshape(columns["mask"].shape)}


def _list_measure(
    model: Retriever | Scorer,
    data: Data,
    protocol: Protocol,
    *,
    number: int,
    block: int,
    shown: tuple[str, ...],
) -> Measure:
    """(variables, queries, context) -> values at each cut-off of `LIST_METRICS`, then for each set of `shown`
    the share of the list's k places that have an item of it, [batches, B, metrics]."""
    lists = make_top_k(
        model,
        protocol,
        num_items=data.num_items,
        history=data.history,
        k=max(protocol.ks),
        num_relevant=number,
        ranks=False,
        block=block,
    )

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        values, bad = lists(variables, queries, context)
        found = Lists.from_values(values)
        hits, relevant = found.hits.astype(jnp.float32), found.num_relevant
        members = [jnp.asarray(context[f"{ONLY}{name}"])[found.ids] for name in shown]
        columns: list[Array] = []
        for k in protocol.ks:
            columns += [of(hits, relevant, k) for of in LIST_METRICS.values()]
            columns += [member[..., :k].sum(axis=-1) / k for member in members]
        return jnp.stack(columns, axis=-1), bad

    return measure


def _means_of(names: list[str]) -> Summarise:
    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        real = np.asarray(values, np.float64)[np.asarray(queries["mask"])]
        return {name: float(real[:, column].mean()) for column, name in enumerate(names)}

    return summarise


def train(
    task: Task,
    plan: Plan,
    model: Ranked,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    every: int = 1,
    patience: int | None = None,
    columns: Context | None = None,
    weighting: Weighting | None = None,
    **options: Any,
) -> Fitted:
    """Trains for all seeds at once.

    Each seed keeps the parameters of its best evaluation on the validation part. Where
    `protocol.selection` is "last epoch", for data without such a part, it keeps those of the last epoch, and
    the history has the test metrics.

    plan: of an epoch. model: how the task's variables are ranked. columns: resident columns besides those of
    the data, such as a graph. epochs: at most. every: epochs between evaluations. patience: evaluations
    without improvement before a seed stops; None: never. weighting: of the task's losses, which have the
    weight 1 without one. options: seeds, workdir, description and other arguments of `train.fit.fit`.
    """
    last = protocol.selection == LAST_EPOCH
    if last and patience is not None:
        raise ValueError(
            f"patience={patience}: nothing is selected where the last epoch is kept; leave it out"
        )
    metric = f"ndcg@{protocol.ks[-1]}" if last else protocol.selection
    part: Part = "test" if last else "validation"
    check_validation(options.get("trial"), part)
    asked = evaluation(model, data, protocol, part)
    return fit_reusing(
        [Phase("train", task, epochs, weighting or static())],
        tx,
        plan,
        {**data.columns, **(columns or {})},
        Selection(asked, metric, every, patience, keep="last" if last else "best"),
        vocabulary=vocabulary(data),
        **options,
    )


def run_test(
    model: Ranked,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    columns: Context | None = None,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> Tested:
    """Test metrics of each seed and their values of each user: variables have a leading seeds axis.

    columns: resident columns besides those of the data. beyond: what lists are also measured by, see
    `exposure`; None: nothing.
    """
    context = {**data.columns, **(columns or {})}
    asked = evaluation(model, data, protocol, "test")
    found = evaluate_and_keep(asked, variables, context, num_devices=num_devices)
    if beyond is None:
        return found
    lists = exposure(model, data, protocol, "test", beyond=beyond)
    more = evaluate(lists, variables, context, num_devices=num_devices)
    merged = [{**exposed, **own} for exposed, own in zip(more, found.metrics, strict=True)]
    return found._replace(metrics=merged)


def test(
    model: Ranked,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    columns: Context | None = None,
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Test metrics of each seed: variables have a leading seeds axis."""
    return run_test(model, data, protocol, variables, columns=columns, num_devices=num_devices).metrics
