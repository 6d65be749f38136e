"""Learning the paths of items: the M-step of Deep Retrieval (Gao et al., arXiv:2007.07203, section 3.3).

The structure model gives the probability p(c | x) of a path c for a user x. While its parameters are fixed,
the paths of all items are chosen by coordinate descent, so that

    Σ_v N_v (log Σ_j s[v, path j of v] - log N_v) - α Σ_c f(|c|),   f(n) = n^4 / 4

grows, an item after the other: s[v, c] is the sum of p(c | x) over the N_v examples of item v, |c| the number
of items on path c, and the penalty keeps paths from collapsing into one. Of each item only the S best paths
have a score, which is kept up to date as examples stream in (`observe`). Paths are numbers, see
`index.paths.number_paths`.

Departs from the paper: a path has a largest number of items, beyond which it is not chosen; a score decays
with each example of its item, as examples come one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Key

TINY = 1e-30  # of a score, so that its logarithm is finite


class PathScores(NamedTuple):
    """The best paths of V items so far. V counts padding, whose row has none.

    paths: numbers, no path twice in a row, int32 [V, S]; -1 where there is none. scores: [V, S], descending;
    0 where there is no path.
    """

    paths: Array
    scores: Array


def no_scores(vocab_size: int, size: int) -> PathScores:
    """Lists of `size` places without a path. Raises ValueError: a size is below 1."""
    for name, value in (("vocab_size", vocab_size), ("size", size)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    return PathScores(jnp.full((vocab_size, size), -1, jnp.int32), jnp.zeros((vocab_size, size)))


def merge(paths: Array, scores: Array, new_paths: Array, new_scores: Array, *, decay: float) -> PathScores:
    """A list of one item [S] after scores of some paths [N] have arrived (section 3.3.2).

    A score becomes η s + s' of a path in both lists, η s of one only in the old list, and η m + s' of one
    only in the new list, where m is the smallest score of the old list, so that newcomers can enter; 0 where
    the list has free places. The S largest are kept.

    decay: η. new_paths: distinct; -1 is none.
    """
    same = (paths[:, None] == new_paths) & (paths >= 0)[:, None]
    kept = decay * scores + jnp.where(same, new_scores, 0.0).sum(axis=1)
    fresh = (new_paths >= 0) & ~same.any(axis=0)
    every = jnp.concatenate([kept, decay * scores.min() + new_scores])
    real = jnp.concatenate([paths >= 0, fresh])
    best, place = jax.lax.top_k(jnp.where(real, every, -1.0), len(paths))
    chosen = jnp.concatenate([paths, new_paths])[place]
    return PathScores(jnp.where(best >= 0, chosen, -1), jnp.maximum(best, 0.0))


def observe(known: PathScores, items: Array, paths: Array, scores: Array, *, decay: float) -> PathScores:
    """The lists after a batch of examples, as if they came one after the other.

    items: of each example, int32 [B]; 0 is none. paths, scores: probable paths of its user and their
    probabilities, [B, N]. decay: η.

    Examples of different items do not touch each other, so all first examples of an item are merged at once,
    then all second ones, and so on.
    """
    order = jnp.argsort(items, stable=True)
    sorted_items = items[order]
    turn = jnp.arange(len(items)) - jnp.searchsorted(sorted_items, sorted_items)
    turn = jnp.zeros_like(items).at[order].set(turn.astype(items.dtype), unique_indices=True)
    turn = jnp.where(items > 0, turn, -1)
    vocab_size = known.paths.shape[0]
    merged = jax.vmap(lambda p, s, q, t: merge(p, s, q, t, decay=decay))

    def one_turn(state: tuple[Array, PathScores]) -> tuple[Array, PathScores]:
        now, lists = state
        found = merged(lists.paths[items], lists.scores[items], paths, scores)
        row = jnp.where(turn == now, items, vocab_size + jnp.arange(len(items)))

        def written(old: Array, new: Array) -> Array:
            return old.at[row].set(new, mode="drop", unique_indices=True)

        return now + 1, PathScores(*map(written, lists, found))

    last = turn.max(initial=-1)
    return jax.lax.while_loop(lambda state: state[0] <= last, one_turn, (jnp.zeros_like(last), known))[1]


def penalty_step(load: Array) -> Array:
    """f(n + 1) - f(n) of f(n) = n^4 / 4: what one more item on a path with n costs, int [...] → float32."""
    n = jnp.asarray(load, jnp.float32)
    return n**3 + 1.5 * n**2 + n + 0.25


class Assigned(NamedTuple):
    """Paths of V items and what lies on each of the P paths.

    paths: distinct numbers of each item, int32 [V, J]. load: items on each path, int32 [P].
    """

    paths: Array
    load: Array


def assign(
    known: PathScores,
    counts: Array,
    paths: Array,
    *,
    num_paths: int,
    alpha: float,
    sweeps: int = 3,
    capacity: int | None = None,
) -> Assigned:
    """Coordinate descent over items (section 3.3.1, algorithm 1): new paths of all items, [V, J].

    In each sweep every item in turn leaves its paths and takes J others, each the best one given those that
    it has taken: the gain of a path is

        N_v (log(Σ s of those taken + s[v, c]) - log Σ s of those taken) - α (f(|c| + 1) - f(|c|))

    without the second logarithm for the first path. An item chooses among the paths of its list and those
    that it has, where s = 0 outside its list; one of which no example was observed stays where it is.

    counts: N_v, examples of each item, [V]. paths: of items 1 .. V - 1, distinct for each, with no more than
    `capacity` on one, int32 [V, J]; row 0 is padding. capacity: most items of a path; None: no limit.

    Raises:
      ValueError: alpha is negative or not a number, sweeps is below 1.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha={alpha}: must be 0 or more")
    if sweeps < 1:
        raise ValueError(f"sweeps={sweeps}: must be at least 1")
    load = jnp.zeros(num_paths, jnp.int32).at[paths[1:].reshape(-1)].add(1)
    most = jnp.iinfo(jnp.int32).max if capacity is None else capacity

    def one_item(load: Array, item: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        own, listed, scores, count = item
        load = load.at[own].add(-1)
        among = (own[:, None] == listed).any(axis=1)
        every = jnp.concatenate([listed, jnp.where(among, -1, own)])
        values = jnp.concatenate([scores, jnp.zeros(len(own))])
        others = load[jnp.maximum(every, 0)]
        cost = alpha * penalty_step(others)
        free = (every >= 0) & (others < most)

        def take(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            free, part = state
            before = jnp.where(part > 0, jnp.log(jnp.maximum(part, TINY)), 0.0)
            gain = count * (jnp.log(jnp.maximum(part + values, TINY)) - before) - cost
            best = jnp.argmax(jnp.where(free, gain, -jnp.inf))
            return (free.at[best].set(False), part + values[best]), every[best]

        taken = jax.lax.scan(take, (free, jnp.float32(0.0)), None, length=len(own))[1]
        return load.at[taken].add(1), taken

    def sweep(state: Assigned, _: None) -> tuple[Assigned, None]:
        rows = state.paths[1:], known.paths[1:], known.scores[1:], jnp.asarray(counts, jnp.float32)[1:]
        load, chosen = jax.lax.scan(one_item, state.load, rows)
        return Assigned(state.paths.at[1:].set(chosen), load), None

    return jax.lax.scan(sweep, Assigned(paths, load), None, length=sweeps)[0]


def surrogate(known: PathScores, counts: Array, assigned: Assigned, *, alpha: float) -> Array:
    """What a sweep makes large (see the head of this file), without the constants N_v log N_v: []."""
    same = assigned.paths[:, :, None] == known.paths[:, None, :]
    part = jnp.where(same, known.scores[:, None, :], 0.0).sum(axis=(1, 2))
    likelihood = jnp.asarray(counts, jnp.float32) * jnp.log(jnp.maximum(part, TINY))
    return likelihood[1:].sum() - alpha * (assigned.load.astype(jnp.float32) ** 4).sum() / 4


def draw_paths(key: Key, *, num_items: int, paths_per_item: int, num_paths: int) -> Array:
    """Random paths of items, as evenly as can be and distinct for each item: int32 [num_items + 1, J].

    Row 0, the padding, is -1. No path has more than ⌈num_items J / num_paths⌉ items.

    Raises:
      ValueError: there are fewer paths than an item needs.
    """
    if not 1 <= paths_per_item <= num_paths:
        raise ValueError(f"paths_per_item={paths_per_item}: must lie in 1..{num_paths}, the number of paths")
    places = jnp.arange(num_items * paths_per_item) % num_paths  # J consecutive ones differ
    drawn = jax.random.permutation(key, num_paths)[places].reshape(num_items, paths_per_item)
    return jnp.pad(drawn.astype(jnp.int32), ((1, 0), (0, 0)), constant_values=-1)
