"""What searches find of held-out items and of exhaustive lists, what they score, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.retrieval.learned_index_parts import Index, Searched
from jaxrec import metrics, packing
from jaxrec.index.scored import best_of
from jaxrec.protocols import next_item
from jaxrec.protocols.items import Data
from jaxrec.train.compiled import Compiled
from jaxrec.types import Array

BATCH = 16  # queries that are searched at a time


class Asked(NamedTuple):
    """Test users: user, length, mask and number of held-out items, [batches, B]; the most of these."""

    columns: dict[str, np.ndarray]
    most: int


class Exact(NamedTuple):
    """The exhaustive lists of one seed: ids and scores, [batches, B, k]."""

    ids: Array
    scores: Array


def asked(data: Data, config: Any) -> Asked:
    """Random test users in batches; places that are left over have the mask False."""
    test: Any = data.split.test
    number = np.ones_like(test.user) if isinstance(data, next_item.Data) else test.number
    order = np.random.default_rng(config.split_seed).permutation(len(test.user))
    order = np.sort(order[: config.num_queries or len(order)])
    size = min(BATCH, len(order))
    rows = np.resize(order, -(-len(order) // size) * size)
    columns = {"user": test.user, "length": test.length, "number": number}
    batched = {name: column[rows].reshape(-1, size) for name, column in columns.items()}
    batched["mask"] = (np.arange(len(rows)) < len(order)).reshape(-1, size)
    return Asked(batched, int(number[order].max()))


def measure(
    made: Searched,
    index: Index,
    states: Sequence[Any],
    data: Data,
    config: Any,
    widths: Sequence[int],
    exact: Sequence[Exact] | None,
) -> tuple[dict[int, list[dict[str, float]]], list[Exact]]:
    """Metrics of each seed by width, and the lists of the last width of each seed.

    recall@k and ndcg@k of held-out items; recall_of_exact@k, the share of the exhaustive list that is found,
    where an item as good as its last counts too; scored, and scored_share of the number of items;
    build_seconds; search_ms of a query, in batches of 16. exact: None: these lists are the exhaustive ones.
    """
    found: dict[int, list[dict[str, float]]] = {width: [] for width in widths}
    queries = asked(data, config)
    context = {name: jnp.asarray(data.columns[name]) for name in ("items", "start")}
    lists: list[Exact] = []
    programs = {
        width: Compiled(jax.jit(_searches(made, index, data, config.k, width, queries.most)))
        for width in widths
    }
    for seed, state in enumerate(states):
        start = time.perf_counter()
        built = jax.block_until_ready(index.build(state))
        build = index.seconds + time.perf_counter() - start
        for width in widths:
            true = None if exact is None else exact[seed]
            arguments = (state, built, context, queries.columns, true)
            programs[width].compile(*arguments)
            start = time.perf_counter()
            values, best = jax.block_until_ready(programs[width](*arguments))
            seconds = time.perf_counter() - start
            real = queries.columns["mask"]
            if not np.asarray(values.pop("finite"))[real].all():
                raise ValueError(f"seed {config.seeds[seed]}: a score is not finite; train with a lower rate")
            means = {
                name: float(np.asarray(value, np.float64)[real].mean()) for name, value in values.items()
            }
            means |= {"scored_share": means["scored"] / data.num_items, "build_seconds": build}
            found[width].append({**means, "search_ms": 1e3 * seconds / real.size})
        lists.append(best)
    return found, lists


def _searches(made: Searched, index: Index, data: Data, k: int, width: int, most: int) -> Any:
    """(state, index, context, queries, exhaustive lists or None) -> values of all queries, and lists."""

    def run(state: Any, built: Any, context: Mapping[str, Array], queries: Any, true: Any) -> Any:
        score = made.score(state)

        def masked(query: Any, ids: Array) -> Array:
            seen = jnp.take_along_axis(query[1], jnp.where(ids <= data.num_items, ids, 0), axis=1)
            return jnp.where(seen & (ids > 0), -jnp.inf, score(query[0], ids))

        def plain(query: Any, ids: Array) -> Array:
            return score(query[0], ids)

        def batch(part: tuple[Mapping[str, Array], Any]) -> Any:
            queries, true = part
            end, length = context["start"][queries["user"]] + queries["length"], queries["length"]
            seen = metrics.seen_mask(
                packing.window(context["items"], end, length, data.history), data.num_items + 1
            )
            query = (made.query(state, queries, context), seen)
            found = index.find(built, state, masked if index.masked else plain, query, k, width)
            out = jnp.take_along_axis(seen, found.ids, axis=1) | (found.ids == 0)
            scores, ids = best_of(jnp.where(out, -jnp.inf, found.scores), found.ids, k)
            number = queries["number"]
            relevant = packing.window(context["items"], end + number, number, most)
            hits = ((ids[:, :, None] == relevant[:, None]).any(axis=2) & (ids > 0)).astype(jnp.float32)
            values = {
                f"recall@{k}": metrics.recall_of_hits(hits, number, k=k),
                f"ndcg@{k}": metrics.ndcg_of_hits(hits, number, k=k),
                f"recall_of_exact@{k}": _of_exact(ids, scores, Exact(ids, scores) if true is None else true),
                "scored": found.scored,
                "finite": found.finite,
            }
            return values, Exact(ids, scores)

        return jax.lax.map(batch, (queries, true))

    return run


def _of_exact(ids: Array, scores: Array, true: Exact) -> Array:
    """The share of an exhaustive list [B, k] that is found; an item as good as its last counts too: [B]."""
    there = (true.ids > 0).sum(axis=1)
    last = jnp.take_along_axis(true.scores, jnp.maximum(there - 1, 0)[:, None], axis=1)
    same = (ids[:, :, None] == true.ids[:, None]).any(axis=2) | (scores >= last)
    return (same & (ids > 0)).sum(axis=1) / jnp.maximum(there, 1)
