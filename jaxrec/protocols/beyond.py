"""Metrics of a ranking besides hits: what its lists show, and for which users and items it is accurate.

A ranking that is asked for them (`Beyond`) measures lists as well as ranks, and has, in addition to its other
metrics (docs/protocols.md defines each):

    precision@k, recall@k, ndcg@k, map@k                of the relevant items
    coverage@k, gini@k                                  of all lists together
    novelty@k, popularity@k, tail_share@k, diversity@k  means over lists
    serendipity@k                                       hits that popularity has later
    popularity_lift@k, popularity_lift@k/<taste>        against the items that users met before
    <metric>/<slice>, share/<slice>                     accuracy of a part of the queries, and its share
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import metrics
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.index.chunked import BLOCK
from jaxrec.index.rank import make_rank
from jaxrec.index.top_k import Lists, make_top_k
from jaxrec.types import Array, Context, Evaluation, Keep, Protocol, Retriever, Scorer, Summarise, Values

Groups = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Beyond:
    """What a ranking is also asked for.

    ks: cut-offs of lists; none: those of the protocol. relevant: "next" is the target alone; "rest" is the
    target and all later events of the user, whose metrics are `recall_rest@k` and so on. features: of each
    id, [num_items + 1, D], whose cosines are the distances of `diversity`; None: the users that items share.
    head: share of the items that are the head. lengths: limits of the slices by number of earlier events.
    groups: of users, {name: bool [U]}, such as by age; a user may be in several.

    Raises:
      ValueError: a cut-off is below 1, head is not in (0, 1], or lengths do not ascend.
    """

    ks: tuple[int, ...] = ()
    relevant: Literal["next", "rest"] = "next"
    features: np.ndarray | None = None
    head: float = 0.2
    lengths: tuple[int, ...] = (5, 20)
    groups: Groups = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.ks):
            raise ValueError(f"ks={self.ks}: each must be at least 1")
        if self.relevant not in ("next", "rest"):
            raise ValueError(f"relevant={self.relevant!r}: must be 'next' or 'rest'")
        metrics.head_items(np.zeros(2), share=self.head)
        metrics.by_length(np.zeros(1, int), limits=self.lengths)


class Tables(NamedTuple):
    """What the metrics of a list read.

    Of each id, [V]: novelty in bits, share of users, 1 in the tail, rank by popularity. pairs: features of
    each id [V, D], or `metrics.CoVisits`.
    """

    novelty: Array
    popularity: Array
    tail: Array
    popularity_rank: Array
    pairs: Array | metrics.CoVisits


def ranking_evaluation(
    model: Retriever | Scorer,
    protocol: Protocol,
    queries: Mapping[str, np.ndarray],
    *,
    beyond: Beyond | None,
    columns: Context,
    events: Callable[[], TrainingEvents],
    num_items: int,
    summarise: Summarise,
    of_ranks: Callable[[tuple[int, ...]], Summarise],
    history: int,
    keep: Keep,
    block: int = BLOCK,
) -> Evaluation:
    """Ranks the targets of queries; with `beyond` among all items, and measures lists of the best.

    queries: as of `index.top_k.make_top_k`. summarise: metrics of the ranks at the protocol's cut-offs. keep:
    keeps the ranks, [S, batches, B]. num_items, history, block: as of `index.rank.make_rank`. Read with
    `beyond` alone: columns: resident, of which items and start are read on the host. events: gives those of
    training, which say how popular items are; their groups are indices of `start`. of_ranks: makes metrics of
    ranks at other cut-offs.

    Raises:
      ValueError: the protocol has no lists, see `make_top_k`; `features` or `groups` do not fit the data; a
        feature is not finite.
    """
    if beyond is None:
        rank = make_rank(model, protocol, num_items=num_items, history=history, block=block)
        return Evaluation(rank, queries, summarise, protocol, keep)
    return _list_evaluation(
        model,
        protocol,
        queries,
        beyond=beyond,
        columns=columns,
        events=events(),
        of_protocol=summarise,
        of_ranks=of_ranks,
        history=history,
        keep=keep,
        block=block,
    )


def _list_evaluation(
    model: Retriever | Scorer,
    protocol: Protocol,
    queries: Mapping[str, np.ndarray],
    *,
    beyond: Beyond,
    columns: Context,
    events: TrainingEvents,
    of_protocol: Summarise,
    of_ranks: Callable[[tuple[int, ...]], Summarise],
    history: int,
    keep: Keep,
    block: int,
) -> Evaluation:
    """`ranking_evaluation` with `beyond`."""
    ks = beyond.ks or protocol.ks
    measure = make_top_k(
        model,
        protocol,
        num_items=events.num_items,
        history=history,
        k=max(ks),
        num_relevant=int(queries["num_relevant"].max()) if "num_relevant" in queries else 1,
        block=block,
    )
    users = metrics.users_of_items(events.group, events.item, num_items=events.num_items)
    head = metrics.head_items(users, share=beyond.head)
    tables = _tables(events, users, head=head, features=beyond.features)
    tastes = _tastes(events, head, len(columns["start"]))
    popularity, groups = users / len(np.unique(events.group)), _groups(tastes, beyond)
    ending = "_rest" if beyond.relevant == "rest" else ""

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        lists, mask = Lists.from_values(jnp.asarray(values)), np.asarray(queries["mask"])
        ranks = np.asarray(lists.rank)
        length = np.where(mask, np.asarray(lists.ids > 0).sum(axis=-1), 0)
        per_list, of_all = _measure(lists, jnp.asarray(mask), tables, ks=ks)
        lift = _lift(queries, columns, popularity=popularity, tastes=tastes)
        found = dict(of_protocol(ranks, queries))
        for k in ks:
            values_at = {name: np.asarray(value, np.float64) for name, value in per_list[k].items()}
            for name, value in _means(values_at, mask, np.minimum(length, k), ending=ending).items():
                found.setdefault(f"{name}@{k}", value)  # with one target it may be a metric of its rank
            if length.any():
                found |= {f"{name}@{k}": float(value) for name, value in of_all[k].items()}
            for group, value in lift(values_at["popularity"], length > 0).items():
                found[f"popularity_lift@{k}{group}"] = value
        if (empty := mask & (length == 0)).any():
            found["empty_lists"] = float(empty.sum() / mask.sum())
        slices = _slices(queries, users, head=head, groups=groups, lengths=beyond.lengths)
        for name, members in slices.items():
            found[f"share/{name}"] = float(members.sum() / mask.sum())
            if members.any():
                of_slice = of_ranks((max(ks),))(ranks, {**queries, "mask": members})
                found |= {f"{metric}/{name}": value for metric, value in of_slice.items()}
        return found

    def keep_ranks(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> Values:
        return keep(np.asarray(Lists.from_values(jnp.asarray(values)).rank), queries)

    return Evaluation(measure, queries, summarise, protocol, keep_ranks)


def _tables(
    events: TrainingEvents, users: np.ndarray, *, head: np.ndarray, features: np.ndarray | None
) -> Tables:
    """What metrics of lists read, made once. users: number of users of each item, [V]; head: bool [V]."""
    number = len(np.unique(events.group))
    if features is None:
        pairs: Any = metrics.co_visits(events.group, events.item, num_items=events.num_items)
    else:
        pairs = jnp.asarray(features)
        if pairs.ndim != 2 or len(pairs) != events.num_items + 1:
            raise ValueError(
                f"features: of shape {pairs.shape}: must be [{events.num_items + 1}, D], a row for each id "
                "from 0, the padding"
            )
        if not np.isfinite(features[1:]).all():
            raise ValueError("features: an item has one that is NaN or infinite; give each item finite ones")
    return Tables(
        novelty=metrics.self_information(jnp.asarray(users), number),
        popularity=jnp.asarray(users / number, jnp.float32),
        tail=jnp.asarray(~head, jnp.float32),
        popularity_rank=jnp.asarray(metrics.popularity_rank(users)),
        pairs=pairs,
    )


@functools.partial(jax.jit, static_argnames="ks")
def _measure(
    lists: Lists, mask: Array, tables: Tables, *, ks: tuple[int, ...]
) -> tuple[dict[int, dict[str, Array]], dict[int, dict[str, Array]]]:
    """By cut-off and name: values of each list [batches, B], and of all real ones together."""
    num_items, pairs = len(tables.tail) - 1, tables.pairs
    if isinstance(pairs, metrics.CoVisits):
        distance = metrics.distance_of_users(pairs)
    else:
        distance = metrics.distance_of_features(pairs, metrics.cosine_distance)

    def of_batch(lists: Lists, k: int) -> dict[str, Array]:
        ids, hits, number = lists.ids, lists.hits.astype(jnp.float32), lists.num_relevant
        rank = tables.popularity_rank
        return {
            "precision": metrics.precision_of_hits(hits, k=k),
            "recall": metrics.recall_of_hits(hits, number, k=k),
            "ndcg": metrics.ndcg_of_hits(hits, number, k=k),
            "map": metrics.map_of_hits(hits, number, k=k),
            "serendipity": metrics.serendipity_of_hits(hits, ids, rank, k=k, num_items=num_items),
            "novelty": metrics.list_mean(ids, tables.novelty, k=k),
            "popularity": metrics.list_mean(ids, tables.popularity, k=k),
            "tail_share": metrics.list_mean(ids, tables.tail, k=k),
            "diversity": metrics.list_diversity(ids, distance, k=k),
        }

    per_list = jax.lax.map(lambda batch: {k: of_batch(batch, k) for k in ks}, lists)
    real = jnp.where(mask[..., None], lists.ids, 0)
    shown = {k: metrics.times_shown(real, k=k, num_items=num_items) for k in ks}
    return per_list, {k: {"coverage": metrics.coverage(n), "gini": metrics.gini(n)} for k, n in shown.items()}


ACCURACY = ("precision", "recall", "ndcg", "map", "serendipity")  # an empty list has 0
SHOWN = {"novelty": 1, "popularity": 1, "tail_share": 1, "diversity": 2}  # least items of a list with one


def _means(
    values: Mapping[str, np.ndarray], mask: np.ndarray, length: np.ndarray, *, ending: str
) -> dict[str, float]:
    """Means over queries in float64: of accuracy over all, of the others over lists that are long enough.

    length: items among the first k of each list, 0 where there is no query, [batches, B].
    """
    found = {f"{name}{ending}": float(values[name][mask].mean()) for name in ACCURACY}
    enough = {name: length >= least for name, least in SHOWN.items()}
    return found | {name: float(values[name][kept].mean()) for name, kept in enough.items() if kept.any()}


def _tastes(events: TrainingEvents, head: np.ndarray, num_users: int) -> Groups:
    """Users by the share of head items among their training events, bool [U] each."""
    of_head = np.bincount(events.group, head[events.item], minlength=num_users)
    number = np.bincount(events.group, minlength=num_users)
    return metrics.tastes(np.where(number > 0, of_head / np.maximum(number, 1), np.nan))


def _groups(tastes: Groups, beyond: Beyond) -> Groups:
    """Users by taste and the caller's groups, bool [U] each."""
    size = len(next(iter(tastes.values())))
    taken = {*tastes, *TARGETS, *metrics.by_length(np.zeros(1, int), limits=beyond.lengths)}
    for name, members in beyond.groups.items():
        if np.shape(members) != (size,) or np.asarray(members).dtype != bool:
            raise ValueError(f"groups: {name!r} must be bool [{size}], one entry for each user")
        if name in taken:
            raise ValueError(f"groups: {name!r} is the name of another slice; choose another one")
    return {**tastes, **beyond.groups}


