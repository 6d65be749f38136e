"""Search by paths of codes: each item lies on J of the K^D paths through D layers of K nodes.

A beam search over the layers finds the most probable paths of a query, and the items on them are scored: the
retrieval of Deep Retrieval (Gao et al., arXiv:2007.07203, sections 2 and 3), whose paths are learned
(`index.paths_learning`). Several items may share a path.

The items of a path are found in one list sorted by paths, so that memory grows with the items and not with
K^D. A path has room for `capacity` items, so that shapes are static: more are refused, not left out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.scored import Found, Query, ScoreItems, best_of
from jaxrec.types import Array

# (query, the first d codes of W paths, int32 [B, W, d]) → log-probabilities of the next code, [B, W, K]
NextCode = Callable[[Query, Array], Array]
PathLogProb = Callable[[Query, Array], Array]  # (query, paths int32 [B, P, D]) → log-probabilities [B, P]
ROUND = 256  # steps by which the room for items grows
DATA = ["paths", "keys", "members", "count"]
META = ["num_codes", "capacity"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=DATA, meta_fields=META)
@dataclasses.dataclass(frozen=True)
class Paths:
    """An index of items 1..count, each on J paths of D codes 0..K-1; a pytree, made by `build`.

    paths: of item i, int32 [R, J, D] with R > count; -1 in row 0, which is padding, and in free rows.
    keys: numbers of the paths (`number_paths`), ascending, int32 [R J]; the largest int32 where a place is
    free. members: the items there, int32 [R J], 0 where free. count: items, int32 []. num_codes: K.
    capacity: most items of a path.
    """

    paths: Array
    keys: Array
    members: Array
    count: Array
    num_codes: int
    capacity: int

    @property
    def depth(self) -> int:
        """Codes of a path, D."""
        return int(self.paths.shape[2])

    @property
    def overflow(self) -> Array:
        """Places that items need on their paths beyond the capacity, int32 []; a search never finds those."""
        place = jnp.arange(len(self.keys)) - jnp.searchsorted(self.keys, self.keys)
        return jnp.sum((place >= self.capacity) & (self.members > 0), dtype=jnp.int32)


def build(paths: Any, *, num_codes: int, capacity: int | None = None) -> Paths:
    """An index of the items 1 .. V - 1, whose paths are rows of codes [V, J, D]; row 0 is padding.

    num_codes: K. capacity: most items of a path; None: as many as the fullest path has.

    Raises:
      ValueError: the array is no integers [V, J, D] with an item, a path and a code at least; K^D is too
        large for int32; a code is not in 0..K-1; an item has the same path twice; paths have more items than
        the capacity.
    """
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity={capacity}: must be at least 1")
    given = _check_paths(paths, num_codes, first=1)
    full = np.full((_room(len(given)), *given.shape[1:]), -1, np.int32)
    full[1 : len(given)] = given[1:]
    counts = np.unique(_numbers(given[1:], num_codes), return_counts=True)[1]
    room = int(counts.max()) if capacity is None else capacity
    return _checked(invert(jnp.asarray(full), num_codes=num_codes, capacity=room, count=len(given) - 1))


def add(index: Paths, paths: Any) -> Paths:
    """The index with further items, whose ids are count + 1 .. count + A, on paths [A, J, D].

    A search is compiled anew where the number of items passes a multiple of 256.

    Raises:
      ValueError: as `build`; J or D is not that of the index.
    """
    new = _check_paths(paths, index.num_codes, first=0)
    if new.shape[1:] != index.paths.shape[1:]:
        raise ValueError(
            f"paths of shape {list(new.shape)}: must be [A, {index.paths.shape[1]}, {index.depth}], as "
            "in the index"
        )
    count = int(index.count)
    full = np.full((_room(count + 1 + len(new)), *new.shape[1:]), -1, np.int32)
    full[: count + 1] = np.asarray(index.paths)[: count + 1]
    full[count + 1 : count + 1 + len(new)] = new
    size = {"num_codes": index.num_codes, "capacity": index.capacity}
    return _checked(invert(jnp.asarray(full), count=count + len(new), **size))


def invert(paths: Array, *, num_codes: int, capacity: int, count: Array | int) -> Paths:
    """The index of paths [R, J, D] without a check, for use within jit; see `Paths.overflow`.

    Rows 1..count are items with codes in 0..K-1, and none is twice on a path.
    """
    free = np.iinfo(np.int32).max
    row = jnp.arange(paths.shape[0])[:, None]
    real = (row >= 1) & (row <= count)
    keys = jnp.where(real, number_paths(paths, num_codes), free).reshape(-1)
    members = jnp.where(real, row, 0) + jnp.zeros_like(paths[..., 0])
    keys, members = jax.lax.sort((keys, members.reshape(-1)), num_keys=2)
    return Paths(paths, keys, members, jnp.asarray(count, jnp.int32), num_codes, capacity)


def number_paths(paths: Array, num_codes: int) -> Array:
    """The numbers of paths, 0 .. K^D - 1, in their lexicographic order: int32 [..., D] → [...]."""
    number = jnp.zeros(paths.shape[:-1], jnp.int32)
    for layer in range(paths.shape[-1]):
        number = number * num_codes + paths[..., layer]
    return number


def codes_of(numbers: Array, *, num_codes: int, depth: int) -> Array:
    """The codes of numbered paths: int32 [...] → [..., D]."""
    places = num_codes ** np.arange(depth - 1, -1, -1)
    return (numbers[..., None] // places) % num_codes


class Beam(NamedTuple):
    """The most probable paths of B queries that a beam of width W finds.

    paths: in lexicographic order, int32 [B, W, D]. log_prob: [B, W], -inf for a path that cannot be.
    finite: False where a log-probability was NaN or +inf, bool [B].
    """

    paths: Array
    log_prob: Array
    finite: Array


def beam_search(next_code: NextCode, query: Query, *, num_codes: int, depth: int, width: int) -> Beam:
    """Keeps the `width` most probable beginnings of paths after each layer (section 3.1), D · W · K numbers.

    With a width of K^(D-1) or more it is exact. Of equal probabilities the first path is kept. W is at most
    K^D.

    Raises:
      ValueError: the width is below 1.
    """
    if width < 1:
        raise ValueError(f"width={width}: must be at least 1")
    number = jax.tree.leaves(query)[0].shape[0]
    paths, log_prob = jnp.zeros((number, 1, 0), jnp.int32), jnp.zeros((number, 1))
    finite = jnp.ones(number, bool)
    for _ in range(depth):
        step = next_code(query, paths).astype(jnp.float32)
        if step.shape != (number, paths.shape[1], num_codes):
            raise ValueError(
                f"next_code of {list(paths.shape)}: gives {list(step.shape)}, expected "
                f"{[number, paths.shape[1], num_codes]}, a log-probability for each code"
            )
        finite &= ~(jnp.isnan(step) | (step == jnp.inf)).any(axis=(1, 2))
        every = (log_prob[..., None] + step).reshape(number, -1)
        place = jnp.sort(jax.lax.top_k(every, min(width, every.shape[1]))[1], axis=1)
        log_prob = jnp.take_along_axis(every, place, axis=1)
        begun = jnp.take_along_axis(paths, (place // num_codes)[..., None], axis=1)
        paths = jnp.concatenate([begun, (place % num_codes)[..., None]], axis=-1)
    return Beam(paths, log_prob, finite)


def search(
    index: Paths, scorer: ScoreItems, query: Query, k: int, width: int, *, next_code: NextCode
) -> Found:
    """The k best of the items on the `width` most probable paths, by the scorer.

    `Found.scored` counts items, an item on several of the paths once; what the beam costs besides is at most
    1 + (D - 1) W rows of next codes, which are probabilities of K nodes each and no scores.

    next_code: of the paths, see `NextCode`. width: of the beam. Wrap it in jax.jit with k and width static.

    Raises:
      ValueError: k or width is below 1; k is above what `width` paths have room for.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    beam = beam_search(next_code, query, num_codes=index.num_codes, depth=index.depth, width=width)
    ids = candidates(index, beam)
    if k > ids.shape[1]:
        raise ValueError(
            f"k={k}: {width} paths have room for {ids.shape[1]} items; search more paths or lower k"
        )
    scores = scorer(query, ids).astype(jnp.float32)
    real = ids > 0
    bad = (real & (jnp.isnan(scores) | (scores == jnp.inf))).any(axis=1)
    best, found = best_of(jnp.where(real, scores, -jnp.inf), ids, k)
    return Found(found, best, real.sum(axis=1, dtype=jnp.int32), beam.finite & ~bad)


