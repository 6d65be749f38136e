"""Ranking metrics, one value per example, from a 1-based rank or from the scores of all candidates.

Means over users are left to the caller, who knows which examples are real and on which device they are.
A rank counts candidates: 1 + the number of other candidates whose score is at least the target's. A target
that is not a candidate has the rank MISS, larger than any, and every metric is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array

MISS = int(np.iinfo(np.int32).max)  # the rank of a target that is not a candidate

# --- one relevant item: from its rank ---


def hit(rank: Array, *, k: int) -> Array:
    """Hit rate at k, 1 where the target is among the first k: [B] → [B]."""
    return _in_top(rank, k).astype(jnp.float32)


def recall(rank: Array, *, k: int) -> Array:
    """Recall at k with one relevant item, the same as the hit rate: [B] → [B]."""
    return hit(rank, k=k)


def ndcg(rank: Array, *, k: int) -> Array:
    """NDCG at k with one relevant item, 1 / log2(1 + rank) within the first k: [B] → [B]."""
    return jnp.where(_in_top(rank, k), 1.0 / jnp.log2(1.0 + rank), 0.0)


def mrr(rank: Array, *, k: int | None = None) -> Array:
    """Reciprocal rank, 0 beyond rank k and for a MISS; None means no cut-off: [B] → [B]."""
    return jnp.where(_in_top(rank, MISS if k is None else k), 1.0 / rank, 0.0)


def _in_top(rank: Array, k: int) -> Array:
    return rank <= min(check_cutoff(k), MISS - 1)


# --- ranks from scores ---


def count_above(
    scores: Array, target_score: Array, *, where: Array | None = None, ties: str = "pessimistic"
) -> Array:
    """How many candidates are ranked before the target: [..., N], [...] → int32 [...].

    Counts of blocks of candidates add up, so a rank is 1 + the sum of the counts. NaN never helps a model: a
    NaN candidate counts as better, and with a NaN target every candidate does.

    Args:
      scores: scores of the candidates, [..., N].
      target_score: score of the target, [...].
      where: True where the column is a candidate other than the target, [..., N].
      ties: "pessimistic" counts equal scores, "optimistic" does not.
    """
    target_score = target_score[..., None]
    if ties == "pessimistic":
        above = ~(scores < target_score)
    elif ties == "optimistic":
        above = ~(scores <= target_score)
    else:
        raise ValueError(f"ties={ties!r}: must be 'pessimistic' or 'optimistic'")
    return jnp.sum(above if where is None else above & where, axis=-1, dtype=jnp.int32)


def rank_of_target(
    scores: Array, target: Array, *, where: Array | None = None, ties: str = "pessimistic"
) -> Array:
    """1-based rank of column `target` among all columns: [..., N], int [...] → int32 [...].

    `where` is True where a column is a candidate; the target need not be marked. Constant scores rank the
    target last under "pessimistic" ties and first under "optimistic" ones. A target that is excluded (its
    score is -inf, see `apply_seen`) or that is not a column has the rank MISS.

    >>> rank_of_target(jnp.array([[3.0, 1.0, 2.0, 2.0]]), jnp.array([2]))
    Array([3], dtype=int32)
    """
    size = scores.shape[-1]
    column = jnp.clip(target, 0, size - 1)
    target_score = jnp.take_along_axis(scores, column[..., None], axis=-1)[..., 0]
    others = jnp.arange(size) != target[..., None]
    rank = 1 + count_above(scores, target_score, where=others if where is None else others & where, ties=ties)
    return jnp.where((column == target) & (target_score != -jnp.inf), rank, MISS)


def seen_mask(seen: Array, size: int, *, first: Array | int = 0) -> Array:
    """Marks the seen items among the ids first .. first + size - 1: ids [..., S] → bool [..., size].

    `seen` is padded with 0, which marks nothing: column 0 of a block that starts at 0 is False.
    """
    column = jnp.where(seen > 0, seen - first, -1)
    column = jnp.where((column >= 0) & (column < size), column, size)  # an extra column collects the rest
    flat = column.reshape(-1, column.shape[-1])
    marks = jnp.zeros((flat.shape[0], size + 1), bool).at[jnp.arange(flat.shape[0])[:, None], flat].set(True)
    return marks[:, :size].reshape(*seen.shape[:-1], size)


def apply_seen(scores: Array, seen: Array, rule: str) -> Array:
    """Scores after the rule for items of the input history: [..., N], bool [..., N] → [..., N].

    Args:
      scores: scores of the items.
      seen: True where the user has seen the item.
      rule: "exclude" excludes seen items (-inf), the target too if it was seen: then it is a miss
        (`rank_of_target`). "zero" sets their scores to 0 and keeps them, the rule of the CoSeRec code family;
        "keep" changes nothing.
    """
    if rule == "keep":
        return scores
    if rule == "zero":
        return jnp.where(seen, 0.0, scores)
    if rule != "exclude":
        raise ValueError(f"rule={rule!r}: must be 'exclude', 'zero' or 'keep'")
    return jnp.where(seen, -jnp.inf, scores)


# --- graded relevant: from the scores of all candidates ---


def graded_ndcg(
    scores: Array,
    relevance: Array,
    *,
    k: int | None = None,
    gain: Callable[[Array], Array] = jnp.asarray,
    ties: Literal["pessimistic", "optimistic", "average"] = "pessimistic",
    where: Array | None = None,
) -> Array:
    """NDCG at k of graded candidates, Σ gain / log2(1 + rank) over its largest value: [..., N] twice → [...].

    0 if no candidate is relevant (leave such examples out of a mean), NaN if a candidate's score is NaN.

    Args:
      scores: [..., N]. relevance: grades, 0 for irrelevant, [..., N].
      k: None means no cut-off.
      gain: of a grade; by default the grade itself. `exponential_gain` is the usual alternative.
      ties: of equal scores, "pessimistic" ranks the least relevant first and "optimistic" the most relevant;
        "average" is the mean over all orders, scikit-learn's default (McSherry and Najork, ECIR 2008).
      where: True where the column is a candidate, [..., N].
    """
    if ties not in ("pessimistic", "optimistic", "average"):
        raise ValueError(f"ties={ties!r}: must be 'pessimistic', 'optimistic' or 'average'")
    size = scores.shape[-1]
    where = jnp.broadcast_to(True if where is None else where, scores.shape)
    gains = jnp.where(where, gain(relevance.astype(jnp.float32)), 0.0)
    ranks = jnp.arange(size)
    discount = jnp.where(ranks < (size if k is None else check_cutoff(k)), 1.0 / jnp.log2(2.0 + ranks), 0.0)
    sign = -1.0 if ties == "optimistic" else 1.0
    unmarked, lowered, second = jax.lax.sort(
        ((~where).astype(jnp.int32), jnp.where(where, -scores, 0.0), sign * gains), num_keys=3
    )
    ordered = sign * second
    if ties == "average":
        same_score, same_kind = (key[..., :, None] == key[..., None, :] for key in (lowered, unmarked))
        equal = (same_score & same_kind).astype(ordered.dtype)
        ordered = (equal @ ordered[..., None])[..., 0] / jnp.maximum(equal.sum(axis=-1), 1)
    best = jnp.sum(-jnp.sort(-gains, axis=-1) * discount, axis=-1)
    found = jnp.sum(ordered * discount, axis=-1) / jnp.where(best > 0, best, 1.0)
    return jnp.where(jnp.any(jnp.isnan(scores) & where, axis=-1), jnp.nan, found)


def exponential_gain(relevance: Array) -> Array:
    """2^relevance - 1, which emphasises high grades: [...] → [...]."""
    return jnp.exp2(relevance) - 1.0


def check_cutoff(k: int) -> int:
    """k, or ValueError if it is below 1."""
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    return k
