"""Proximity graphs from vectors of items, or from what queries find relevant; items are added to them.

Every item is linked to near ones in different directions: of its candidates, the nearest items in order, one
is kept if it is nearer to the item than to all that were kept before it (Malkov and Yashunin, TPAMI 2018,
arXiv:1603.09320, algorithm 4). A link goes both ways while both ends have room; where not, the same rule
chooses. Candidates are found exactly where HNSW walks the graph so far, and all items are inserted at once.

RPG's vectors are the scores of some queries for an item (`relevance_vectors`). The queries that are searched
later must be others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index import exact
from jaxrec.index.graphs import Graph, make_graph
from jaxrec.index.measure import Metric, centre_of, check_table, prepare_items
from jaxrec.index.scored import Query, ScoreItems
from jaxrec.types import Array

RATIO = 32  # items of a level for each of the level above
LEAST = 100  # items of the top level
HELD = 1 << 22  # products of candidates that are held at a time
APART = 4  # rounds of repair in which every node gets one link; after them, lost items are linked in chains


def build(
    vectors: Any,
    *,
    degree: int = 32,
    metric: Metric = "l2",
    candidates: int | None = None,
    filled: bool = False,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
) -> Graph:
    """A graph of the items 1 .. V - 1 with the vectors of a table [V, D], whose row 0 is padding.

    Args:
      degree: m, the largest number of neighbours on the level of all items, of which an item chooses half by
        itself (M, of which hnswlib takes 2 M too); upper levels have half of m.
      metric: what near means, see `measure`. NANN and RPG take "l2", whatever the scorer.
      candidates: near items of which an item chooses its links; None: 2 m (hnswlib's efConstruction).
      filled: whether near items that the rule refuses take the places that it leaves open (the algorithm's
        option): rounds reach more, and score more. hnswlib leaves them open.
      sizes: items of each upper level, drawn at random and nested, the top one first, at which a search
        begins; the last is below n. None: n / 1024, but at least 100, and n / 32, as NANN; of few items all
        are entries.
      seed: of the draw.

    All items can be reached from the entries: where a link is missing, the nearest item with room has one
    more, or another one in place of one that no path needs.

    Raises:
      ValueError: degree or candidates is below 1, sizes do not grow or are not in 1..n, or the table has no
        items or a number that is not finite.
    """
    table = _checked(vectors, metric)
    number = len(table) - 1
    for name, value in (("degree", degree), ("candidates", 1 if candidates is None else candidates)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    sizes = _default_sizes(number) if sizes is None else tuple(sizes)
    if not sizes or sizes[0] < 1 or sizes[-1] > number or (np.diff(sizes) < 1).any():
        raise ValueError(f"sizes={sizes}: must grow from at least 1 to at most {number}, the number of items")
    near = 2 * degree if candidates is None else candidates
    order = 1 + np.random.default_rng(seed).permutation(number).astype(np.int32)
    chosen = [np.sort(order[:size]) for size in sizes]
    half = max(1, degree // 2)
    upper = []
    for nodes in chosen[1:]:
        empty = np.zeros((len(nodes) + 1, half), np.int32)
        inside = _connected(empty, table[np.r_[0, nodes]], near, metric, filled)
        upper.append((nodes, np.r_[0, nodes][inside[1:]]))
    linked = _connected(np.zeros((number + 1, degree), np.int32), table, near, metric, filled)
    return make_graph(reachable(linked, chosen[0], table, metric), chosen[0], upper)


def _checked(vectors: Any, metric: Metric) -> np.ndarray:
    table = check_table(vectors, metric).copy()
    table[0] = 0.0
    return table


def _default_sizes(number: int) -> tuple[int, ...]:
    top, middle = min(number, max(LEAST, number // RATIO**2)), number // RATIO
    return (top, middle) if middle > top else (top,)


def add(
    graph: Graph,
    vectors: Any,
    *,
    metric: Metric = "l2",
    candidates: int | None = None,
    filled: bool = False,
) -> Graph:
    """The graph with further items, whose ids are n + 1 .. V - 1.

    vectors: of all items [V, D], those of the graph first. The new ones join the level of all items alone. A
    search is compiled anew. The other arguments as of `build`.

    Raises:
      ValueError: there are fewer vectors than the graph has items, or as `build`.
    """
    table = _checked(vectors, metric)
    number, known = len(table) - 1, graph.count
    if number < known:
        raise ValueError(
            f"{number} vectors of items: the graph has {known}; give those of its items, then new"
        )
    if number == known:
        return graph
    near = 2 * graph.degree if candidates is None else candidates
    if near < 1:
        raise ValueError(f"candidates={near}: must be at least 1")
    old = np.pad(np.asarray(graph.neighbours), ((0, number - known), (0, 0)))
    linked = _connected(old, table, near, metric, filled, first=known + 1)
    linked = reachable(linked, np.asarray(graph.entries), table, metric)
    ends = np.cumsum((0, *graph.level_sizes))
    upper = [
        (np.asarray(graph.nodes[a:b]), np.asarray(graph.links[a:b])) for a, b in itertools.pairwise(ends)
    ]
    return make_graph(linked, graph.entries, upper)


def random_graph(number: int, *, degree: int, entries: int = LEAST, seed: int = 0) -> Graph:
    """A graph of `number` items, each linked to `degree` random others: what near links are compared with.

    Raises:
      ValueError: degree is not below the number, or out of range.
    """
    if not 1 <= degree < number:
        raise ValueError(f"degree={degree}: must lie in 1..{number - 1}, the number of other items")
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, number, (number, degree))  # repeats cost a link, and no score
    own = np.arange(number)[:, None]
    first = np.sort(1 + rng.permutation(number)[:entries])
    return make_graph(np.pad(1 + (own + steps) % number, ((1, 0), (0, 0))), first)


def relevance_vectors(
    scorer: ScoreItems, queries: Query, number: int, *, standardise: bool = False, block: int = 512
) -> np.ndarray:
    """RPG's vectors of the items 1..number, row 0 for padding, [number + 1, d]: scores of d queries.

    standardise: each query's scores have mean 0 and deviation 1, so that one whose scores vary much does not
    decide alone what is near (an addition to the paper); scores that are all equal are 0. block: items that
    are scored at a time. The scorer is compiled here, and arrays that it closes over become constants of the
    program; those that a `jax.tree_util.Partial` holds are its arguments.

    Raises:
      ValueError: number or block is below 1, or a score is not finite.
    """
    for name, value in (("number", number), ("block", block)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    size = min(block, number)
    queries = jax.tree.map(jnp.asarray, queries)
    count = jax.tree.leaves(queries)[0].shape[0]

    given = scorer if isinstance(scorer, jax.tree_util.Partial) else jax.tree_util.Partial(scorer)

    @jax.jit
    def score(scorer: ScoreItems, queries: Query, first: Array) -> Array:
        ids = jnp.minimum(first + jnp.arange(size, dtype=jnp.int32), number)
        return scorer(queries, jnp.broadcast_to(ids, (count, size)))

    found = [np.asarray(score(given, queries, jnp.int32(first))).T for first in range(1, number + 1, size)]
    rows = np.concatenate(found)[:number].astype(np.float32)
    if not np.isfinite(rows).all():
        item, query = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"query {query}: its score of item {item + 1} is {rows[item, query]}, not finite")
    if standardise:
        deviation = rows.std(axis=0, dtype=np.float64)
        rows = (rows - rows.mean(axis=0, dtype=np.float64)) / np.where(deviation > 0, deviation, 1.0)
    return np.pad(rows.astype(np.float32), ((1, 0), (0, 0)))


# --- links -----------------------------------------------------------------------------------------------


def _connected(
    links: np.ndarray, table: np.ndarray, near: int, metric: Metric, filled: bool, first: int = 1
) -> np.ndarray:
    """Links [n + 1, m] in which the nodes from `first` on have theirs too, and some others lead to them."""
    degree = links.shape[1]
    new = np.arange(first, len(table), dtype=np.int32)
    if len(table) < 3:
        return links
    index = exact.build(table, metric=metric)
    found = exact.search(
        index, jnp.asarray(table[new]), min(near, len(table) - 2), seen=jnp.asarray(new)[:, None]
    )
    keep = functools.partial(_diversified, _points(table, metric), filled=filled, metric=metric)
    forward = keep(new, np.asarray(found.ids), limit=max(1, degree // 2))
    links = links.copy()
    links[new, : forward.shape[1]] = forward
    at, column = np.nonzero(forward)
    back = _grouped(forward[at, column], new[at], column, len(table), degree)
    changed = new if first == 1 else np.flatnonzero(back[:, 0])
    both = np.concatenate([links[changed], back[changed]], axis=1)
    links[changed] = keep(changed.astype(np.int32), both, limit=degree)
    return links


def _grouped(to: np.ndarray, source: np.ndarray, rank: np.ndarray, rows: int, width: int) -> np.ndarray:
    """Sources of links by the node they lead to, the first are those that are nearest: [rows, width]."""
    order = np.lexsort((source, rank, to))
    to, source = to[order], source[order]
    place = np.arange(len(to)) - np.searchsorted(to, to)
    found = np.zeros((rows, width), np.int32)
    found[to[place < width], place[place < width]] = source[place < width]
    return found


def _points(table: np.ndarray, metric: Metric) -> Array:
    """Vectors whose `_nearness` is the metric: centred, or of length 1."""
    centre = jnp.asarray(centre_of(table[1:], metric))
    prepared = prepare_items(jnp.asarray(table), centre, metric)
    return prepared[:, :-1] if metric == "l2" else prepared


def _diversified(
    points: Array, nodes: np.ndarray, candidates: np.ndarray, *, limit: int, filled: bool, metric: Metric
) -> np.ndarray:
    """Of candidates [A, C] of nodes [A] those nearer to the node than to any kept one: [A, limit]."""
    width = candidates.shape[1]
    at_a_time = min(max(1, HELD // width**2), len(nodes))
    given = points, jnp.asarray(nodes), jnp.asarray(candidates), jnp.int32(limit), jnp.array(filled)
    return np.asarray(_choose(*given, at_a_time=at_a_time, l2=metric == "l2"))[:, : min(limit, width)]


@functools.partial(jax.jit, static_argnames=("at_a_time", "l2"))
def _choose(
    points: Array, nodes: Array, candidates: Array, limit: Array, filled: Array, *, at_a_time: int, l2: bool
) -> Array:
    """`_diversified`, those that fill up last, followed by 0: [A, C]."""

    def nearness(a: Array, b: Array) -> Array:
        products = jnp.matmul(a, b.T, precision="highest")
        if not l2:
            return products
        return 2 * products - jnp.sum(a**2, axis=1)[:, None] - jnp.sum(b**2, axis=1)

    def one(part: tuple[Array, Array]) -> Array:
        node, ids = part
        ids = jnp.sort(ids)
        ids = jnp.where((ids != node) & jnp.pad(ids[1:] != ids[:-1], (1, 0), constant_values=True), ids, 0)
        own = jnp.where(ids > 0, nearness(points[node][None], points[ids])[0], -jnp.inf)
        lowered, ids = jax.lax.sort((-own, ids), num_keys=2)
        own = -lowered
        between = nearness(points[ids], points[ids])

        def consider(i: Array, kept: Array) -> Array:
            hidden = (kept & (between[i] >= own[i])).any()
            return kept.at[i].set((ids[i] > 0) & ~hidden & (kept.sum() < limit))

        kept = jax.lax.fori_loop(0, len(ids), consider, jnp.zeros(len(ids), bool))
        rest = (ids > 0) & ~kept & filled
        place = jnp.where(kept, jnp.cumsum(kept) - 1, len(ids))
        place = jnp.where(rest, kept.sum() + jnp.cumsum(rest) - 1, place)
        place = jnp.where(place < limit, place, len(ids))
        return jnp.zeros_like(ids).at[place].set(ids, mode="drop")

    return jax.lax.map(one, (nodes, candidates), batch_size=at_a_time)


# --- reachability ----------------------------------------------------------------------------------------


def reached(links: np.ndarray, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a walk from the entries comes to: from which node [n + 1], and by which of its links.

    The node is -1 where nothing leads to, and 0 of an entry.
    """
    parent, column = np.full(len(links), -1, np.int64), np.zeros(len(links), np.int64)
    front = np.asarray(entries, np.int64)
    parent[front] = 0
    while front.size:
        ids = links[front]
        row, col = np.nonzero((ids > 0) & (parent[ids] < 0))
        to, first = np.unique(ids[row, col], return_index=True)
        parent[to], column[to] = front[row[first]], col[first]
        front = to
    return parent, column


def reachable(links: np.ndarray, entries: np.ndarray, table: np.ndarray, metric: Metric) -> np.ndarray:
    """Links with which every item can be reached from the entries; those that were needed stay.

    The nearest node that is reached and has a link to spare leads to a lost item, and so to all that this
    leads to. Many that are lost for themselves, such as items that are equal, are linked in a chain.
    """
    links, degree = links.copy(), links.shape[1]
    points = np.asarray(_points(table, metric))
    for turn in itertools.count():
        parent, column = reached(links, entries)
        lost = np.flatnonzero(parent[1:] < 0) + 1
        if not lost.size:
            break
        needed = np.zeros(links.shape, bool)
        inner = np.flatnonzero(parent > 0)
        needed[parent[inner], column[inner]] = True
        spare = np.flatnonzero((parent >= 0) & (needed.sum(axis=1) < degree))
        nearest = _nearest(points, lost, spare, metric)
        order = np.argsort(nearest, kind="stable")
        lost, source = lost[order], nearest[order]
        again = np.flatnonzero(source[1:] == source[:-1]) + 1
        source[again] = lost[again - 1] if turn >= APART else 0
        lost, source = lost[source > 0], source[source > 0]
        free = degree - 1 - np.argmin(needed[source, ::-1], axis=1)
        links[source, free] = lost
    return links


def _nearest(points: np.ndarray, nodes: np.ndarray, others: np.ndarray, metric: Metric) -> np.ndarray:
    """The nearest of some others to each node, [A]."""
    squares = np.sum(points[others] ** 2, axis=1) if metric == "l2" else 0.0
    size = max(1, HELD // len(others))
    parts = [nodes[i : i + size] for i in range(0, len(nodes), size)]
    return np.concatenate(
        [others[np.argmax(2 * points[part] @ points[others].T - squares, axis=1)] for part in parts]
    )