def candidates(index: Paths, beam: Beam) -> Array:
    """The items on a beam's paths, each once: int32 [B, M], 0 in free places.

    M is the room of W paths, or the number of rows of the index if that is less.
    """
    number = number_paths(beam.paths, index.num_codes)
    place = jnp.searchsorted(index.keys, number)[..., None] + jnp.arange(index.capacity)
    inside = place < len(index.keys)
    place = jnp.minimum(place, len(index.keys) - 1)
    there = inside & (index.keys[place] == number[..., None]) & (beam.log_prob > -jnp.inf)[..., None]
    ids = jnp.sort(jnp.where(there, index.members[place], 0).reshape(len(number), -1), axis=1)
    again = jnp.pad(ids[:, 1:] == ids[:, :-1], ((0, 0), (1, 0)))
    ids = jnp.where(again, 0, ids)
    rows = index.paths.shape[0]
    return ids if ids.shape[1] <= rows else jnp.sort(ids, axis=1)[:, -rows:]


def by_paths(index: Paths, log_prob: PathLogProb) -> ScoreItems:
    """The scorer log Σ_j p(path j of the item): the likelihood that the structure itself gives items.

    An id that is neither an item nor padding has a score of NaN.
    """

    def score(query: Query, ids: Array) -> Array:
        known = (ids >= 0) & (ids <= index.count)
        paths = jnp.maximum(index.paths[jnp.where(known, ids, 0)], 0)  # [B, M, J, D]
        each = log_prob(query, paths.reshape(len(ids), -1, index.depth))
        scores = jax.nn.logsumexp(each.reshape(*ids.shape, -1), axis=-1)
        return jnp.where(known, scores, jnp.nan)

    return score


