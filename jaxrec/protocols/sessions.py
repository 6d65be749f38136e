"""What the experiments on click sessions share: resident columns, ranking of the next click, floors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from jaxrec import metrics, packing
from jaxrec.data.events.sessions import Part, Sessions, SessionSplit
from jaxrec.index.rank import make_rank
from jaxrec.train.evaluate import seen_targets
from jaxrec.types import Array, Context, Evaluation, Measure, Protocol, Retriever, Summarise, Variables

EVALUATION_BATCH = 512
KS = (5, 10, 20)


class Data(NamedTuple):
    """A split and its resident columns."""

    split: SessionSplit
    columns: dict[str, np.ndarray]


def resident(split: SessionSplit) -> Data:
    """The columns of a split, built once."""
    return Data(split, split.columns())


def repeats_together(sessions: Sessions, seed: int = 0, *, fixed: bool = False) -> Sessions:
    """The same clicks with those of an item side by side in each session, and the items in random order.

    So stand the views of a session in the raw file of Diginetica. Test prefixes are those of the reordered
    session.

    fixed: one random order of items for all sessions, in place of one for each.

    Raises:
      ValueError: the test rows of a session are not all its prefixes, longest first.
    """
    rng = np.random.default_rng(seed)
    of_item = np.random.default_rng([seed, 1]).permutation(sessions.num_items + 1)
    lengths = sessions.test.lengths
    starts = np.concatenate([[True], lengths[:-1] == 2])
    if (lengths[1:] != np.where(starts[1:], lengths[1:], lengths[:-1] - 1)).any() or lengths[-1] != 2:
        raise ValueError(
            f"{sessions.name}: test rows are not all prefixes of a session, longest first, down to one click "
            "and its target; so the sessions that they are cut from are not known"
        )

    def reordered(items: np.ndarray, row: np.ndarray) -> np.ndarray:
        pairs, pair = np.unique(row.astype(np.int64) * (sessions.num_items + 1) + items, return_inverse=True)
        place = of_item[items] if fixed else rng.permutation(len(pairs))[pair]
        return items[np.lexsort((place, row))]

    train = reordered(sessions.train.items, sessions.train.event_users)
    of_session = np.cumsum(starts) - 1
    longest = lengths[starts]
    clicks = np.flatnonzero(np.repeat(starts, lengths))
    begin = (np.cumsum(longest) - longest)[of_session]
    within = np.arange(len(sessions.test.items)) - np.repeat(sessions.test.offsets[:-1], lengths)
    places = np.repeat(begin, lengths) + within
    if not np.array_equal(sessions.test.items[clicks][places], sessions.test.items):
        raise ValueError(
            f"{sessions.name}: a test row is no prefix of the longer one above it; so the sessions that they "
            "are cut from are not known"
        )
    test = reordered(sessions.test.items[clicks], np.repeat(np.arange(len(longest)), longest))
    return dataclasses.replace(
        sessions,
        train=dataclasses.replace(sessions.train, items=train),
        test=dataclasses.replace(sessions.test, items=test[places]),
    )


def protocol(split: SessionSplit, loss: str, selection: str) -> Protocol:
    """Every item is a candidate for the next click, those of the session too."""
    return Protocol(split.rule, candidates="all", seen="keep", ks=KS, loss=loss, selection=selection)


def summarise(ks: Sequence[int]) -> Summarise:
    """recall@k (the papers' P@k: is the next click among the first k) and mrr@k (1 / rank, 0 past k)."""

    def means(ranks: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        rank = jnp.asarray(np.asarray(ranks)[np.asarray(queries["mask"])])
        found = {}
        for k in ks:
            for name, metric in (("recall", metrics.recall), ("mrr", metrics.mrr)):
                found[f"{name}@{k}"] = float(np.asarray(metric(rank, k=k), np.float64).mean())
        return found | seen_targets(rank)

    return means


def queries(data: Data, part: Part) -> dict[str, np.ndarray]:
    """The examples of a part in batches."""
    return data.split.batched(part, min(EVALUATION_BATCH, len(data.split.queries(part).user)))


def evaluation(retriever: Retriever, data: Data, of: Protocol, asked: Mapping[str, np.ndarray]) -> Evaluation:
    """Ranks the next click by products of vectors, of all items in one block: that halves the products.

    Nothing seen is taken out of the candidates by `protocol`; another rule reads whole sessions.
    """
    count = data.split.num_items
    history = 1 if of.seen == "keep" else int(data.split.lengths.max())
    rank = make_rank(retriever, of, num_items=count, history=history, block=count)
    return Evaluation(rank, asked, summarise(of.ks), of)


# --- rows that learn no vectors: scores of all items, one batch of queries at a time ---

Scores = Callable[[Variables, Mapping[str, Array], Context], Array]


class Floor(NamedTuple):
    """scores(variables, queries, context) -> [B, num_items + 1], and the variables without a seeds axis."""

    scores: Scores
    variables: dict[str, Any]


def rank_by(scores: Scores) -> Measure:
    """Ranks of the next click by scores of all items; equal scores rank it last."""

    def measure(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            found = scores(variables, queries, context)[:, 1:]
            target = queries["target"]
            known = (target >= 1) & (target <= found.shape[1])
            finite = jnp.isfinite(found).all(axis=1)
            ranks = metrics.rank_of_target(found, target - 1)
            return ranks, jnp.sum(~(finite & known) & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    return measure


def floor_evaluation(floor: Floor, data: Data, of: Protocol) -> Evaluation:
    """Ranks the next click of test sessions by the scores of a row that learns nothing."""
    return Evaluation(rank_by(floor.scores), queries(data, "test"), summarise(of.ks), of)


def floor_variables(floor: Floor, seeds: Sequence[int]) -> Variables:
    """The variables of a row that learns nothing, once for each seed, and a key of its own."""
    count = len(seeds)
    shared = {n: jnp.broadcast_to(jnp.asarray(v), (count, *np.shape(v))) for n, v in floor.variables.items()}
    return {**shared, "key": jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))}


def random(data: Data) -> Floor:
    """Products of random vectors: what chance gives."""
    size, dim = data.split.num_items + 1, 32

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        of_query, of_items = jax.random.split(variables["key"])
        keys = jax.vmap(lambda row: jax.random.fold_in(of_query, row))(queries["user"])
        asked = jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)
        return asked @ jax.random.normal(of_items, (size, dim)).T

    return Floor(scores, {})


def popularity(data: Data) -> Floor:
    """Scores an item by its training clicks."""

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        return jnp.broadcast_to(variables["place"], (queries["user"].shape[0], len(variables["place"])))

    return Floor(scores, {"place": _place(data)})


def session_popularity(data: Data) -> Floor:
    """Scores an item by its clicks in the session so far, those of equal number by training clicks.

    S-POP of Hidasi et al. (ICLR 2016, section 4).
    """
    longest = int(data.split.lengths.max())

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        end = context["start"][queries["user"]] + queries["length"]
        clicks = packing.window(context["items"], end, queries["length"], longest)
        base = jnp.broadcast_to(variables["place"], (len(end), len(variables["place"])))
        return base.at[jnp.arange(len(end))[:, None], clicks].add(1.0)

    return Floor(scores, {"place": _place(data)})


def item_knn(data: Data, *, neighbours: int = 100, regularisation: float = 20.0) -> Floor:
    """Scores an item by its similarity to the last click; 0 for all but its `neighbours` most similar items.

    Cosine of two items' vectors of sessions, n_ij / sqrt((n_i + λ)(n_j + λ)), where n counts training
    sessions that hold both or one, and λ keeps rare items from being similar by chance: item-KNN of Hidasi
    et al. (ICLR 2016, section 4), with λ and the number of neighbours of their code (which counts an item's
    clicks, repeated ones too, where this counts sessions). The counts of pairs are a sparse product.
    """
    session, item = data.split.training_clicks()
    held = _counts(session, item, (data.split.num_train, data.split.num_items + 1))
    held.data[:] = 1.0  # an item clicked twice in a session is held once
    both = (held.T @ held).tocoo()
    alone = np.asarray(held.sum(axis=0)).reshape(-1) + regularisation
    others = both.row != both.col
    row, col = both.row[others], both.col[others]
    return _after_last(row, col, both.data[others] / np.sqrt(alone[row] * alone[col]), data, neighbours)


def markov(data: Data, *, neighbours: int = 100) -> Floor:
    """Scores an item by how often it followed the last click in training; 0 past the first `neighbours`."""
    session, item = data.split.training_clicks()
    inside = session[1:] == session[:-1]
    size = data.split.num_items + 1
    pairs = _counts(item[:-1][inside], item[1:][inside], (size, size)).tocoo()
    return _after_last(pairs.row, pairs.col, pairs.data, data, neighbours)


def _counts(row: np.ndarray, col: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_matrix:
    """How often each pair occurs."""
    return scipy.sparse.csr_matrix((np.ones(len(row), np.float32), (row, col)), shape=shape)


def _after_last(row: np.ndarray, col: np.ndarray, value: np.ndarray, data: Data, neighbours: int) -> Floor:
    """Scores the `neighbours` best items `col` of the last click `row` by their value, other items by 0."""
    size = data.split.num_items + 1
    order = np.lexsort((col, -value, row))
    row, col, value = row[order], col[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < neighbours
    near = np.zeros((size, neighbours), np.int32)
    weight = np.zeros((size, neighbours), np.float32)
    near[row[kept], place[kept]] = col[kept]
    weight[row[kept], place[kept]] = value[kept]

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        end = context["start"][queries["user"]] + queries["length"]
        last = context["items"][end - 1]
        zeros = jnp.zeros((len(end), size))
        return zeros.at[jnp.arange(len(end))[:, None], variables["near"][last]].add(variables["weight"][last])

    return Floor(scores, {"near": near, "weight": weight})


def _place(data: Data) -> np.ndarray:
    """Popularity as a number below 1: the order of items by training clicks, equal ones equal, [V + 1].

    Unlike a share of clicks it tells neighbours apart in float32 also when clicks of a session are added.
    """
    _, item = data.split.training_clicks()
    _, place = np.unique(np.bincount(item, minlength=data.split.num_items + 1), return_inverse=True)
    return (place / (place.max() + 1)).astype(np.float32)
