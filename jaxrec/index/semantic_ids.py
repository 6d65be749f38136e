"""Semantic ids: each item is a tuple of D codes of K values, learned but for the last digit.

    codes = residual_k_means(vectors, num_codes=256, levels=3, rounds=20).codes
    ids = build(codes, num_codes=256)

(Rajput et al., NeurIPS 2023, arXiv:2305.05065, section 3.1). Items whose learned codes are the same are told
apart by a last digit 0, 1, 2, … in the order of their ids, 0 where there is only one. That digit means
nothing: it only makes tuple and item one to one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index.k_means import assign, extended, k_means
from jaxrec.segments import rows_by_id
from jaxrec.types import Array, Key

NONE = -1  # in a table of children: no tuple goes on like this


class SemanticIds(NamedTuple):
    """The tuples of items 1 .. V - 1, and the trie of all tuples.

    codes: int32 [V, D], 0 in row 0, which is padding. children: of each level d the table int32 [N_d, K] of
    the nodes that continue each of the N_d distinct beginnings of d codes, -1 where none does. There is one
    empty beginning; the last table has items in place of nodes.
    """

    codes: Array
    children: tuple[Array, ...]

    @property
    def depth(self) -> int:
        """Codes of a tuple, D."""
        return len(self.children)

    @property
    def num_codes(self) -> int:
        """Values of a code, K."""
        return int(self.children[0].shape[1])


class Quantised(NamedTuple):
    """Residual k-means of N points.

    codes: int32 [N, L]. codebooks: centres of each level, [L, K, E]. errors: mean squared length of what is
    left after 0, 1 .. L levels, [L + 1].
    """

    codes: Array
    codebooks: Array
    errors: Array


def residual_k_means(
    points: Any, *, num_codes: int, levels: int, rounds: int = 20, key: Key | None = None
) -> Quantised:
    """k-means of the points [N, E], then of what each lies beside its centre, and so on, L times.

    key: chooses the points that centres begin at; None: the first ones.

    Raises:
      ValueError: num_codes, levels or rounds is below 1, there are fewer points than codes, or a point is
        not finite.
    """
    for name, value in (("num_codes", num_codes), ("levels", levels), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    given = np.asarray(points, np.float32)
    if given.ndim != 2 or len(given) < num_codes:
        raise ValueError(
            f"points of shape {list(given.shape)}: must be [N, E] with at least num_codes={num_codes} rows; "
            "take fewer codes"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"points: row {int((~np.isfinite(given)).any(axis=1).argmax())} is not finite")
    order = jnp.arange(len(given)) if key is None else jax.random.permutation(key, len(given))
    return quantised(jnp.asarray(given), order, num_codes=num_codes, levels=levels, rounds=rounds)


@functools.partial(jax.jit, static_argnames=("num_codes", "levels", "rounds"))
def quantised(points: Array, order: Array, *, num_codes: int, levels: int, rounds: int) -> Quantised:
    """`residual_k_means` without a check, for use within jit. order: of the points, whose first begin."""

    def level(left: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        centres = k_means(left[order], num_clusters=num_codes, rounds=rounds, spherical=False)
        codes, _fit = assign(left, extended(centres, False), l2=True)
        left = left - rows_by_id(centres, codes)
        return left, (codes, centres, jnp.mean(jnp.sum(left**2, axis=1)))

    _, (codes, codebooks, errors) = jax.lax.scan(level, points, None, length=levels)
    first = jnp.mean(jnp.sum(points**2, axis=1))
    return Quantised(codes.T, codebooks, jnp.concatenate([first[None], errors]))


def random_codes(num_items: int, *, num_codes: int, levels: int, seed: int = 0) -> np.ndarray:
    """Codes that know nothing of the items, int32 [num_items, levels]: what learned ones have to beat."""
    drawn = np.random.default_rng(seed).integers(0, num_codes, (num_items, levels))
    return drawn.astype(np.int32)


def with_last_digit(codes: Any, *, num_codes: int) -> np.ndarray:
    """Tuples int32 [I, L + 1] of learned codes [I, L]: the digit counts items of the same codes, by id.

    Raises:
      ValueError: codes are not integers [I, L] in 0..num_codes-1, or more than num_codes items share theirs.
    """
    found = np.asarray(codes)
    if found.ndim != 2 or found.dtype.kind not in "iu" or 0 in found.shape:
        raise ValueError(f"codes: {found.dtype}{list(found.shape)}: must be integers [items, levels]")
    if ((found < 0) | (found >= num_codes)).any():
        row = int(((found < 0) | (found >= num_codes)).any(axis=1).argmax())
        raise ValueError(
            f"codes: item {row + 1} has {found[row].tolist()}: must lie in 0..{num_codes - 1} "
            f"(num_codes={num_codes})"
        )
    bucket, count = np.unique(found, axis=0, return_inverse=True, return_counts=True)[1:]
    bucket = bucket.reshape(-1)
    if count.max() > num_codes:
        row = int((bucket == count.argmax()).argmax())
        raise ValueError(
            f"codes: {count.max():,} items have the codes {found[row].tolist()} of item {row + 1}, and the "
            f"last digit tells no more than num_codes={num_codes} apart; learn finer codes: more levels, "
            "more codes, or vectors that differ"
        )
    order = np.argsort(bucket, kind="stable")
    digit = np.empty(len(found), np.int64)
    digit[order] = np.arange(len(found)) - (np.cumsum(count) - count)[bucket[order]]
    return np.concatenate([found, digit[:, None]], axis=1).astype(np.int32)


def build(codes: Any, *, num_codes: int) -> SemanticIds:
    """The semantic ids of items 1 .. I from their learned codes [I, L]; D is L + 1.

    Raises:
      ValueError: as `with_last_digit`.
    """
    tuples = with_last_digit(codes, num_codes=num_codes)
    node, children = np.zeros(len(tuples), np.int64), []
    for level in range(tuples.shape[1]):
        begun = node * num_codes + tuples[:, level]
        below = np.unique(begun, return_inverse=True)[1].reshape(-1)
        last = level + 1 == tuples.shape[1]
        table = np.full((int(node.max()) + 1, num_codes), NONE, np.int32)
        table[node, tuples[:, level]] = np.arange(1, len(tuples) + 1) if last else below
        children.append(table)
        node = below
    return SemanticIds(np.pad(tuples, ((1, 0), (0, 0))), tuple(children))  # type: ignore[arg-type]


def items_of(ids: SemanticIds, tuples: Array) -> Array:
    """The items that tuples int32 [..., D] name, int32 [...]; 0 where none does."""
    node, there = jnp.zeros(tuples.shape[:-1], jnp.int32), jnp.ones(tuples.shape[:-1], bool)
    for level, table in enumerate(ids.children):
        code = tuples[..., level]
        there &= (code >= 0) & (code < ids.num_codes)
        node = jnp.asarray(table)[jnp.where(there, node, 0), jnp.where(there, code, 0)]
        there &= node != NONE
    return jnp.where(there, node, 0)


def usage(ids: SemanticIds) -> dict[str, float]:
    """How well the codes are used: the first thing to look at when a model learns nothing.

    Of each learned level from 1, `used_codes/<level>` is the number of its codes that an item has,
    `perplexity/<level>` the exponential of their entropy, at most K; `collisions` is the share of items that
    have their learned codes with others, `largest_bucket` the most items of the same.
    """
    codes = np.asarray(ids.codes)[1:, :-1]
    found: dict[str, float] = {}
    for level in range(codes.shape[1]):
        count = np.bincount(codes[:, level], minlength=ids.num_codes)
        share = count[count > 0] / len(codes)
        found[f"used_codes/{level + 1}"] = float((count > 0).sum())
        found[f"perplexity/{level + 1}"] = float(np.exp(-(share * np.log(share)).sum()))
    bucket, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)[1:]
    found["collisions"] = float((count[bucket.reshape(-1)] > 1).mean())
    found["largest_bucket"] = float(count.max())
    return found