TARGETS = ("head", "tail", "cold")  # slices by target; cold: training has no event of it


def _slices(
    queries: Mapping[str, np.ndarray],
    users: np.ndarray,
    *,
    head: np.ndarray,
    groups: Groups,
    lengths: tuple[int, ...],
) -> Groups:
    """Real queries by target, number of earlier events and group of users, bool [batches, B] each."""
    mask, target, user = (np.asarray(queries[name]) for name in ("mask", "target", "user"))
    cold = users[target] == 0
    found = dict(zip(TARGETS, (head[target], ~head[target] & ~cold, cold), strict=True))
    found |= metrics.by_length(np.asarray(queries["length"]), limits=lengths)
    found |= {name: np.asarray(members)[user] for name, members in groups.items()}
    return {name: members & mask for name, members in found.items()}


def _lift(
    queries: Mapping[str, np.ndarray], columns: Context, *, popularity: np.ndarray, tastes: Groups
) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """lift(popularity of each list, whether it has items) -> popularity lift of all ("") and by taste.

    Arguments [batches, B]. Queries without earlier events or with an empty list are left out.
    """
    mask, user, length = (np.asarray(queries[name]) for name in ("mask", "user", "length"))
    start = np.asarray(columns["start"])[user]
    total = np.concatenate([[0.0], np.cumsum(popularity[np.asarray(columns["items"])])])
    end = np.minimum(start + length, len(total) - 1)  # those of padding may lie past the end
    before = (total[end] - total[start]) / np.maximum(length, 1)
    members = {"": mask, **{f"/{name}": mask & group[user] for name, group in tastes.items()}}

    def lift(in_lists: np.ndarray, shown: np.ndarray) -> dict[str, float]:
        found = {}
        for ending, group in members.items():
            kept = group & shown & (length > 0)
            if kept.any() and (past := before[kept].mean()) > 0:
                found[ending] = metrics.popularity_lift(in_lists[kept].mean(), past)
        return found

    return lift