def _room(rows: int) -> int:
    return -(-rows // ROUND) * ROUND


def _numbers(paths: np.ndarray, num_codes: int) -> np.ndarray:
    return paths.astype(np.int64) @ num_codes ** np.arange(paths.shape[-1] - 1, -1, -1)


def check_sizes(num_codes: int, depth: int) -> None:
    """Raises ValueError unless there are K^D paths that int32 can number, at least one."""
    if num_codes < 1 or depth < 1 or num_codes**depth >= np.iinfo(np.int32).max:
        raise ValueError(
            f"num_codes={num_codes}, depth={depth}: both must be at least 1, and "
            "num_codes^depth below 2^31 - 1"
        )


def _check_paths(paths: Any, num_codes: int, *, first: int) -> np.ndarray:
    """Paths as int32 [V, J, D]. first: the row of the first item. Raises ValueError as `build`."""
    found = np.asarray(paths)
    if found.ndim != 3 or found.dtype.kind not in "iu" or len(found) <= first or 0 in found.shape:
        raise ValueError(
            f"paths: {found.dtype}{list(found.shape)}: must be integers [items{' + 1' * first}, J, D], of "
            "one item at least"
        )
    check_sizes(num_codes, found.shape[2])
    outside = ((found[first:] < 0) | (found[first:] >= num_codes)).any(axis=(1, 2))
    if outside.any():
        row = first + int(outside.argmax())
        raise ValueError(
            f"paths: row {row} is {found[row].tolist()}: codes must lie in 0..{num_codes - 1} "
            f"(num_codes={num_codes}); give each item its paths, {found.shape[1]} of {found.shape[2]} codes"
        )
    numbers = np.sort(_numbers(found[first:], num_codes), axis=1)
    if (twice := (numbers[:, 1:] == numbers[:, :-1]).any(axis=1)).any():
        row = first + int(twice.argmax())
        raise ValueError(f"paths: row {row} is {found[row].tolist()}: the paths of an item must be distinct")
    return found.astype(np.int32)


def _checked(index: Paths) -> Paths:
    """The index. Raises ValueError where a path has more items than the capacity."""
    if over := int(index.overflow):
        raise ValueError(
            f"capacity={index.capacity}: {over:,} of {int(index.count) * index.paths.shape[1]:,} places of "
            "items lie beyond it, on paths with more items; raise it, or learn paths with a larger penalty"
        )
    return index
