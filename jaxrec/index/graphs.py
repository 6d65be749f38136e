"""Proximity graphs: items are linked to near ones, and a walk over the links scores few of them.

What the scorer is does not matter to the walk: a graph of item vectors (NANN: Chen et al., CIKM 2022,
arXiv:2202.10226) or of what some queries find relevant (RPG: Morozov and Babenko, AAAI 2020,
arXiv:1908.06887) is searched by any function of a query and an item. `graph_build` makes graphs.

Some nodes are scored at first, all of them. Then each round goes to all neighbours of the best nodes found so
far, on sparse levels of the graph first and on all items at last. Rounds are fixed in number, so that all
shapes are; the authors' search of RPG, hnswlib's, stops by itself where the best open node is worse than the
worst of the beam.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.chunked import one_zero
from jaxrec.index.scored import Found, Query, ScoreItems, best_of
from jaxrec.types import Array

WORD = 32  # bits of a word of the set of visited nodes


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["neighbours", "entries", "nodes", "links"],
    meta_fields=["level_sizes"],
)
@dataclasses.dataclass(frozen=True)
class Graph:
    """Links between the items 1..n; a pytree, so an argument of compiled functions.

    neighbours: of each item, padded with 0, int32 [n + 1, m]; row 0 is padding. entries: items at which every
    search begins, ascending, int32 [E]. nodes, links: the upper levels, the sparsest first, one behind the
    other: their items, ascending within a level, int32 [N], and neighbours within the level, [N, m'].
    level_sizes: items of each upper level, sum N; () where there is none.
    """

    neighbours: Array
    entries: Array
    nodes: Array
    links: Array
    level_sizes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """n, the number of items."""
        return self.neighbours.shape[0] - 1

    @property
    def degree(self) -> int:
        """m, the largest number of neighbours."""
        return self.neighbours.shape[1]


def make_graph(neighbours: Any, entries: Any, upper: Sequence[tuple[Any, Any]] = ()) -> Graph:
    """A graph of given links: neighbours [n + 1, m], entries [E], and (nodes, links) of each upper level.

    Raises:
      ValueError: the degree is below 1, there is no item or no entry, an id is none of 0..n, a node is its
        own neighbour, or nodes or entries are not ascending.
    """
    table, first = _ids(neighbours, "neighbours", 2), _ids(entries, "entries", 1)
    number = len(table) - 1
    if number < 1 or table.shape[1] < 1:
        raise ValueError(
            f"neighbours of shape {table.shape}: must be [n + 1, m], with an item and m at least 1"
        )
    if table[0].any():
        raise ValueError("neighbours: row 0 is that of padding and must be 0")
    levels = [(_ids(nodes, "nodes", 1), _ids(links, "links", 2)) for nodes, links in upper]
    checked = [("entries", first), *(("nodes", nodes) for nodes, _ in levels)]
    for name, ids in checked:
        if not ids.size or ids[0] < 1 or (np.diff(ids) < 1).any():
            raise ValueError(f"{name}: must be ids of items, at least one, ascending and each once")
    widths = {links.shape[1] for _, links in levels}
    if len(widths) > 1 or any(len(nodes) != len(links) for nodes, links in levels):
        raise ValueError("upper: a level's links must be [its nodes, m'], with one m' for all levels")
    rows = [
        ("neighbours", np.arange(number + 1), table),
        *(("links", nodes, links) for nodes, links in levels),
    ]
    for name, own, linked in rows:
        if (linked[own > 0] == own[own > 0, None]).any():
            raise ValueError(f"{name}: a node is its own neighbour")
    for name, ids in [("neighbours", table), *checked, *(("links", links) for _, links in levels)]:
        if ids.size and (ids.min() < 0 or ids.max() > number):
            raise ValueError(f"{name}: ids {ids.min()}..{ids.max()}, must lie in 0..{number}, the items")
    nodes = np.concatenate([np.zeros(0, np.int32), *(nodes for nodes, _ in levels)])
    width = widths.pop() if widths else 1
    links = np.concatenate([np.zeros((0, width), np.int32), *(links for _, links in levels)])
    sizes = tuple(len(nodes) for nodes, _ in levels)
    arrays = [jnp.asarray(part, jnp.int32) for part in (table, first, nodes, links)]
    return Graph(arrays[0], arrays[1], arrays[2], arrays[3], sizes)


def _ids(ids: Any, name: str, ndim: int) -> np.ndarray:
    found = np.asarray(ids)
    if found.ndim != ndim or found.dtype.kind not in "iu":
        raise ValueError(f"{name} of shape {found.shape} and type {found.dtype}: must be ids, {ndim} axes")
    return found.astype(np.int64)  # int32 would make items of ids that are too large


class _Walk(NamedTuple):
    """What a search knows. B queries, W width of the beam.

    ids, scores: the best nodes scored so far, best first, [B, W]; 0 and -inf where there is none. left: those
    whose neighbours are visited, bool [B, W]. visited: bit i for id i, uint32 [B, ceil((n + 1) / 32)].
    scored, finite: as of `Found`.
    """

    ids: Array
    scores: Array
    left: Array
    visited: Array
    scored: Array
    finite: Array


def search(
    graph: Graph,
    scorer: ScoreItems,
    query: Query,
    k: int,
    width: int,
    *,
    rounds: int = 3,
    upper_rounds: int = 1,
    expanded: int | None = None,
    block: int | None = None,
) -> Found:
    """The k best items that a walk finds, to be called under jit.

    The entries are scored first. A round takes the `expanded` best nodes of the beam that it has not yet gone
    on from, scores those of their neighbours that the query has not scored, in one call, and keeps the
    `width` best of all scored ones. On the upper levels it goes on from half as many nodes a level.
    NANN: width 400 and 3 rounds, for the best 200. With expanded=1 and many rounds it is the best-first
    search of hnswlib with ef=width; 16 nodes a round found more of the best than all of 400 for a sixth of
    the scores, on clustered vectors, in ten times as many rounds.

    An item that nothing leads to is not found. With k = width = n and rounds enough, all others are.
    At most E + (levels) · upper_rounds · expanded · m' + rounds · expanded · m ids are scored.

    Args:
      width: nodes of the beam, at least k; more than n are as good as n.
      rounds: on all items. upper_rounds: on each upper level.
      expanded: nodes of the beam that a round goes on from; None: all of them.
      block: ids of a query that are scored in one call, so that a round in which few are new costs less;
        None: as many as there can be. The result is the same.

    Raises:
      ValueError: k is not in 1..n, width below k, or rounds, expanded or block out of range.
    """
    number = graph.count
    if not 1 <= k <= number:
        raise ValueError(f"k={k}: must lie in 1..{number}, the number of items")
    if width < k:
        raise ValueError(f"width={width}: must be at least k={k}; what leaves the beam is not found")
    for name, value, least in (
        ("rounds", rounds, 0),
        ("upper_rounds", upper_rounds, 0),
        ("expanded", 1 if expanded is None else expanded, 1),
        ("block", 1 if block is None else block, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    batch = jax.tree.leaves(query)[0].shape[0]
    width = min(width, number)
    expanded = width if expanded is None else min(expanded, width)
    visit = functools.partial(_visit, scorer, query, block)
    walk = _Walk(
        ids=jnp.zeros((batch, width), jnp.int32),
        scores=jnp.full((batch, width), -jnp.inf),
        left=jnp.zeros((batch, width), bool),
        visited=jnp.zeros((batch, number // WORD + 1), jnp.uint32),
        scored=jnp.zeros(batch, jnp.int32),
        finite=jnp.ones(batch, bool),
    )
    walk = visit(walk, jnp.broadcast_to(graph.entries, (batch, len(graph.entries))))
    for level, (linked, times) in enumerate(_levels(graph, rounds, upper_rounds)):
        number_of = max(1, expanded >> (len(graph.level_sizes) - level))
        walk = walk._replace(left=jnp.zeros_like(walk.left))
        step = functools.partial(_round, visit, linked, number_of)
        walk = jax.lax.fori_loop(0, times, step, walk)
    scores, ids = best_of(walk.scores, walk.ids, k)
    return Found(ids, scores, walk.scored, walk.finite)


def _levels(graph: Graph, rounds: int, upper_rounds: int) -> list[tuple[Callable[[Array], Array], int]]:
    """The neighbours of ids [B, e] → [B, e, m], and rounds, on each level from the top."""
    found: list[tuple[Callable[[Array], Array], int]] = []
    ends = np.cumsum(graph.level_sizes, dtype=int)
    for end, size in zip(ends, graph.level_sizes, strict=True):
        nodes, links = graph.nodes[end - size : end], graph.links[end - size : end]

        def linked(ids: Array, nodes: Array = nodes, links: Array = links) -> Array:
            row = jnp.minimum(jnp.searchsorted(nodes, ids), len(nodes) - 1)
            return jnp.where((nodes[row] == ids)[..., None], links[row], 0)

        found.append((linked, upper_rounds))
    return [*found, (lambda ids: graph.neighbours[ids], rounds)]


def _round(
    visit: Callable[[_Walk, Array], _Walk],
    linked: Callable[[Array], Array],
    number: int,
    _: Array,
    walk: _Walk,
) -> _Walk:
    """Goes on from the `number` best nodes of the beam that are open."""
    width = walk.ids.shape[1]
    is_open = ~walk.left & (walk.ids > 0)
    chosen = is_open & (jnp.cumsum(is_open, axis=1) <= number)
    from_ids = jnp.where(chosen, walk.ids, 0)
    if number < width:
        _, place = jax.lax.top_k(jnp.where(chosen, width - jnp.arange(width), 0), number)
        from_ids = jnp.take_along_axis(from_ids, place, axis=1)
    ids = linked(from_ids).reshape(len(from_ids), -1)
    return visit(walk._replace(left=walk.left | chosen), ids)


def _visit(scorer: ScoreItems, query: Query, block: int | None, walk: _Walk, ids: Array) -> _Walk:
    """Scores those of ids [B, M], 0 for none, that are new to their query, each once."""
    ids, number = _new(walk.visited, ids)
    scores = _scores(scorer, query, block, ids, number)
    real = ids > 0
    bad = real & (jnp.isnan(scores) | (scores == jnp.inf))
    scores = jnp.where(real & ~bad, one_zero(scores), -jnp.inf)
    row = jnp.arange(len(ids))[:, None]
    bit = jnp.where(real, jnp.uint32(1) << (ids % WORD).astype(jnp.uint32), jnp.uint32(0))
    visited = walk.visited.at[row, ids // WORD].add(bit)  # of distinct bits that are 0: a union
    width = walk.ids.shape[1]
    best, place = jax.lax.top_k(scores, min(width, scores.shape[1]))  # of equal scores the smaller id
    score = jnp.concatenate([walk.scores, best], axis=1)
    node = jnp.concatenate([walk.ids, jnp.take_along_axis(ids, place, axis=1)], axis=1)
    left = jnp.pad(walk.left, ((0, 0), (0, best.shape[1])))
    lowered, node, left = jax.lax.sort((-score, node, left), dimension=1, num_keys=2)
    lowered, node, left = (part[:, :width] for part in (lowered, node, left))
    return _Walk(
        ids=jnp.where(lowered < jnp.inf, node, 0),
        scores=-lowered,
        left=left,
        visited=visited,
        scored=walk.scored + number,
        finite=walk.finite & ~bad.any(axis=1),
    )


def _new(visited: Array, ids: Array) -> tuple[Array, Array]:
    """The unvisited ones of ids [B, M], ascending, each once and then 0, and their number [B]."""
    ids = jnp.sort(ids, axis=1)
    word = jnp.take_along_axis(visited, ids // WORD, axis=1)
    new = (ids > 0) & ((word >> (ids % WORD).astype(jnp.uint32)) & 1 == 0)
    new = new & jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    place = jnp.where(new, jnp.cumsum(new, axis=1) - 1, ids.shape[1])
    row = jnp.arange(len(ids))[:, None]
    first = jnp.zeros_like(ids).at[row, place].set(ids, mode="drop")
    return first, new.sum(axis=1, dtype=jnp.int32)


def _scores(scorer: ScoreItems, query: Query, block: int | None, ids: Array, number: Array) -> Array:
    """Scores of ids [B, M], of which the first `number` [B] are real; whatever they are of others."""
    size = ids.shape[1]
    if block is None or block >= size:
        return scorer(query, ids).astype(jnp.float32)
    ids = jnp.pad(ids, ((0, 0), (0, -size % block)))

    def score(i: Array, scores: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(ids, i * block, block, axis=1)
        found = scorer(query, part).astype(jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(scores, found, i * block, axis=1)

    blocks = -(-number.max() // block)
    return jax.lax.fori_loop(0, blocks, score, jnp.full(ids.shape, -jnp.inf))[:, :size]
